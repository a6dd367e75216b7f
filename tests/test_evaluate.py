"""Numbers whose truth is known."""

import math

import pytest
import torch
from torch import nn

from course_utils.data import Images
from course_utils.distributions import DiscretisedLogistic
from course_utils.evaluate import (
    active_units,
    bits_per_dim,
    bound,
    evaluating,
    histogram_log_prob,
    log_likelihood,
    mean_and_error,
    posterior_means,
)
from course_utils.models.vae import VAE


def images(n: int = 30, side: int = 4, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, side, side), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.zeros(n, dtype=torch.int64), {})


class UniformLikelihood(nn.Module):
    """Every one of the 256 levels is as likely as the next."""

    n_params = 1

    def log_prob(self, x, px):
        return torch.full((len(x),), -x[0].numel() * math.log(256))


def test_a_uniform_model_scores_exactly_eight_bits():
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2, likelihood=UniformLikelihood())
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.zero_()  # q = p, so the latents cost nothing
    nats = -bound(model, images()).value()
    assert bits_per_dim(nats, 16).tolist() == pytest.approx([8.0] * 30, abs=1e-6)
    nats = -log_likelihood(model, images(), n_draws=30)
    assert bits_per_dim(nats, 16).tolist() == pytest.approx([8.0] * 30, abs=1e-5)


def test_a_histogram_of_uniform_pixels_scores_eight_bits():
    nats = -histogram_log_prob(images(60_000, side=2, seed=1), images(5_000, side=2, seed=2))
    assert bits_per_dim(mean_and_error(nats).value, 4) == pytest.approx(8.0, abs=0.01)


def test_a_histogram_is_the_frequency_of_the_level_with_one_added():
    train = Images(torch.tensor([[[[7]]], [[[7]]], [[[9]]]], dtype=torch.uint8), torch.zeros(3), {})
    seen = Images(torch.tensor([[[[7]]], [[[8]]]], dtype=torch.uint8), torch.zeros(2), {})
    expected = torch.tensor([math.log(3 / 259), math.log(1 / 259)])
    torch.testing.assert_close(histogram_log_prob(train, seen), expected)


def test_the_likelihood_estimate_is_above_the_bound_and_repeats_itself():
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2, likelihood=DiscretisedLogistic())
    low, high = bound(model, images()).value().mean(), log_likelihood(model, images(), 100).mean()
    assert high > low
    assert torch.equal(log_likelihood(model, images(), 7), log_likelihood(model, images(), 7))
    state = torch.get_rng_state()
    bound(model, images())
    assert torch.equal(state, torch.get_rng_state())


def test_draws_in_several_chunks_are_all_counted(monkeypatch):
    """With q = p and a decoder that ignores z every weight is the same, so a wrong count would show."""
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2, likelihood=UniformLikelihood())
    with torch.no_grad():
        model.encoder[-1].weight.zero_()
        model.encoder[-1].bias.zero_()
    for n_draws in (1, 19, 20, 41):
        expected = -16 * math.log(256)
        assert log_likelihood(model, images(), n_draws).tolist() == pytest.approx([expected] * 30, rel=1e-5)


def test_active_units_are_those_whose_mean_varies():
    mu = torch.stack([torch.linspace(-1, 1, 50), torch.full((50,), 3.0), 0.01 * torch.randn(50)], dim=1)
    assert active_units(mu) == 1


def test_mean_and_error():
    estimate = mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert estimate == (2.5, pytest.approx(math.sqrt(5 / 3) / 2), 4)


def test_evaluating_restores_the_mode_even_after_an_error():
    model = nn.Linear(1, 1).train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise RuntimeError
    assert model.training and torch.is_grad_enabled()


def test_posterior_means_come_in_the_order_of_the_images():
    model = VAE(image_shape=(1, 4, 4), hidden=(8,), latent_dim=2)
    some = images(1_100)
    mu = posterior_means(model, some)
    assert mu.shape == (1_100, 2)
    torch.testing.assert_close(mu[1_000:1_001], posterior_means(model, some.subset(slice(1_000, 1_001))))
