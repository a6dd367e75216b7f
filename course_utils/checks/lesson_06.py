"""Checks of lesson 06: the smooth fill by hand, decibels in the hole, the residual KL, a layer, coverage.

Each exercise is a handful of choices: which pixels, which mean, which unit. The known mistakes are its
answers if one or two are made wrongly, so that a reader who slips twice is told of both at once.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.checks.verdict import Verdict, judge
from course_utils.distributions import GaussianPerPixel, normal_sample
from course_utils.holes import SIDE, harmonic_fill, pasted, rim, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import SIDES, Gaussian, InpaintingVAE
from course_utils.models.unet import UNet

FIRST, LAST = SIDE // 4, 3 * SIDE // 4  # the hole is rows and columns FIRST to LAST - 1
Answers = dict[str, Tensor | tuple[Tensor, ...]]  # what to say of each; the right one is that of ""


def with_slips(answer: Callable, *choices: dict[str, object]) -> Answers:
    """What `answer` makes of one way from each choice, at most two of them wrong; the fewest slips first.

    A choice maps what to say of a way to the way itself. Its right way is that of "".
    """
    ways = [way for way in itertools.product(*choices) if sum(map(bool, way)) <= 2]
    answers = {}
    for way in sorted(ways, key=lambda way: sum(map(bool, way))):  # two slips may look like one
        parts = [choice[text] for choice, text in zip(choices, way, strict=True)]
        answers[" ".join(filter(None, way))] = answer(*parts)
    return answers


def pictures(n: int, seed: int) -> Tensor:
    """Noise, so that no two pixels are alike: (n, 3, 64, 64) in [0, 1]."""
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


# The smooth fill, by hand -------------------------------------------------------------------------

SWEEPS = (0, 1, 4)


def check_relax(relax: Callable[[Tensor, int], Tensor]) -> Verdict:
    """relax(x, n_sweeps): the hole at the mean of its rim, then n_sweeps times each of its pixels the mean of
    its four neighbours, all at once; (B, C, 64, 64) -> the same."""
    x, answers = pictures(2, seed=1), fills()
    given = [x.clone() for _ in SWEEPS]
    right = dict(zip([f"After {n} sweeps" for n in SWEEPS], answers[""], strict=True))
    praise = "Each sweep carries the rim a pixel inwards; 2,000 are as good as holes.harmonic_fill."
    verdict = judge(lambda: list(map(relax, given, SWEEPS)), right, praise, answers)
    if "True value" in verdict.message:  # the right shape, and no known mistake
        return Verdict(False, fault_of_relaxing(relax, x) or verdict.message)
    if verdict and not all(torch.equal(each, x) for each in given):
        return Verdict(False, "The right answer, but x is changed as well: begin with x = x.clone().")
    return verdict


@functools.cache
def fills() -> Answers:
    """After each of SWEEPS: the fill, and what the known mistakes make of it."""
    x = pictures(2, seed=1)

    def answer(start: Tensor, sweep: Callable, count: Callable, part: Callable) -> tuple[Tensor, ...]:
        return tuple(part(swept(x, count(n), start, sweep)) for n in SWEEPS)

    counts = {
        "": lambda n: n,
        "You take one sweep too many: range(n_sweeps).": lambda n: n + 1,
        "You sweep once, whatever n_sweeps is: put it into a loop.": lambda n: min(n, 1),
        # No sweeps, or none of the outermost pixels, or over the hole alone, its own edge around it.
        "The hole stays as it starts: the rim never gets in. Its outermost pixels have neighbours outside: "
        "sweep over them too, and average in the whole picture.": lambda n: 0,
    }
    parts = {"": lambda x: x, "That is the hole alone. Return the whole picture: pasted(x, hole).": centre}
    return with_slips(answer, starts(x), sweeps(), counts, parts) | {
        "You overwrite a pixel before its right and lower neighbours have read it (Gauss-Seidel). That "
        "arrives sooner, but depends on the order: take all means from the old picture, then replace.": (
            answer(starts(x)[""], in_place, counts[""], parts[""])
        ),
        "That is the smooth fill itself, whatever n_sweeps is. Here it is approached step by step.": (
            (harmonic_fill(x),) * len(SWEEPS)
        ),
    }


def swept(x: Tensor, n: int, start: Tensor, sweep: Callable[[Tensor], Tensor]) -> Tensor:
    """The hole as it starts, then n sweeps, of which the hole is kept."""
    x = pasted(x, start)
    for _ in range(n):
        x = pasted(x, centre(sweep(x)))
    return x


def starts(x: Tensor) -> dict[str, Tensor]:
    """What is in the hole before the first sweep."""
    whole, hole = x.mean(dim=(2, 3)), centre(x).mean(dim=(2, 3))  # (B, C)
    means = {
        "": rim(x).mean(dim=-1),
        "Your mean is that of the whole picture, and so of the hole as well. Take rim(x) alone.": whole,
        "Your mean is that of what the hole held, which is to be guessed. Take that of rim(x).": hole,
        "Your mean is that of all known pixels. Take those next to the hole, rim(x).": (4 * whole - hole) / 3,
    }
    axes = {
        "": lambda mean: mean,
        "All three colours have one mean: each has its own.": lambda mean: mean.mean(dim=1, keepdim=True),
        "You start with one number for everything. Each picture and channel has its own: dim=-1.": torch.mean,
    }
    return with_slips(lambda mean, over: over(mean)[..., None, None], means, axes) | {
        "You start with what the hole held, which is to be guessed: start with rim(x).": centre(x),
        "You start with black. Start with the mean of the rim: it is nearer.": torch.zeros_like(centre(x)),
    }


def sweeps() -> dict[str, Callable[[Tensor], Tensor]]:
    """Each gives a picture whose hole is that after one sweep."""
    square, itself = torch.ones(3, 3), torch.zeros(3, 3)
    itself[1, 1] = 1
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    four = "Take the four above, below, left and right."
    weights = {
        "": cross / 4,
        f"You average eight neighbours, corners included. {four}": (square - itself) / 8,
        f"You average all nine, corners and the pixel itself included. {four}": square / 9,
        f"You average the pixel itself as well. {four}": (cross + itself) / 5,
        "You add the neighbours up. Divide by 4.": cross,
    }
    return {text: functools.partial(blended, weights=kernel) for text, kernel in weights.items()} | {
        "You average the hole alone, with zeros around it. Its outermost pixels have neighbours in the "
        "picture: average there.": lambda x: pasted(x, blended(centre(x), cross / 4))
    }


def blended(x: Tensor, weights: Tensor) -> Tensor:
    """Each pixel of (B, C, H, W) the weighted sum of the nine around it, beyond the edges 0."""
    return F.conv2d(x.flatten(0, 1)[:, None], weights[None, None], padding=1).view_as(x)


def in_place(x: Tensor) -> Tensor:
    """A sweep from the top left, which reads what it has written (Gauss-Seidel)."""
    x = x.clone()
    for i, j in itertools.product(range(FIRST, LAST), repeat=2):
        x[..., i, j] = (x[..., i - 1, j] + x[..., i + 1, j] + x[..., i, j - 1] + x[..., i, j + 1]) / 4
    return x


def fault_of_relaxing(relax: Callable[[Tensor, int], Tensor], x: Tensor) -> str | None:
    """What is wrong with a function that makes none of the known mistakes, if it can be seen from outside."""
    is_hole = pasted(torch.zeros(SIDE, SIDE), torch.ones(SIDE // 2, SIDE // 2)).bool()
    with contextlib.suppress(Exception):
        after, other = relax(x.clone(), 2), relax(pasted(x, 1 - centre(x)), 2)
        kept = after == x
        if not kept[..., ~is_hole].all():
            return "You change known pixels. Replace those of the hole alone, x[..., 16:48, 16:48]."
        if kept[..., is_hole].any():
            return "A part of the hole stays as it was: it is x[..., 16:48, 16:48]."
        if not torch.allclose(after[..., is_hole], other[..., is_hole], atol=1e-6):
            return "What the hole held changes your answer, but is to be guessed. Read rim(x) alone."
    return None


# Decibels -----------------------------------------------------------------------------------------


def check_hole_decibels(hole_decibels: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """hole_decibels(truth, filling): the PSNR of each photograph in the hole, -10 log10 of its mean squared
    error there, and of that the mean; whole pictures (B, 3, 64, 64) twice -> () dB."""
    truth, noise = pictures(4, seed=2), pictures(4, seed=3) - 0.5
    sizes = torch.tensor([0.1, 0.3, 0.5, 0.9])[:, None] * torch.tensor([0.6, 1, 1.3])  # of photograph, colour
    filling = pasted(truth, centre(truth + sizes[..., None, None] * noise))
    answers = decibels(filling - truth)
    praise = "Ten decibels more are a tenth of the squared error. Known pixels earn none."
    return judge(lambda: hole_decibels(truth.clone(), filling.clone()), answers[""], praise, answers)


def decibels(difference: Tensor) -> Answers:
    """The mean PSNR of a difference that is 0 outside the hole, and what the known mistakes make of it."""
    places = {
        "": slice(FIRST, LAST),
        "You average over the whole picture. Three quarters of it are known, where the error is 0: that is a "
        "gift of 6 dB. Take centre(...) of both.": slice(None),
        "Your hole lacks its last row and column: 16:48 ends with 47.": slice(FIRST, LAST - 1),
    }
    sizes = {
        "": torch.square,
        "You take the absolute error. Decibels are those of the squared one.": torch.abs,
    }
    means = {
        "": lambda error: error.mean(dim=(1, 2, 3)),
        "You take the log of one error for all photographs: the worst decides. Take that of each, then "
        "average.": torch.mean,
        "You sum the error over the hole. Take its mean.": lambda error: error.sum(dim=(1, 2, 3)),
        "You take the log for each colour. Average over them first.": lambda error: error.mean(dim=(2, 3)),
        "You take the log of each pixel's error. Average over the hole first.": lambda error: error,
    }
    units = {
        "": lambda error: -10 * error.log10().mean(),
        "That is the natural log. Decibels are 10 times log10.": lambda error: -10 * error.log().mean(),
        "The factor is 10. 20 is for the root of a squared error.": lambda error: -20 * error.log10().mean(),
        "You take 10 log10 of the root. Leave the root out.": lambda error: -5 * error.log10().mean(),
        "The sign is turned round: less error, more decibels.": lambda error: 10 * error.log10().mean(),
        "The 10 is missing: those are bels.": lambda error: -error.log10().mean(),
        "The log is missing: that is the error itself.": torch.mean,
        "Your brightest pixel is 255. Here pixels are in [0, 1], so it is 1, and drops out.": (
            lambda error: -10 * (error / 255**2).log10().mean()
        ),
        "Those are the decibels of each photograph. Average them.": lambda error: -10 * error.log10(),
        "You sum over the photographs. Average.": lambda error: -10 * error.log10().sum(),
    }

    def answer(place: slice, size: Callable, mean: Callable, unit: Callable) -> Tensor:
        return unit(mean(size(difference[..., place, place])))

    return with_slips(answer, places, sizes, means, units)


# The price of a residual posterior ----------------------------------------------------------------


def check_residual_kl(residual_kl: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """residual_kl(a, b): KL( N(mu + sigma a, var exp(b)) || N(mu, var) ), element by element, in nats;
    the same for every mu and var. (B, C, H, W) twice -> the same."""
    a, b = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    answers = prices(a, b)
    praise = "The prior drops out: in units of it the posterior is N(a, exp(b)), and the prior N(0, 1)."
    return judge(lambda: residual_kl(a.clone(), b.clone()), answers[""], praise, answers)


def prices(a: Tensor, b: Tensor) -> Answers:
    """The KL of each element, and what the known mistakes make of it."""
    factors = {  # of exp(b), and of the rest
        "": (0.5, 0.5),
        "It is twice too large: the factor 1/2 is missing.": (1, 1),
        "The factor 1/2 is for all four terms: set brackets.": (0.5, 1),
        "The sign is turned round: a KL divergence is never negative.": (-0.5, -0.5),
    }
    keep = "Return the price of each element."
    totals = {
        "": lambda price: price,
        f"You sum over everything. {keep}": torch.sum,
        f"You sum over the latents of each photograph. {keep}": lambda price: price.sum(dim=(1, 2, 3)),
        f"You average over everything. {keep}": torch.mean,
    }

    def answer(
        ratio: Tensor, distance: Tensor, one: int, log: Tensor, factor: tuple, total: Callable
    ) -> Tensor:
        return total(factor[0] * ratio + factor[1] * (distance + one + log))

    return with_slips(answer, *terms(a, b), factors, totals) | {
        "You read b as the log of a deviation: exp(b) multiplies the *variance*.": (
            0.5 * ((2 * b).exp() + a**2 - 1 - 2 * b)
        ),
        "That is KL(prior || posterior). The mean is taken under the posterior: its variance, exp(b), stands "
        "above.": 0.5 * ((-b).exp() * (1 + a**2) - 1 + b),
    }


def terms(a: Tensor, b: Tensor) -> tuple[dict[str, Tensor | int], ...]:
    """exp(b), a², -1 and -b, and what is put in their place."""
    ratios = {
        "": b.exp(),
        "b has the wrong sign in the exponent: the variance is exp(b) times larger.": (-b).exp(),
        "You square exp(b). It is the ratio of the variances already.": (2 * b).exp(),
        "You halve b in the exponent. The ratio of the variances is exp(b).": (b / 2).exp(),
        "exp(b) is missing: a wide posterior has a price as well.": 0 * b,
    }
    own = "Distances are measured in widths of the prior, and a is that already."
    distances = {
        "": a**2,
        "a is not squared. To the left is as far as to the right.": a,
        "a is missing: moving away from the prior's mean costs a² / 2.": 0 * a,
        f"You divide a² by exp(b). {own}": a**2 / b.exp(),
        f"You multiply a² by exp(b). {own}": a**2 * b.exp(),
    }
    zero = "At a = b = 0 the posterior is the prior, and the price must be 0."
    ones = {"": -1, f"The -1 is missing. {zero}": 0, f"The 1 has the wrong sign. {zero}": 1}
    logs = {
        "": -b,
        "-b has the wrong sign: a narrow posterior is dear, so subtract b.": b,
        "-b is missing: a narrow posterior would be a bargain.": 0 * b,
    }
    return ratios, distances, ones, logs


# One layer at a time ------------------------------------------------------------------------------

LAYERS = ((16, 4), (8, 4), (4, 4))  # side and channels
N_DRAWS, SEED = 3, 6


class Watched(InpaintingVAE):
    """Says what is wrong with a `draw`, and refuses to do the exercise.

    Each layer has noise of its own: what is drawn for a layer and not used changes no other.
    """

    noise: list[Tensor]  # the generator's state at each layer

    def complete(self, x: Tensor, n_draws: int = 1, vary: Collection[int] | None = None) -> Tensor:
        raise ValueError("model.complete does it for you. Write its draw yourself, for model.descend.")

    def evidence(self, x: Tensor, guess: Tensor) -> list[Tensor]:
        raise ValueError("that sees what the hole held, so it is the posterior. Draw from `prior`.")

    def descend(self, guess: Tensor, told: list[Tensor], draw: Callable) -> tuple:
        def watched(level: int, prior: Gaussian, h: Tensor) -> Tensor:
            mu, log_var = (each.contiguous() for each in prior)  # or the order of the noise would vary
            torch.set_rng_state(self.noise[level])
            z = draw(level, (mu, log_var), h)
            self.noise[level] = torch.get_rng_state()
            what = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            if what != mu.shape:
                wanted = f"z of layer {level}, of shape {tuple(mu.shape)}"
                raise ValueError(f"draw has to return {wanted}, not {what}.")
            return z

        return super().descend(guess, told, watched)


def tiny_model() -> Watched:
    """Three layers, few channels, untrained; what starts at 0 is drawn at random, so all layers matter."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        few = (4,) * len(SIDES)
        unet = UNet(down=(4,) * 5, up=(4,) * 5)
        model = Watched(unet, LAYERS, widths=few, evidence=few, likelihood=GaussianPerPixel())
        with torch.no_grad():
            for weights in model.parameters():
                if not weights.any():
                    weights.normal_(std=0.3)
    return model.eval().requires_grad_(False)


