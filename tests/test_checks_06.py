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
from course_utils.checks.verdict import judge, same
from course_utils.holes import harmonic_fill, pasted, rim
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import InpaintingVAE, repeated

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


def known_mean(x):
    known = torch.ones_like(x)
    known[HOLE] = 0
    return ((x * known).sum((2, 3)) / known.sum((2, 3)))[..., None, None]


RELAX = {
    "Right": relax,
    "what the hole held, which is to be guessed: start": lambda x, n: relax(x, n, start=centre),
    "mean is that of the whole picture": lambda x, n: relax(
        x, n, start=lambda x: x.mean((2, 3), keepdim=True)
    ),
    "mean is that of what the hole held": lambda x, n: relax(
        x, n, start=lambda x: centre(x).mean((2, 3), keepdim=True)
    ),
    "all known pixels": lambda x, n: relax(x, n, start=known_mean),
    "start with black": lambda x, n: relax(x, n, start=lambda x: 0.0),
    "three colours": lambda x, n: relax(x, n, start=lambda x: rim_mean(x).mean(1, keepdim=True)),
    "one number for everything": lambda x, n: relax(x, n, start=lambda x: rim(x).mean()),
    "eight neighbours": lambda x, n: relax(x, n, mean=lambda x: (rolled(x) + corners(x)) / 2),
    "all nine": lambda x, n: relax(x, n, mean=lambda x: F.avg_pool2d(x, 3, 1, 1)),
    "the pixel itself as well": lambda x, n: relax(x, n, mean=lambda x: 0.8 * rolled(x) + 0.2 * x),
    "Divide by 4": lambda x, n: relax(x, n, mean=lambda x: 4 * rolled(x)),
    "with zeros around it": lambda x, n: alone(x, n, "constant"),
    "Gauss-Seidel": gauss_seidel,
    "one sweep too many": lambda x, n: relax(x, n + 1),
    "sweep once": lambda x, n: relax(x, min(n, 1)),
    "the rim never gets in": lambda x, n: alone(x, n, "replicate"),
    "smooth fill itself": lambda x, n: harmonic_fill(x),
    "That is the hole alone": lambda x, n: centre(relax(x, n)),
    "x is changed as well": lambda x, n: relax(x, n, spoil=True),
    "You change known pixels": relax_all,
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
    "one error for all photographs": lambda a, b: psnr(b[HOLE], a[HOLE], data_range=1.0),
    "sum the error": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).sum())),
    "log for each colour": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).mean((1, 2)))),
    "log of each pixel": lambda a, b: decibels(in_hole(a, b, torch.square)),
    "10 log10 of the root": lambda a, b: decibels(in_hole(a, b, lambda d: (d**2).mean().sqrt())),
    "take the absolute error": lambda a, b: decibels(in_hole(a, b, lambda d: d.abs().mean())),
    "last row": lambda a, b: cut(a, b, 16, 47),
    "natural log": lambda a, b: -10 * in_hole(a, b, lambda d: (d**2).mean().log()).mean(),
    "20 is for the root": lambda a, b: 2 * decibels(in_hole(a, b, lambda d: (d**2).mean())),
    "sign is turned": lambda a, b: -each_psnr(a[HOLE], b[HOLE]).mean(),
    "those are bels": lambda a, b: each_psnr(a[HOLE], b[HOLE]).mean() / 10,
    "The log is missing": lambda a, b: F.mse_loss(a[HOLE], b[HOLE]),
    "brightest pixel": lambda a, b: 10 * (255**2 / in_hole(a, b, lambda d: (d**2).mean())).log10().mean(),
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
    "so subtract b": lambda a, b: HALF * (b.exp() + a**2 - 1 + b),
    "wrong sign in the exponent": lambda a, b: HALF * ((-b).exp() + a**2 - 1 - b),
    "log of a deviation": lambda a, b: residual_kl(a, 2 * b),
    "square exp(b)": lambda a, b: HALF * (b.exp() ** 2 + a**2 - 1 - b),
    "in the exponent. The ratio": lambda a, b: HALF * (b.exp().sqrt() + a**2 - 1 - b),
    "a is not squared": lambda a, b: HALF * (b.exp() + a - 1 - b),
    "a is missing": lambda a, b: residual_kl(0 * a, b),
    "exp(b) is missing": lambda a, b: HALF * (a**2 - 1 - b),
    "-b is missing": lambda a, b: HALF * (b.exp() + a**2 - 1),
    "KL(prior || posterior)": lambda a, b: kl_divergence(Normal(0 * a, 1.0), Normal(a, (HALF * b).exp())),
    "divide a²": lambda a, b: HALF * (b.exp() + a**2 * (-b).exp() - 1 - b),
    "multiply a²": lambda a, b: HALF * (b.exp() + a**2 * b.exp() - 1 - b),
    "sum over everything": lambda a, b: residual_kl(a, b).sum(),
    "sum over the latents": whole_photograph,
    "average over everything": lambda a, b: residual_kl(a, b).mean(),
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
    "N(0, I)": lambda m, x, level, n: only(m, x, level, n, drawn=lambda mu, log_var: torch.randn_like(mu)),
    "not repeat_interleave": lambda m, x, level, n: m.likelihood.mean(
        filled(m, x, n, one_of(level), repeat=interleaved)
    ),
    "All draws of a photograph are the same": lambda m, x, level, n: only(m, x, level, 1).repeat(n, 1, 1, 1),
    "n_draws is not used": lambda m, x, level, n: only(m, x, level, 1),
    "That is px": lambda m, x, level, n: filled(m, x, n, one_of(level)),
    "a draw of p(x|z)": lambda m, x, level, n: m.likelihood.sample(filled(m, x, n, one_of(level))),
    "axis of their own": lambda m, x, level, n: only(m, x, level, n).view(n, len(x), 3, 32, 32),
    "that sees what the hole held": by_posterior,
    "does it for you": lambda m, x, level, n: m.complete(x, n, vary={level}),
    "of shape (2, 4, 4, 4), not ellipsis": lambda m, x, level, n: m.descend(
        *m.context(x), lambda layer, prior, h: ...
    ),
    "not tuple": lambda m, x, level, n: m.descend(*m.context(x), lambda layer, prior, h: prior),
    "not (2, 4, 4).": lambda m, x, level, n: m.descend(*m.context(x), lambda layer, prior, h: prior[0][:, 0]),
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


