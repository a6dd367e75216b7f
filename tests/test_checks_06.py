"""Exercises of lesson 06: the blank fails, the solution passes, every known mistake gets its own message."""

import functools
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn import functional as F
from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

from course_utils import checks, fillings
from course_utils.checks import lesson_06
from course_utils.holes import harmonic_fill, pasted, rim, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import repeated

HALF = 0.5
HOLE = (..., slice(16, 48), slice(16, 48))

# 1 · The smooth fill, by hand ---------------------------------------------------------------------


def rolled(x):
    """The mean of the four neighbours of every pixel, the picture's edges glued together."""
    return sum(x.roll(step, axis) for step in (1, -1) for axis in (-1, -2)) / 4


def corners(x):
    return sum(x.roll((i, j), (-1, -2)) for i in (1, -1) for j in (1, -1)) / 4


def rim_mean(x):
    return rim(x).mean(-1)[..., None, None]


def relax(x, n_sweeps, *, start=rim_mean, mean=rolled, hole=HOLE, spoil=False):
    x = x if spoil else x.clone()
    x[HOLE] = start(x)
    for _ in range(n_sweeps):
        x[hole] = mean(x)[hole]
    return x


def relax_all(x, n_sweeps):
    """Known pixels too, from the rim's mean."""
    x = pasted(x, rim_mean(x).expand_as(centre(x)))
    for _ in range(n_sweeps):
        x = rolled(x)
    return x


def shifted(x, n_sweeps, *, by, to):
    where = (..., slice(16 + by, 48 + to), slice(16 + by, 48 + to))
    x = x.clone()
    x[where] = rim_mean(x)
    for _ in range(n_sweeps):
        x[where] = rolled(x)[where]
    return x


def alone(x, n_sweeps, mode):
    hole = rim_mean(x).expand_as(centre(x))
    for _ in range(n_sweeps):
        h = F.pad(hole, (1, 1, 1, 1), mode=mode)
        hole = (h[..., 1:-1, 2:] + h[..., 1:-1, :-2] + h[..., 2:, 1:-1] + h[..., :-2, 1:-1]) / 4
    return pasted(x, hole)


def gauss_seidel(x, n_sweeps):
    """On plain numbers, since torch takes its time for each."""
    x = relax(x, 0)
    planes = x.flatten(0, 1).tolist()
    for plane in planes:
        for _ in range(n_sweeps):
            for i in range(16, 48):
                for j in range(16, 48):
                    four = (plane[i - 1][j], plane[i + 1][j], plane[i][j - 1], plane[i][j + 1])
                    plane[i][j] = sum(four) / 4
    return torch.tensor(planes).view_as(x)


def row_by_row(x, n_sweeps):
    x = relax(x, 0)
    for _ in range(n_sweeps):
        for i in range(16, 48):
            upright, level = x[..., i - 1, 16:48] + x[..., i + 1, 16:48], x[..., i, 15:47] + x[..., i, 17:49]
            x[..., i, 16:48] = (upright + level) / 4
    return x


def known_mean(x):
    known = torch.ones_like(x)
    known[HOLE] = 0
    return ((x * known).sum((2, 3)) / known.sum((2, 3)))[..., None, None]


def ring_mean(x):
    ring = torch.zeros_like(x)
    ring[..., 15:49, 15:49] = 1
    ring[HOLE] = 0
    return ((x * ring).sum((2, 3)) / ring.sum((2, 3)))[..., None, None]


