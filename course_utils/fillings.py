"""What the fillings of a hole are worth: how near the truth, of how many kinds, how well they fit in.

    truth      (N, 3, 32, 32)     what the hole held, in [0, 1]
    fillings   (S, N, 3, 32, 32)  S guesses at each

The hole only: over the whole photograph PSNR would be 6 dB higher, and SSIM mostly that of the untouched
border. As in `evaluate` one value per photograph comes back, and `mean_and_error` reduces, once. A function
that measures one filling, `(..., N, 3, 32, 32) -> (..., N)`, takes all S at once too.
"""

import copy
import functools
import math
from collections.abc import Callable, Collection, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.baselines import harmonic, residual_bits
from course_utils.distributions import LEVELS
from course_utils.evaluate import Estimate, bits_per_dim, bound_over, evaluating, mean_and_error
from course_utils.holes import pasted
from course_utils.models.common import centre
from course_utils.objectives import Elbo, hole_bound

LEVEL = 1 / (LEVELS - 1)  # one grey level
CHUNK = 16  # photographs at a time, each with all its draws


# Filling holes -----------------------------------------------------------------------------------


def fillings_of(
    model: nn.Module,
    x: Tensor,
    n_draws: int,
    *,
    vary: Collection[int] | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Tensor:
    """What a model with `complete(x, n_draws, vary)` puts in the holes: (N, 7, 64, 64) -> (S, N, 3, 32, 32).

    The means of p(x|z), on the CPU; only the latent layers in `vary`, by default all, are drawn. Another
    `chunk` gives other noise of the same kind, and other statistics to a batch norm that reads the batch.
    """
    device, parts = next(model.parameters()).device, []
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        for some in x.split(chunk):
            drawn = model.complete(some.to(device), n_draws, vary)  # (S * B, 3, 32, 32), draw by draw
            parts.append(drawn.unflatten(0, (n_draws, len(some))).cpu())
    return torch.cat(parts, dim=1)


def full_draws_of(model: nn.Module, x: Tensor, n_draws: int, *, seed: int = 0, chunk: int = CHUNK) -> Tensor:
    """The same with the noise of p(x|z): what the model says the pixels are, rather than a picture to show.

    A copy of the model does it, whose likelihood gives a draw where `complete` asks for the mean.
    """
    model = copy.deepcopy(model)
    model.likelihood.mean = model.likelihood.sample
    return fillings_of(model, x, n_draws, seed=seed, chunk=chunk)


# Near the truth? ---------------------------------------------------------------------------------


def hole_psnr(truth: Tensor, filling: Tensor) -> Tensor:
    """-10 log10 of the mean squared error of each filling: (..., N, 3, 32, 32) -> (..., N) dB.

    At most 58.9 dB: an error of 1/12 grey level squared is that of rounding to whole levels, and what is
    nearer is the same picture. The mean of this over photographs is above the PSNR of the pooled error: say
    which. One sample's is `hole_psnr(truth, fillings).mean(dim=0)`, what a draw is expected to have; that of
    the mean of all S is `hole_psnr(truth, fillings.mean(dim=0))`.
    """
    error = (filling - truth).square().flatten(start_dim=-3).mean(dim=-1)
    return -10 * torch.log10(error.clamp(min=LEVEL**2 / 12))


def hole_ssim(truth: Tensor, filling: Tensor) -> Tensor:
    """Structural similarity of each filling, 1 for the truth itself: (..., N, 3, 32, 32) -> (..., N).

    Wang et al. 2004: the mean over the Gaussian windows of 11x11 that lie in the hole, and over the colours.
    torchmetrics' own mean counts windows across the edge too, over mirror images: they are half of a hole's
    windows, and a smooth fill gains by them.
    """
    # Here, because torchmetrics loads matplotlib and takes seconds to do it; training needs neither.
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    def windows(one: Tensor) -> Tensor:
        whole = ssim(one, truth, reduction="none", data_range=1.0, return_full_image=True)[1]
        return whole[..., 5:-5, 5:-5].mean(dim=(1, 2, 3))

    each = [windows(one) for one in filling.reshape(-1, *truth.shape)]
    return torch.stack(each).reshape(filling.shape[:-3])


def best_so_far(truth: Tensor, fillings: Tensor) -> Tensor:
    """PSNR of the best of the first k, for k = 1 to S: (S, N) dB, of which row k - 1 is best-of-k.

    It grows with k whatever the samples are: set it beside that of the two controls.
    """
    return hole_psnr(truth, fillings).cummax(dim=0).values


def noise_control(fillings: Tensor, *, seed: int = 0) -> Tensor:
    """White noise about the same mean filling, of the samples' variance in each photograph: as `fillings`.

    Samples that are no more than noise are as good as these. A weak control: so many independent errors
    average out, and the best of k is hardly better than the first. Nothing is clamped to [0, 1].
    """
    noise = torch.randn(fillings.shape, generator=torch.Generator().manual_seed(seed)).to(fillings)
    return fillings.mean(dim=0) + spread(fillings) * (noise - noise.mean(dim=0))


def borrowed_control(fillings: Tensor) -> Tensor:
    """What the samples of the photograph before differ by, about this one's mean filling: as `fillings`.

    Scaled to this one's variance. They vary as much and as smoothly, but know nothing of this photograph:
    samples must be better than these to say something of its hole beyond their mean.
    """
    mean, own = fillings.mean(dim=0), spread(fillings)
    others = ((fillings - mean) / own.clamp(min=1e-9)).roll(1, dims=1)
    return mean + own * others


def spread(fillings: Tensor) -> Tensor:
    """The standard deviation over the draws, root mean square over the numbers of a hole: (N, 1, 1, 1)."""
    return fillings.var(dim=0).mean(dim=(1, 2, 3), keepdim=True).sqrt()


def paired(a: Tensor, b: Tensor) -> Estimate:
    """How much more a has than b, with the error of the difference on the same photographs: (N,) twice.

    Photographs differ by more than methods do, and in both alike, which a difference is free of. Raises
    ValueError if the two are not rows of the same length.
    """
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"give two rows of one value per photograph, not {tuple(a.shape)}, {tuple(b.shape)}")
    return mean_and_error(a.double() - b.double())


