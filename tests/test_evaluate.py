"""Numbers whose truth is known."""

import copy
import math

import pytest
import torch
from torch import nn

from course_utils.data import Batches, Images, as_grey
from course_utils.distributions import Bernoulli, DiscretisedLogistic
from course_utils.evaluate import (
    accuracy,
    active_units,
    batch_statistics,
    bits_per_dim,
    bound,
    evaluating,
    histogram_log_prob,
    label_log_probs,
    log_likelihood,
    mean_and_error,
    posterior_means,
    priced_softmax,
    softmax_numbers,
    with_population_statistics,
    with_prior_statistics,
)
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.label_vae import LabelVAE
from course_utils.models.semi_supervised_vae import Classifier
from course_utils.models.vae import VAE
from course_utils.objectives import beside_code, without_labels


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


# Batch norm: whose mean and variance? -------------------------------------------------------------


def normalised(likelihood=DiscretisedLogistic) -> VAE:
    """A VAE with batch norms whose running averages are not those they started with."""
    norm = nn.BatchNorm1d(2)
    model = VAE((1, 4, 4), (8,), latent_dim=2, likelihood=likelihood(), batch_norm=True, mu_norm=norm)
    model(torch.rand(40, 1, 4, 4))
    return model.eval()


def convolutional() -> ConvVAE:
    return ConvVAE(channels=(4, 8), hidden=16, latent_dim=2).eval()


def everything(model: nn.Module) -> dict:
    """Parameters, buffers and modes."""
    modes = {f"{name} trains": layer.training for name, layer in model.named_modules()}
    return {name: value.clone() for name, value in model.state_dict().items()} | modes


def assert_same(a: dict, b: dict, names=None):
    """Equal to the last bit."""
    assert a.keys() == b.keys()
    for name in names or a:
        assert torch.equal(torch.as_tensor(a[name]), torch.as_tensor(b[name])), name


@pytest.mark.parametrize("build", [normalised, convolutional])
@pytest.mark.parametrize("training", [True, False])
def test_batch_statistics_are_those_of_training_and_leave_no_trace(build, training):
    model = build()
    x = torch.rand(10, *model.image_shape)
    torch.manual_seed(5)
    expected = copy.deepcopy(model).train()(x)
    assert not torch.equal(model(x).q[0][0], expected.q[0][0])
    model.train(training)
    before = everything(model)
    torch.manual_seed(5)
    with batch_statistics(model):
        out = model(x)
    assert torch.equal(out.px, expected.px) and torch.equal(out.q[0][0], expected.q[0][0])
    assert_same(before, everything(model))


def test_batch_statistics_leave_no_trace_after_an_error():
    model = normalised()
    before = everything(model)
    with pytest.raises(RuntimeError, match="mat1"), batch_statistics(model):
        model(torch.rand(10, 1, 4, 4))
        model.decode(torch.rand(10, 3))
    assert_same(before, everything(model))
    model.train()(torch.rand(10, 1, 4, 4))  # and afterwards the averages run on
    assert not torch.equal(before["encoder.1.running_mean"], model.encoder[1].running_mean)