def of_each_layer(model: Watched, fill: Callable[[int], Tensor]) -> tuple[Tensor, ...]:
    """The same noise for everyone and every layer; the reader's own generator stays where it is."""
    fillings = []
    with torch.random.fork_rng():
        for level in range(len(LAYERS)):
            torch.manual_seed(SEED)
            model.noise = [torch.get_rng_state()] * len(LAYERS)
            fillings.append(fill(level))
    return tuple(fillings)


def check_only(only: Callable[[nn.Module, Tensor, int, int], Tensor]) -> Verdict:
    """only(model, x, level, n_draws): n_draws fillings of each hole in which layer `level`, 0 next to the
    pixels, is drawn from its prior and all others are its mean, as complete(x, n_draws, vary={level}) does;
    (B, 7, 64, 64) -> (n_draws * B, 3, 32, 32), draw by draw."""
    model, x, answers = tiny_model(), with_hole(pictures(2, seed=5)), walks()
    right = {f"For layer {level}": answer for level, answer in enumerate(answers[""])}
    praise = "The layers below are not drawn, but they follow: their means depend on what you drew above."

    def fill(level: int) -> Tensor:
        return only(model, x.clone(), level, N_DRAWS)

    verdict = judge(lambda: of_each_layer(model, fill), right, praise, answers)
    advice = (
        "If each z is right, draw its noise at once, as normal_sample(*prior) does, for all photographs "
        "and draw by draw: the check compares the noise too."
    )
    return verdict._replace(message=verdict.message.replace("Compare the formula term by term.", advice))