RELAX = {
    "Right": relax,
    "what the hole held: that": lambda x, n: relax(x, n, start=centre),
    "mean of the whole picture": lambda x, n: relax(x, n, start=lambda x: x.mean((2, 3), keepdim=True)),
    "mean of what the hole held": lambda x, n: relax(
        x, n, start=lambda x: centre(x).mean((2, 3), keepdim=True)
    ),
    "all known pixels": lambda x, n: relax(x, n, start=known_mean),
    "corners included": lambda x, n: relax(x, n, start=ring_mean),
    "start with black": lambda x, n: relax(x, n, start=lambda x: 0.0),
    "start with grey": lambda x, n: relax(x, n, start=lambda x: 0.5),
    "three colours": lambda x, n: relax(x, n, start=lambda x: rim_mean(x).mean(1, keepdim=True)),
    "whole batch": lambda x, n: relax(x, n, start=lambda x: rim_mean(x).mean(0, keepdim=True)),
    "one number for everything": lambda x, n: relax(x, n, start=lambda x: rim(x).mean()),
    "eight neighbours": lambda x, n: relax(x, n, mean=lambda x: (rolled(x) + corners(x)) / 2),
    "all nine": lambda x, n: relax(x, n, mean=lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "itself is in your mean": lambda x, n: relax(x, n, mean=lambda x: 0.8 * rolled(x) + 0.2 * x),
    "four at the corners": lambda x, n: relax(x, n, mean=corners),
    "above and below alone": lambda x, n: relax(x, n, mean=lambda x: (x.roll(1, -2) + x.roll(-1, -2)) / 2),
    "left and right alone": lambda x, n: relax(x, n, mean=lambda x: (x.roll(1, -1) + x.roll(-1, -1)) / 2),
    "Divide by 4": lambda x, n: relax(x, n, mean=lambda x: 4 * rolled(x)),
    "with zeros around it": lambda x, n: alone(x, n, "constant"),
    "Gauss-Seidel": gauss_seidel,
    "overwrite a row": row_by_row,
    "one sweep too many": lambda x, n: relax(x, n + 1),
    "one sweep too few": lambda x, n: relax(x, max(n - 1, 0)),
    "sweep once": lambda x, n: relax(x, min(n, 1)),
    "the rim never gets in": lambda x, n: alone(x, n, "replicate"),
    "smooth fill itself": lambda x, n: harmonic_fill(x),
    "That is the hole alone": lambda x, n: centre(relax(x, n)),
    "x is changed as well": lambda x, n: relax(x, n, spoil=True),
    "stop early": lambda x, n: relax(x, min(n, 100)),
    "You change known pixels": relax_all,
    "shifted or too large": lambda x, n: shifted(x, n, by=1, to=1),
    "A part of the hole stays": lambda x, n: shifted(x, n, by=1, to=-1),
    "changes your answer": lambda x, n: relax(x, n, start=lambda x: (rim_mean(x) + centre(x)) / 2),
}

# 2 · Decibels -------------------------------------------------------------------------------------


def each_psnr(truth, filling):
    """torchmetrics, a photograph at a time."""
    pairs = zip(truth, filling, strict=True)
    return torch.stack([psnr(b, a, data_range=1.0) for a, b in pairs])


def in_hole(truth, filling, reduce):
    """reduce: the difference (3, 32, 32) -> an error."""
    return torch.stack([reduce(one) for one in (filling - truth)[HOLE]])


def decibels(error):
    return -10 * error.log10().mean()


def cut(truth, filling, first, last):
    where = (..., slice(first, last), slice(first, last))
    return each_psnr(truth[where], filling[where]).mean()


DECIBELS = {
    "Right": lambda a, b: each_psnr(a[HOLE], b[HOLE]).mean(),
    "gift of 6 dB": lambda a, b: each_psnr(a, b).mean(),
    "over all photographs, then": lambda a, b: psnr(b[HOLE], a[HOLE], data_range=1.0),
    "over whole pictures, and": lambda a, b: psnr(b, a, data_range=1.0),
    "sum the squared error": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).sum())),
    "log for each colour": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).mean((1, 2)))),
    "log of each pixel": lambda a, b: decibels(in_hole(a, b, torch.square)),
    "take the root first": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).mean().sqrt())),
    "opposite sign cancel": lambda a, b: decibels(in_hole(a, b, lambda d: d.mean() ** 2)),
    "take the absolute error": lambda a, b: decibels(in_hole(a, b, lambda d: d.abs().mean())),
    "square the mean absolute": lambda a, b: decibels(in_hole(a, b, lambda d: d.abs().mean() ** 2)),
    "infinite": lambda a, b: decibels(F.mse_loss(a[..., :16, :16], b[..., :16, :16])),
    "too far": lambda a, b: cut(a, b, 17, 49),
    "too early": lambda a, b: cut(a, b, 15, 47),
    "last row": lambda a, b: cut(a, b, 16, 47),
    "natural log": lambda a, b: -10 * in_hole(a, b, lambda d: (d**2).mean().log()).mean(),
    "That is log2": lambda a, b: -10 * in_hole(a, b, lambda d: (d**2).mean().log2()).mean(),
    "20 is for its root": lambda a, b: 2 * decibels(in_hole(a, b, lambda d: (d**2).mean())),
    "sign is turned": lambda a, b: -each_psnr(a[HOLE], b[HOLE]).mean(),
    "those are bels": lambda a, b: each_psnr(a[HOLE], b[HOLE]).mean() / 10,
    "The log is missing": lambda a, b: F.mse_loss(a[HOLE], b[HOLE]),
    "brightest pixel": lambda a, b: 10 * (255**2 / in_hole(a, b, lambda d: (d**2).mean())).log10().mean(),
    "divide by 255": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).mean() / 255**4)),
    "of each photograph. Average": lambda a, b: each_psnr(a[HOLE], b[HOLE]),
    "sum over the photographs": lambda a, b: each_psnr(a[HOLE], b[HOLE]).sum(),
}

