"""Checks of lesson 06: the smooth fill by hand, decibels in the hole, the residual KL, a layer, coverage."""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.checks.verdict import Verdict, judge
from course_utils.distributions import LEVELS, GaussianPerPixel, normal_sample
from course_utils.holes import SIDE, harmonic_fill, pasted, rim, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import SIDES, Gaussian, InpaintingVAE, repeated
from course_utils.models.unet import UNet

FIRST, LAST = SIDE // 4, 3 * SIDE // 4  # the hole is rows and columns FIRST to LAST - 1


def pictures(n: int, seed: int) -> Tensor:
    """Noise, so that no two pixels are alike: (n, 3, 64, 64) in [0, 1]."""
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


# The smooth fill, by hand -------------------------------------------------------------------------

SWEEPS, MANY = (0, 1, 2, 12), 2_000
PATIENCE = 0.1  # seconds for all of SWEEPS: a loop over pixels takes longer, slices a fiftieth
CROSS = torch.tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
CORNERS = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 0, 1]]) / 4
ITSELF = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])


def check_relax(relax: Callable[[Tensor, int], Tensor]) -> Verdict:
    """relax(x, n_sweeps): the hole at the mean of its rim, then n_sweeps times each of its pixels the mean of
    its four neighbours, all at once; (B, C, 64, 64) -> the same."""
    x, mistakes, seconds = pictures(2, seed=1), wrong_fills(), 0.0

    def attempt() -> list:
        nonlocal seconds
        seconds = time.process_time()
        answers = [relax(x.clone(), n) for n in SWEEPS]
        seconds = time.process_time() - seconds
        return answers

    right = {f"After {n} sweeps": swept(x, n) for n in SWEEPS}
    verdict = judge(attempt, right, "", mistakes)
    if verdict:
        return long_run(relax, x, is_fast=seconds < PATIENCE)
    if verdict.message in mistakes:
        return verdict
    return Verdict(False, fault_of_relaxing(relax, x) or verdict.message)


def long_run(relax: Callable[[Tensor, int], Tensor], x: Tensor, is_fast: bool) -> Verdict:
    """Of a function that is right for a few sweeps: does it spare x, does it reach the smooth fill?"""
    given = x.clone()
    relax(given, 2)
    if not torch.equal(given, x):
        return Verdict(
            False,
            "The right answer, but x is changed as well, and whoever called you loses it. Begin with "
            "x = x.clone().",
        )
    if not is_fast:
        return Verdict(
            True,
            "Each sweep spreads the rim inwards. Yours goes pixel by pixel: four slices of the whole "
            "hole, one for each neighbour, add up at once and are a hundred times faster.",
        )
    praise = (
        f"Each sweep spreads the rim inwards by a pixel; after {MANY:,} nothing moves, and that is "
        "holes.harmonic_fill."
    )
    verdict = judge(lambda: relax(given, MANY), harmonic_fill(x), praise, {})
    if verdict or "stops with" in verdict.message:
        return verdict
    return Verdict(
        False,
        f"A few sweeps are right, but after {MANY:,} it should be holes.harmonic_fill, and is not. Do you "
        "stop early?",
    )


@functools.cache
def wrong_fills() -> dict[str, tuple[Tensor, ...]]:
    """After each of SWEEPS, what the known mistakes make of the picture that the reader's function gets."""
    x = pictures(2, seed=1)
    return {
        "That is the hole alone. Return the whole picture: pasted(x, hole) from course_utils.holes.": tuple(
            centre(swept(x, n)) for n in SWEEPS
        ),
        **wrong_starts(x),
        **wrong_neighbours(x),
        **wrong_orders(x),
    }


def swept(x: Tensor, n: int, weights: Tensor = CROSS, start: Tensor | None = None) -> Tensor:
    """n sweeps, in each of which every pixel of the hole becomes this mean of the nine around it."""
    start = rim(x).mean(dim=-1)[..., None, None] if start is None else start
    x = pasted(x, start.expand_as(centre(x)))
    for _ in range(n):
        x = pasted(x, centre(blended(x, weights)))
    return x


def blended(x: Tensor, weights: Tensor) -> Tensor:
    """Each pixel of (B, C, H, W) the weighted sum of the nine around it, beyond the edges 0."""
    return F.conv2d(x.flatten(0, 1)[:, None], weights[None, None], padding=1).view_as(x)


