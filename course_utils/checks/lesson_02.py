"""Checks of lesson 02: batch norm in training, its price in nats, its two modes; the gradients of 2015."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks.verdict import Verdict, judge, judge_each

H = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.4, -0.3], [-0.2, 1.1, 0.9], [0.7, 2.0, 0.1]])  # (B, D)
GAIN = torch.tensor([0.5, -1.5, 2.0])
BIAS = torch.tensor([0.3, 0.2, -1.0])


def check_batch_norm(normalise: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> Verdict:
    """normalise(h, gain, bias, eps): batch norm in training, (B, D), (D,), (D,) -> (B, D)."""
    eps = 0.1  # large, so that its place shows
    centred, var = H - H.mean(dim=0), H.var(dim=0, correction=0)
    normalised = centred / torch.sqrt(var + eps)
    along_features = (H - H.mean(dim=1, keepdim=True)) / torch.sqrt(
        H.var(1, correction=0, keepdim=True) + eps
    )
    of_all = (H - H.mean()) / torch.sqrt(H.var(correction=0) + eps)
    mistakes = {
        "You divide the sum of squares by B - 1 in the variance; while training, batch norm divides by B.": (
            centred / torch.sqrt(H.var(dim=0) + eps) * GAIN + BIAS
        ),
        "Your statistics are those of each image over its features: that is layer norm. Take the mean over "
        "the batch, the first axis.": along_features * GAIN + BIAS,
        "You use one mean and one variance for all features. Each feature has its own: only the first axis "
        "is averaged over.": of_all * GAIN + BIAS,
        "You divide by the variance; its root brings h to unit size.": centred / (var + eps) * GAIN + BIAS,
        "The gain and the bias are missing.": normalised,
        "The bias is missing.": normalised * GAIN,
        "That is the variant of 2015, (h - mean) / (std + eps). Today's adds eps to the variance, inside the "
        "root.": centred / (var.sqrt() + eps) * GAIN + BIAS,
        "The eps is missing: a feature that is the same for all images would give 0 / 0.": (
            centred / var.sqrt() * GAIN + BIAS
        ),
        "The mean is not subtracted.": H / torch.sqrt(var + eps) * GAIN + BIAS,
    }
    praise = "Whatever the weights below, this layer's size is set by gain and bias alone."
    right = normalised * GAIN + BIAS
    return judge(lambda: normalise(H.clone(), GAIN.clone(), BIAS.clone(), eps), right, praise, mistakes)


def check_kl_floor(kl_floor: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """kl_floor(gain, bias): the least batch mean of KL(q(z|x) || N(0, I)) if mu comes out of a batch norm
    (Zhu et al. 2020), (D,), (D,) -> ()."""
    each = (GAIN**2 + BIAS**2) / 2
    mistakes = {
        "The bias is missing: it moves every mu away from 0, and that is paid for too.": (GAIN**2 / 2).sum(),
        "The gain is missing: the mean square of a normalised mu is gain^2 + bias^2.": (BIAS**2 / 2).sum(),
        "It is twice too large: a mu costs mu^2 / 2.": 2 * each.sum(),
        "You average over the latents. Their costs add up.": each.mean(),
        "That is the floor of each latent. One image pays for all of them: sum.": each,
        "You square the sum. Over the batch the cross term 2 * gain * bias * h has the mean 0.": (
            ((GAIN + BIAS) ** 2 / 2).sum()
        ),
        "The gain is not squared: it is a standard deviation, and the price is that of its square.": (
            (GAIN + BIAS**2) / 2
        ).sum(),
    }
    praise = "A fixed gain buys a code that cannot fall silent, at a price known before training."
    return judge(lambda: kl_floor(GAIN.clone(), BIAS.clone()), each.sum(), praise, mistakes)


def check_running_average(
    update: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]],
) -> Verdict:
    """update(running_mean, running_var, h, momentum): both after a batch h, (B, D) -> (D,), (D,)."""
    old_mean, old_var, momentum = torch.tensor([0.1, -0.4, 1.0]), torch.tensor([0.9, 2.0, 0.3]), 0.3
    mean, var = H.mean(dim=0), H.var(dim=0)

    def mixed(old: Tensor, new: Tensor, weight: float = momentum) -> Tensor:
        return (1 - weight) * old + weight * new

    right = {"The mean": mixed(old_mean, mean), "The variance": mixed(old_var, var)}
    new_mean, new_var = right.values()
    swapped = 1 - momentum
    mistakes = {
        "The momentum is the wrong way round: in torch it is the weight of the new batch.": (
            mixed(old_mean, mean, swapped),
            mixed(old_var, var, swapped),
        ),
        "You keep the variance that divides by B. Torch normalises with that one and keeps the one that "
        "divides by B - 1.": (new_mean, mixed(old_var, H.var(dim=0, correction=0))),
        "You average the standard deviation. Torch keeps the variance.": (
            new_mean,
            mixed(old_var, var.sqrt()),
        ),
        "You replace the old values. The batch at hand counts with weight momentum only.": (mean, var),
        "Only the mean is updated.": (new_mean, old_var),
        "Only the variance is updated.": (old_mean, new_var),
        "The two are exchanged: first the mean, then the variance.": (new_var, new_mean),
    }
    praise = "It forgets as it learns: the last batches count most, and their weights were not yet final."
    inputs = (old_mean.clone(), old_var.clone(), H.clone(), momentum)
    return judge(lambda: update(*inputs), right, praise, mistakes)


def check_fold(fold: Callable[..., tuple[Tensor, Tensor]]) -> Verdict:
    """fold(weight, bias, mean, var, gain, shift, eps): the one layer that equals Linear, then batch norm in
    evaluation: (n_out, n_in) and five of (n_out,) -> (n_out, n_in), (n_out,)."""
    weight = torch.tensor(
        [[0.5, -1.0, 0.3], [1.2, 0.4, -0.7], [-0.6, 0.8, 0.9]]
    )  # square: no shape gives away
    bias, mean = torch.tensor([0.2, -0.5, 1.0]), torch.tensor([0.7, 0.1, -0.4])
    var, eps = torch.tensor([0.5, 2.0, 1.3]), 0.1
    scale = GAIN / torch.sqrt(var + eps)
    new_weight, new_bias = scale[:, None] * weight, (bias - mean) * scale + BIAS
    steep = GAIN / (var + eps)
    mistakes = {
        "You scale the columns, which belong to the inputs. A unit's weights are a row: gain[:, None].": (
            weight * scale,
            new_bias,
        ),
        "The old bias is not scaled: it goes through the batch norm like everything else.": (
            new_weight,
            bias - mean * scale + BIAS,
        ),
        "The old bias is missing.": (new_weight, BIAS - mean * scale),
        "The mean is not subtracted.": (new_weight, bias * scale + BIAS),
        "The mean is subtracted without being scaled.": (new_weight, bias * scale - mean + BIAS),
        "The shift of the batch norm is missing.": (new_weight, (bias - mean) * scale),
        "You divide by the variance, not by its root.": (
            steep[:, None] * weight,
            (bias - mean) * steep + BIAS,
        ),
        "The weight is unchanged: what batch norm multiplies, the new weight must multiply.": (
            weight,
            new_bias,
        ),
    }
    praise = "When testing, batch norm costs nothing: it is a linear layer, and melts into the one before it."
    inputs = (weight.clone(), bias.clone(), mean.clone(), var.clone(), GAIN.clone(), BIAS.clone(), eps)
    return judge(lambda: fold(*inputs), {"The weight": new_weight, "The bias": new_bias}, praise, mistakes)


def check_compressed_length(length: Callable[[float], float]) -> Verdict:
    """length(norm): that of a gradient of length n after g' = g * 5 / max(5, sqrt(n)), the rule of 2015."""
    cases = [(n,) for n in (1.0, 4.0, 16.0, 25.0, 100.0, 10_000.0)]
    mistakes = {
        "That is clipping to a length of at most 5, the final rule. The committed one compares the *root* of "
        "n with 5.": lambda n: min(n, 5.0),
        "That is 5 for every gradient: then its length would say nothing any more.": lambda n: 5.0,
        "That is the root of n. The gradient is n long before it is divided by it.": lambda n: math.sqrt(n),
        "Short gradients are left alone: up to n = 25 the max is 5 and the factor 1.": lambda n: (
            5 * math.sqrt(n)
        ),
        "The rule takes hold where the root of n exceeds 5, from n = 25 on; yours from n = 5 on.": lambda n: (
            n if n <= 5 else 5 * math.sqrt(n)
        ),
        "That is the factor. The length is the factor times n.": lambda n: 5 / max(5, math.sqrt(n)),
    }
    praise = "A gradient of 10,000 is still 500 long: compressed, not clipped: long steps stay long."
    return judge_each(length, cases, lambda n: n * 5 / max(5, math.sqrt(n)), praise, mistakes)