def test_under_batch_statistics_the_bound_of_an_image_depends_on_its_neighbours():
    model, some = normalised(), images(40)
    others = some._replace(pixels=torch.cat([some.pixels[:20], 255 - some.pixels[20:] // 4]))
    alone, beside = (bound(model, i, chunk=40).value()[:20] for i in (some, others))
    torch.testing.assert_close(alone, beside)
    with batch_statistics(model):
        alone, beside = (bound(model, i, chunk=40).value()[:20] for i in (some, others))
        assert (alone - beside).abs().min() > 1e-3
        alone, beside = (bound(model, i, chunk=20).value()[:20] for i in (some, others))
        torch.testing.assert_close(alone, beside)  # in another chunk they are no neighbours


def averages(batches: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of the batches' means and of their unbiased variances: Ioffe & Szegedy 2015, algorithm 2."""
    means = [sum(h) / len(h) for h in batches]
    variances = [((h - m) ** 2).sum(dim=0) / (len(h) - 1) for h, m in zip(batches, means, strict=True)]
    return torch.stack(means).mean(dim=0), torch.stack(variances).mean(dim=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("n", [300, 1_200])
def test_population_statistics_are_averages_over_the_training_set(n, training):
    model, train = normalised().train(training), images(n)
    model.encoder[1].running_mean.fill_(1_000)  # wrong on purpose
    before, rng = everything(model), torch.get_rng_state()
    better = with_population_statistics(model, train, seed=3)
    assert_same(before, everything(model))
    assert torch.equal(rng, torch.get_rng_state())
    assert all(layer.training == training for layer in better.modules())

    seen = Batches(train.pixels, min(500, n), seed=3)
    assert len(seen) == (1 if n == 300 else 2)
    with torch.no_grad():
        h = [better.encoder[0](seen[i].flatten(1)) for i in range(len(seen))]
    mean, variance = averages(h)
    torch.testing.assert_close(better.encoder[1].running_mean, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(better.encoder[1].running_var, variance, atol=1e-5, rtol=1e-4)
    assert_same(before, everything(better), [name for name, _ in model.named_parameters()])
    assert better.encoder[1].momentum == model.encoder[1].momentum == 0.1

    again = with_population_statistics(model, train, seed=3)
    assert_same(everything(better), everything(again))
    for layer in (*better.mu_norm.children(), better.mu_norm, better.decoder[1]):
        assert layer.num_batches_tracked == len(seen)


def test_population_statistics_repair_the_bound():
    model, train = normalised(), images(1_000)
    good = bound(with_population_statistics(model, train), train).value().mean()
    model.encoder[1].running_mean.fill_(1_000)
    bad = bound(model, train).value().mean()
    repaired = bound(with_population_statistics(model, train), train).value().mean()
    assert repaired == good and abs(bad - good) > 0.1


def test_population_statistics_refuse_a_model_that_passes_some_batch_norm_by():
    model = normalised()
    model.aside = torch.nn.BatchNorm1d(3)  # as the M2 of M1+M2, which model(x) does not go through
    with pytest.raises(ValueError, match="does not pass through every batch norm"):
        with_population_statistics(model, images(300))


@pytest.mark.parametrize(("likelihood", "binary"), [(Bernoulli, True), (DiscretisedLogistic, False)])
def test_population_statistics_are_collected_on_what_the_model_was_trained_on(likelihood, binary):
    model, seen = normalised(likelihood), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))  # the copy has it too
    train = images(1_000)
    with_population_statistics(model, train)
    x = torch.cat(seen)
    assert ((x == 0) | (x == 1)).all() == binary
    assert x.mean().item() == pytest.approx(as_grey(train.pixels).mean().item(), abs=0.01)


@pytest.mark.parametrize("training", [True, False])
def test_prior_statistics_are_those_of_draws_from_the_prior_and_change_the_decoder_alone(training):
    model = normalised().train(training)
    before, rng = everything(model), torch.get_rng_state()
    better = with_prior_statistics(model, n=1_500, seed=2)
    assert_same(before, everything(model))
    assert torch.equal(rng, torch.get_rng_state())

    after = everything(better)
    changed = {name for name in before if not torch.equal(*map(torch.as_tensor, (before[name], after[name])))}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"decoder.1.{name}" for name in statistics}

    z = torch.randn(1_500, 2, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean, variance = averages([better.decoder[0](part) for part in z.split(500)])
    torch.testing.assert_close(better.decoder[1].running_mean, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(better.decoder[1].running_var, variance, atol=1e-5, rtol=1e-4)


# Few labels --------------------------------------------------------------------------------------


def test_accuracy_counts_the_labels_that_are_the_likeliest_class():
    torch.manual_seed(0)
    model, some = Classifier(sizes=(16, 8)), images(40)
    log_q = label_log_probs(model, some)
    assert log_q.shape == (40, 10) and model.training
    torch.testing.assert_close(log_q.exp().sum(dim=1), torch.ones(40))
    guess = log_q.argmax(dim=1)
    labels = torch.where(torch.arange(40) < 30, guess, (guess + 1) % 10)
    assert accuracy(model, some._replace(labels=labels)).value == pytest.approx(0.75)


def a_label_vae() -> LabelVAE:
    torch.manual_seed(0)
    model = LabelVAE((1, 4, 4), hidden=(12, 12), latent_dim=2)
    with torch.no_grad():
        model.label_head.weight *= 8  # a softmax that says something
        model.decoder[0].weight[:, 2:] *= 8  # and a decoder that listens
        for _ in range(20):
            model(torch.rand(50, 1, 4, 4))
    return model.eval()


def test_the_numbers_of_a_softmax_are_nine_and_uncorrelated():
    model, some = a_label_vae(), images(500)
    over = softmax_numbers(model, some)
    torch.testing.assert_close(over.axes.T @ over.axes, torch.eye(9), atol=1e-5, rtol=0)
    assert over.axes.sum(dim=0).abs().max() < 1e-3  # moving all ten log-probabilities alike says nothing
    log_q = label_log_probs(model, some)
    seen = (log_q - log_q.mean(dim=1, keepdim=True) - over.mean) @ over.axes
    torch.testing.assert_close(torch.cov(seen.T), torch.diag(over.variances), atol=1e-3, rtol=1e-3)
    back = (over.mean + seen @ over.axes.T).softmax(dim=1)
    torch.testing.assert_close(back, log_q.exp(), atol=1e-5, rtol=0)  # nothing is lost on the way


def test_a_softmax_is_priced_on_the_device_of_the_images():
    model = a_label_vae()
    over = softmax_numbers(model, images(200))  # on the CPU, as all that is measured
    bound = priced_softmax(model.to("meta"), torch.rand(5, 1, 4, 4, device="meta"), over, 0.1)
    assert bound.kl.shape == (5, 2) and bound.kl.device.type == "meta"


def test_a_softmax_pays_the_price_of_a_code_and_says_less_the_more_noise_it_has():
    model, some = a_label_vae(), images(2_000)
    over = softmax_numbers(model, some)

    def paid(deviation):
        return bound(model, some, objective=lambda model, x: priced_softmax(model, x, over, deviation))

    claimed = bound(model, some, objective=without_labels(beside_code))
    sharp, blurred = paid(1e-3), paid(30.0)
    assert sharp.log_px.mean() == pytest.approx(claimed.log_px.mean().item(), abs=0.1)
    assert blurred.log_px.mean() < claimed.log_px.mean() - 0.1
    torch.testing.assert_close(sharp.kl[:, 0], claimed.kl[:, 0])
    # Over the images that set the prior, the mean KL of a Gaussian channel is 1/2 log(1 + variance / noise).
    for deviation, found in ((1e-3, sharp), (30.0, blurred)):
        channel = 0.5 * torch.log1p(over.variances / deviation**2).sum().item()
        assert found.kl[:, 1].mean().item() == pytest.approx(channel, rel=2e-3, abs=1e-3)
    assert sharp.value().mean() < claimed.value().mean()
