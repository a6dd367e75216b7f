"""The bound against a model whose likelihood is known: z ~ N(0, I), x | z ~ N(W z + b, s^2 I)."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from course_utils.distributions import normal_log_prob, normal_sample, per_image
from course_utils.models.common import Output
from course_utils.models.vae import VAE
from course_utils.objectives import Elbo, elbo, importance_weighted_bound, log_weights, warm_up

VARIANCE = 0.3


class Density(nn.Module):
    """x itself, not a bin of it: N(x; px, 0.3)."""

    def log_prob(self, x, px):
        return per_image(normal_log_prob(x, px[:, 0], torch.tensor(math.log(VARIANCE), dtype=x.dtype)))


class LinearGaussian(nn.Module):
    """Probabilistic PCA with 2 latents and 3 pixels; q(z|x) is the exact posterior, moved by `error`."""

    def __init__(self, error: float = 0.0):
        super().__init__()
        self.likelihood, self.error = Density(), error
        # With orthogonal columns the exact posterior is diagonal, so the family of q contains it.
        self.w = torch.tensor([[1.0, 0.5], [1.0, -0.5], [0.0, 1.0]], dtype=torch.float64)
        self.w[:, 1] -= self.w[:, 0] * (self.w[:, 0] @ self.w[:, 1]) / (self.w[:, 0] @ self.w[:, 0])
        self.b = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)

    def forward(self, x, n_draws=1):
        precision = torch.diag(self.w.T @ self.w) / VARIANCE + 1
        mu = ((x.flatten(1) - self.b) @ self.w / VARIANCE) / precision + self.error
        log_var = (-precision.log() + self.error).expand_as(mu)
        mu, log_var = mu.repeat(n_draws, 1), log_var.repeat(n_draws, 1)
        z = normal_sample(mu, log_var)
        px = (z @ self.w.T + self.b).reshape(-1, 1, 1, 1, 3)
        prior = (torch.zeros_like(mu), torch.zeros_like(mu))
        return Output(px=px, z=[z], q=[(mu, log_var)], p=[prior])

    def exact(self, x):
        covariance = self.w @ self.w.T + VARIANCE * torch.eye(3, dtype=torch.float64)
        return MultivariateNormal(self.b, covariance).log_prob(x.flatten(1))


@pytest.fixture
def x():
    return torch.randn(6, 1, 1, 3, dtype=torch.float64)


def test_with_the_exact_posterior_every_weight_is_the_likelihood(x):
    model = LinearGaussian()
    torch.testing.assert_close(log_weights(model, x, 5), model.exact(x).expand(5, -1))


def test_the_bound_is_the_likelihood_minus_the_error_of_q(x):
    exact, average = LinearGaussian().exact(x), torch.zeros(6, dtype=torch.float64)
    for _ in range(4_000):
        average += elbo(LinearGaussian(error=0.5), x).value() / 4_000
    assert (average < exact).all()
    exactly_right = sum(elbo(LinearGaussian(), x).value() for _ in range(4_000)) / 4_000
    torch.testing.assert_close(exactly_right, exact, atol=0.1, rtol=0)


def test_the_importance_weighted_bound_rises_with_k_to_the_likelihood(x):
    model = LinearGaussian(error=0.5)
    log_w = log_weights(model, x, 64_000)
    gaps = []
    for k in (1, 8, 64, 64_000):
        bounds = importance_weighted_bound(log_w.reshape(k, -1, 6).flatten(1)).reshape(-1, 6).mean(dim=0)
        gaps.append((model.exact(x) - bounds).mean().item())
    assert gaps[0] > gaps[1] > gaps[2] > abs(gaps[3])
    assert abs(gaps[3]) < 0.02


def test_importance_weighted_bound_survives_very_small_weights():
    log_w = torch.tensor([[-1_000.0, -2_000.0], [-1_001.0, -2_000.0]])
    expected = torch.tensor([-1_000 + math.log((1 + math.exp(-1)) / 2), -2_000.0])
    torch.testing.assert_close(importance_weighted_bound(log_w), expected)


def test_loss_sums_over_latents_and_averages_over_the_batch_once():
    bound = Elbo(log_px=torch.tensor([-3.0, -5.0]), kl=torch.tensor([[1.0, 0.5], [2.0, 0.5]]))
    assert bound.value().tolist() == [-4.5, -7.5]
    assert bound.loss().item() == 6.0
    assert bound.loss(beta=0).item() == 4.0
    assert bound.loss(beta=2).item() == 8.0


def test_each_layer_has_a_beta_of_its_own():
    bound = Elbo(log_px=torch.tensor([-3.0, -5.0]), kl=torch.tensor([[1.0, 0.5], [2.0, 0.25]]))
    assert bound.loss(beta=torch.tensor([1.0, 0.0])).item() == 5.5
    assert bound.loss(beta=torch.tensor([0.0, 2.0])).item() == 4.75
    assert bound.loss(beta=torch.tensor([2.0])).item() == bound.loss(beta=2).item()


def test_a_layer_below_the_floor_pays_the_floor_and_gets_no_gradient():
    kl = torch.tensor([[1.0, 0.5, 0.1], [3.0, 0.0, 1.3]], requires_grad=True)
    bound = Elbo(log_px=torch.tensor([-3.0, -5.0]), kl=kl)
    loss = bound.loss(free_bits=0.6)  # means 2, 0.25, 0.7; the floor is for the mean, not for an image
    loss.backward()
    assert loss.item() == pytest.approx(4 + 2 + 0.6 + 0.7)
    assert kl.grad.tolist() == [[0.5, 0.0, 0.5]] * 2
    assert bound.value().tolist() == pytest.approx([-4.6, -9.3]), "the bound itself has no floor"
    assert bound.loss().item() == pytest.approx(4 + 2 + 0.25 + 0.7)
    weighted = bound.loss(beta=torch.tensor([1.0, 0.5, 0.0]), free_bits=0.6)
    assert weighted.item() == pytest.approx(4 + 2 + 0.3)


def test_the_price_with_a_floor_is_never_below_the_kl():
    bound = Elbo(log_px=torch.zeros(5), kl=torch.rand(5, 4))
    for free_bits in (0.0, 0.3, 0.5, 2.0):
        assert bound.loss(free_bits=free_bits) >= bound.loss()


def test_a_kl_that_is_not_finite_is_not_hidden_by_the_floor():
    for bad in (math.nan, math.inf):
        bound = Elbo(log_px=torch.zeros(2), kl=torch.tensor([[1.0, 0.1], [bad, 0.1]]))
        assert not bound.loss(free_bits=3.0).isfinite()


def test_warm_up_rises_to_one_for_all_layers_at_once():
    assert warm_up(0, 10).tolist() == pytest.approx([0.1])
    assert [warm_up(step, 10).item() for step in (9, 10, 500)] == [1, 1, 1]
    assert warm_up(0, 0).tolist() == [1]
    assert warm_up(3, 10, n_layers=3).tolist() == pytest.approx([0.4] * 3)
    assert warm_up(0, 0, n_layers=3).tolist() == warm_up(9, 10, n_layers=3).tolist() == [1, 1, 1]


def test_from_below_one_layer_after_the_other():
    betas = torch.stack([warm_up(step, 12, n_layers=3, from_below=True) for step in range(15)])
    ramp = [0.25, 0.5, 0.75, 1.0]
    expected = [ramp + [1.0] * 11, [0.0] * 4 + ramp + [1.0] * 7, [0.0] * 8 + ramp + [1.0] * 3]
    torch.testing.assert_close(betas.T, torch.tensor(expected))
    assert warm_up(0, 0, n_layers=3, from_below=True).tolist() == [1, 1, 1]
    for step in range(12):  # one layer is the same either way
        torch.testing.assert_close(warm_up(step, 10, from_below=True), warm_up(step, 10))


def test_draws_of_the_vae_are_ordered_draw_by_draw():
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2)
    out = model(torch.rand(3, 1, 4, 4), n_draws=5)
    mu = out.q[0][0].unflatten(0, (5, 3))
    assert out.px.shape == (15, 1, 1, 4, 4)
    assert torch.equal(mu[0], mu[4]) and not torch.equal(mu[:, 0], mu[:, 1])


def test_one_term_for_each_layer():
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2)
    bound = elbo(model, torch.bernoulli(torch.full((3, 1, 4, 4), 0.5)))
    assert bound.log_px.shape == (3,) and bound.kl.shape == (3, 1)
