"""What every model must do, checked on each of them."""

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from course_utils import recipes
from course_utils.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    GaussianPerPixel,
    GaussianShared,
)
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.vae import VAE
from course_utils.models.vae_2015 import VAE2015, BatchNorm2015, ConvVAE2015, Perforated
from course_utils.objectives import elbo

MODELS = {
    f"VAE {likelihood.__name__}": lambda likelihood=likelihood: VAE(
        image_shape=(1, 8, 8), hidden=(32, 16), latent_dim=3, likelihood=likelihood()
    )
    for likelihood in (
        Bernoulli,
        DiscretisedLogistic,
        GaussianPerPixel,
        GaussianShared,
    )
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((4, 1, 8, 8), 0.3))


def test_shapes(model, x):
    out = model(x)
    assert out.px.shape == (4, model.likelihood.n_params, 1, 8, 8)
    assert out.z[0].shape == out.q[0][0].shape == out.p[0][1].shape == (4, 3)
    assert elbo(model, x).value().shape == (4,)


def test_every_parameter_gets_a_gradient(model, x):
    elbo(model, x).loss().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert without == []


def test_one_image_alone_equals_the_same_image_in_a_batch(model, x):
    model.eval()
    alone, together = model.encode(x[:1]), model.encode(x)
    for one, all_of_them in zip(alone, together, strict=True):
        torch.testing.assert_close(one[0], all_of_them[0])


