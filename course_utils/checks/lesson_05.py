"""Checks of lesson 05: the cost with few labels, the price of a label, the sum of M2, a mixture; suspects."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks.verdict import Verdict, judge
from course_utils.distributions import normal_kl
from course_utils.models.common import N_CLASSES

LOG_10 = math.log(N_CLASSES)


def scores(n: int, seed: int) -> Tensor:
    """log q(y|x) of n images, none of them sure: (n, 10)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_CLASSES, generator=generator).mul(1.5).log_softmax(dim=1)


# The plan of 2015 ---------------------------------------------------------------------------------

LOG_PX = torch.tensor([-9.0, -7.5, -11.0, -8.2, -6.1, -10.4])
KL = torch.tensor([2.0, 3.1, 1.4, 2.7, 0.6, 4.0])
LABELS = torch.tensor([3, -1, 0, -1, -1, 7])


def check_cost(cost: Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]) -> Verdict:
    """cost(log_px, kl, log_q, labels, alpha): the batch mean of nll + KL, plus alpha times the mean of the
    softmax error over the images whose label is known, not -1; (B,), (B,), (B, 10), (B,) -> ()."""
    log_q, alpha, bound = scores(len(LABELS), seed=1), 2.5, (KL - LOG_PX).mean()
    known = LABELS >= 0
    error = -log_q[known, LABELS[known]]  # (n,)
    praise = "Without labels nll + KL alone is left, and every label adds what its own image says of it."
    mistakes = wrong_bounds(alpha * error.mean(), known) | wrong_errors(bound, log_q, error, alpha)
    mistakes["You return one number for each image. The optimiser needs one: average over the batch."] = (
        KL - LOG_PX + alpha * error.mean()
    )
    inputs = [t.clone() for t in (LOG_PX, KL, log_q, LABELS)]
    verdict = judge(lambda: cost(*inputs, alpha), bound + alpha * error.mean(), praise, mistakes)
    none = [t.clone() for t in (LOG_PX, KL, log_q)] + [torch.full_like(LABELS, -1)]
    empty = {
        "Right where labels are known. Where none is, your cost is nan, the mean of nothing: divide the sum "
        "by n.clamp(min=1), or leave the softmax error out if n is 0.": torch.tensor(math.nan),
        "Right where labels are known. Where none is, you return 0: nll + KL is still to be paid. Add to it "
        "only what labels add.": torch.zeros(()),
        "Right where labels are known. Where none is, -1 picks class 9: leave the softmax error out.": (
            bound - alpha * log_q[:, -1].mean()
        ),
    }
    return verdict and judge(lambda: cost(*none, alpha), {"Where no label is known": bound}, praise, empty)


def wrong_bounds(softmax_error: Tensor, known: Tensor) -> dict[str, Tensor]:
    """Costs with the right softmax error and a wrong nll + KL."""
    each = KL - LOG_PX
    return {
        "The KL has the wrong sign: codes would be paid to be expensive. Add it.": (
            (-LOG_PX - KL).mean() + softmax_error
        ),
        "nll + KL has the wrong sign: turn it round, a cost should fall. It is kl - log_px.": (
            (LOG_PX - KL).mean() + softmax_error
        ),
        "log_px has the wrong sign: the nll is -log_px.": (LOG_PX + KL).mean() + softmax_error,
        "The KL is missing: add it to the nll.": -LOG_PX.mean() + softmax_error,
        "The nll is missing: add -log_px. Nothing would ask for a likeness.": KL.mean() + softmax_error,
        "nll + KL is averaged over the labelled images only. It needs no label: take all of the batch.": (
            each[known].mean() + softmax_error
        ),
        "nll + KL is averaged over the unlabelled images only. The labelled are images too: take all.": (
            each[~known].mean() + softmax_error
        ),
        "You sum nll + KL over the batch: then alpha means something else in each batch size. Average.": (
            each.sum() + softmax_error
        ),
    }