COVERAGE = {
    "Right": coverage,
    "goes from 1 - share to share": lambda t, d, s: share_within(t, *quantiles(d, 1 - s, s)),
    "it holds 1 - share": lambda t, d, s: coverage(t, d, 1 - s),
    "largest draws only": lambda t, d, s: (t < d.quantile(s, 0)).double().mean((1, 2, 3)),
    "lower end is missing": lambda t, d, s: (t < d.quantile(ends(s)[1], 0)).double().mean((1, 2, 3)),
    "upper end is missing": lambda t, d, s: (t > d.quantile(ends(s)[0], 0)).double().mean((1, 2, 3)),
    "a normal density": lambda t, d, s: about_the_mean(t, d, Normal(0.0, 1.0).icdf(torch.tensor(ends(s)[1]))),
    "one deviation": lambda t, d, s: about_the_mean(t, d, 1),
    "smallest draw to the largest": lambda t, d, s: (
        ((d.amin(0) <= t) & (t <= d.amax(0))).float().mean((1, 2, 3))
    ),
    "one interval for everything": lambda t, d, s: share_within(t, *quantiles(d.flatten(), *ends(s))),
    "outside": lambda t, d, s: 1 - coverage(t, d, s),
    "You count the draws": lambda t, d, s: share_within(d, *quantiles(d, *ends(s))).mean(0),
    "photographs too": lambda t, d, s: coverage(t, d, s).mean(),
    "coverage of each colour": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).mean((2, 3)),
    "not over their pixels": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).mean(0),
    "whether a pixel is covered": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).bool(),
    "count pixels": lambda t, d, s: inside(t, *quantiles(d, *ends(s))).sum((1, 2, 3)),
    "per cent": lambda t, d, s: 100 * coverage(t, d, s),
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

    def convolution(x, n_sweeps):
        kernel = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(3, 1, 3, 3) / 4
        return relax(x, n_sweeps, mean=lambda x: F.conv2d(x, kernel, padding=1, groups=3))

    def loops(x, n_sweeps):
        x = relax(x, 0)
        for _ in range(n_sweeps):
            old = x.clone()
            for i in range(16, 48):
                for j in range(16, 48):
                    four = (old[..., i - 1, j], old[..., i + 1, j], old[..., i, j - 1], old[..., i, j + 1])
                    x[..., i, j] = sum(four) / 4
        return x

    assert all(checks.check_relax(way) for way in (slices, convolution, loops))


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


def test_a_hole_elsewhere_is_told_where_it_is():
    for by, to in ((1, 1), (-1, 1), (-1, -1)):
        verdict = checks.check_relax(lambda x, n, by=by, to=to: shifted(x, n, by=by, to=to))
        assert "You change known pixels" in verdict.message
    assert "stays as it was" in checks.check_relax(lambda x, n: shifted(x, n, by=1, to=0)).message


def test_sweeps_arrive_at_the_smooth_fill():
    x = torch.rand(1, 3, 64, 64)
    missing = [(relax(x, n) - harmonic_fill(x)).abs().max().item() * 255 for n in (0, 100, 2_000)]
    assert missing[0] > 10 > missing[1] > 0.5 and missing[2] < 0.05