@functools.cache
def walks() -> Answers:
    """The fillings for each layer that alone is drawn, and what the known mistakes make of them."""
    model = tiny_model()
    guess, told = model.context(with_hole(pictures(2, seed=5)))

    def answer(drawn: Callable, sample: Callable, other: Callable, copies: tuple, picture: Callable) -> tuple:
        before, after = copies

        def fill(level: int) -> Tensor:
            def draw(at: int, prior: Gaussian, h: Tensor) -> Tensor:
                return sample(*prior) if drawn(at, level) else other(prior[0])

            return after(picture(model.descend(before(guess), [before(each) for each in told], draw)[2]))

        return of_each_layer(model, fill)

    samples = {
        "": normal_sample,
        "You multiply the noise by the variance. The deviation is exp(0.5 * log_var).": (
            lambda mu, log_var: normal_sample(mu, 2 * log_var)
        ),
        "You draw from N(0, I). The prior knows the context: its mean and log_var are in `prior`.": (
            lambda mu, log_var: torch.randn_like(mu)
        ),
    }
    others = {
        "": lambda mu: mu,
        "You set the other layers to 0. The mean of their prior is elsewhere, since it knows the context: "
        "return prior[0].": torch.zeros_like,
    }
    pictures_of = {
        "": model.likelihood.mean,
        "That is px, what p(x|z) says of each pixel. Return model.likelihood.mean(px).": lambda px: px,
        "That is a draw of p(x|z). Return its mean, model.likelihood.mean(px).": model.likelihood.sample,
    }
    return with_slips(answer, layers_drawn(), samples, others, copies(), pictures_of)