# 3 · The price of a residual posterior ------------------------------------------------------------


def residual_kl(a, b, mu=1.3, log_var=-0.7):
    sigma = math.exp(HALF * log_var)
    return kl_divergence(Normal(mu + sigma * a, sigma * (HALF * b).exp()), Normal(mu, sigma))


def whole_photograph(a, b):
    shape = torch.zeros_like(a)
    prior = Independent(Normal(shape, shape + 1), 3)
    return kl_divergence(Independent(Normal(a, (HALF * b).exp()), 3), prior)


RESIDUAL_KL = {
    "Right": residual_kl,
    "The -1 is missing": lambda a, b: HALF * (b.exp() + a**2 - b),
    "The 1 has the wrong sign": lambda a, b: HALF * (b.exp() + a**2 + 1 - b),
    "factor 1/2 is missing": lambda a, b: b.exp() + a**2 - 1 - b,
    "set brackets": lambda a, b: HALF * b.exp() + a**2 - 1 - b,
    "never negative": lambda a, b: -residual_kl(a, b),
    "so subtract it": lambda a, b: HALF * (b.exp() + a**2 - 1 + b),
    "wrong sign in the exponent": lambda a, b: HALF * ((-b).exp() + a**2 - 1 - b),
    "both places: exp(b), and": lambda a, b: residual_kl(a, -b),
    "log of a deviation": lambda a, b: residual_kl(a, 2 * b),
    "square exp(b)": lambda a, b: HALF * (b.exp() ** 2 + a**2 - 1 - b),
    "without a root": lambda a, b: HALF * (b.exp().sqrt() + a**2 - 1 - b),
    "not of the deviations": lambda a, b: residual_kl(a, HALF * b),
    "take its exp for the ratio": lambda a, b: HALF * (b + a**2 - 1 - b.log()),
    "a is not squared": lambda a, b: HALF * (b.exp() + a - 1 - b),
    "the size of a": lambda a, b: HALF * (b.exp() + a.abs() - 1 - b),
    "a is missing": lambda a, b: residual_kl(0 * a, b),
    "exp(b) is missing": lambda a, b: HALF * (a**2 - 1 - b),
    "-b is missing": lambda a, b: HALF * (b.exp() + a**2 - 1),
    "exchanged": lambda a, b: residual_kl(b, a),
    "KL(prior || posterior)": lambda a, b: kl_divergence(Normal(0 * a, 1.0), Normal(a, (HALF * b).exp())),
    "divide a²": lambda a, b: HALF * (b.exp() + a**2 * (-b).exp() - 1 - b),
    "multiply a²": lambda a, b: HALF * (b.exp() + a**2 * b.exp() - 1 - b),
    "bits": lambda a, b: residual_kl(a, b) / math.log(2),
    "sum over everything": lambda a, b: residual_kl(a, b).sum(),
    "sum over the latents": whole_photograph,
    "average over everything": lambda a, b: residual_kl(a, b).mean(),
    "average over the latents": lambda a, b: residual_kl(a, b).mean((1, 2, 3)),
    "sum over the channels": lambda a, b: residual_kl(a, b).sum(1),
}

# 4 · One layer ------------------------------------------------------------------------------------


def normal(mu, log_var):
    return mu + (HALF * log_var).exp() * torch.randn_like(mu)


def filled(model, x, n_draws, draw, *, repeat=lambda t, n: t.repeat(n, 1, 1, 1)):
    """draw(layer, mu, log_var) -> z; the last of descend's three."""
    guess, told = model.context(x)
    told = [repeat(t, n_draws) for t in told]
    return model.descend(repeat(guess, n_draws), told, lambda layer, prior, h: draw(layer, *prior))[2]


