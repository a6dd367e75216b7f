"""Checks of lesson 04: two densities merged, the price of each layer, its floor and warm-up; the clinic."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks.verdict import Verdict, judge, judge_each
from course_utils.distributions import normal_kl, per_image

MU_P, LOG_VAR_P = torch.tensor([[[0.5, -1.0, 2.0], [1.5, 0.4, -0.3]], [[0.2, -0.7, 1.1], [-1.3, 0.6, 0.3]]])
MU_E, LOG_VAR_E = torch.tensor([[[1.4, 0.8, -0.6], [1.1, -0.9, 0.7]], [[-0.9, 0.4, -0.2], [0.8, -0.5, 0.1]]])


def combined(power: float) -> tuple[Tensor, Tensor]:
    """The mean that the variances weigh to this power, and the sum of these weights."""
    weight_p, weight_e = torch.exp(power * LOG_VAR_P), torch.exp(power * LOG_VAR_E)
    return (weight_p * MU_P + weight_e * MU_E) / (weight_p + weight_e), weight_p + weight_e


def check_merge(merge: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Verdict:
    """merge(mu_p, log_var_p, mu_e, log_var_e) -> (mu, log_var) of the product of two normal densities,
    normalised; all of shape (B, D)."""
    (mu, precision), (swapped, sum_of_variances), (middle, _) = combined(-1), combined(1), combined(0)
    log_var, sum_log_var = -precision.log(), sum_of_variances.log()
    (by_deviation, steepness), (by_square, squares) = combined(-0.5), combined(-2)
    mistakes = {
        "That is the evidence alone: the layer above has no say. So it is in mean-field.": (MU_E, LOG_VAR_E),
        "The means count alike. The surer one must count more: weigh by 1 / variance.": (middle, log_var),
        "The weights are swapped. Divide each mean by its *own* variance.": (swapped, log_var),
        "That is the sum of two random variables: means add, variances add. Here two densities of "
        "one variable are multiplied: precisions add.": (MU_P + MU_E, sum_log_var),
        "You add the variances. Two opinions are surer than one: precisions add.": (mu, sum_log_var),
        "You take exp(log_var) for a standard deviation, and square it. It is the variance.": (
            by_square,
            -squares.log() / 2,
        ),
        "You add 1 / standard deviation. What adds up is 1 / variance: exp(-log_var), without a half.": (
            by_deviation,
            -steepness.log(),
        ),
        "You return the log of the standard deviation: half the log-variance.": (mu, log_var / 2),
        "You return the log of the precision. That of the variance is minus it.": (mu, -log_var),
        "You return the precision. The variance is 1 / precision; return its log.": (mu, precision),
        "The log is missing: the second part is the log of the variance.": (mu, 1 / precision),
        "The mean is not normalised: multiply the sum by the new variance.": (mu * precision, log_var),
        "You average the precisions. They add up: each opinion is one more.": (mu, log_var + math.log(2)),
    }
    praise = "The surer of the two counts more, and together they are surer than either."
    inputs = [t.clone() for t in (MU_P, LOG_VAR_P, MU_E, LOG_VAR_E)]
    right = {"The mean": mu, "The log-variance": log_var}
    return judge(lambda: merge(*inputs), right, praise, mistakes)


def check_layer_kl(layer_kl: Callable[[list, list], Tensor]) -> Verdict:
    """layer_kl(q, p): the KL of each layer, from lists of (mu, log_var), each (B, D_l), bottom first
    -> (B, L)."""
    generator = torch.Generator().manual_seed(4)
    q, p = [[torch.randn(2, 2, d, generator=generator).unbind() for d in (4, 3, 2)] for _ in range(2)]
    p[2] = (torch.zeros(2, 2), torch.zeros(2, 2))
    each = [normal_kl(*a, *b) for a, b in zip(q, p, strict=True)]
    right = torch.stack([per_image(kl) for kl in each], dim=1)
    standard = [per_image(normal_kl(*a, *torch.zeros(2, 1, 1))) for a in q]
    mistakes = {
        "Each layer is compared with N(0, I). That is the prior of the top alone: the others have the one "
        "that the layer above sets, p[l].": torch.stack(standard, dim=1),
        "You sum over the layers: then no one can see which of them pays. One column a layer.": right.sum(1),
        "You average over the latents of a layer. Their costs add up.": torch.stack(
            [kl.mean(dim=1) for kl in each], dim=1
        ),
        "The top layer comes first. z[0], next to the pixels, is the first column.": right.flip(1),
        "q and p are swapped. The expectation is taken under q: its variance stands on top.": torch.stack(
            [per_image(normal_kl(*b, *a)) for a, b in zip(q, p, strict=True)], dim=1
        ),
        "The layers are the rows. An image is a row, a layer a column: stack along dim=1.": right.T,
        "You average over the batch. Each image pays a price of its own.": right.mean(dim=0),
        "It is twice too large: the factor 1/2 is missing.": 2 * right,
        "That is the price of the bottom layer alone.": right[:, :1],
    }
    praise = "The bill, item by item: a layer whose column is 0 for all images says nothing of any of them."
    given = [[(mu.clone(), log_var.clone()) for mu, log_var in pairs] for pairs in (q, p)]
    return judge(lambda: layer_kl(*given), right, praise, mistakes)


def check_free_bits(price: Callable[[Tensor, float], Tensor]) -> Verdict:
    """price(kl, free_bits): the sum over the layers of what each pays, the batch mean of its KL, but at least
    free_bits; (B, L) -> ()."""
    kl = torch.tensor([[3.0, 0.9, 0.02], [0.4, 0.1, 0.1], [1.7, 0.2, 0.0], [0.2, 0.3, 0.04]])
    batches, floor = {"Where one layer is above the floor": kl, "Where all are below": kl / 20}, 0.5
    wrong = {
        "You hold each image to the floor, then average. The floor is for the mean over the batch: an image "
        "may pay less if others pay more.": lambda kl: kl.clamp(min=floor).mean(dim=0).sum(),
        "You hold the sum over the layers to the floor. One busy layer then pays for all, and the others may "
        "fall silent: each layer has a floor of its own.": lambda kl: kl.sum(1).mean().clamp(min=floor),
        "You take the smaller of the two: that is a ceiling. A layer pays *at least* free_bits.": lambda kl: (
            kl.mean(dim=0).clamp(max=floor).sum()
        ),
        "The floor is not paid: you charge only what exceeds it. The gradient is the same, but the price is "
        "below the KL, and the loss then promises more than the bound does.": lambda kl: (
            (kl.mean(dim=0) - floor).relu().sum()
        ),
        "You average over the layers. An image is coded by all of them: their prices add up.": lambda kl: (
            kl.mean(dim=0).clamp(min=floor).mean()
        ),
        "That is the price of each layer. Add them up.": lambda kl: kl.mean(dim=0).clamp(min=floor),
        "The floor is missing: that is the KL.": lambda kl: kl.sum(dim=1).mean(),
        "You add the floor to each KL. It takes the place of a KL that is smaller.": lambda kl: (
            kl.mean(dim=0) + floor
        ).sum(),
        "You sum over the batch. The price is that of one image: average over the first axis.": lambda kl: (
            kl.sum(dim=0).clamp(min=floor).sum()
        ),
        "A layer below the floor pays nothing with you. It pays the floor, or its price would jump at it.": (
            lambda kl: torch.where(kl.mean(dim=0) > floor, kl.mean(dim=0), 0.0).sum()
        ),
    }
    right = {text: kl.mean(dim=0).clamp(min=floor).sum() for text, kl in batches.items()}
    mistakes = {text: tuple(f(kl) for kl in batches.values()) for text, f in wrong.items()}
    praise = "Below the floor a layer gains nothing by falling. The bound that you report has the true KL."
    return judge(lambda: [price(kl.clone(), floor) for kl in batches.values()], right, praise, mistakes)


def one_after_the_other(progress: float, n_layers: int) -> list[float]:
    """beta of each layer, the bottom first, when this share of the warm-up is over."""
    return [min(max(n_layers * progress - level, 0.0), 1.0) for level in range(n_layers)]


def check_warm_up_from_below(betas: Callable[[int, int, int], list[float] | Tensor]) -> Verdict:
    """betas(step, n_steps, n_layers): beta of each layer, the bottom first, as a list or a tensor: one layer
    after the other from 0 to 1, all of them within n_steps."""
    cases = [(0, 12, 3), (5, 12, 3), (8, 12, 4), (10, 13, 2), (11, 12, 3), (40, 12, 3)]
    mistakes = {
        "The top layer comes first. Begin with the one next to the pixels.": lambda s, n, k: (
            one_after_the_other((s + 1) / n, k)[::-1]
        ),
        "All layers rise at once. Let each wait until the one below it has arrived.": lambda s, n, k: (
            [min((s + 1) / n, 1.0)] * k
        ),
        "You are one step late: after step 0, one step has been taken, so count step + 1.": lambda s, n, k: (
            one_after_the_other(s / n, k)
        ),
        "beta rises beyond 1. Stop there: 1 is the bound.": lambda s, n, k: [
            max(k * (s + 1) / n - level, 0.0) for level in range(k)
        ],
        "beta is negative for a layer that waits: a KL would be paid out. Stop at 0.": lambda s, n, k: (
            [min(k * (s + 1) / n - level, 1.0) for level in range(k)]
        ),
        "beta is below 0 for layers that wait, above 1 for those that arrived: clamp it.": lambda s, n, k: (
            [k * (s + 1) / n - level for level in range(k)]
        ),
        "Each layer takes n_steps of its own. All of them together have n_steps.": lambda s, n, k: (
            one_after_the_other((s + 1) / n / k, k)
        ),
        "beta jumps from 0 to 1. Within its share of the steps it rises in a line.": lambda s, n, k: [
            float(k * (s + 1) / n >= level + 1) for level in range(k)
        ],
    }
    praise = "What a layer tells the one below lowers that one's price; while its own is 0, that is a gift."
    return judge_each(betas, cases, lambda s, n, k: one_after_the_other((s + 1) / n, k), praise, mistakes)


# The clinic --------------------------------------------------------------------------------------

ILLNESSES = ("collapsed layer", "overfitted", "batch norm in the wrong mode", "exploded variance")
COLLAPSED, OVERFITTED, WRONG_MODE, EXPLODED = ILLNESSES
CAUSES = {"A": OVERFITTED, "B": WRONG_MODE, "C": COLLAPSED, "D": EXPLODED}

# What in the blood count speaks against a diagnosis, without naming the right one.
AGAINST = {
    COLLAPSED: {
        "A": "a collapsed layer has a KL near 0 on both sets. Look at A's KL layer by layer.",
        "B": "a collapsed layer stays so, whichever statistics you take. Compare B's two columns of −ELBO.",
        "D": "a collapsed layer costs next to nothing. The layer of D that stands out costs too much.",
    },
    OVERFITTED: {
        "B": "an overfitted model does well on the digits it was trained on. Look at B's −ELBO on those.",
        "C": "overfitting is a gap between the two sets. Compare C's gap with the others'.",
        "D": "an overfitted model is at a loss on new digits only. D's KL is as odd on its training digits.",
    },
    WRONG_MODE: {
        "A": "then the statistics of the batch would cure it. Look at both −ELBO of A on the test digits.",
        "C": "then the statistics of the batch would change its −ELBO. Compare the two columns for C.",
        "D": "then the statistics of the batch would cure it. They do not heal D's −ELBO.",
    },
    EXPLODED: {
        "A": "an exploded variance is paid for on both sets. Look at A's −ELBO on the digits that it knows.",
        "B": "an exploded variance is in the weights, and no statistics of a batch heal it. Do they heal B?",
        "C": "an exploded variance makes its layer dear. Do C's layers stand out by costing too much?",
    },
}


def check_diagnosis(diagnosis: dict[str, str]) -> Verdict:
    """diagnosis: patient -> illness, for the patients "A" to "D" and the words of ILLNESSES."""
    words = ", ".join(f'"{illness}"' for illness in ILLNESSES)
    if not isinstance(diagnosis, dict):
        return Verdict(False, 'A dict is asked for: {"A": "...", "B": "...", "C": "...", "D": "..."}.')
    if strangers := [str(patient) for patient in diagnosis if patient not in CAUSES]:
        return Verdict(False, f"There is no patient {', '.join(strangers)}: they are {', '.join(CAUSES)}.")
    blank = [name for name in CAUSES if diagnosis.get(name) in (None, ..., "", "...")]
    if blank:
        return Verdict(False, f"No diagnosis yet of {', '.join(blank)}: choose from {words}.")
    said = {name: str(diagnosis[name]).strip().lower() for name in CAUSES}
    if unknown := [name for name in CAUSES if said[name] not in ILLNESSES]:
        named = ", ".join(f"{name}: {diagnosis[name]!r}" for name in unknown)
        return Verdict(False, f"Not an illness of this clinic: {named}. Choose from {words}.")
    wrong = [name for name in CAUSES if said[name] != CAUSES[name]]
    if not wrong:
        return Verdict(True, "Four illnesses, four numbers. Read the chart before you train again.")
    reasons = " ".join(f"{name}: {AGAINST[said[name]][name]}" for name in wrong)
    return Verdict(False, f"{len(CAUSES) - len(wrong)} of {len(CAUSES)} are right. {reasons}")