def layers_drawn() -> dict[str, Callable[[int, int], bool]]:
    """Is layer `at` drawn, if `level` is asked for?"""
    top = len(LAYERS) - 1
    return {
        "": lambda at, level: at == level,
        "You count from the top. Layer 0 is next to the pixels.": lambda at, level: at == top - level,
        "You count from 1. The layer next to the pixels is 0.": lambda at, level: at == level - 1,
        "You draw all layers: so does complete without vary. Only `level` is drawn.": lambda at, level: True,
        "You draw all layers but `level`. Turn the condition round.": lambda at, level: at != level,
        "You draw the layers above `level` as well: they take their mean.": lambda at, level: at >= level,
        "You draw the layers below `level` as well. They take their mean: it follows what was drawn above, "
        "without noise of its own.": lambda at, level: at <= level,
        "Nothing is drawn: all layers take the mean of their prior.": lambda at, level: False,
    }


def copies() -> dict[str, tuple[Callable, Callable]]:
    """What is done to the context before the walk, and to the pictures after it."""

    def once(t: Tensor) -> Tensor:
        return t

    def by_draw(t: Tensor) -> Tensor:
        return torch.cat([t] * N_DRAWS)

    def by_photograph(t: Tensor) -> Tensor:
        return t.repeat_interleave(N_DRAWS, dim=0)

    def apart(t: Tensor) -> Tensor:
        return t.unflatten(0, (N_DRAWS, -1))

    return {
        "": (by_draw, once),
        "All draws of the first photograph come first: repeat, not repeat_interleave.": (by_photograph, once),
        "All draws of a photograph are the same: repeat guess and told, then draw.": (once, by_draw),
        "n_draws is not used: repeat guess and each of told, repeated(told, n_draws).": (once, once),
        "The draws are an axis of their own. One batch is asked for: flatten(0, 1).": (by_draw, apart),
    }