def only(model, x, level, n_draws, *, drawn=normal, others=lambda mu: mu, chosen=None):
    """Layers for which chosen(layer) are drawn."""
    chosen = chosen or (lambda layer: layer == level)

    def draw(layer, mu, log_var):
        return drawn(mu, log_var) if chosen(layer) else others(mu)

    return model.likelihood.mean(filled(model, x, n_draws, draw))


def one_of(level):
    """Layer `level` drawn, the others their mean."""
    return lambda layer, mu, log_var: normal(mu, log_var) if layer == level else mu


def frozen(model, x, level, n_draws):
    means = {}

    def note(layer, mu, log_var):
        means[layer] = mu
        return mu

    filled(model, x, n_draws, note)
    draw = lambda layer, mu, log_var: normal(mu, log_var) if layer == level else means[layer]  # noqa: E731
    return model.likelihood.mean(filled(model, x, n_draws, draw))


def each_in_turn(model, x, level, n_draws):
    """A walk for each draw, in place of one with all of them."""
    return torch.cat([only(model, x, level, 1) for _ in range(n_draws)])


def drawn_and_thrown_away(model, x, level, n_draws):
    def draw(layer, mu, log_var):
        z = Normal(mu, (HALF * log_var).exp()).sample()
        return z if layer == level else mu

    return model.likelihood.mean(filled(model, x, n_draws, draw))


def by_posterior(model, x, level, n_draws):
    """One layer drawn from what the hole's content says."""
    guess, told = model.context(x)
    evidence = repeated(model.evidence(x, guess), n_draws)

    def draw(layer, prior, h):
        a, _ = model.posterior[layer](torch.cat([h, evidence[layer]], dim=1)).chunk(2, dim=1)
        return prior[0] + a if layer == level else prior[0]

    return model.likelihood.mean(model.descend(*repeated([guess], n_draws), repeated(told, n_draws), draw)[2])


def z_alone(model, x, level, n_draws):
    guess, told = model.context(x)
    told = [t.repeat(n_draws, 1, 1, 1) for t in told]
    return model.descend(guess.repeat(n_draws, 1, 1, 1), told, lambda layer, p, h: one_of(level)(layer, *p))[
        0
    ][level]


def interleaved(t, n):
    return t.repeat_interleave(n, dim=0)


ONLY = {
    "Right": only,
    "count from the top": lambda m, x, level, n: only(m, x, 2 - level, n),
    "count from 1": lambda m, x, level, n: only(m, x, level - 1, n),
    "You draw all layers: so": lambda m, x, level, n: only(m, x, level, n, chosen=lambda layer: True),
    "all layers but": lambda m, x, level, n: only(m, x, level, n, chosen=lambda layer: layer != level),
    "layers above": lambda m, x, level, n: only(m, x, level, n, chosen=lambda layer: layer >= level),
    "layers below `level`": lambda m, x, level, n: only(m, x, level, n, chosen=lambda layer: layer <= level),
    "Nothing is drawn": lambda m, x, level, n: only(m, x, level, n, chosen=lambda layer: False),
    "other layers to 0": lambda m, x, level, n: only(m, x, level, n, others=torch.zeros_like),
    "noise by the variance": lambda m, x, level, n: only(
        m, x, level, n, drawn=lambda mu, log_var: mu + log_var.exp() * torch.randn_like(mu)
    ),
    "noise by log_var": lambda m, x, level, n: only(
        m, x, level, n, drawn=lambda mu, log_var: mu + log_var * torch.randn_like(mu)
    ),
    "noise has deviation 1": lambda m, x, level, n: only(
        m, x, level, n, drawn=lambda mu, log_var: mu + torch.randn_like(mu)
    ),
    "N(0, I)": lambda m, x, level, n: only(m, x, level, n, drawn=lambda mu, log_var: torch.randn_like(mu)),
    "mean of the prior is missing": lambda m, x, level, n: only(
        m, x, level, n, drawn=lambda mu, log_var: normal(0 * mu, log_var)
    ),
    "a walk without a draw": frozen,
    "not repeat_interleave": lambda m, x, level, n: m.likelihood.mean(
        filled(m, x, n, one_of(level), repeat=interleaved)
    ),
    "the draws first": lambda m, x, level, n: only(m, x, level, n)[
        torch.arange(n * len(x)).view(n, -1).T.flatten()
    ],
    "you draw once": lambda m, x, level, n: only(m, x, level, 1).repeat(n, 1, 1, 1),
    "n_draws is not used": lambda m, x, level, n: only(m, x, level, 1),
    "That is px": lambda m, x, level, n: filled(m, x, n, one_of(level)),
    "a draw of p(x|z)": lambda m, x, level, n: m.likelihood.sample(filled(m, x, n, one_of(level))),
    "below 0 or above 1": lambda m, x, level, n: filled(m, x, n, one_of(level))[:, 0],
    "axis of their own": lambda m, x, level, n: only(m, x, level, n).view(n, len(x), 3, 32, 32),
    "That is z": z_alone,
    "that is the posterior": by_posterior,
    "does it for you": lambda m, x, level, n: m.complete(x, n, vary={level}),
    "returns nothing yet: it has": lambda m, x, level, n: m.descend(
        *m.context(x), lambda layer, prior, h: ...
    ),
    "returns a tuple": lambda m, x, level, n: m.descend(*m.context(x), lambda layer, prior, h: prior),
    "returns shape (2, 4, 4) for layer 2": lambda m, x, level, n: m.descend(
        *m.context(x), lambda layer, prior, h: prior[0][:, 0]
    ),
    "draw its noise at once": lambda m, x, level, n: only(
        m, x, level, n, drawn=lambda mu, log_var: normal(mu.flip(0), log_var.flip(0)).flip(0)
    ),
}