def losses_by_heart(model, images, n_steps: int) -> list[float]:
    """The loss of each of so many steps on the same images."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(n_steps):
        loss = elbo(model, images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_can_learn_eight_images_by_heart(model):
    images = torch.bernoulli(torch.full((8, 1, 8, 8), 0.3))
    losses = losses_by_heart(model, images, 300)
    assert sum(losses[-20:]) / 20 < losses[0] - 10


def test_generate_gives_images(model):
    images = model.generate(5)
    assert images.shape == (5, 1, 8, 8)
    assert images.min() >= 0 and images.max() <= 1 and not images.requires_grad


def test_starting_at_the_mean_decodes_to_the_mean_and_centres_the_input(model):
    mean = torch.linspace(0.05, 0.95, 64).reshape(1, 8, 8)
    torch.manual_seed(0)
    before = model.encoder[0](torch.zeros(1, 64))
    model.start_at_mean(mean)
    after = model.encoder[0](mean.reshape(1, 64))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)  # the mean image now is the zero
    with torch.no_grad():
        model.decoder[-1].weight.zero_()
    torch.testing.assert_close(model.generate(1)[0], mean, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 1, 8, 9), (2, 3, 8, 8), (2, 64)])
def test_an_image_of_the_wrong_shape_is_refused_with_the_shape_that_is_wanted(model, shape):
    with pytest.raises(ValueError, match=r"batches of images \(B, 1, 8, 8\).*given"):
        model(torch.zeros(shape))


def test_the_shipped_weights_fit_a_vae_as_lesson_02_builds_it():
    with safe_open(recipes.checkpoint_path("mlp_bn", "real"), framework="pt") as file:
        assert list(file.keys()) == sorted(VAE(batch_norm=True).state_dict())
        weight = file.get_tensor("encoder.0.weight").float()
    model, _ = recipes.load_shipped("mlp_bn", "real")
    assert torch.equal(model.encoder[0].weight, weight)


# Batch norm ---------------------------------------------------------------------------------------


def test_batch_norm_normalises_each_hidden_layer_and_no_last_one():
    model, seen = VAE((1, 8, 8), hidden=(32, 16), latent_dim=3, batch_norm=True), []
    for layer in model.modules():
        if isinstance(layer, nn.SiLU):
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.rand(50, 1, 8, 8))
    assert [h.shape[1] for h in seen] == [32, 16, 16, 32]
    for h in seen:
        torch.testing.assert_close(h.mean(dim=0), torch.zeros(h.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(h.var(dim=0, correction=0), torch.ones(h.shape[1]), atol=0.02, rtol=0)
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()) == 4
    assert isinstance(model.encoder[-1], nn.Linear) and isinstance(model.decoder[-1], nn.Linear)


def with_a_norm_on_mu(kind: str) -> tuple[nn.Module, nn.Parameter, nn.Parameter]:
    """(model, gain, bias) of the batch norm on the mean of q."""
    if kind == "2015":
        model = VAE2015()
        return model, model.mu_head[1].gain, model.mu_head[1].bias
    norm = nn.BatchNorm1d(3)
    return VAE((1, 28, 28), hidden=(32,), latent_dim=3, mu_norm=norm), norm.weight, norm.bias


@pytest.mark.parametrize("kind", ["2015", "VAE"])
def test_with_a_norm_on_mu_the_kl_has_a_floor(kind):
    """The batch mean of mu^2 is gain^2 + bias^2, and KL >= mu^2 / 2."""
    model, gain, bias = with_a_norm_on_mu(kind)
    x = torch.rand(200, 1, 28, 28)
    with torch.no_grad():
        for change in (lambda: None, lambda: (gain.uniform_(-2, 2), bias.uniform_(-1, 1))):
            change()
            out = model(x)
            second_moment = gain**2 + bias**2
            torch.testing.assert_close((out.q[0][0] ** 2).mean(dim=0), second_moment, rtol=5e-3, atol=1e-4)
            assert elbo(model, x).kl.mean() >= 0.995 * second_moment.sum() / 2
    if kind == "VAE":  # the running averages know no such batch: what is left is another mean
        model.eval()
        assert ((model(x).q[0][0] ** 2).mean(dim=0) - second_moment).abs().max() > 0.01


# The networks of 2015 -----------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "n"), [(VAE2015, 1_896_496), (ConvVAE2015, 7_119_619)])
def test_the_networks_of_2015_have_their_number_of_parameters_and_shapes(build, n):
    model = build()
    assert sum(p.numel() for p in model.parameters()) == n
    x = torch.rand(3, 1, 28, 28)
    out = model(x, n_draws=2)
    assert out.px.shape == (6, 1, 1, 28, 28) and out.px.abs().max() <= 1
    assert out.z[0].shape == out.q[0][0].shape == out.p[0][1].shape == (6, model.latent_dim)
    assert elbo(model, x).value().shape == (3,)


def test_the_cost_of_2015_is_the_squared_error_and_its_gaussian_has_a_variance_of_a_half():
    x, px, other = torch.rand(3, 4, 1, 5, 5).unbind()
    likelihood = VAE2015().likelihood
    cost = likelihood.log_prob(x, px.unsqueeze(1))
    torch.testing.assert_close(cost, -((x - px) ** 2).sum(dim=(1, 2, 3)))
    normal = torch.distributions.Normal
    differences = [
        (normal(mean, 0.5**0.5).log_prob(x)).sum(dim=(1, 2, 3)) - likelihood.log_prob(x, mean.unsqueeze(1))
        for mean in (px, other)
    ]
    torch.testing.assert_close(*differences)  # the constant


@pytest.mark.parametrize(("build", "limit"), [(VAE2015, 0.1), (ConvVAE2015, 0.05)])
def test_the_first_weights_of_2015_are_uniform_whatever_the_width(build, limit):
    layers = [layer for layer in build().modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) == {VAE2015: 9, ConvVAE2015: 8}[build]
    for layer in layers:
        w = layer.weight
        assert 0.98 * limit < w.abs().max() <= limit and layer.bias.abs().max() == 0
        assert w.std().item() == pytest.approx(limit / 3**0.5, rel=0.1)


@pytest.mark.parametrize("shape", [(20, 4), (6, 4, 3, 5)])
def test_the_batch_norm_of_2015_is_its_formula_when_testing_too(shape):
    norm = BatchNorm2015(4)
    h = torch.randn(shape) * 3 + 2
    h.select(1, 2).mul_(1e-6)  # where the epsilon shows
    with torch.no_grad():
        norm.gain.uniform_(-2, 2)
        norm.bias.uniform_(-2, 2)
    for i in range(4):
        values = h.select(1, i)
        std = ((values - values.mean()) ** 2).mean().sqrt()
        expected = (values - values.mean()) / (std + 1e-6) * norm.gain[i] + norm.bias[i]
        for mode in (True, False):
            torch.testing.assert_close(norm.train(mode)(h).select(1, i), expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_one_vector_comes_out_as_the_bias():
    norm = BatchNorm2015(4)
    with torch.no_grad():
        norm.bias.uniform_(-2, 2)
    for h in (torch.randn(1, 4), torch.randn(1, 4) * 100):
        assert torch.equal(norm(h), norm.bias[None])


def test_perforated_up_sampling_is_a_transposed_convolution_with_one_weight():
    h = torch.randn(2, 3, 5, 4)
    corner = torch.zeros(3, 1, 2, 2)
    corner[:, 0, 0, 0] = 1
    up = Perforated()(h)
    assert up.shape == (2, 3, 10, 8)
    assert torch.equal(up, F.conv_transpose2d(h, corner, stride=2, groups=3))


# The convolutional VAE ----------------------------------------------------------------------------


@pytest.fixture(params=[Bernoulli, DiscretisedLogistic])
def conv_vae(request):
    return ConvVAE(channels=(4, 8), hidden=16, latent_dim=3, likelihood=request.param())


def test_shapes_of_the_convolutional_vae(conv_vae):
    x = torch.rand(5, 1, 28, 28).round()
    out = conv_vae(x, n_draws=2)
    assert out.px.shape == (10, conv_vae.likelihood.n_params, 1, 28, 28)
    assert out.z[0].shape == out.q[0][0].shape == out.p[0][1].shape == (10, 3)
    assert elbo(conv_vae, x).value().shape == (5,)
    images = conv_vae.generate(4)
    assert images.shape == (4, 1, 28, 28) and images.min() >= 0 and images.max() <= 1


def test_the_convolutional_vae_sees_and_paints_each_pixel_and_learns(conv_vae):
    x = torch.rand(8, 1, 28, 28).round()
    pixels = x.clone().requires_grad_()
    conv_vae.eval()
    conv_vae.encode(pixels)[0].pow(2).sum().backward()
    assert (pixels.grad != 0).all()
    conv_vae.train()
    optimizer = torch.optim.Adam(conv_vae.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = elbo(conv_vae, x).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 20


def test_the_convolutional_vae_treats_one_image_as_in_a_batch_when_evaluated(conv_vae):
    conv_vae.eval()
    x = torch.rand(5, 1, 28, 28)
    for one, all_of_them in zip(conv_vae.encode(x[:1]), conv_vae.encode(x), strict=True):
        torch.testing.assert_close(one[0], all_of_them[0])


@pytest.mark.parametrize("shape", [(1, 28, 28), (2, 1, 28, 27), (2, 3, 28, 28), (2, 784)])
def test_the_convolutional_vae_refuses_an_image_of_the_wrong_shape(conv_vae, shape):
    with pytest.raises(ValueError, match=r"batches of images \(B, 1, 28, 28\).*given"):
        conv_vae(torch.zeros(shape))


def test_starting_at_the_mean_the_convolutional_vae_answers_with_the_mean_grey(conv_vae):
    mean = torch.rand(1, 28, 28)
    last = conv_vae.decoder[-2]
    others = last.bias[4:].clone()
    conv_vae.start_at_mean(mean)
    assert torch.equal(last.bias[4:], others)
    with torch.no_grad():
        last.weight.zero_()
    expected = mean.mean().expand(2, 1, 28, 28)
    torch.testing.assert_close(conv_vae.eval().generate(2), expected, atol=1e-5, rtol=1e-5)
