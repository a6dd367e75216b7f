"""Formulas against torch.distributions, quadrature or a sum that must be one; samples against densities."""

import math

import pytest
import torch
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal, kl_divergence

from course_utils.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    GaussianPerPixel,
    GaussianShared,
    normal_kl,
    normal_log_prob,
    normal_sample,
    per_image,
)

MU = torch.tensor([[-1.5, 0.0, 0.3, 4.0]], dtype=torch.float64)
LOG_VAR = torch.tensor([[-3.0, 0.0, 0.7, 1.5]], dtype=torch.float64)
ALL_LEVELS = (torch.arange(256) / 255).reshape(256, 1, 1, 1)  # one image of one pixel for each level


def test_per_image_sums_everything_but_the_batch():
    values = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert per_image(values).tolist() == [values[0].sum().item(), values[1].sum().item()]


def test_normal_log_prob_equals_torch():
    z = torch.linspace(-3, 3, 4, dtype=torch.float64).reshape(1, 4)
    expected = Normal(MU, torch.exp(0.5 * LOG_VAR)).log_prob(z)
    torch.testing.assert_close(normal_log_prob(z, MU, LOG_VAR), expected)


def test_normal_kl_equals_torch_and_quadrature():
    mu_p, log_var_p = MU.flip(1) + 0.2, LOG_VAR.flip(1) - 0.4
    q, p = Normal(MU, torch.exp(0.5 * LOG_VAR)), Normal(mu_p, torch.exp(0.5 * log_var_p))
    ours = normal_kl(MU, LOG_VAR, mu_p, log_var_p)
    torch.testing.assert_close(ours, kl_divergence(q, p))
    z = torch.linspace(-60, 60, 200_001, dtype=torch.float64).reshape(-1, 1)
    integrand = q.log_prob(z).exp() * (q.log_prob(z) - p.log_prob(z))
    torch.testing.assert_close(ours[0], torch.trapezoid(integrand, z, dim=0), rtol=1e-6, atol=1e-9)


def test_kl_of_equal_normals_is_zero_and_never_negative():
    assert normal_kl(MU, LOG_VAR, MU, LOG_VAR).abs().max() == 0
    torch.manual_seed(0)
    assert normal_kl(*torch.randn(4, 1_000, 3)).min() >= 0


def test_normal_sample_has_the_moments_it_is_given_and_passes_gradients():
    torch.manual_seed(0)
    mu = torch.full((200_000,), 0.7, requires_grad=True)
    log_var = torch.full((200_000,), -1.0, requires_grad=True)
    z = normal_sample(mu, log_var)
    assert z.mean().item() == pytest.approx(0.7, abs=0.01)
    assert z.var().item() == pytest.approx(math.exp(-1.0), rel=0.02)
    z.sum().backward()
    assert torch.equal(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(log_var.grad, 0.5 * (z - mu).detach())


def test_bernoulli_equals_torch():
    torch.manual_seed(0)
    x, px = torch.bernoulli(torch.full((5, 1, 4, 4), 0.3)), torch.randn(5, 1, 1, 4, 4)
    expected = TorchBernoulli(logits=px[:, 0]).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Bernoulli().log_prob(x, px), expected)


def pixel_parameters(likelihood, values: list[float], n: int) -> torch.Tensor:
    """The same decoder output for n images of one pixel: (n, P, 1, 1, 1)."""
    return torch.tensor(values[: likelihood.n_params]).reshape(1, -1, 1, 1, 1).expand(n, -1, 1, 1, 1)