# 5 · Coverage -------------------------------------------------------------------------------------


def quantiles(draws, low, high, **axis):
    axis = axis or {"dim": 0}
    return torch.quantile(draws, low, **axis), torch.quantile(draws, high, **axis)


def inside(truth, low, high):
    return ((low < truth) & (truth < high)).double()


def share_within(truth, *interval):
    return inside(truth, *interval).mean((-1, -2, -3))


def ends(share):
    return HALF - share / 2, HALF + share / 2


def coverage(truth, draws, share):
    return share_within(truth, *quantiles(draws, *ends(share)))


def about_the_mean(truth, draws, deviations):
    return (((truth - draws.mean(0)) / draws.std(0)).abs() < deviations).double().mean((1, 2, 3))


def along(truth, draws, share, dim):
    interval = quantiles(draws, *ends(share), dim=dim, keepdim=True)
    return share_within(truth, *interval).mean(0)


def of_photograph(truth, draws, share):
    """One interval for all of a photograph's pixels."""
    pairs = zip(truth, draws.unbind(1), strict=True)
    return torch.stack(
        [share_within(one, *quantiles(own.flatten(), *ends(share), dim=0)) for one, own in pairs]
    )


COVERAGE = {
    "Right": coverage,
    "from the quantile 1 - share": lambda t, d, s: share_within(t, *quantiles(d, 1 - s, s)),
    "it holds 1 - share": lambda t, d, s: coverage(t, d, 1 - s),
    "largest draws only": lambda t, d, s: (t < d.quantile(s, 0)).double().mean((1, 2, 3)),
    "lower end is missing": lambda t, d, s: (t < d.quantile(ends(s)[1], 0)).double().mean((1, 2, 3)),
    "upper end is missing": lambda t, d, s: (t > d.quantile(ends(s)[0], 0)).double().mean((1, 2, 3)),
    "a normal density": lambda t, d, s: about_the_mean(t, d, Normal(0.0, 1.0).icdf(torch.tensor(ends(s)[1]))),
    "one deviation": lambda t, d, s: about_the_mean(t, d, 1),
    "two deviations": lambda t, d, s: about_the_mean(t, d, 2),
    "smallest draw to the largest": lambda t, d, s: (
        ((d.amin(0) <= t) & (t <= d.amax(0))).float().mean((1, 2, 3))
    ),
    "one interval for everything": lambda t, d, s: share_within(t, *quantiles(d.flatten(), *ends(s))),
    "one interval for a photograph": of_photograph,
    "over the photographs. The draws": lambda t, d, s: along(t, d, s, 1),
    "over the colours. The": lambda t, d, s: along(t, d, s, 2),
    "pixels of a row": lambda t, d, s: along(t, d, s, -1),
    "outside": lambda t, d, s: 1 - coverage(t, d, s),
    "You count the draws": lambda t, d, s: share_within(d, *quantiles(d, *ends(s))).mean(0),
    "photographs as well": lambda t, d, s: coverage(t, d, s).mean(),
    "for each colour": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).mean((2, 3)),
    "pixel by pixel": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).mean(0),
    "of each pixel whether": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).bool(),
    "count pixels": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).sum((1, 2, 3)),
    "per cent": lambda t, d, s: 100 * coverage(t, d, s),
    "how far the coverage": lambda t, d, s: coverage(t, d, s) - s,
    "below the truth": lambda t, d, s: (d < t).double().mean((0, 2, 3, 4)),
    "stops with RuntimeError: The size": lambda t, d, s: share_within(t, *quantiles(d, *ends(s), dim=-1)),
}