# Are the draws as wide as they should be? ---------------------------------------------------------

SHARES = (0.8, 0.5)
N_OF_DRAWS, N_PHOTOGRAPHS = 52, 2
# Where the true values stand among their pixel's sorted draws, and how often in each photograph. None is near
# an end of an interval of SHARES, so that all ways to define a quantile agree.
PLACES = torch.tensor([1, 8, 16, 23, 34, 42, 49])
OFTEN = torch.tensor([[5.0, 13, 8, 18, 23, 17, 10], [1, 3, 15, 35, 21, 10, 5]])


def check_coverage(coverage: Callable[[Tensor, Tensor, float], Tensor]) -> Verdict:
    """coverage(truth, draws, share): the part of each photograph's true values that lies within the central
    interval that holds this share of the draws, pixel by pixel; (N, 3, 32, 32), (S, N, 3, 32, 32) -> (N,)."""
    (truth, draws), answers = true_and_drawn(), coverages()
    right = {f"For a share of {share}": part for share, part in zip(SHARES, answers[""], strict=True)}
    praise = "Calibrated is a model whose coverage is the share. Below it the draws are too much alike."
    return judge(
        lambda: [coverage(truth.clone(), draws.clone(), share) for share in SHARES], right, praise, answers
    )


def true_and_drawn() -> tuple[Tensor, Tensor]:
    """truth (N, 3, 32, 32) and draws (S, N, 3, 32, 32); no true value equals a draw."""
    generator, shape = torch.Generator().manual_seed(7), (N_PHOTOGRAPHS, 3, SIDE // 2, SIDE // 2)
    n_pixels = 3 * (SIDE // 2) ** 2
    place = PLACES[OFTEN.multinomial(n_pixels, replacement=True, generator=generator)].view(shape)
    values = torch.linspace(0.1, 0.8, N_OF_DRAWS).square()  # skewed: the mean is above the median
    brightness = torch.rand(shape, generator=generator) / 3
    order = torch.rand(N_OF_DRAWS, *shape, generator=generator).argsort(dim=0)
    return brightness + (values[place] + values[place + 1]) / 2, brightness + values[order]


@functools.cache
def coverages() -> Answers:
    """The coverage for each of SHARES, and what the known mistakes make of it."""
    truth, draws = true_and_drawn()

    def answer(values: Tensor, ends: list, count: Callable) -> tuple[Tensor, ...]:
        inside = [((low <= values) & (values <= high)).float().mean(dim=0) for low, high in ends]
        return tuple(map(count, inside))

    counted = {
        "": truth[None],
        "You count the draws, which lie within by construction. Count the true values.": draws,
    }
    counts = {
        "": lambda inside: inside.mean(dim=(1, 2, 3)),
        "That is the part that lies outside. Turn it round.": lambda inside: 1 - inside.mean(dim=(1, 2, 3)),
        "You average over the photographs too. Each has a coverage of its own.": torch.mean,
        "That is a coverage of each colour. Average over them.": lambda inside: inside.mean(dim=(2, 3)),
        "You average over the photographs, not over their pixels.": lambda inside: inside.mean(dim=0),
        "That says whether a pixel is covered. Average over those of a photograph.": lambda inside: inside,
        "You count pixels. Take the mean, not the sum.": lambda inside: inside.sum(dim=(1, 2, 3)),
        "Those are per cent. Return a part of 1.": lambda inside: 100 * inside.mean(dim=(1, 2, 3)),
    }
    ends = {text: [interval(share) for share in SHARES] for text, interval in intervals(draws).items()}
    return with_slips(answer, counted, ends, counts)


def intervals(draws: Tensor) -> dict[str, Callable[[float], tuple | Tensor]]:
    """share -> the lower and the upper end of each pixel's interval."""
    mean, deviation, of_all = draws.mean(dim=0), draws.std(dim=0), draws.flatten()

    def central(share: float, draws: Tensor = draws) -> Tensor:
        return draws.quantile(torch.tensor([(1 - share) / 2, (1 + share) / 2]), dim=0)

    def about_the_mean(deviations: float | Tensor) -> tuple[Tensor, Tensor]:
        return mean - deviations * deviation, mean + deviations * deviation

    return {
        "": central,
        "Your interval goes from 1 - share to share. Half of what is left out lies on either side: take "
        "(1 - share) / 2 and (1 + share) / 2.": lambda share: central(2 * share - 1),
        "Your interval goes from share / 2 to 1 - share / 2, so it holds 1 - share. Its lower end is "
        "(1 - share) / 2.": lambda share: central(1 - share),
        "Your interval leaves out the largest draws only. Central means: as many of the smallest too.": (
            lambda share: (-math.inf, draws.quantile(share, dim=0))
        ),
        "The lower end is missing: leave out small draws too.": lambda share: (-math.inf, central(share)[1]),
        "The upper end is missing: leave out large draws too.": lambda share: (central(share)[0], math.inf),
        "Your interval lies about the mean, as wide as a normal density needs. Draws need not be normal: "
        "take their quantiles.": lambda share: about_the_mean(math.sqrt(2) * torch.tensor(share).erfinv()),
        "Your interval is the mean and one deviation to either side, whatever the share. Take quantiles.": (
            lambda share: about_the_mean(1)
        ),
        "Your interval goes from the smallest draw to the largest. Take quantiles: share is not used.": (
            lambda share: (draws.amin(dim=0), draws.amax(dim=0))
        ),
        "You have one interval for everything. Each pixel has its own: quantiles over the draws, dim=0.": (
            lambda share: central(share, of_all)
        ),
    }