def wrong_errors(bound: Tensor, log_q: Tensor, error: Tensor, alpha: float) -> dict[str, Tensor]:
    """Costs with the right nll + KL and a wrong softmax error, or both wrong."""
    n, rows, known = len(LABELS), torch.arange(len(LABELS)), LABELS >= 0
    of_label, positive = log_q[known, LABELS[known]], LABELS > 0
    return {
        "You divide the softmax error by the size of the batch. It is the mean over those whose label is "
        "known: divide by their number.": bound + alpha * error.sum() / n,
        "Images without a label count as well: the index -1 picks the last class, a nine. Choose the images "
        "with labels >= 0 first.": bound - alpha * log_q[rows, LABELS].mean(),
        "You leave class 0 out. Zeros are known too: the indicator is labels >= 0.": (
            bound - alpha * log_q[positive, LABELS[positive]].mean()
        ),
        "The softmax error has the wrong sign: it is -log q(y|x), which falls as the classifier learns.": (
            bound - alpha * error.mean()
        ),
        "You take the probability. The softmax error is -log q: use log_q as it is, without exp.": (
            bound - alpha * of_label.exp().mean()
        ),
        "You take 1 - q. The softmax error is -log q: use log_q as it is, without exp.": (
            bound + alpha * (1 - of_label.exp()).mean()
        ),
        "You take the log of a softmax of probabilities. log_q holds logs already: leave the exp out.": (
            bound - alpha * log_q.exp().log_softmax(dim=1)[known, LABELS[known]].mean()
        ),
        "alpha is forgotten: multiply the softmax error by it.": bound + error.mean(),
        "alpha multiplies everything. It weighs the softmax error alone.": alpha * (bound + error.mean()),
        "alpha multiplies nll + KL. It weighs the softmax error alone.": alpha * bound + error.mean(),
        "You sum the softmax error over the labelled images. Take its mean.": bound + alpha * error.sum(),
        "You sum over the batch, twice: then the step size depends on its size. Take means.": (
            n * bound + alpha * error.sum()
        ),
        "The softmax error is averaged over the classes too. Of each image, take that of its label.": (
            bound + alpha * error.mean() / N_CLASSES
        ),
        "That is the entropy of q(y|x), how unsure it is. The error asks for the label: pick log_q there.": (
            bound - alpha * (log_q.exp() * log_q).sum(dim=1)[known].mean()
        ),
        "The softmax error is missing: that is the cost of lesson 01. Add alpha times it.": bound,
    }


# The price of a label -----------------------------------------------------------------------------


def check_label_kl(label_kl: Callable[[Tensor], Tensor]) -> Verdict:
    """label_kl(log_q): KL( q(y|x) || uniform ) of each image, (B, 10) -> (B,) nats."""
    log_q = scores(4, seed=2)
    q, negative_entropy = log_q.exp(), (log_q.exp() * log_q).sum(dim=1)
    each = q * (log_q + LOG_10)
    right, reverse = each.sum(dim=1), (-LOG_10 - log_q).mean(dim=1)
    mistakes = {
        "That is the entropy, what q(y|x) leaves open. The price is what it says: log 10 minus that.": (
            -negative_entropy
        ),
        "log 10 is missing: that is minus the entropy. A uniform q must cost 0, so add log 10.": (
            negative_entropy
        ),
        "The sign is turned round: a KL divergence is never negative. Take log q - log p.": -right,
        "That is KL(uniform || q). The mean is taken under q: weigh by q, not by 1/10. (F.kl_div takes "
        "log q first and weighs by its second argument.)": reverse,
        "You average over the classes. The weights q add up to 1 already: sum.": right / N_CLASSES,
        "You average q log q over the classes and add log 10. The weights q add up to 1: sum.": (
            LOG_10 + negative_entropy / N_CLASSES
        ),
        "Those are bits. Here all is in nats: use the natural log.": right / math.log(2),
        "math.log10(10) is 1. In nats log 10 is math.log(10) = 2.30.": 1 + negative_entropy,
        "math.log2(10) is in bits, log_q in nats: use math.log(10).": math.log2(10) + negative_entropy,
        "You add log 10 once for each class. Weighed by q it counts once: set brackets, or add it after the "
        "sum.": N_CLASSES * LOG_10 + negative_entropy,
        "That is the cross-entropy, -sum q log p, the same for every image. The term q log q is missing.": (
            torch.full_like(right, LOG_10)
        ),
        "You weigh by log q. The weights are the probabilities: log_q.exp().": (
            (log_q * (log_q + LOG_10)).sum(dim=1)
        ),
        "That is one number for each class. An image pays for all of them: sum over the last axis.": each,
        "You sum over the batch. The classes are the last axis: dim=1.": each.sum(dim=0),
        "You sum over the batch as well. Keep one number for each image.": right.sum(),
        "You average over the batch as well. Keep one number for each image.": right.mean(),
    }
    praise = "From 0, where q knows nothing, to log 10 = 2.30 nats, where it is sure."
    return judge(lambda: label_kl(log_q.clone()), right, praise, mistakes)


# M2 -----------------------------------------------------------------------------------------------