EXERCISES = {
    checks.check_relax: RELAX,
    checks.check_hole_decibels: DECIBELS,
    checks.check_residual_kl: RESIDUAL_KL,
    checks.check_only: ONLY,
    checks.check_coverage: COVERAGE,
}
CASES = [(check, words, answer) for check, answers in EXERCISES.items() for words, answer in answers.items()]


@functools.cache
def verdict_on(check, answer):
    return check(answer)


@pytest.mark.parametrize(
    ("check", "words", "answer"), CASES, ids=[f"{check.__name__}: {words}" for check, words, _ in CASES]
)
def test_each_answer_gets_its_own_message(check, words, answer):
    verdict = verdict_on(check, answer)
    assert words in repr(verdict)
    assert bool(verdict) == (words == "Right")
    others = [text for text in EXERCISES[check] if text != words and text in repr(verdict)]
    assert not others, "a message that the words of another mistake would find as well"


@pytest.mark.parametrize("check", EXERCISES)
def test_a_blank_an_error_and_a_wrong_type_fail_without_raising(check):
    assert "returns nothing yet" in check(lambda *inputs: ...).message
    assert "returns nothing yet" in check(lambda *inputs: None).message
    assert "stops with ZeroDivisionError" in check(lambda *inputs: 1 / 0).message
    assert "returns a str" in check(lambda *inputs: "42").message
    assert not any((check(lambda *inputs: ...), check(lambda *inputs: None), check(lambda *inputs: "42")))


@pytest.mark.parametrize("check", EXERCISES)
def test_an_unknown_mistake_is_told_the_true_value_or_the_shape(check):
    said = check(lambda *inputs: torch.tensor(123.0)).message
    assert "True value" in said or "shape" in said
    assert "shape" in check(lambda *inputs: torch.zeros(7, 7)).message


@pytest.mark.parametrize("check", EXERCISES)
def test_a_function_that_changes_its_inputs_spoils_nothing(check):
    def overwrite(*inputs):
        for given in inputs:
            if isinstance(given, torch.Tensor):
                given.zero_()
            elif isinstance(given, torch.nn.Module):
                for weights in given.parameters():
                    weights.zero_()

    check(overwrite)
    assert check(EXERCISES[check]["Right"])


@pytest.mark.parametrize("check", EXERCISES)
def test_a_check_leaves_the_generator_where_it_is(check):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check(EXERCISES[check]["Right"])
    assert torch.equal(torch.rand(4), expected)


# There is more than one way to be right -----------------------------------------------------------


def test_the_smooth_fill_may_be_made_with_slices_with_a_convolution_or_pixel_by_pixel():
    def slices(x, n_sweeps):
        hole = rim_mean(x).expand_as(centre(x))
        for _ in range(n_sweeps):
            x = pasted(x, hole)
            up, down = x[..., 15:47, 16:48], x[..., 17:49, 16:48]
            hole = (up + down + x[..., 16:48, 15:47] + x[..., 16:48, 17:49]) / 4
        return pasted(x, hole)

    def loops(x, n_sweeps):
        x = relax(x, 0)
        for _ in range(n_sweeps):
            old = x.clone()
            for i in range(16, 48):
                for j in range(16, 48):
                    four = (old[..., i - 1, j], old[..., i + 1, j], old[..., i, j - 1], old[..., i, j + 1])
                    x[..., i, j] = sum(four) / 4
        return x

    assert checks.check_relax(slices) and "harmonic_fill" in checks.check_relax(slices).message
    slow = checks.check_relax(loops)
    assert slow and "pixel by pixel" in slow.message, "two thousand of its sweeps would take half a minute"
    assert checks.check_relax(lesson_06.swept)


