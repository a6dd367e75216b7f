"""Lesson 05: models with few labels and their bounds, against sums over the labels and quadrature."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence

from course_utils import objectives, train
from course_utils.data import draw_labels, jitter
from course_utils.distributions import Gaussian, normal_sample
from course_utils.models.common import N_CLASSES
from course_utils.models.label_vae import LabelVAE, StackedVAE
from course_utils.models.semi_supervised_vae import Classifier, HeadVAE, MixtureVAE
from course_utils.models.vae import VAE
from course_utils.objectives import Elbo, LabelledElbo, elbo, few_labels

LOG_10 = math.log(N_CLASSES)
NO_LABELS = torch.empty(0, dtype=torch.long)
# All images of 2 x 2 binary pixels: what is a probability adds up to 1 over them.
EVERY_IMAGE = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(16, 1, 2, 2)
GRID = torch.linspace(-8, 8, 801)  # of a code with one latent
ONE_DRAW = [objectives.beside_code, objectives.priced_label, objectives.sampled_label]
FOR_LABEL_VAE = [*ONE_DRAW, objectives.exact_sum]


def vivid(model, gain=3.0):
    """The untrained model in evaluation mode, its weights enlarged: so what it says depends on x and y."""
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight *= gain
    return model.eval()


def label_vae(code_sees_label=False):
    return vivid(LabelVAE((1, 2, 2), hidden=(8, 6), latent_dim=1, code_sees_label=code_sees_label))


def mixture_vae():
    model = vivid(MixtureVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=1)))
    model.mu.data.copy_(torch.linspace(-3, 3, N_CLASSES)[torch.randperm(N_CLASSES)][:, None])
    model.log_var.data.uniform_(-1, 1)
    return model


def stacked_vae():
    m2 = LabelVAE((1, 1, 1), hidden=(8, 6), latent_dim=1, likelihood=Gaussian(), code_sees_label=True)
    return vivid(StackedVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=1), m2), gain=2.0)


def without_noise(model):
    """q(z|x, y) so narrow that every draw is its mean."""
    with torch.no_grad():
        model.code_head[-1].weight[1] = 0
        model.code_head[-1].bias[1] = -60
    return model


def normal(mu, log_var):
    return Normal(mu, (log_var / 2).exp())


def uniform_price(log_q):
    return kl_divergence(Categorical(logits=log_q), Categorical(logits=torch.zeros(N_CLASSES)))


# What is exact ------------------------------------------------------------------------------------


def each_label(x):
    """Each image ten times, with each label once: (10 B, C, H, W), (10 B, 10)."""
    return x.repeat_interleave(N_CLASSES, 0), torch.eye(N_CLASSES).repeat(len(x), 1)


def log_px_on(model, x, z, y=None):
    """log p(x|z) or log p(x|y, z) where each of the B images has T codes: z (B, T) -> (B, T)."""
    rest = () if y is None else (y.repeat_interleave(z.shape[1], 0),)
    px = model.decode(z.reshape(-1, 1), *rest)
    return model.likelihood.log_prob(x.repeat_interleave(z.shape[1], 0), px).reshape(z.shape)


def integral(log_density):
    """The log of the integral over GRID: (B, T) -> (B,)."""
    return torch.logsumexp(log_density, dim=1) + (GRID[1] - GRID[0]).log()


@torch.no_grad()
def log_joint(model, x):
    """log p(x, y) of a `LabelVAE` by quadrature: (B, 10)."""
    images, y = each_label(x)
    log_px = log_px_on(model, images, GRID.expand(len(y), -1), y)
    return integral(log_px + Normal(0, 1).log_prob(GRID)).reshape(len(x), N_CLASSES) - LOG_10


def expected(mu, log_var, f):
    """The mean of f(z), z (B, T) -> (B, T), under normals with one latent: (B, 1) twice -> (B,)."""
    t = torch.linspace(-6, 6, 121)
    return f(mu + (log_var / 2).exp() * t) @ Normal(0, 1).log_prob(t).softmax(dim=0)


@torch.no_grad()
def expected_bound(model, x):
    """The mean over all draws of the bound of a `LabelVAE`: (B,)."""
    images, y = each_label(x)
    q = model.code(model.read(images)[0], y)
    log_px = expected(*q, lambda z: log_px_on(model, images, z, y))
    price = kl_divergence(normal(*q), Normal(0, 1)).squeeze(1)
    log_q = model.classify(x)
    return (log_q.exp() * (log_px - price).reshape(log_q.shape)).sum(1) - uniform_price(log_q)


@torch.no_grad()
def averaged(terms, model, x, n_draws=4_000):
    """(mean, standard error) of the bound over many draws, each (B,)."""
    values = [terms(model, x.repeat(100, 1, 1, 1), NO_LABELS)[0].value() for _ in range(n_draws // 100)]
    return mean_and_error(torch.cat(values).reshape(n_draws, len(x)))


def mean_and_error(draws):
    """Over draws (n, B): (B,) twice."""
    return draws.mean(dim=0), draws.double().std(dim=0) / len(draws) ** 0.5


def assert_mean_is(found, exact, tolerance=5.0, power=0.1):
    """The mean over draws is the exact value, up to its error, which is small enough to show a mistake."""
    mean, error = found
    assert error.median() < power
    assert ((mean - exact).abs() <= tolerance * error + 1e-4).all(), (mean - exact) / error


# The parts of the bounds --------------------------------------------------------------------------


def test_the_price_of_a_label_is_the_divergence_from_uniform_and_log_10_where_it_is_known():
    log_q = torch.randn(6, N_CLASSES).mul(2).log_softmax(dim=1)
    torch.testing.assert_close(objectives.label_kl(log_q, 0), uniform_price(log_q))
    price = objectives.label_kl(log_q, 2)
    assert price[:2].tolist() == pytest.approx([LOG_10] * 2)
    torch.testing.assert_close(price[2:], uniform_price(log_q)[2:])
    sure = (100 * torch.eye(N_CLASSES)).log_softmax(dim=1)
    assert objectives.label_kl(sure, 0).tolist() == pytest.approx([LOG_10] * 10)
    assert objectives.label_kl(torch.zeros(1, N_CLASSES).log_softmax(1), 0).item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_price_of_a_code_is_the_divergence_from_the_standard_normal():
    mu, log_var = torch.randn(2, 5, 3)
    expected_price = kl_divergence(normal(mu, log_var), Normal(0, 1)).sum(dim=1)
    torch.testing.assert_close(objectives.standard_kl(mu, log_var), expected_price)


def test_known_labels_take_the_place_of_the_first_rows():
    y = torch.rand(4, N_CLASSES)
    replaced = objectives.known_first(torch.tensor([7, 0]), y)
    assert replaced[:2].nonzero().tolist() == [[0, 7], [1, 0]] and replaced[:2].sum() == 2
    assert torch.equal(replaced[2:], y[2:])
    assert torch.equal(objectives.known_first(NO_LABELS, y), y)


def test_the_likelihood_of_real_numbers_is_normal():
    x, px = torch.randn(5, 3, 1, 1), torch.randn(5, 2, 3, 1, 1)
    deviation = F.softplus(px[:, 1]) + 1e-2
    wanted = Normal(px[:, 0], deviation).log_prob(x).sum(dim=(1, 2, 3))
    torch.testing.assert_close(Gaussian().log_prob(x, px), wanted)
    draws = Gaussian().sample(px[:1].repeat(20_000, 1, 1, 1, 1))
    torch.testing.assert_close(draws.mean(dim=0), Gaussian().mean(px)[0], atol=0.1, rtol=0)
    torch.testing.assert_close(draws.std(dim=0), deviation[0], atol=0, rtol=0.05)


# The label beside the code ------------------------------------------------------------------------


@pytest.mark.parametrize("code_sees_label", [False, True])
@pytest.mark.parametrize("terms", [objectives.exact_sum, objectives.sampled_label])
def test_the_sum_and_the_draw_have_the_same_mean_and_it_is_a_bound(terms, code_sees_label):
    model = label_vae(code_sees_label)
    log_px = log_joint(model, EVERY_IMAGE).logsumexp(dim=1)
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-4), "the quadrature is exact"
    exact = expected_bound(model, EVERY_IMAGE)
    assert (exact < log_px).all()
    assert uniform_price(model.classify(EVERY_IMAGE)).max() > 0.5, "a missing price would show"
    assert_mean_is(averaged(terms, model, EVERY_IMAGE), exact)


@torch.no_grad()
@pytest.mark.parametrize("code_sees_label", [False, True])
def test_the_sum_is_a_loop_over_the_classes(code_sees_label):
    model, labels = without_noise(label_vae(code_sees_label)), torch.tensor([3, 8, 0])
    bound, log_q = objectives.exact_sum(model, EVERY_IMAGE, labels)
    h, classes = model.read(EVERY_IMAGE)
    log_px, price = torch.zeros(2, 16, N_CLASSES)
    for label in range(N_CLASSES):
        y = F.one_hot(torch.full((16,), label), N_CLASSES)
        q = model.code(h, y)
        log_px[:, label] = model.likelihood.log_prob(EVERY_IMAGE, model.decode(q[0], y))
        price[:, label] = kl_divergence(normal(*q), Normal(0, 1)).sum(dim=1)
    weight = classes.exp()
    weight[:3] = F.one_hot(labels, N_CLASSES)
    torch.testing.assert_close(bound.log_px, (weight * log_px).sum(1))
    torch.testing.assert_close(bound.kl[:, 0], (weight * price).sum(1))
    torch.testing.assert_close(bound.kl[3:, 1], uniform_price(classes)[3:])
    assert bound.kl[:3, 1].tolist() == pytest.approx([LOG_10] * 3)
    assert torch.equal(log_q, classes)
    assert objectives.exact_sum(model, EVERY_IMAGE[:3], labels)[0].value().shape == (3,), "all are known"


def by_hand(label_weight, label_bias, decoder_weight):
    """A `LabelVAE` of 2 x 2 pixels without a code, linear from pixels to labels and from labels to pixels."""
    model = LabelVAE((1, 2, 2), hidden=(4, 4), latent_dim=1)
    model.features = nn.Identity()
    model.code_head = nn.Linear(4, 2)
    model.decoder = nn.Linear(1 + N_CLASSES, 4, bias=False)
    with torch.no_grad():
        model.label_head.weight.copy_(label_weight)
        model.label_head.bias.copy_(label_bias)
        model.code_head.weight.zero_()  # q(z|x) = N(0, 1), which costs nothing
        model.code_head.bias.zero_()
        model.decoder.weight.zero_()
        model.decoder.weight[:, 1:] = decoder_weight  # (4, 10)
    return model.eval()


def test_with_the_exact_posterior_the_bound_is_log_px_and_with_the_label_log_pxy():
    logits = 2 * torch.randn(4, N_CLASSES)  # of each pixel, given the label
    model = by_hand(logits.T, F.logsigmoid(-logits).sum(dim=0), logits)  # Bayes' rule
    pixels, labels = EVERY_IMAGE.flatten(1)[:, :, None], torch.tensor([4, 9, 0, 2])
    log_pxy = (pixels * logits + F.logsigmoid(-logits)).sum(dim=1) - LOG_10  # (16, 10)
    log_px = log_pxy.logsumexp(dim=1)
    assert log_px.exp().sum().item() == pytest.approx(1)
    wanted = torch.cat([log_pxy[range(4), labels], log_px[4:]])
    with torch.no_grad():
        torch.testing.assert_close(objectives.exact_sum(model, EVERY_IMAGE, labels)[0].value(), wanted)
    assert_mean_is(averaged(objectives.sampled_label, model, EVERY_IMAGE), log_px)
    for terms in ONE_DRAW[1:]:
        known = terms(model, EVERY_IMAGE[:4], labels)[0].value()
        torch.testing.assert_close(known, wanted[:4])
    unpriced = objectives.beside_code(model, EVERY_IMAGE[:4], labels)[0].value()
    torch.testing.assert_close(unpriced, wanted[:4] + LOG_10)


def test_a_softmax_tells_the_decoder_of_x_without_paying_so_its_claim_is_no_bound():
    """Four classes whisper the four pixels, a tenth of a logit each; the decoder shouts what it hears."""
    whisper, shout = torch.zeros(N_CLASSES, 4), torch.zeros(4, N_CLASSES)
    whisper[:4], whisper_bias = 0.2 * torch.eye(4), torch.zeros(N_CLASSES)
    whisper_bias[:4] = -0.1
    shout[:, :4], shout[:, 9] = 2_000 * torch.eye(4), -2_000.0
    model = by_hand(whisper, whisper_bias, shout)
    log_px = log_joint(model, EVERY_IMAGE).logsumexp(dim=1)
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-4)
    for terms in (objectives.beside_code, objectives.priced_label):
        claim = terms(model, EVERY_IMAGE, NO_LABELS)[0].value()
        assert (claim > log_px).all() and claim.exp().sum() > 15.9, "sixteen images, each with probability 1"
    for terms in (objectives.sampled_label, objectives.exact_sum):
        assert (averaged(terms, model, EVERY_IMAGE)[0] < log_px).all()


def test_the_softmax_itself_goes_to_the_decoder_in_the_plan_of_2015():
    model, labels = without_noise(label_vae()), torch.tensor([5, 5])
    h, log_q = model.read(EVERY_IMAGE)
    y = log_q.exp()
    y[:2] = F.one_hot(labels, N_CLASSES)
    log_px = model.likelihood.log_prob(EVERY_IMAGE, model.decode(model.code(h, y)[0], y))
    plan, priced = (terms(model, EVERY_IMAGE, labels)[0] for terms in ONE_DRAW[:2])
    for bound in (plan, priced):
        torch.testing.assert_close(bound.log_px, log_px)
        torch.testing.assert_close(
            bound.kl[:, 0], kl_divergence(normal(*model.code(h, y)), Normal(0, 1)).sum(1)
        )
    assert plan.kl.shape == (16, 1) and priced.kl.shape == (16, 2)
    torch.testing.assert_close(priced.kl[2:, 1], uniform_price(log_q)[2:])


def test_the_gradient_of_a_drawn_label_goes_straight_through_to_the_softmax():
    model = label_vae()
    torch.manual_seed(1)
    objectives.sampled_label(model, EVERY_IMAGE, NO_LABELS)[0].log_px.sum().backward()
    found = model.label_head.weight.grad.clone()
    torch.manual_seed(1)
    h, log_q = model.read(EVERY_IMAGE)
    y = F.one_hot(Categorical(logits=log_q).sample(), N_CLASSES).float().requires_grad_()
    log_px = model.likelihood.log_prob(EVERY_IMAGE, model.decode(normal_sample(*model.code(h, y)), y))
    (of_draw,) = torch.autograd.grad(log_px.sum(), y, retain_graph=True)
    (wanted,) = torch.autograd.grad(log_q.exp(), model.label_head.weight, of_draw)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("terms", FOR_LABEL_VAE)
def test_a_known_label_teaches_the_classifier_through_the_softmax_error_alone(terms):
    model, labels = label_vae(), torch.arange(16) % N_CLASSES
    bound, log_q = terms(model, EVERY_IMAGE, labels)
    (grad,) = torch.autograd.grad(
        bound.value().sum(), model.label_head.weight, allow_unused=True, retain_graph=True
    )
    assert grad is None or grad.abs().max() == 0
    (of_error,) = torch.autograd.grad(F.nll_loss(log_q, labels), model.label_head.weight)
    assert of_error.abs().max() > 0.01
    unknown = terms(model, EVERY_IMAGE, NO_LABELS)[0].value().sum()
    assert torch.autograd.grad(unknown, model.label_head.weight)[0].abs().max() > 0.01


# The label behind the code ------------------------------------------------------------------------


def test_the_prices_of_the_classes_are_divergences():
    model = MixtureVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3))
    assert model.mu.norm(dim=1).tolist() == pytest.approx([3.0] * N_CLASSES) and not model.log_var.any()
    model.log_var.data.uniform_(-1, 1)
    mu, log_var = torch.randn(2, 4, 3)
    wanted = kl_divergence(normal(mu[:, None], log_var[:, None]), normal(model.mu, model.log_var)).sum(2)
    assert wanted.shape == (4, N_CLASSES)
    torch.testing.assert_close(model.prices(mu, log_var), wanted)


def mixture_log_prob(model, z):
    """log p(z) of a code with one latent: any shape -> the same."""
    return normal(model.mu[:, 0], model.log_var[:, 0]).log_prob(z[..., None]).logsumexp(-1) - LOG_10


@torch.no_grad()
def test_the_price_under_a_mixture_is_the_log_of_a_mean():
    model = mixture_vae()
    bound, log_q = objectives.mixture_prior(model, EVERY_IMAGE, NO_LABELS)
    q, total = model.encode(EVERY_IMAGE), bound.kl.sum(dim=1)
    prices = model.prices(*q)
    torch.testing.assert_close(total, -(-prices).exp().mean(dim=1).log())
    assert (total <= prices.amin(dim=1) + LOG_10).all()
    torch.testing.assert_close(log_q, model.classify(EVERY_IMAGE))
    torch.testing.assert_close(bound.kl[:, 1], uniform_price(log_q))
    other = torch.randn(16, N_CLASSES).log_softmax(dim=1)  # no other q(y|x) is cheaper
    assert ((other.exp() * prices).sum(1) + uniform_price(other) > total).all()
    true_price = expected(*q, lambda z: normal(*q).log_prob(z) - mixture_log_prob(model, z))
    assert (true_price < total + 1e-4).all(), "it is a bound on the divergence from the mixture"


@torch.no_grad()
def test_classes_that_are_one_cost_what_that_costs_and_those_far_apart_log_10_more():
    model = mixture_vae()
    model.log_var.zero_()
    model.mu.fill_(0.7)
    bound = objectives.mixture_prior(model, EVERY_IMAGE, NO_LABELS)[0]
    price = kl_divergence(normal(*model.encode(EVERY_IMAGE)), Normal(0.7, 1)).squeeze(1)
    torch.testing.assert_close(bound.kl[:, 0], price)
    torch.testing.assert_close(bound.kl[:, 1], torch.zeros(16), atol=1e-5, rtol=0)
    model.mu[1:, 0] = 100.0 * torch.arange(1, N_CLASSES)
    bound = objectives.mixture_prior(model, EVERY_IMAGE, NO_LABELS)[0]
    torch.testing.assert_close(bound.kl, torch.stack([price, torch.full((16,), LOG_10)], dim=1))


@torch.no_grad()
def test_the_bound_under_a_mixture_is_below_the_likelihood():
    model, labels = mixture_vae(), torch.arange(16) % N_CLASSES
    log_pxz = log_px_on(model, EVERY_IMAGE, GRID.expand(16, -1))
    log_px = integral(log_pxz + mixture_log_prob(model, GRID))
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-3)
    q = model.encode(EVERY_IMAGE)
    exact = expected(*q, lambda z: log_px_on(model, EVERY_IMAGE, z))
    prices = model.prices(*q)
    exact += (-prices).exp().mean(dim=1).log()
    assert (exact < log_px).all()
    assert_mean_is(averaged(objectives.mixture_prior, model, EVERY_IMAGE), exact)
    # of an image with its label: the price of that class, and the label's own
    class_density = normal(model.mu[labels], model.log_var[labels]).log_prob(GRID)
    log_pxy = integral(log_pxz + class_density) - LOG_10
    bound = objectives.mixture_prior(model, EVERY_IMAGE, labels)[0]
    torch.testing.assert_close(bound.kl[:, 0], prices[range(16), labels])
    assert bound.kl[:, 1].tolist() == pytest.approx([LOG_10] * 16)
    assert (expected(*q, lambda z: log_px_on(model, EVERY_IMAGE, z)) - bound.kl.sum(dim=1) < log_pxy).all()


def test_the_softmax_on_the_code_has_the_bound_of_lesson_01_and_reads_the_draw():
    model = vivid(HeadVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3)))
    torch.manual_seed(1)
    bound, log_q = objectives.softmax_on_code(model, EVERY_IMAGE, NO_LABELS)
    torch.manual_seed(1)
    torch.testing.assert_close(bound, elbo(model.vae, EVERY_IMAGE))
    torch.manual_seed(1)
    torch.testing.assert_close(log_q, model.head(model.vae(EVERY_IMAGE).z[0]).log_softmax(dim=1))
    mu = model.vae.encode(EVERY_IMAGE)[0]
    torch.testing.assert_close(model.classify(EVERY_IMAGE), model.head(mu).log_softmax(dim=1))
    F.nll_loss(log_q, torch.arange(16) % N_CLASSES).backward()
    assert model.vae.encoder[0].weight.grad.abs().max() > 0, "the encoder hears of the labels"


# One on top of the other --------------------------------------------------------------------------


@torch.no_grad()
def test_m2_on_m1_is_a_bound():
    model = stacked_vae()
    z = torch.linspace(-8, 8, 161)
    log_pz = log_joint(model.m2, z[:, None, None, None]).logsumexp(dim=1)
    assert log_pz.exp().mul(z[1] - z[0]).sum().item() == pytest.approx(1, abs=1e-3), "a density of codes"
    log_pxz = log_px_on(model.m1, EVERY_IMAGE, z.expand(16, -1))
    log_px = (log_pxz + log_pz).logsumexp(dim=1) + (z[1] - z[0]).log()
    assert log_px.exp().sum().item() == pytest.approx(1, abs=1e-3)
    q = model.m1.encode(EVERY_IMAGE)

    def bound_at(z):
        prior = expected_bound(model.m2, z.reshape(-1, 1, 1, 1)).reshape(z.shape)
        return log_px_on(model.m1, EVERY_IMAGE, z) + prior - normal(*q).log_prob(z)

    exact = expected(*q, bound_at)
    assert (exact < log_px).all()
    assert_mean_is(averaged(objectives.stacked, model, EVERY_IMAGE), exact)


@torch.no_grad()
def test_where_m2_says_nothing_the_codes_have_one_normal_as_prior():
    model = stacked_vae()
    for layer in (model.m2.label_head, model.m2.code_head[-1], model.m2.decoder[-1]):
        layer.weight.zero_()
        layer.bias.zero_()
    p = [t.squeeze() for t in model.m2.likelihood.moments(torch.zeros(1, 2, 1, 1, 1))]
    price = kl_divergence(normal(*model.m1.encode(EVERY_IMAGE)), normal(*p)).squeeze(1)
    x = EVERY_IMAGE.repeat(2_000, 1, 1, 1)
    for labels, of_label in ((NO_LABELS, 0.0), (torch.full((len(x),), 3), LOG_10)):
        bound = objectives.stacked(model, x, labels)[0]
        assert bound.kl.shape == (len(x), 1)
        assert_mean_is(mean_and_error(bound.kl.reshape(2_000, 16)), price + of_label)


def test_training_m2_leaves_m1_as_it_is():
    m2 = LabelVAE((3, 1, 1), hidden=(8, 6), latent_dim=2, likelihood=Gaussian(), code_sees_label=True)
    model = StackedVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3, batch_norm=True), m2)
    model.m1.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = partial(few_labels, terms=objectives.stacked, labels=torch.tensor([2, 7]), alpha=5.0)
    train.fit(model, [EVERY_IMAGE] * 5, 5, objective=objective)
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if name.startswith("m1.")], "weights and running averages"
    assert {"m2.label_head.weight", "m2.features.0.0.weight", "m2.code_head.0.weight"} <= moved
    assert all(p.grad is None for p in model.m1.parameters())
    model.train()
    assert model.m2.training and not any(part.training for part in model.m1.modules())


# The loss -----------------------------------------------------------------------------------------


def test_without_labels_the_loss_is_that_of_lesson_01():
    model = HeadVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3))
    for settings in ({}, {"beta": 0.3}, {"beta": torch.tensor([0.5]), "free_bits": 2.0}):
        losses = []
        for objective in (
            partial(few_labels, terms=objectives.softmax_on_code, labels=NO_LABELS, alpha=0.0),
            partial(few_labels, terms=objectives.softmax_on_code, labels=NO_LABELS, alpha=50.0),
            objectives.without_labels(objectives.softmax_on_code),
            elbo,
        ):
            torch.manual_seed(2)
            losses.append(objective(model, EVERY_IMAGE).loss(**settings).item())
        assert losses == pytest.approx(losses[-1:] * 4)


def test_twice_the_alpha_is_twice_the_softmax_error():
    model, labels, losses = label_vae(), torch.tensor([3, 1, 4]), []
    for alpha in (0.0, 7.0, 14.0):
        torch.manual_seed(2)
        bound = few_labels(model, EVERY_IMAGE, objectives.priced_label, labels, alpha)
        assert bound.softmax_error.shape == (3,)
        losses.append(bound.loss().item())
    error = F.nll_loss(model.classify(EVERY_IMAGE[:3]), labels).item()
    assert losses[1] - losses[0] == pytest.approx(7 * error, rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(14 * error, rel=1e-4)


def test_a_labelled_image_weighs_less_in_the_mean_but_its_softmax_error_in_full():
    log_px = torch.tensor([-5.0, -1.0, -3.0, -2.0])
    kl = torch.tensor([[1.0, 2.0], [0.5, 0.2], [0.3, 0.4], [4.0, 1.0]])
    bound = LabelledElbo(log_px, kl, softmax_error=torch.tensor([6.0, 2.0]))
    w = objectives.KNOWN_WEIGHT
    assert 0 < w < 1
    weights = [w, w, 1, 1]
    costs = [a * (k[0] * 1.0 + k[1] * 0.5 - p) for a, k, p in zip(weights, kl, log_px, strict=True)]
    wanted = sum(costs).item() / sum(weights) + 4.0
    assert bound.loss(beta=torch.tensor([1.0, 0.5])).item() == pytest.approx(wanted)
    assert bound.value().tolist() == pytest.approx([-8.0, -1.7, -3.7, -7.0]), "the bound has no weights"
    alone = LabelledElbo(log_px[:2], kl[:2], torch.tensor([6.0, 2.0])).loss()
    assert alone.item() == pytest.approx(Elbo(log_px[:2], kl[:2]).loss().item() + 4.0)


def test_a_classifier_alone_maximises_the_log_probability_of_the_labels():
    model, labels = Classifier((4, 8)), torch.arange(16) % N_CLASSES
    bound = objectives.label_log_prob(model, EVERY_IMAGE, labels)
    assert bound.kl.shape == (16, 1)
    wanted = F.cross_entropy(model.network(EVERY_IMAGE.flatten(1)), labels)
    assert bound.loss().item() == pytest.approx(wanted.item(), rel=1e-5)


# The models ---------------------------------------------------------------------------------------

PAIRS = [
    *((label_vae, terms) for terms in FOR_LABEL_VAE),
    (partial(label_vae, code_sees_label=True), objectives.exact_sum),
    (lambda: HeadVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3)), objectives.softmax_on_code),
    (mixture_vae, objectives.mixture_prior),
    (stacked_vae, objectives.stacked),
]
NAMES = [terms.__name__ for _, terms in PAIRS]


@pytest.mark.parametrize(("build", "terms"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("n_known", [0, 5, 16])
def test_every_model_gives_terms_of_the_promised_shapes_in_either_mode(build, terms, n_known):
    labels = torch.arange(n_known) % N_CLASSES
    for training in (True, False):
        bound, log_q = terms(build().train(training), EVERY_IMAGE, labels)
        assert bound.log_px.shape == (16,) and bound.kl.shape in ((16, 1), (16, 2))
        assert log_q.shape == (16, N_CLASSES) and bound.value().isfinite().all()
        torch.testing.assert_close(log_q.logsumexp(dim=1), torch.zeros(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("build", "terms"), PAIRS, ids=NAMES)
def test_every_parameter_learns(build, terms):
    model = build().train()
    if isinstance(model, StackedVAE):
        model.m1.requires_grad_(False)
    few_labels(model, EVERY_IMAGE, terms, torch.tensor([1, 2]), alpha=3.0).loss().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(("build", "terms"), PAIRS, ids=NAMES)
def test_every_model_classifies_and_passes_images(build, terms):
    model = build()
    log_q, out = model.classify(EVERY_IMAGE), model(EVERY_IMAGE)
    assert log_q.shape == (16, N_CLASSES) and log_q.std(dim=0).max() > 0
    torch.testing.assert_close(log_q.exp().sum(dim=1), torch.ones(16))
    assert out.px.shape == (16, 1, 1, 2, 2) and out.z[0].shape == out.q[0][0].shape == out.q[0][1].shape
    assert out.z[0].shape[0] == 16


@pytest.mark.parametrize("build", [label_vae, mixture_vae])
def test_generate_gives_images_of_one_class_or_of_any(build):
    model = build()
    any_class, three, five = model.generate(2_000), model.generate(2_000, label=3), model.generate(2_000, 5)
    for images in (any_class, three, five):
        assert images.shape == (2_000, 1, 2, 2) and images.min() >= 0 and images.max() <= 1
        assert not images.requires_grad
    means = torch.stack([model.generate(2_000, label).mean(dim=0) for label in range(N_CLASSES)])
    assert (three.mean(dim=0) - five.mean(dim=0)).abs().max() > 0.05
    torch.testing.assert_close(three.mean(dim=0), means[3], atol=0.03, rtol=0)
    torch.testing.assert_close(any_class.mean(dim=0), means.mean(dim=0), atol=0.03, rtol=0)


@torch.no_grad()
def test_the_code_sees_the_label_if_it_is_to():
    for code_sees_label in (False, True):
        model = label_vae(code_sees_label)
        mu = model.code(model.read(EVERY_IMAGE[:1])[0].expand(N_CLASSES, -1), torch.eye(N_CLASSES))[0]
        assert len(mu.unique()) == (N_CLASSES if code_sees_label else 1)


def test_a_label_vae_refuses_images_of_another_shape():
    with pytest.raises(ValueError, match=r"batches of images \(B, 1, 2, 2\).*given"):
        label_vae().classify(torch.zeros(3, 1, 2, 3))


def test_a_mixture_draws_the_code_of_a_class_from_its_own_normal():
    model = mixture_vae()
    model.vae.decode = lambda z: z.reshape(-1, 1, 1, 1, 1)
    model.likelihood.mean = lambda px: px[:, 0]
    for label in (0, 7):
        draws, deviation = model.generate(20_000, label), (model.log_var[label] / 2).exp().item()
        assert draws.mean().item() == pytest.approx(model.mu[label].item(), abs=0.05 * deviation)
        assert draws.std().item() == pytest.approx(deviation, rel=0.05)


@torch.no_grad()
def test_starting_at_the_mean_a_label_vae_centres_its_input_and_answers_with_the_mean():
    model, mean = LabelVAE((1, 2, 2), hidden=(8, 6), latent_dim=1), torch.rand(1, 2, 2)
    first, x = model.features[0][0], torch.rand(3, 1, 2, 2)
    before = first(2 * (x - mean).flatten(1))
    model.start_at_mean(mean)
    torch.testing.assert_close(first(x.flatten(1)), before)
    model.decoder[-1].weight.zero_()
    torch.testing.assert_close(model.eval().generate(1)[0], mean)


def test_a_mixture_learns_images_and_their_labels_by_heart():
    x, labels = EVERY_IMAGE[:10].repeat(4, 1, 1, 1), torch.arange(10)
    model = MixtureVAE(VAE((1, 2, 2), hidden=(32,), latent_dim=2))
    objective = partial(few_labels, terms=objectives.mixture_prior, labels=labels, alpha=10.0)
    first = objective(model, x).loss().item()
    training = train.fit(model, [x] * 400, 400, objective=objective, lr=2e-2, schedule=train.constant)
    assert training.finished and objective(model, x).loss().item() < first - 10
    assert torch.equal(model.classify(EVERY_IMAGE[:10]).argmax(dim=1), labels)


@pytest.mark.parametrize(
    ("build", "objective"),
    [
        (label_vae, objectives.without_labels(objectives.exact_sum)),
        (lambda: HeadVAE(VAE((1, 2, 2), hidden=(8,), latent_dim=3)), elbo),
        (mixture_vae, objectives.without_labels(objectives.mixture_prior)),
        (stacked_vae, objectives.without_labels(objectives.stacked)),
        (lambda: VAE((1, 2, 2), hidden=(8,), latent_dim=3), elbo),
    ],
    ids=["label", "head", "mixture", "stacked", "plain"],
)
def test_the_bound_of_images_without_labels_is_that_of_the_kind_of_model(build, objective):
    model = build()
    torch.manual_seed(1)
    found = objectives.image_bound(model, EVERY_IMAGE)
    torch.manual_seed(1)
    torch.testing.assert_close(found, objective(model, EVERY_IMAGE))


# Which labels are known, and jitter ---------------------------------------------------------------


def test_labels_are_drawn_evenly_and_the_number_of_the_draw_decides_which():
    labels = torch.randint(10, (2_000,))
    draws = [draw_labels(labels, 100, draw) for draw in range(4)]
    for index in draws:
        assert index.dtype == torch.int64 and len(index.unique()) == 100
        assert labels[index].bincount().tolist() == [10] * 10
    assert torch.equal(draw_labels(labels, 100, 2), draws[2])
    assert len({tuple(index.tolist()) for index in draws}) == 4
    shared = len(set(draws[0].tolist()) & set(draws[1].tolist()))
    assert shared < 20, "five would be the same by chance"
    assert len(draw_labels(labels, 0, 0)) == 0


def test_labels_that_cannot_be_drawn_evenly_are_refused():
    labels = torch.arange(100) % 10
    assert draw_labels(labels, 100, 0).sort().values.tolist() == list(range(100))
    for n in (95, 110):
        with pytest.raises(ValueError, match=f"{n} labels cannot be drawn evenly from 100.*multiple of 10"):
            draw_labels(labels, n, 0)
    with pytest.raises(ValueError, match="20 labels"):
        draw_labels(torch.cat([labels[:15], labels[:9]]), 20, 0)  # there is one nine only


def square(n, first=10, last=18):
    x = torch.zeros(n, 1, 28, 28)
    x[:, :, first:last, first:last] = 1
    return x


def test_jitter_keeps_shape_range_and_blank_images_and_moves_each_image_in_its_own_way():
    x = torch.rand(6, 1, 28, 28)
    moved = jitter(x)
    assert moved.shape == x.shape and moved.dtype == x.dtype and moved.min() >= 0 and moved.max() <= 1
    assert not jitter(torch.zeros(3, 1, 28, 28)).any()
    moved = jitter(square(8)).flatten(1)
    assert torch.pdist(moved).min() > 0.5 and (moved - square(8).flatten(1)).norm(dim=1).min() > 0.5
    assert jitter(torch.rand(2, 3, 8, 6)).shape == (2, 3, 8, 6)
    both = jitter(square(4).expand(-1, 2, -1, -1))
    assert torch.equal(both[:, 0], both[:, 1]), "the channels of an image move together"
    torch.manual_seed(5)
    once = jitter(square(2))
    torch.manual_seed(5)
    assert torch.equal(jitter(square(2)), once)


def moments(images):
    """(mass, down, right, down * down, down * right, right * right) of images (N, 28, 28), (N,) each: where
    their middle is, from that of the picture, and the second moments about it."""
    place = torch.arange(28.0) - 13.5
    rows, columns = place[:, None], place[None, :]
    mass = images.sum(dim=(1, 2))
    down, right = ((images * axis).sum(dim=(1, 2)) / mass for axis in (rows, columns))
    rows, columns = rows - down[:, None, None], columns - right[:, None, None]
    pairs = [rows * rows, rows * columns, columns * columns]
    return mass, down, right, *((images * pair).sum(dim=(1, 2)) / mass for pair in pairs)


def test_jitter_moves_and_sizes_a_little():
    mass, down, right, *_ = moments(jitter(square(2_000))[:, 0])
    for shift in (down, right):
        assert shift.mean().abs() < 0.1 and 0.6 < shift.std() < 1.1 and shift.abs().max() < 3
    size = mass / 64
    assert size.min() > 0.6 and size.max() < 1.65 and 0.15 < size.std() < 0.25


def test_jitter_turns_and_slants_a_little_to_either_side():
    lying = torch.zeros(2_000, 1, 28, 28)
    lying[:, :, 13:15, 4:24] = 1
    *_, both, along = moments(jitter(lying)[:, 0])
    turn = both / along  # a slant leaves a lying bar as it is
    assert turn.mean().abs() < 0.02 and 0.17 < turn.std() < 0.23 and turn.abs().max() < 0.4
    *_, along, both, _ = moments(jitter(lying.mT)[:, 0])
    turn_and_slant = both / along
    assert turn_and_slant.mean().abs() < 0.03 and 0.23 < turn_and_slant.std() < 0.35