def check_exact_sum(exact_sum: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """exact_sum(log_px, kl, log_q): the bound of M2 of images without a label, from log p(x|y, z), the KL of
    q(z|x, y) and log q(y|x) for each class; (B, 10) three times -> (B,) nats."""
    generator = torch.Generator().manual_seed(3)
    log_px, kl = torch.randn(2, 4, N_CLASSES, generator=generator).mul(1.5).abs()
    log_px, log_q = -4 - log_px, scores(4, seed=3)
    q = log_q.exp()
    right = (q * (log_px - kl - log_q)).sum(dim=1) - LOG_10
    inputs = [t.clone() for t in (log_px, kl, log_q)]
    praise = "Ten decoders, no draw of y: the classifier learns from what each class would have cost."
    mistakes = wrong_weights(log_px, kl, log_q) | wrong_prices(log_px, kl, log_q)
    mistakes |= {
        "You turn the sign: that is the cost. Return the bound, which should rise.": -right,
        "You average over the batch as well. Keep one number for each image.": right.mean(),
        "You sum over the batch as well. Keep one number for each image.": right.sum(),
        "That is one term for each class. An image has one bound: sum over the last axis.": (
            q * (log_px - kl - log_q - LOG_10)
        ),
    }
    return judge(lambda: exact_sum(*inputs), right, praise, mistakes)


def wrong_weights(log_px: Tensor, kl: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    """Bounds with the right price of the label, and the classes wrongly weighed."""
    q, each = log_q.exp(), log_px - kl
    price = LOG_10 + (q * log_q).sum(dim=1)  # of the label
    best = log_q.argmax(dim=1, keepdim=True)
    return {
        "All classes count alike with you. Weigh each by what the classifier gives it, q(y|x).": (
            each.mean(dim=1) - price
        ),
        "You take the most likely class only. M2 sums over all ten, each weighed by q(y|x).": (
            each.gather(1, best).squeeze(1) - price
        ),
        "The classes are added without weights. Weigh each by q(y|x).": each.sum(dim=1) - price,
        "You weigh by log q. The weights are the probabilities: log_q.exp().": (
            (log_q * each).sum(dim=1) - price
        ),
        "The KL has the wrong sign: the code has its price. Subtract it.": (
            (q * (log_px + kl)).sum(dim=1) - price
        ),
        "The KL of the code is missing: subtract it in each class.": (q * log_px).sum(dim=1) - price,
        "The KLs are added without weights. Only the code of the class that is drawn is paid: weigh by "
        "q(y|x).": (q * log_px).sum(dim=1) - kl.sum(dim=1) - price,
        "The KLs are averaged without weights. Only the code of the class that is drawn is paid: weigh by "
        "q(y|x).": (q * log_px).sum(dim=1) - kl.mean(dim=1) - price,
        "That is a logsumexp: the bound with the best q(y|x) that there could be. Here the classifier's own "
        "is asked for: weigh by q(y|x) and add its entropy.": torch.logsumexp(each, dim=1) - LOG_10,
        "You take the log of a mean. The bound is the mean of logs: weigh log_px - kl by q(y|x).": (
            torch.logsumexp(log_q + each, dim=1) - price
        ),
    }


def wrong_prices(log_px: Tensor, kl: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    """Bounds with the classes rightly weighed, and the wrong price of the label."""
    q = log_q.exp()
    expected, entropy = (q * (log_px - kl)).sum(dim=1), -(q * log_q).sum(dim=1)
    return {
        "The entropy is missing: a q(y|x) that leaves the label open pays less for it. Add H(q).": (
            expected - LOG_10
        ),
        "The entropy has the wrong sign: being unsure is what saves nats. Add it.": (
            expected - entropy - LOG_10
        ),
        "log 10 is missing: a label that is sure costs log 10 nats. Subtract it.": expected + entropy,
        "log 10 has the wrong sign: log p(y) = -log 10. Subtract it.": expected + entropy + LOG_10,
        "The price of the label is missing: add H(q) - log 10.": expected,
        "The entropy is a sum with weights: -sum q log q. Yours lacks the q.": (
            expected - log_q.sum(dim=1) - LOG_10
        ),
        "The entropy is averaged over the classes. Its weights q add up to 1 already: sum.": (
            expected + entropy / N_CLASSES - LOG_10
        ),
        "You subtract log 10 once for each class. Weighed by q it counts once: take it out of the sum.": (
            expected + entropy - N_CLASSES * LOG_10
        ),
        "math.log10(10) is 1. In nats log 10 is math.log(10) = 2.30.": expected + entropy - 1,
    }


# A prior with a part for each class ---------------------------------------------------------------


def check_prices(prices: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Verdict:
    """prices(mu, log_var, mu_y, log_var_y): KL( q(z|x) || p(z|y) ) of each image and class,
    (B, D), (B, D), (10, D), (10, D) -> (B, 10) nats."""
    generator, n_images, n_latents = torch.Generator().manual_seed(5), 3, 4
    q = torch.randn(2, n_images, n_latents, generator=generator) * 0.8
    p = torch.randn(2, N_CLASSES, n_latents, generator=generator) * 0.8
    (mu, log_var), (mu_y, log_var_y) = q[:, :, None], p  # (B, 1, D) and (10, D)
    each = normal_kl(mu, log_var, mu_y, log_var_y)  # (B, 10, D)
    right, zero, squares = each.sum(dim=2), torch.zeros(()), (mu - mu_y) ** 2
    standard = normal_kl(mu, log_var, zero, zero).sum(dim=2)  # (B, 1)
    praise = "The cheapest class is the likeliest: a classifier without a network of its own."
    mistakes = wrong_divergences(mu, log_var, mu_y, log_var_y) | {
        "You compare with N(0, I). Each class has a prior of its own: N(mu_y, exp(log_var_y)).": (
            standard.squeeze(1)
        ),
        "You compare with N(0, I) for every class. Use mu_y and log_var_y.": standard.expand_as(right),
        "You average over the latents. Their costs add up: sum over the last axis.": each.mean(dim=2),
        "The classes are the rows. An image is a row, a class a column: mu[:, None] against mu_y.": right.T,
        "That is the squared distance. Divide it by the variance of the class, and add what the widths "
        "cost.": squares.sum(dim=2),
        "That is half the squared distance. Divide it by the variance of the class, and add what the widths "
        "cost.": squares.sum(dim=2) / 2,
        "That is the price of each latent. An image pays for all of them: sum over the last axis.": each,
        "You average over the batch. Each image has prices of its own.": right.mean(dim=0),
        "You add up the classes. Keep ten prices for each image.": right.sum(dim=1),
        "That is the price of the cheapest class. Keep all ten.": right.min(dim=1).values,
        "That is log q(y|x), the log_softmax of minus the prices. Return the prices.": (
            (-right).log_softmax(dim=1)
        ),
        "That is q(y|x), the softmax of minus the prices. Return the prices.": ((-right).softmax(dim=1)),
    }
    return judge(lambda: prices(*q.clone(), *p.clone()), right, praise, mistakes)


def wrong_divergences(mu: Tensor, log_var: Tensor, mu_y: Tensor, log_var_y: Tensor) -> dict[str, Tensor]:
    """Prices of the right shape, from formulas that are not quite KL( q(z|x) || p(z|y) )."""
    right = normal_kl(mu, log_var, mu_y, log_var_y)
    squares, var_y = (mu - mu_y) ** 2, log_var_y.exp()
    each = {
        "q and p are swapped. The mean is taken under q: its variance stands above, that of the class "
        "below.": normal_kl(mu_y, log_var_y, mu, log_var),
        "You read log_var as the log of the standard deviation. It is that of the variance: do not square "
        "its exp.": normal_kl(mu, 2 * log_var, mu_y, 2 * log_var_y),
        "It is twice too large: the factor 1/2 is missing.": 2 * right,
        "The sign is turned round: a KL divergence is never negative.": -right,
        "The -1 is missing: where q is p the price must be 0. Subtract 1 in each latent.": right + 0.5,
        "The squared distance is not divided by anything. Divide it by the variance of the class.": (
            right + 0.5 * squares * (1 - 1 / var_y)
        ),
        "The squared distance is divided by the variance of q. Divide it by that of the class.": (
            right + 0.5 * squares * (1 / log_var.exp() - 1 / var_y)
        ),
        "The distance is not squared.": right + 0.5 * ((mu - mu_y) - squares) / var_y,
        "log_var and log_var_y stand the wrong way round in their difference: it is log_var_y - log_var.": (
            right + log_var - log_var_y
        ),
        "The difference of the log-variances is missing: add log_var_y - log_var in the bracket.": (
            right - 0.5 * (log_var_y - log_var)
        ),
        "The ratio of the variances is missing: add exp(log_var - log_var_y) in the bracket.": (
            right - 0.5 * (log_var - log_var_y).exp()
        ),
        "That is minus the log-density of the class at mu. q has a width too: add log q's mean under q.": (
            0.5 * (math.log(2 * math.pi) + log_var_y + squares / var_y)
        ),
    }
    return {message: price.sum(dim=2) for message, price in each.items()}


# Mislabelled digits -------------------------------------------------------------------------------

# Each row: the image's label, how much the model believes it, the class it prefers and how much; the rest is
# shared out unevenly among the other classes. Rows 5, 2, 7, 3 are believed least, in that order.
BELIEFS = [
    (4, 0.90, 4, 0.90),
    (0, 0.22, 0, 0.22),
    (7, 0.02, 1, 0.30),
    (9, 0.05, 3, 0.90),
    (2, 0.40, 6, 0.45),
    (5, 0.01, 8, 0.50),
    (1, 0.60, 1, 0.60),
    (6, 0.03, 9, 0.94),
]


def beliefs() -> tuple[Tensor, Tensor]:
    """(log_q (N, 10), labels (N,)) of BELIEFS."""
    rows = []
    for i, (label, own, favourite, most) in enumerate(BELIEFS):
        row = (torch.arange(N_CLASSES) + 3 * i) % N_CLASSES + 10.0
        row[[label, favourite]] = 0.0
        left = 1 - most - (own if favourite != label else 0.0)
        row *= left / row.sum()
        row[favourite], row[label] = most, own
        rows.append(row.log())
    return torch.stack(rows), torch.tensor([label for label, *_ in BELIEFS])


def check_suspects(suspects: Callable[[Tensor, Tensor, int], Tensor]) -> Verdict:
    """suspects(log_q, labels, n): the positions of the n images whose label the model believes least, the
    most suspicious first; (N, 10), (N,) -> (n,) int64."""
    (log_q, labels), n = beliefs(), 3
    right = log_q[torch.arange(len(labels)), labels].argsort()[:n]
    praise = "The model never saw these labels, so what it finds odd in them is news."
    mistakes = wrong_order(log_q, labels, n) | wrong_form(log_q, labels, n)
    return judge(lambda: suspects(log_q.clone(), labels.clone(), n), right, praise, mistakes)


def wrong_order(log_q: Tensor, labels: Tensor, n: int) -> dict[str, Tensor]:
    """Positions, of other images or in another order."""
    given = log_q[torch.arange(len(labels)), labels]
    most, favourite = log_q.max(dim=1)
    order, entropy = given.argsort(), -(log_q.exp() * log_q).sum(dim=1)
    right, differs = order[:n], (favourite != labels).nonzero().squeeze(1)
    return {
        "Those are the labels that it believes most. Sort from the smallest log q upwards.": (
            order.flip(0)[:n]
        ),
        "Those are the images it is least sure of. It may well doubt a digit whose label is right: look at "
        "log q of the *given* label.": most.argsort()[:n],
        "Those are the images with the highest entropy: hard digits. Look at log q of the *given* label.": (
            entropy.argsort(descending=True)[:n]
        ),
        "Those are the first images where its class is not the label. That is no order: sort by log q of the "
        "given label.": differs[:n],
        "Those are all images where its class is not the label. Sort by log q of the given label, keep n.": (
            differs
        ),
        "You sort by how far its own class is ahead of the label. Asked for is how little it believes the "
        "label: log q of it alone.": (most - given).argsort(descending=True)[:n],
        "You sort those where it disagrees by how sure it is of its own class. Asked for is how little it "
        "believes the label.": differs[most[differs].argsort(descending=True)][:n],
        "The labels are not used: you take the least likely class of each image. Pick the given one: "
        "log_q[torch.arange(N), labels].": log_q.min(dim=1).values.argsort()[:n],
        "The right images, but the most suspicious comes last. Sort from the smallest log q upwards.": (
            right.flip(0)
        ),
        "The right images, but in the order of the file. Put the most suspicious first.": right.sort().values,
        "n is not used: keep the first n.": order,
    }


def wrong_form(log_q: Tensor, labels: Tensor, n: int) -> dict[str, Tensor]:
    """Of the right images something else than their positions."""
    given, favourite = log_q[torch.arange(len(labels)), labels], log_q.argmax(dim=1)
    right = given.argsort()[:n]
    least = given[right]
    return {
        "Those are the values of log q. Return where they stand: argsort, or topk(...).indices.": least,
        "Those are probabilities. Return where they stand: argsort, or topk(...).indices.": least.exp(),
        "Those are the labels of the suspects. Return their positions among the images.": labels[right],
        "Those are the classes that it prefers. Return the positions of the images.": favourite[right],
        "That is a mask. Return the positions, the most suspicious first: argsort()[:n].": (
            torch.isin(torch.arange(len(labels)), right)
        ),
        "gather leaves an axis of size 1, and along that nothing is sorted. Drop it: .squeeze(1).": (
            torch.zeros(n, 1)
        ),
    }