def wrong_starts(x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The right sweeps, from another filling."""
    mean, around = rim(x).mean(dim=-1), x[..., FIRST - 1 : LAST + 1, FIRST - 1 : LAST + 1]
    n_hole, n_ring = (SIDE // 2) ** 2, around[0, 0].numel() - (SIDE // 2) ** 2
    hole = centre(x).sum(dim=(2, 3))
    starts = {
        "You start with what the hole held: that is to be guessed, so it must not be looked at. Start with "
        "the mean of the rim.": centre(x),
        "You start with the mean of the whole picture, and so with what the hole held. Take rim(x) alone.": (
            x.mean(dim=(2, 3))
        ),
        "You start with the mean of what the hole held. That is to be guessed: take the mean of rim(x).": (
            hole / n_hole
        ),
        "You start with the mean of all known pixels. Asked for is that of the rim, the pixels next to the "
        "hole.": (x.sum(dim=(2, 3)) - hole) / (SIDE**2 - n_hole),
        "You start with the mean of all that surrounds the hole, corners included. They are no neighbours of "
        "its pixels: rim(x) leaves them out.": (around.sum(dim=(2, 3)) - hole) / n_ring,
        "You start with black. Start with the mean of the rim: it is nearer.": torch.zeros_like(mean),
        "You start with grey. Start with the mean of the rim: it is nearer.": torch.full_like(mean, 0.5),
        "You start with one mean for all three colours. Each channel has its own.": (
            mean.mean(dim=1, keepdim=True).expand_as(mean)
        ),
        "You start with one mean for the whole batch. Each picture has its own.": (
            mean.mean(dim=0, keepdim=True).expand_as(mean)
        ),
        "You start with one number for everything. Each picture and channel has its own mean: dim=-1.": (
            mean.mean().expand_as(mean)
        ),
    }
    starts = {text: start if start.ndim == 4 else start[..., None, None] for text, start in starts.items()}
    return {text: tuple(swept(x, n, start=start) for n in SWEEPS) for text, start in starts.items()}


def wrong_neighbours(x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The right start, then the mean of other pixels."""
    upright = torch.tensor([[0, 1, 0], [0, 0, 0], [0, 1, 0]]) / 2
    weights = {
        "You average eight neighbours. Those at the corners do not count: above, below, left, right.": (
            CROSS + CORNERS
        )
        / 2,
        "You average all nine, the pixel itself and its corners. Take the four: above, below, left, right.": (
            (4 * CROSS + 4 * CORNERS + ITSELF) / 9
        ),
        "The pixel itself is in your mean. It becomes that of its four neighbours alone.": (
            (4 * CROSS + ITSELF) / 5
        ),
        "You average the four at the corners. Take those above, below, left and right.": CORNERS,
        "You take the neighbours above and below alone. Left and right count as well.": upright,
        "You take the neighbours left and right alone. Above and below count as well.": upright.T,
        "You add the neighbours up. Divide by 4.": 4 * CROSS,
    }
    mistakes = {text: tuple(swept(x, n, kernel) for n in SWEEPS) for text, kernel in weights.items()}
    mistakes[
        "You average the hole alone, with zeros around it. Its outermost pixels have neighbours in the "
        "picture: average there."
    ] = tuple(alone(x, n) for n in SWEEPS)
    return mistakes


def alone(x: Tensor, n: int) -> Tensor:
    """n sweeps over the hole, cut out, zeros around it."""
    hole = centre(swept(x, 0))
    for _ in range(n):
        hole = blended(hole, CROSS)
    return pasted(x, hole)


def wrong_orders(x: Tensor) -> dict[str, tuple[Tensor, ...]]:
    """The right start and the right mean, but in place, too seldom or too often."""
    return {
        "You overwrite a pixel before its right and lower neighbours have read it (Gauss-Seidel). That "
        "arrives sooner, but depends on the order: take all means from the old picture, then replace.": tuple(
            pixel_by_pixel(x, n) for n in SWEEPS
        ),
        "You overwrite a row before the row below has read it. That arrives sooner, but depends on the "
        "order: take all means from the old picture, then replace.": tuple(row_by_row(x, n) for n in SWEEPS),
        "You take one sweep too many: range(n_sweeps).": tuple(swept(x, n + 1) for n in SWEEPS),
        "You take one sweep too few: range(n_sweeps).": tuple(swept(x, max(n - 1, 0)) for n in SWEEPS),
        "You sweep once, whatever n_sweeps is: put it into a loop.": tuple(
            swept(x, min(n, 1)) for n in SWEEPS
        ),
        # No sweeps, or none of the outermost pixels, or over the hole alone, its own edge around it.
        "The hole stays as it starts: the rim never gets in. The outermost pixels of the hole are missing as "
        "well, and have neighbours outside it: average in the whole picture.": tuple(
            swept(x, 0) for n in SWEEPS
        ),
        "That is the smooth fill itself, whatever n_sweeps is. Here it is approached step by step.": tuple(
            harmonic_fill(x) for n in SWEEPS
        ),
    }


def pixel_by_pixel(x: Tensor, n: int) -> Tensor:
    """Gauss-Seidel from the top left. A diagonal at a time is the same: its pixels are no neighbours."""
    x, side = swept(x, 0), SIDE // 2
    for diagonal in list(range(2 * side - 1)) * n:
        i = torch.arange(max(0, diagonal - side + 1), min(diagonal, side - 1) + 1)
        row, column = FIRST + i, FIRST + diagonal - i
        upright = x[..., row - 1, column] + x[..., row + 1, column]
        x[..., row, column] = (upright + x[..., row, column - 1] + x[..., row, column + 1]) / 4
    return x


def row_by_row(x: Tensor, n: int) -> Tensor:
    """From the top: each row reads the new row above it."""
    x = swept(x, 0)
    for row in list(range(FIRST, LAST)) * n:
        x[..., row, FIRST:LAST] = blended(x[..., row - 1 : row + 2, :], CROSS)[..., 1, FIRST:LAST]
    return x


def fault_of_relaxing(relax: Callable[[Tensor, int], Tensor], x: Tensor) -> str | None:
    """What is wrong with a function that makes none of the known mistakes, if it can be seen from outside."""
    with contextlib.suppress(Exception):
        after, other = relax(x.clone(), 2), relax(pasted(x, 1 - centre(x)), 2)
        is_hole = pasted(torch.zeros(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE // 2, SIDE // 2)).bool()
        if after.shape != x.shape:
            return None
        kept = after == x
        if not kept[~is_hole.expand_as(x)].all():
            near = kept.clone()
            near[..., FIRST - 2 : LAST + 2, FIRST - 2 : LAST + 2] = True
            if near.all():
                return "Your hole is shifted or too large: it is x[..., 16:48, 16:48], and the rest is known."
            return "You change known pixels. Only those of the hole become the mean of their neighbours."
        if kept[is_hole.expand_as(x)].any():
            return "A part of the hole stays as it was: it is x[..., 16:48, 16:48]."
        if not torch.allclose(centre(after), centre(other), atol=1e-6):
            return (
                "What the hole held changes your answer. It is to be guessed: start with the mean of rim(x), "
                "and read nothing else of the hole."
            )
    return None


# Decibels -----------------------------------------------------------------------------------------


def check_hole_decibels(hole_decibels: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """hole_decibels(truth, filling): the PSNR of each photograph in the hole, -10 log10 of its mean squared
    error there, and of that the mean; whole pictures (B, 3, 64, 64) twice -> () dB."""
    truth, noise = pictures(4, seed=2), pictures(4, seed=3) - 0.5
    sizes = torch.tensor([0.1, 0.3, 0.5, 0.9])[:, None] * torch.tensor([0.6, 1, 1.3])  # of photograph, colour
    slope = torch.linspace(0.5, 1.5, SIDE)  # more error to the right
    filling = pasted(truth, centre(truth + sizes[..., None, None] * slope * noise))
    right = decibels(centre(filling - truth).square().flatten(1).mean(dim=1)).mean()
    mistakes = wrong_errors(filling - truth) | wrong_decibels(filling - truth)
    praise = "Ten decibels more are a tenth of the squared error. Known pixels earn none."
    return judge(lambda: hole_decibels(truth.clone(), filling.clone()), right, praise, mistakes)


def decibels(squared_error: Tensor) -> Tensor:
    return -10 * torch.log10(squared_error)


def wrong_errors(difference: Tensor) -> dict[str, Tensor]:
    """-10 log10 of something else than each photograph's mean squared error in its hole."""
    hole = centre(difference)
    each, far = hole.square().flatten(1).mean(dim=1), slice(FIRST + 1, LAST + 1)
    early, small = slice(FIRST - 1, LAST - 1), slice(FIRST, LAST - 1)
    errors = {
        "You average over the whole picture. Three quarters of it are known, where the error is 0: that is a "
        "gift of 6 dB. Take centre(...) of both.": each / 4,
        "You average the error over all photographs, then take the log. Take the log of each photograph's, "
        "and average last: else the worst decides.": each.mean(),
        "You average over whole pictures, and over all of them before the log. The hole only, the log of "
        "each photograph's, and average last.": each.mean() / 4,
        "You sum the squared error over the hole. Take its mean.": hole.square().flatten(1).sum(dim=1),
        "You take the log for each colour. A photograph has one error: average over its colours as well.": (
            hole.square().mean(dim=(2, 3))
        ),
        "You take the log of each pixel's error. Average over the hole first.": hole.square(),
        "You take the root first. Then it is 20 log10 of it; without the root, 10 log10.": each.sqrt(),
        "You average the difference, then square it: errors of opposite sign cancel. Square first.": (
            hole.flatten(1).mean(dim=1).square()
        ),
        "You take the absolute error. Decibels here are those of the squared one.": (
            hole.abs().flatten(1).mean(dim=1)
        ),
        "You square the mean absolute error. Square each difference, then average.": (
            hole.abs().flatten(1).mean(dim=1).square()
        ),
        "Your value is infinite, no error at all: you look where nothing was missing. The hole is "
        "x[..., 16:48, 16:48].": torch.zeros(()),
        "Your hole lies a row and a column too far. It is x[..., 16:48, 16:48].": (
            difference[..., far, far].square().flatten(1).mean(dim=1)
        ),
        "Your hole begins a row and a column too early. It is x[..., 16:48, 16:48].": (
            difference[..., early, early].square().flatten(1).mean(dim=1)
        ),
        "Your hole lacks its last row and column: 16:48 ends with 47.": (
            difference[..., small, small].square().flatten(1).mean(dim=1)
        ),
    }
    return {text: decibels(error).mean() for text, error in errors.items()}


def wrong_decibels(difference: Tensor) -> dict[str, Tensor]:
    """Something else than -10 log10 of the right errors, or than their mean."""
    each = centre(difference).square().flatten(1).mean(dim=1)
    right = decibels(each).mean()
    return {
        "That is the natural log. Decibels are 10 times log10.": -10 * each.log().mean(),
        "That is log2. Decibels are 10 times log10.": -10 * each.log2().mean(),
        "The factor is 10 for a squared error. 20 is for its root.": 2 * right,
        "The sign is turned round: less error, more decibels. -10 log10.": -right,
        "The 10 is missing: those are bels.": right / 10,
        "The log is missing: that is the mean squared error.": each.mean(),
        "You set the brightest pixel to 255. Here pixels are in [0, 1], so it is 1, and drops out.": (
            right + 20 * math.log10(LEVELS - 1)
        ),
        "You divide by 255. Pixels are in [0, 1] already.": right + 40 * math.log10(LEVELS - 1),
        "Those are the decibels of each photograph. Average them.": decibels(each),
        "You sum over the photographs. Average.": decibels(each).sum(),
    }


# The price of a residual posterior ----------------------------------------------------------------


def check_residual_kl(residual_kl: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """residual_kl(a, b): KL( N(mu + sigma a, var exp(b)) || N(mu, var) ), element by element, in nats;
    the same for every mu and var. (B, C, H, W) twice -> the same."""
    a, b = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(4))
    right = 0.5 * (b.exp() + a**2 - 1 - b)
    mistakes = wrong_terms(a, b) | {
        "You sum over everything. Return the price of each element: summed it is later.": right.sum(),
        "You sum over the latents of each photograph. Return the price of each element.": right.flatten(
            1
        ).sum(1),
        "You average over everything. Return the price of each element.": right.mean(),
        "You average over the latents of each photograph. Return the price of each element.": (
            right.flatten(1).mean(1)
        ),
        "Those are bits. Here all is in nats.": right / math.log(2),
        "You sum over the channels. Return the price of each element.": right.sum(dim=1),
    }
    praise = "The prior drops out: in units of it the posterior is N(a, exp(b)), and the prior N(0, 1)."
    return judge(lambda: residual_kl(a.clone(), b.clone()), right, praise, mistakes)


def wrong_terms(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Element by element, from formulas that are not quite the KL."""
    right, moved = 0.5 * (b.exp() + a**2 - 1 - b), 0.5 * a**2
    return {
        "The -1 is missing: at a = b = 0 the posterior is the prior, and the price must be 0.": right + 0.5,
        "The 1 has the wrong sign: at a = b = 0 the price must be 0. Subtract it.": right + 1,
        "It is twice too large: the factor 1/2 is missing.": 2 * right,
        "The factor 1/2 is for all four terms: set brackets.": 0.5 * b.exp() + a**2 - 1 - b,
        "The sign is turned round: a KL divergence is never negative.": -right,
        "b has the wrong sign: a narrow posterior is dear, so subtract it.": right + b,
        "b has the wrong sign in the exponent: the ratio of the variances is exp(b).": (
            0.5 * ((-b).exp() + a**2 - 1 - b)
        ),
        "b has the wrong sign in both places: exp(b), and -b.": 0.5 * ((-b).exp() + a**2 - 1 + b),
        "You read b as the log of a deviation. exp(b) multiplies the *variance*: no factor 2.": (
            0.5 * ((2 * b).exp() + a**2 - 1 - 2 * b)
        ),
        "You square exp(b). It is the ratio of the variances already.": 0.5 * ((2 * b).exp() + a**2 - 1 - b),
        "You halve b in the exponent. The ratio of the variances is exp(b), without a root.": (
            0.5 * ((b / 2).exp() + a**2 - 1 - b)
        ),
        "You halve b, in both places. exp(b) is the ratio of the variances, not of the deviations.": (
            0.5 * ((b / 2).exp() + a**2 - 1 - b / 2)
        ),
        "b is the log of the ratio: take its exp for the ratio, and itself for the log.": (
            0.5 * (b + a**2 - 1 - b.log())
        ),
        "a is not squared. To the left is as far as to the right.": right - moved + 0.5 * a,
        "You take the size of a. The price grows with its square.": right - moved + 0.5 * a.abs(),
        "a is missing: moving away from the prior's mean costs a² / 2.": right - moved,
        "exp(b) is missing: a wide posterior has a price as well.": right - 0.5 * b.exp(),
        "-b is missing: a narrow posterior would be a bargain.": right + 0.5 * b,
        "a and b are exchanged: a moves the mean, exp(b) widens.": 0.5 * (a.exp() + b**2 - 1 - a),
        "That is KL(prior || posterior). The mean is taken under the posterior: its variance, exp(b), stands "
        "above.": 0.5 * ((-b).exp() * (1 + a**2) - 1 + b),
        "You divide a² by exp(b). Distances are measured in widths of the prior, and a is that already.": (
            0.5 * (b.exp() + a**2 / b.exp() - 1 - b)
        ),
        "You multiply a² by exp(b). Distances are measured in widths of the prior, and a is that already.": (
            0.5 * (b.exp() * (1 + a**2) - 1 - b)
        ),
    }


# One layer at a time ------------------------------------------------------------------------------

LAYERS = ((16, 4), (8, 4), (4, 4))  # side and channels
N_DRAWS, SEED = 3, 6
IS_RIGHT_AS_WELL = "Noise is drawn for all layers, and used in one."


def tiny_model() -> InpaintingVAE:
    """Three layers, few channels, untrained; what starts at 0 is drawn at random, so all layers matter."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        few = (4,) * len(SIDES)
        unet = UNet(down=(4,) * 5, up=(4,) * 5)
        model = InpaintingVAE(unet, LAYERS, widths=few, evidence=few, likelihood=GaussianPerPixel())
        with torch.no_grad():
            for weights in model.parameters():
                if not weights.any():
                    weights.normal_(std=0.3)
    return model.eval().requires_grad_(False)


def watched(model: InpaintingVAE, hints: list[str]) -> InpaintingVAE:
    """The model for the reader's function: what it notes in `hints` is said in place of torch's errors."""

    def refuse(x: Tensor, n_draws: int = 1, vary: Collection[int] | None = None) -> Tensor:
        hints.append("model.complete does it for you. Write its draw function yourself, for model.descend.")
        raise RuntimeError(hints[0])

    def descend(guess: Tensor, told: list[Tensor], draw: Callable) -> tuple:
        def seen(level: int, prior: Gaussian, h: Tensor) -> Tensor:
            z = draw(level, prior, h)
            wanted = tuple(prior[0].shape)
            if z is None or z is ...:
                hints.append("Your draw returns nothing yet: it has to return z of that layer.")
            elif not isinstance(z, Tensor):
                hints.append(
                    f"Your draw returns a {type(z).__name__}. It has to return z, a tensor of shape {wanted}."
                )
            elif tuple(z.shape) != wanted:
                hints.append(
                    f"Your draw returns shape {tuple(z.shape)} for layer {level}, whose z is {wanted}."
                )
            if hints:
                raise RuntimeError(hints[0])
            return z

        return InpaintingVAE.descend(model, guess, told, seen)

    model.complete, model.descend = refuse, descend
    return model


def check_only(only: Callable[[nn.Module, Tensor, int, int], Tensor]) -> Verdict:
    """only(model, x, level, n_draws): n_draws fillings of each hole in which layer `level`, 0 next to the
    pixels, is drawn from its prior and all others are its mean, as complete(x, n_draws, vary={level}) does;
    (B, 7, 64, 64) -> (n_draws * B, 3, 32, 32), draw by draw."""
    x, (right, mistakes), hints = with_hole(pictures(2, seed=5)), right_and_wrong_walks(), []

    def attempt(x: Tensor = x) -> list:
        own = watched(tiny_model(), hints)
        return list(on_all_layers(lambda level: only(own, x.clone(), level, N_DRAWS)))

    praise = "The layers below are not drawn, but they follow: their means depend on what you drew above."
    verdict = judge(attempt, right, praise, mistakes)
    if hints:
        return Verdict(False, hints[0])
    if verdict or verdict.message == IS_RIGHT_AS_WELL:
        return Verdict(True, praise)
    if verdict.message in mistakes or "True value" not in verdict.message:
        return verdict
    with contextlib.suppress(Exception):
        other = torch.cat([pasted(x[:, :3], 1 - centre(x[:, :3])), x[:, 3:]], dim=1)
        if not all(torch.equal(a, b) for a, b in zip(attempt(), attempt(other), strict=True)):
            return Verdict(
                False, "What the hole held changes your fillings: that is the posterior. Draw from `prior`."
            )
    start = verdict.message.removesuffix("Compare the formula term by term.")
    return Verdict(
        False, f"{start}If each z is right, draw its noise at once, as normal_sample(*prior) does."
    )


@functools.cache
def right_and_wrong_walks() -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """The fillings layer by layer, and those of the known mistakes."""
    x, model = with_hole(pictures(2, seed=5)), tiny_model()
    answers, context = on_all_layers(lambda level: model.complete(x, N_DRAWS, {level})), model.context(x)
    mistakes = (
        drawn(model, context, wrong_layers() | wrong_noise())
        | wrong_walks(model, context)
        | wrong_fillings(model, context)
    )
    return {f"For layer {level}": answer for level, answer in enumerate(answers)}, mistakes


def seeded(draw: Callable[[], Tensor]) -> Tensor:
    """The same noise for everyone; the reader's own generator stays where it is."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return draw()


Rule = Callable[[int, int, Gaussian], Tensor]  # (this layer, the layer to draw, its prior) -> z


Context = tuple[Tensor, list[Tensor]]  # guess, told


def walk(model: InpaintingVAE, context: Context, rule: Rule, level: int, n_draws: int = N_DRAWS) -> tuple:
    """z, p, px of a walk in which this rule says what each z is."""
    guess, told = context
    guess, told = repeated([guess], n_draws)[0], repeated(told, n_draws)
    return model.descend(guess, told, lambda at, prior, h: rule(at, level, prior))


def one_layer(at: int, level: int, prior: Gaussian) -> Tensor:
    return normal_sample(*prior) if at == level else prior[0]


def on_all_layers(draw: Callable[[int], Tensor]) -> tuple[Tensor, ...]:
    return tuple(seeded(lambda level=level: draw(level)) for level in range(len(LAYERS)))


def drawn(model: InpaintingVAE, context: Context, rules: dict[str, Rule]) -> dict[str, tuple[Tensor, ...]]:
    """The fillings, layer by layer, of a walk by each of these rules."""
    mean = model.likelihood.mean
    return {
        text: on_all_layers(lambda level, rule=rule: mean(walk(model, context, rule, level)[2]))
        for text, rule in rules.items()
    }


def wrong_layers() -> dict[str, Rule]:
    """Other layers are drawn than the one that is asked for."""

    def drawn_where(condition: Callable[[int, int], bool]) -> Rule:
        return lambda at, level, p: normal_sample(*p) if condition(at, level) else p[0]

    top = len(LAYERS) - 1
    return {
        "You count from the top. Layer 0 is the one next to the pixels, as in z[0].": drawn_where(
            lambda at, level: at == top - level
        ),
        "You count from 1. The layer next to the pixels is 0.": drawn_where(
            lambda at, level: at == level - 1
        ),
        "You draw all layers: so does complete without vary. Only `level` is drawn.": drawn_where(
            lambda at, level: True
        ),
        "You draw all layers but the one that is asked for. Turn the condition round.": drawn_where(
            lambda at, level: at != level
        ),
        "You draw the layers above `level` as well. They take the mean of their prior.": drawn_where(
            lambda at, level: at >= level
        ),
        "You draw the layers below `level` as well. They take the mean of their prior: it follows what was "
        "drawn above, without noise of its own.": drawn_where(lambda at, level: at <= level),
        "Nothing is drawn: all layers take the mean of their prior.": drawn_where(lambda at, level: False),
        IS_RIGHT_AS_WELL: lambda at, level, p: torch.where(
            torch.tensor(at == level), normal_sample(*p), p[0]
        ),
    }


def wrong_noise() -> dict[str, Rule]:
    """The right layer is drawn, but not from its prior, or the others are not its mean."""

    def drawn_as(formula: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Rule:
        return lambda at, level, p: formula(*p, torch.randn_like(p[0])) if at == level else p[0]

    return {
        "You set the other layers to 0. The mean of their prior is elsewhere, since it knows the context: "
        "return prior[0].": lambda at, level, p: normal_sample(*p) if at == level else torch.zeros_like(p[0]),
        "You multiply the noise by the variance. Its root is asked for: exp(0.5 * log_var).": drawn_as(
            lambda mu, log_var, eps: mu + log_var.exp() * eps
        ),
        "You multiply the noise by log_var. The deviation is exp(0.5 * log_var).": drawn_as(
            lambda mu, log_var, eps: mu + log_var * eps
        ),
        "The noise has deviation 1. That of the prior is exp(0.5 * log_var).": drawn_as(
            lambda mu, log_var, eps: mu + eps
        ),
        "You draw from N(0, I). The prior knows the context: its mean and log_var are in `prior`.": drawn_as(
            lambda mu, log_var, eps: eps
        ),
        "The mean of the prior is missing: mu + exp(0.5 * log_var) * noise.": drawn_as(
            lambda mu, log_var, eps: (0.5 * log_var).exp() * eps
        ),
    }


def wrong_walks(model: InpaintingVAE, context: Context) -> dict[str, tuple[Tensor, ...]]:
    """One layer rightly drawn, but other means, or in another order."""
    mean = model.likelihood.mean
    fixed, _, _ = walk(model, context, lambda at, level, prior: prior[0], 0)

    def frozen(level: int) -> Tensor:
        def rule(at: int, level: int, prior: Gaussian) -> Tensor:
            return normal_sample(*prior) if at == level else fixed[at]

        return mean(walk(model, context, rule, level)[2])

    def image_by_image(level: int) -> Tensor:
        guess, told = (
            context[0].repeat_interleave(N_DRAWS, 0),
            [t.repeat_interleave(N_DRAWS, 0) for t in context[1]],
        )
        return mean(walk(model, (guess, told), one_layer, level, n_draws=1)[2])

    def turned(level: int) -> Tensor:
        fillings = mean(walk(model, context, one_layer, level)[2]).unflatten(0, (N_DRAWS, -1))
        return fillings.transpose(0, 1).flatten(0, 1)

    in_order = "All draws of the first photograph come first. Draw by draw is asked for: "
    return {
        "The layers below keep the means of a walk without a draw. Their priors depend on z above: take the "
        "prior[0] that `draw` is given.": on_all_layers(frozen),
        f"{in_order}repeat, not repeat_interleave.": on_all_layers(image_by_image),
        f"{in_order}(n_draws, B, ...) flattened, the draws first.": on_all_layers(turned),
        "All draws of a photograph are the same: you draw once, then repeat. Repeat guess and told, then "
        "draw.": on_all_layers(
            lambda level: mean(walk(model, context, one_layer, level, n_draws=1)[2]).repeat(N_DRAWS, 1, 1, 1)
        ),
        "n_draws is not used: repeat guess and each of told, repeated(told, n_draws).": on_all_layers(
            lambda level: mean(walk(model, context, one_layer, level, n_draws=1)[2])
        ),
    }


def wrong_fillings(model: InpaintingVAE, context: Context) -> dict[str, tuple[Tensor, ...]]:
    """The right walk, and something else of it than the mean of p(x|z)."""
    likelihood = model.likelihood
    parts = {
        "That is px, the parameters of p(x|z) for each pixel. Its mean is the picture: "
        "model.likelihood.mean(px).": lambda z, px: px,
        "That is a draw of p(x|z), its noise included. Show the mean: model.likelihood.mean(px).": (
            lambda z, px: likelihood.sample(px)
        ),
        "Some pixels are below 0 or above 1: take model.likelihood.mean(px).": lambda z, px: px[:, 0],
        "The draws are an axis of their own. One batch is asked for: flatten(0, 1).": lambda z, px: (
            likelihood.mean(px).unflatten(0, (N_DRAWS, -1))
        ),
        "That is z of this layer. descend returns z, p, px: the pixels come last.": lambda z, px: z,
    }

    def part_of(level: int, part: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        z, _, px = walk(model, context, one_layer, level)
        return part(z[level], px)

    return {
        text: on_all_layers(lambda level, part=part: part_of(level, part)) for text, part in parts.items()
    }


# Are the draws as wide as they should be? ---------------------------------------------------------

SHARES = (0.8, 0.5)
N_OF_DRAWS, N_PHOTOGRAPHS = 52, 2
# How many of each photograph's pixels have a true value at these places among its sorted draws. None is near
# an end of an interval of SHARES, so that all ways to define a quantile agree.
PLACES = {
    (0, 3): (150, 20),
    (7, 10): (400, 90),
    (16, 34): (1500, 2500),
    (40, 43): (700, 300),
    (49, 51): (322, 162),
}


def true_and_drawn() -> tuple[Tensor, Tensor]:
    """truth (N, 3, 32, 32) and draws (S, N, 3, 32, 32), whole levels; no two draws of a pixel are equal."""
    generator, shape = torch.Generator().manual_seed(7), (N_PHOTOGRAPHS, 3, SIDE // 2, SIDE // 2)
    n_pixels = 3 * (SIDE // 2) ** 2
    places = []
    for photograph in range(N_PHOTOGRAPHS):
        counts = [(span, n[photograph]) for span, n in PLACES.items()]
        of_pixel = torch.cat(
            [torch.randint(low, high + 1, (n,), generator=generator) for (low, high), n in counts]
        )
        places.append(of_pixel[torch.randperm(n_pixels, generator=generator)])
    place = torch.stack(places).view(shape)
    rank = torch.arange(N_OF_DRAWS)
    sorted_levels = rank + rank**3 // 1_000  # skewed: the mean is above the median
    brightness = torch.randint(0, 50, shape, generator=generator)
    order = torch.rand(N_OF_DRAWS, *shape, generator=generator).argsort(dim=0)
    draws = brightness + sorted_levels[order]
    truth = brightness + sorted_levels[place] + 0.37  # between two levels, so it equals no quantile
    return truth / (LEVELS - 1), draws / (LEVELS - 1)


class Case(NamedTuple):
    """What the reader's function is given, and the ends of each pixel's interval."""

    truth: Tensor
    draws: Tensor
    share: float
    low: Tensor
    high: Tensor


def check_coverage(coverage: Callable[[Tensor, Tensor, float], Tensor]) -> Verdict:
    """coverage(truth, draws, share): the part of each photograph's true values that lies within the central
    interval that holds this share of the draws, pixel by pixel; (N, 3, 32, 32), (S, N, 3, 32, 32) -> (N,)."""
    (truth, draws), (right, mistakes) = true_and_drawn(), right_and_wrong_coverages()
    praise = "Calibrated is a model whose coverage is the share. Below it the draws are too much alike."

    def attempt() -> list:
        return [coverage(truth.clone(), draws.clone(), share) for share in SHARES]

    return judge(attempt, right, praise, mistakes)


@functools.cache
def right_and_wrong_coverages() -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """The coverage for each of SHARES, and that of the known mistakes."""
    truth, draws = true_and_drawn()
    cases = [Case(truth, draws, share, *draws.quantile(ends(share), dim=0)) for share in SHARES]
    right = {f"For a share of {case.share}": within(truth, case.low, case.high) for case in cases}
    wrong = wrong_ends() | wrong_axes() | wrong_counts()
    return right, {text: tuple(f(case) for case in cases) for text, f in wrong.items()}


def ends(share: float) -> Tensor:
    """As much is left out below as above: (2,)."""
    return torch.tensor([(1 - share) / 2, (1 + share) / 2])


def is_within(truth: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    return ((truth >= low) & (truth <= high)).float()


def within(truth: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """The part of each photograph that lies between: (..., N, 3, 32, 32) -> (N,)."""
    parts = is_within(truth, low, high).flatten(start_dim=-3).mean(dim=-1)  # (..., N)
    return parts.reshape(-1, N_PHOTOGRAPHS).mean(dim=0)


def wrong_ends() -> dict[str, Callable[[Case], Tensor]]:
    """The part of each photograph in another interval of the draws."""

    def about(c: Case, deviations: float) -> Tensor:
        mean, half_width = c.draws.mean(dim=0), deviations * c.draws.std(dim=0)
        return within(c.truth, mean - half_width, mean + half_width)

    def quantiles(c: Case, low: float, high: float) -> Tensor:
        return within(c.truth, *c.draws.quantile(torch.tensor([low, high]), dim=0))

    return {
        "Your interval goes from the quantile 1 - share to the quantile share. Half of what is left out lies "
        "on either side: (1 - share) / 2 and (1 + share) / 2.": lambda c: quantiles(c, 1 - c.share, c.share),
        "Your interval goes from share / 2 to 1 - share / 2: it holds 1 - share. Its lower end is "
        "(1 - share) / 2.": lambda c: quantiles(c, c.share / 2, 1 - c.share / 2),
        "Your interval leaves out the largest draws only. Central means: as many of the smallest too.": (
            lambda c: within(c.truth, -math.inf, c.draws.quantile(c.share, dim=0))
        ),
        "The lower end is missing: a true value below nearly all draws is not covered.": (
            lambda c: within(c.truth, -math.inf, c.high)
        ),
        "The upper end is missing: a true value above nearly all draws is not covered.": (
            lambda c: within(c.truth, c.low, math.inf)
        ),
        "Your interval lies about the mean, as many deviations wide as a normal density needs. Draws need "
        "not be normal: take their quantiles.": lambda c: about(
            c, math.sqrt(2) * torch.erfinv(torch.tensor(c.share)).item()
        ),
        "Your interval is the mean and one deviation to either side, whatever the share. Take quantiles of "
        "the draws.": lambda c: about(c, 1),
        "Your interval is the mean and two deviations to either side, whatever the share. Take quantiles of "
        "the draws.": lambda c: about(c, 2),
        "Your interval goes from the smallest draw to the largest. Take quantiles: share is not used.": (
            lambda c: within(c.truth, c.draws.amin(dim=0), c.draws.amax(dim=0))
        ),
    }


def wrong_axes() -> dict[str, Callable[[Case], Tensor]]:
    """Quantiles over something else than the draws of a pixel."""

    def along(c: Case, dim: int) -> Tensor:
        return within(c.truth, *c.draws.quantile(ends(c.share), dim=dim, keepdim=True))

    def of_photograph(c: Case) -> Tensor:
        each = c.draws.transpose(0, 1).flatten(start_dim=1)  # (N, S * 3 * 32 * 32)
        return within(c.truth, *each.quantile(ends(c.share), dim=1)[..., None, None, None])

    return {
        "You have one interval for everything. Each pixel of each photograph has its own: quantiles over the "
        "draws, dim=0.": lambda c: within(c.truth, *c.draws.flatten().quantile(ends(c.share))),
        "You have one interval for a photograph. Each of its pixels has its own: quantiles over the draws, "
        "dim=0.": of_photograph,
        "Your quantiles are over the photographs. The draws are the first axis: dim=0.": lambda c: along(
            c, 1
        ),
        "Your quantiles are over the colours. The draws are the first axis: dim=0.": lambda c: along(c, 2),
        "Your quantiles are over the pixels of a row. The draws are the first axis: dim=0.": (
            lambda c: along(c, -1)
        ),
    }


def wrong_counts() -> dict[str, Callable[[Case], Tensor]]:
    """The right interval, and another count."""

    def inside(c: Case) -> Tensor:
        return is_within(c.truth, c.low, c.high)

    return {
        "That is the part that lies outside. Turn it round.": lambda c: 1 - within(c.truth, c.low, c.high),
        "You count the draws that lie within, which are about the share by construction. Count the true "
        "values.": lambda c: within(c.draws, c.low, c.high),
        "You average over the photographs as well. Each has a coverage of its own.": lambda c: inside(
            c
        ).mean(),
        "You have a coverage for each colour. Average over the colours too.": lambda c: inside(c).mean(
            dim=(2, 3)
        ),
        "You average over the photographs, pixel by pixel. Average over the pixels of each photograph.": (
            lambda c: inside(c).mean(dim=0)
        ),
        "That says of each pixel whether it is covered. Average over those of each photograph.": inside,
        "You count pixels. Divide by how many there are: the mean, not the sum.": lambda c: inside(c).sum(
            dim=(1, 2, 3)
        ),
        "Those are per cent. share is a part of 1, so return one.": lambda c: (
            100 * within(c.truth, c.low, c.high)
        ),
        "You return how far the coverage is from the share. Return the coverage.": lambda c: (
            within(c.truth, c.low, c.high) - c.share
        ),
        "That is how much of the draws is below the truth, on average. Count the true values within the "
        "interval.": lambda c: (c.draws < c.truth).float().mean(dim=(0, 2, 3, 4)),
    }