# Of how many kinds? ------------------------------------------------------------------------------


def diversity(fillings: Tensor) -> Tensor:
    """How far samples lie from their mean: (S, N, 3, 32, 32) -> (N,) grey levels, S at least 2.

    The standard deviation over the draws, root mean square over the hole's numbers.
    """
    return spread(fillings).flatten() / LEVEL


BANDS = (0, 1, 2, 4, 8, 16)  # where each begins; r is a wave of 64 / r pixels, 0 the mean of the hole
# Luminance, red against green, blue against both: at right angles and of length 1, so variances add up.
OPPONENT = torch.tensor([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]])
OPPONENT = OPPONENT / OPPONENT.norm(dim=1, keepdim=True)


@functools.cache
def cosines(side: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) of a row: (side, side), frequency by place."""
    place, frequency = torch.arange(side) + 0.5, torch.arange(side)[:, None]
    waves = math.sqrt(2 / side) * torch.cos(math.pi / side * frequency * place)
    waves[0] /= math.sqrt(2)
    return waves


def band_variance(fillings: Tensor) -> Tensor:
    """How samples differ from their mean, coarse or fine, light or colour: (S, N, 3, 32, 32) -> (N, 2, 6).

    The variance of a number of the hole in grey levels squared, as a sum over luminance and chroma, and over
    frequencies sqrt(u² + v²) of the cosine transform from each of BANDS to the next. All twelve add up to
    `diversity` squared. With fillings whose draws vary in one layer only, it says what that layer carries.
    """
    n, side = fillings.shape[1], fillings.shape[-1]
    opponent = torch.einsum("kc,sncij->snkij", OPPONENT.to(fillings), fillings)
    waves = cosines(side).to(fillings)
    variance = (waves @ opponent @ waves.T).var(dim=0)  # (N, 3, 32, 32), frequency by frequency
    along = torch.arange(side, device=fillings.device)
    radius = torch.hypot(along[:, None].float(), along.float()).flatten()
    starts = torch.tensor(BANDS, device=fillings.device)
    band = torch.bucketize(radius, starts, right=True) - 1  # (1024,)
    sums = torch.zeros(n, 3, len(BANDS)).to(fillings).index_add_(2, band, variance.flatten(start_dim=2))
    light, *colours = sums.unbind(dim=1)
    return torch.stack([light, sum(colours)], dim=1) / (fillings[0, 0].numel() * LEVEL**2)


def border_share(x: Tensor, fillings: Tensor) -> Tensor:
    """How much of what samples differ by is that the border's colours run further inwards, or less far.

    x (N, 7, 64, 64), (S, N, 3, 32, 32) -> (N,), 0 to 1. A sample's difference from the mean is compared with
    the smooth fill less its mean colour, times a free number for each of the 16 distances from the rim. What
    any pattern would explain by chance is `border_share(x.roll(1, 0), fillings)`.
    """
    smooth = harmonic(x)
    pattern = smooth - smooth.mean(dim=(2, 3), keepdim=True)
    side = smooth.shape[-1]
    near = torch.minimum(torch.arange(side), torch.arange(side).flip(0)).to(x.device)
    ring = F.one_hot(torch.minimum(near[:, None], near)).to(x)  # (32, 32, 16)
    difference = fillings - fillings.mean(dim=0)
    along = torch.einsum("sncij,ncij,ijr->snr", difference, pattern, ring)
    length = torch.einsum("ncij,ijr->nr", pattern.square(), ring).clamp(min=1e-9)
    explained = (along.square() / length).sum(dim=(0, 2))
    return explained / difference.square().sum(dim=(0, 2, 3, 4)).clamp(min=1e-9)


# Calibrated, and without a seam? -----------------------------------------------------------------


def coverage(truth: Tensor, draws: Tensor, share: float) -> Tensor:
    """The part of the true pixel values within the central interval that is to hold this share: (N,).

    `draws` (S, N, 3, 32, 32) are full ones, of `full_draws_of`: means of p(x|z) lack its noise. Among S draws
    a true value has one of S + 1 places, each as likely if the model is right; it counts as far as its place
    lies within the interval, and equal grey levels share theirs. So a right model has `share` whatever S is.
    But the outermost place holds all that lies beyond the draws: it takes 100 of them to judge 95 %.
    """
    # Whole levels, since the same level may differ in its last bit between two machines, and ties count here.
    levels, true = (draws / LEVEL).round(), (truth / LEVEL).round()
    below, same = (levels < true).sum(dim=0), (levels == true).sum(dim=0)
    first, last = below / (len(draws) + 1), (below + same + 1) / (len(draws) + 1)
    common = last.clamp(max=0.5 + share / 2) - first.clamp(min=0.5 - share / 2)
    return (common.clamp(min=0) / (last - first)).flatten(start_dim=1).mean(dim=1)


def seam_ratio(x: Tensor, filling: Tensor) -> Tensor:
    """The step across the hole's edge over the steps next to it: (..., N, 3, 32, 32) -> (..., N).

    x is (N, 7, 64, 64), or its photographs alone. A step is the mean absolute difference of two neighbours at
    right angles to the edge, next to it those just inside and just outside. The photograph's own ratio, about
    1, is `seam_ratio(x, centre(x[:, :3]))`; a seam is above it, a blur that begins at the rim below. One grey
    level is added to both, or an even sky would divide by 0.
    """
    side = x.shape[-1]
    picture = pasted(x[:, :3].expand(*filling.shape[:-3], 3, side, side), filling)
    edge, along = side // 4, slice(side // 4, 3 * side // 4)
    turns = [picture, picture.flip(-2), picture.mT, picture.mT.flip(-2)]  # another of the sides on top
    lines = torch.cat([turn[..., edge - 2 : edge + 2, along] for turn in turns], dim=-1)  # (..., 3, 4, 128)
    outside, across, inside = lines.diff(dim=-2).abs().mean(dim=(-3, -1)).unbind(dim=-1)
    return (across + LEVEL) / (0.5 * (outside + inside) + LEVEL)


# All of it ----------------------------------------------------------------------------------------

Measurement = tuple[Estimate, str, str]  # value, metric, unit, as the ledger wants them


def bounds_of(
    model: nn.Module,
    x: Tensor,
    *,
    seed: int = 0,
    chunk: int = CHUNK,
    objective: Callable[[nn.Module, Tensor], Elbo] = hole_bound,
) -> Elbo:
    """The bound of each hole at one draw of its latents, on the CPU: log_px (N,), kl (N, L)."""
    device = next(model.parameters()).device
    return bound_over(model, (some.to(device) for some in x.split(chunk)), objective, seed)


def measured_bound(
    model: nn.Module, x: Tensor, suffix: str = "", chunk: int = CHUNK
) -> Iterator[Measurement]:
    """What each layer costs, on average and the dearest hole, and the price of the hole, which comes last.

    `suffix` ends the names of the metrics, to tell other pictures or another `chunk` apart.
    """
    bound = bounds_of(model, x, chunk=chunk)
    for layer, kl in enumerate(bound.kl.T, start=1):
        yield mean_and_error(kl), f"kl_layer_{layer}{suffix}", "nats/image"
        yield Estimate(kl.max().item(), 0.0, len(kl)), f"kl_max_layer_{layer}{suffix}", "nats/image"
    bits = bits_per_dim(-bound.value(), centre(x[0, :3]).numel())
    yield mean_and_error(bits), f"hole_bits_per_dim{suffix}", "bits/dim"


def measured_guess(x: Tensor, filling: Tensor, log_scale: Tensor) -> Iterator[Measurement]:
    """A single guess (N, 3, 32, 32): its PSNR, that above the smooth fill's, SSIM, seam, and its price.

    `log_scale` is that of `baselines.fitted_log_scale`.
    """
    truth, smooth = centre(x[:, :3]), harmonic(x)
    psnr = hole_psnr(truth, filling)
    yield mean_and_error(psnr), "hole_psnr_single", "dB"
    yield paired(psnr, hole_psnr(truth, smooth)), "gain_single", "dB above harmonic"
    yield mean_and_error(hole_ssim(truth, filling)), "hole_ssim", "SSIM"
    yield mean_and_error(seam_ratio(x, filling)), "seam_ratio", "ratio"
    yield mean_and_error(residual_bits(truth, filling, log_scale)), "hole_bits_per_dim", "bits/dim"


def measured(
    model: nn.Module, x: Tensor, n_draws: int = 32, n_full: int = 100, chunk: int = CHUNK
) -> Iterator[Measurement]:
    """A model with latents: its samples, the mean of `n_draws` and the best of ten; its bound by layers.

    `n_full` draws with the noise of the pixels are for the coverage of its intervals.
    """
    truth = centre(x[:, :3])
    smooth = hole_psnr(truth, harmonic(x))
    drawn = fillings_of(model, x, n_draws, chunk=chunk)
    each = hole_psnr(truth, drawn)
    single, mean = each.mean(dim=0), hole_psnr(truth, drawn.mean(dim=0))
    best = best_so_far(truth, drawn)[9]
    yield mean_and_error(single), "hole_psnr_single", "dB"
    yield mean_and_error(mean), f"hole_psnr_mean{n_draws}", "dB"
    yield mean_and_error(best), "hole_psnr_best10", "dB"
    yield paired(single, smooth), "gain_single", "dB above harmonic"
    yield paired(mean, smooth), f"gain_mean{n_draws}", "dB above harmonic"
    yield paired(best, single), "gain_best10", "dB above one sample"
    for control, name in ((noise_control(drawn), "noise"), (borrowed_control(drawn), "borrowed")):
        gain = paired(best_so_far(truth, control)[9], hole_psnr(truth, control).mean(dim=0))
        yield gain, f"gain_best10_{name}", "dB above one sample"
    yield mean_and_error(diversity(drawn)), "diversity", "grey levels"
    yield mean_and_error(hole_ssim(truth, drawn[0])), "hole_ssim", "SSIM"
    yield mean_and_error(seam_ratio(x, drawn[0])), "seam_ratio", "ratio"
    full = full_draws_of(model, x, n_full, chunk=chunk)
    for share in (0.5, 0.8, 0.95):
        covered = mean_and_error(coverage(truth, full, share))
        yield covered, f"coverage_{100 * share:.0f}", "share"
    yield from measured_bound(model, x, chunk=chunk)


def measured_layers(
    model: nn.Module, x: Tensor, n_draws: int = 12, chunk: int = CHUNK
) -> Iterator[Measurement]:
    """What each layer decides, if it alone is drawn; "layer_1" is the one next to the pixels."""
    for level in range(len(model.stages)):
        drawn = fillings_of(model, x, n_draws, vary={level}, chunk=chunk)
        yield from variation(x, drawn, f"layer_{level + 1}")


def variation(x: Tensor, fillings: Tensor, name: str) -> Iterator[Measurement]:
    """How much fillings (S, N, 3, 32, 32) differ, and the shares of that which are of one kind.

    Coarse are waves longer than 16 pixels, fine those of 8 and shorter; `border` is that the border's colours
    run further inwards, or less far, `border_chance` what another photograph's border would explain.
    """
    light, colour = band_variance(fillings).unbind(dim=1)  # (N, bands)
    both = light + colour
    parts = {"coarse": both[:, :3], "middle": both[:, 3:4], "fine": both[:, 4:], "colour": colour}
    whole = both.sum(dim=1).clamp(min=1e-9)
    shares = {kind: part.sum(dim=1) / whole for kind, part in parts.items()}
    shares |= {"border": border_share(x, fillings), "border_chance": border_share(x.roll(1, 0), fillings)}
    yield mean_and_error(diversity(fillings)), f"{name}_spread", "grey levels"
    for kind, share in shares.items():
        yield mean_and_error(share), f"{name}_{kind}", "share"


def around(guess: Tensor, truth: Tensor) -> Tensor:
    """Two fillings (2, N, 3, 32, 32) whose spread is the error of the guess, for `variation` to look at."""
    error = (truth - guess) / math.sqrt(2)
    return torch.stack([guess - error, guess + error])