@pytest.mark.parametrize("likelihood", [DiscretisedLogistic()])
@pytest.mark.parametrize("values", [[0.0, 0.0], [-0.48, -5.0], [0.6, 1.0], [-0.9, -12.0]])
def test_the_probabilities_of_the_levels_sum_to_one(likelihood, values):
    log_p = likelihood.log_prob(ALL_LEVELS, pixel_parameters(likelihood, values, 256)).double()
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("likelihood", "cdf"),
    [(DiscretisedLogistic(), torch.sigmoid)],
)
def test_a_discretised_likelihood_is_the_mass_of_its_density(likelihood, cdf):
    mu, log_scale = (
        t.double().item() for t in likelihood.location(pixel_parameters(likelihood, [-0.1, -1.0], 1))
    )
    edges = (torch.arange(257, dtype=torch.float64) - 0.5) / 255
    shares = cdf((edges - mu) / math.exp(log_scale))
    shares[0], shares[-1] = 0, 1
    ours = likelihood.log_prob(ALL_LEVELS, pixel_parameters(likelihood, [-0.1, -1.0], 256)).double()
    seen = shares.diff() > 1e-12  # beyond that the reference has no digits left
    torch.testing.assert_close(ours[seen], torch.log(shares.diff()[seen]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("likelihood", [DiscretisedLogistic()])
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("location", [-30.0, 0.0, 30.0])
@pytest.mark.parametrize("log_scale", [-20.0, 100.0])
def test_a_discretised_likelihood_stays_finite_with_its_gradient_far_out(
    likelihood, level, location, log_scale
):
    px = torch.tensor([location, log_scale]).reshape(1, 2, 1, 1, 1).requires_grad_()
    log_p = likelihood.log_prob(torch.full((1, 1, 1, 1), level / 255), px)
    log_p.sum().backward()
    assert log_p.isfinite().all() and px.grad.isfinite().all()


@pytest.mark.parametrize("likelihood", [GaussianShared(), GaussianPerPixel()])
def test_a_dequantised_gaussian_is_a_lower_bound_on_a_probability(likelihood):
    """Averaged over the noise, log N is below the log of the mass in the bin (Jensen), level by level."""
    torch.manual_seed(0)
    px = pixel_parameters(likelihood, [0.4, -2.0], 256)
    draws = torch.stack([likelihood.log_prob(ALL_LEVELS, px) for _ in range(4_000)]).double()
    if isinstance(likelihood, GaussianPerPixel):
        log_var = likelihood.moments(px)[1].flatten()[0]
    else:
        log_var = likelihood.log_var.detach()
    normal = Normal(0.4, torch.exp(0.5 * log_var).double())
    mass = normal.cdf(torch.arange(257, dtype=torch.float64) / 256).diff()
    seen = mass > 1e-12
    assert (draws.mean(dim=0)[seen] <= torch.log(mass[seen]) + 0.02).all()
    expected, measured = (mass * mass.log())[seen].sum(), (mass * draws.mean(dim=0))[seen].sum()
    assert measured.item() == pytest.approx(expected.item(), abs=0.02)  # the bins are narrow, so it is tight


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli(), GaussianShared(1e-4), GaussianPerPixel(), DiscretisedLogistic()],
)
def test_samples_scatter_around_the_mean_and_are_images(likelihood):
    torch.manual_seed(0)
    px = pixel_parameters(likelihood, [0.1, -6.0], 20_000)  # narrow enough that clamping to [0, 1] is rare
    sample, mean = likelihood.sample(px), likelihood.mean(px)
    assert sample.shape == mean.shape == (20_000, 1, 1, 1)
    assert sample.min() >= 0 and sample.max() <= 1
    assert sample.mean().item() == pytest.approx(mean.mean().item(), abs=0.01)


def test_samples_of_the_discretised_logistic_have_the_frequencies_of_log_prob():
    torch.manual_seed(0)
    likelihood = DiscretisedLogistic()
    values = [-0.3, -1.5]
    n = 200_000
    levels = (likelihood.sample(pixel_parameters(likelihood, values, n)) * 255).round().long().flatten()
    frequencies = torch.bincount(levels, minlength=256) / n
    expected = likelihood.log_prob(ALL_LEVELS, pixel_parameters(likelihood, values, 256)).exp()
    assert (frequencies - expected).abs().max() < 5 * math.sqrt(expected.max().item() / n)


def test_squared_error_is_a_gaussian_of_variance_one_half():
    """-log N(y; mu, 1/2) = (y - mu)^2 + const, so the loss of 2015 has the gradient of this likelihood."""
    x, px = torch.full((1, 1, 1, 1), 100 / 255), torch.tensor(0.9).reshape(1, 1, 1, 1, 1).requires_grad_()
    torch.manual_seed(0)
    likelihood = GaussianShared(0.5, learned=False)
    (-likelihood.log_prob(x, px)).sum().backward()
    torch.manual_seed(0)
    y = (100 + torch.rand_like(x)) / 256
    assert px.grad.item() == pytest.approx(2 * (0.9 - y.item()), rel=1e-4)