def test_noise_may_be_drawn_walk_by_walk_or_by_other_means_or_for_layers_that_do_not_use_it():
    def by_size(mu, log_var):
        return mu + (HALF * log_var).exp() * torch.randn(mu.shape)

    def by_mean_and_deviation(mu, log_var):
        return torch.normal(mu, (HALF * log_var).exp())

    for way in (by_size, by_mean_and_deviation):
        assert checks.check_only(lambda m, x, level, n, way=way: only(m, x, level, n, drawn=way))
    assert checks.check_only(each_in_turn) and checks.check_only(drawn_and_thrown_away)


def test_one_layer_is_what_the_model_itself_completes():
    def completed(model, x, level, n_draws):
        return InpaintingVAE.complete(model, x, n_draws, vary={level})

    assert checks.check_only(completed)


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


# Slips, one by one and two at a time --------------------------------------------------------------


def known(check, monkeypatch):
    """The answers that a check knows, by what it says of them; "" is the right one."""
    answers = {}

    def noted(attempt, right, praise, mistakes):
        answers.update(mistakes)
        return judge(attempt, right, praise, mistakes)

    monkeypatch.setattr(lesson_06, "judge", noted)
    check(lambda *inputs: ...)
    return {text: answer if isinstance(answer, tuple) else (answer,) for text, answer in answers.items()}


@pytest.mark.parametrize("check", EXERCISES)
def test_every_known_mistake_is_made_above(check, monkeypatch):
    """Each message that is not two others in a row is met by an answer of this file."""
    said = {verdict_on(check, answer).message for answer in EXERCISES[check].values()}
    texts = known(check, monkeypatch).keys() - {""}
    alone = texts - {f"{one} {other}" for one in texts for other in texts}
    assert len(alone) > 13 and not alone - said


@pytest.mark.parametrize("check", EXERCISES)
def test_no_slip_and_no_two_are_accepted_and_each_is_told(check, monkeypatch):
    """The plainer message, where two slips come to the same as others."""
    answers = known(check, monkeypatch)
    for text, answer in answers.items():
        parts = iter(answer)
        verdict = check(lambda *inputs, parts=parts: next(parts).clone())
        assert bool(verdict) == (text == ""), text
        assert not text or verdict.message == next(said for said in answers if same(answer, answers[said]))


TWO_SLIPS = [
    (
        *(checks.check_relax, "mean is that of the whole picture", "one number for everything"),
        lambda x, n: relax(x, n, start=lambda x: x.mean()),
    ),
    (
        *(checks.check_relax, "start with black", "all nine"),
        lambda x, n: relax(x, n, start=lambda x: 0.0, mean=lambda x: F.avg_pool2d(x, 3, 1, 1)),
    ),
    (
        *(checks.check_relax, "three colours", "That is the hole alone"),
        lambda x, n: centre(relax(x, n, start=lambda x: rim_mean(x).mean(1, keepdim=True))),
    ),
    (
        *(checks.check_hole_decibels, "gift of 6 dB", "one error for all photographs"),
        lambda a, b: psnr(b, a, data_range=1.0),
    ),
    (
        *(checks.check_hole_decibels, "gift of 6 dB", "The log is missing"),
        lambda a, b: F.mse_loss(a, b),
    ),
    (
        *(checks.check_hole_decibels, "absolute error", "20 is for the root"),
        lambda a, b: 2 * decibels(in_hole(a, b, lambda d: d.abs().mean())),
    ),
    (
        *(checks.check_residual_kl, "factor 1/2 is missing", "The -1 is missing"),
        lambda a, b: b.exp() + a**2 - b,
    ),
    (
        *(checks.check_residual_kl, "wrong sign in the exponent", "so subtract b"),
        lambda a, b: residual_kl(a, -b),
    ),
    (
        *(checks.check_residual_kl, "factor 1/2 is missing", "sum over everything"),
        lambda a, b: 2 * residual_kl(a, b).sum(),
    ),
    (
        *(checks.check_only, "count from the top", "other layers to 0"),
        lambda m, x, level, n: only(m, x, 2 - level, n, others=torch.zeros_like),
    ),
    (
        *(checks.check_only, "You draw all layers: so", "not repeat_interleave"),
        lambda m, x, level, n: m.likelihood.mean(
            filled(m, x, n, lambda layer, *prior: normal(*prior), repeat=interleaved)
        ),
    ),
    (
        *(checks.check_coverage, "goes from 1 - share to share", "coverage of each colour"),
        lambda t, d, s: inside(t, *quantiles(d, 1 - s, s)).mean((2, 3)),
    ),
    (
        *(checks.check_coverage, "one interval for everything", "photographs too"),
        lambda t, d, s: share_within(t, *quantiles(d.flatten(), *ends(s))).mean(),
    ),
]


@pytest.mark.parametrize(("check", "one", "other", "answer"), TWO_SLIPS)
def test_who_slips_twice_is_told_of_both(check, one, other, answer):
    verdict = check(answer)
    assert not verdict and one in verdict.message and other in verdict.message
