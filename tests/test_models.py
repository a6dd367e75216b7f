"""What every model must do, checked on each of them."""

import pytest
import torch

from course_utils.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    GaussianPerPixel,
    GaussianShared,
)
from course_utils.models.vae import VAE
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


def test_it_can_learn_eight_images_by_heart(model):
    images = torch.bernoulli(torch.full((8, 1, 8, 8), 0.3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(300):
        loss = elbo(model, images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
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