@pytest.mark.parametrize(
    "still",
    [
        lambda x, n: relax(x, 0),
        lambda x, n: relax(x, n, hole=(..., slice(17, 47), slice(17, 47))),
        lambda x, n: alone(x, n, "circular"),
    ],
    ids=["no sweeps", "the outermost pixels left out", "torch.roll of the hole"],
)
def test_a_hole_that_stays_even_is_told_why_whatever_made_it_so(still):
    assert "the rim never gets in" in checks.check_relax(still).message


def test_a_recursion_that_ends_too_soon_is_told_so():
    def recursive(x, n_sweeps):
        if n_sweeps == 0:
            return relax(x, 0)
        before = recursive(x, n_sweeps - 1)
        return pasted(before, centre(rolled(before)))

    assert "stops with RecursionError" in checks.check_relax(recursive).message


def test_a_hole_too_large_or_too_small_is_told_so():
    large = checks.check_relax(lambda x, n: shifted(x, n, by=-1, to=1))
    early = checks.check_relax(lambda x, n: shifted(x, n, by=-1, to=-1))
    assert "shifted or too large" in large.message and large == early
    assert "stays as it was" in checks.check_relax(lambda x, n: shifted(x, n, by=1, to=0)).message


def test_sweeps_arrive_at_the_smooth_fill():
    x = torch.rand(1, 3, 64, 64)
    missing = [(relax(x, n) - harmonic_fill(x)).abs().max().item() * 255 for n in (0, 100, 2_000)]
    assert missing[0] > 10 > missing[1] > 0.5 and missing[2] < 0.05


def test_noise_may_be_drawn_walk_by_walk_or_for_layers_that_do_not_use_it():
    assert checks.check_only(each_in_turn)
    assert checks.check_only(drawn_and_thrown_away)
    plain = lesson_06.tiny_model()
    x = with_hole(torch.rand(2, 3, 64, 64))
    for level in range(3):
        torch.manual_seed(1)
        right = plain.complete(x, 3, vary={level})
        torch.manual_seed(1)
        assert torch.allclose(only(plain, x, level, 3), right, atol=1e-6)


def test_all_ways_to_define_a_quantile_agree_and_so_does_the_package():
    for way in ("linear", "lower", "higher", "nearest", "midpoint"):

        def by_quantile(truth, draws, share, way=way):
            low, high = (draws.quantile(end, dim=0, interpolation=way) for end in ends(share))
            return share_within(truth, low, high)

        assert checks.check_coverage(by_quantile), way

    def by_rank(truth, draws, share):
        rank = (draws < truth).float().mean(0)
        return ((rank - HALF).abs() <= share / 2).float().mean((1, 2, 3))

    def by_sorting(truth, draws, share):
        draws, out = draws.sort(0).values, round(len(draws) * (1 - share) / 2)
        return share_within(truth, draws[out], draws[-1 - out])

    assert checks.check_coverage(by_rank) and checks.check_coverage(by_sorting)
    assert checks.check_coverage(fillings.coverage)


def test_the_packages_decibels_are_those_of_the_exercise():
    assert checks.check_hole_decibels(lambda a, b: fillings.hole_psnr(a[HOLE], b[HOLE]).mean())
    assert checks.check_hole_decibels(lambda a, b: float(each_psnr(a[HOLE], b[HOLE]).mean())), "a float"


def test_every_known_mistake_of_the_checks_is_made_here():
    """Each message in the source that names a mistake is met by one of the answers above."""
    said = {verdict_on(check, answer).message for check, _, answer in CASES}
    x, a, b = lesson_06.pictures(2, seed=1), *torch.randn(2, 1, 1, 2, 2)
    known = {*lesson_06.wrong_fills(), *lesson_06.wrong_errors(x), *lesson_06.wrong_decibels(x)}
    known |= {*lesson_06.wrong_terms(a, b), *lesson_06.right_and_wrong_coverages()[1]}
    known |= {*lesson_06.right_and_wrong_walks()[1]} - {lesson_06.IS_RIGHT_AS_WELL}
    assert len(known) > 90 and not known - said
