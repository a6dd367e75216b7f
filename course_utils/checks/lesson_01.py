"""Checks of lesson 01: the bound, its unit, a variance, a tighter bound."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course_utils.checks.verdict import Verdict, judge
from course_utils.distributions import normal_kl, per_image
from course_utils.objectives import importance_weighted_bound


def check_kl(kl: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """kl(mu, log_var): KL(N(mu, exp(log_var)) || N(0, I)) of each image, (B, D), (B, D) -> (B,)."""
    mu = torch.tensor([[0.5, -1.0, 2.0], [0.1, 0.0, -0.3]])
    log_var = torch.tensor([[-1.0, 0.5, -2.0], [0.2, -0.7, 1.1]])
    zero = torch.zeros(())
    right = normal_kl(mu, log_var, zero, zero)  # (B, D)
    as_deviation = 0.5 * (torch.exp(2 * log_var) + mu**2 - 1 - 2 * log_var)
    mistakes = {
        "It is twice too large: the factor 1/2 is missing.": per_image(2 * right),
        "The sign is turned round: a KL divergence is never negative.": per_image(-right),
        "You read log_var as the log of the standard deviation. It is the log of the variance: "
        "exp(log_var) is sigma squared already.": per_image(as_deviation),
        "The -1 inside the bracket is missing: KL(p || p) must be 0.": per_image(right + 0.5),
        "You average over the latents. Their costs add up: sum over the last axis.": right.mean(dim=1),
        "You sum over the batch as well. Keep one number for each image.": right.sum(),
        "You average over the batch as well. Keep one number for each image.": per_image(right).mean(),
        "That is the KL of each latent. One image pays for all of them: sum over the last axis.": right,
        "That is KL(p || q), from the prior to q. The expectation is taken under q.": per_image(
            normal_kl(zero, zero, mu, log_var)
        ),
    }
    return judge(lambda: kl(mu, log_var), per_image(right), "Nats, one number for each image.", mistakes)


def check_loss(loss: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """loss(log_px, kl): what to minimise, from log p(x|z) (B,) and the KL of each latent (B, D)."""
    log_px = torch.tensor([-90.0, -110.0, -70.0])
    kl = torch.tensor([[3.0, 1.0], [5.0, 0.5], [2.0, 2.5]])
    total = kl.sum(dim=1)
    mistakes = {
        "That is the bound, which should rise. A loss should fall: turn the sign round.": (
            log_px - total
        ).mean(),
        "The KL is averaged over the latents, so it weighs D times too little.": (
            kl.mean(dim=1) - log_px
        ).mean(),
        "You sum over the batch: then the step size depends on the batch size. Average over images.": (
            total - log_px
        ).sum(),
        "The KL has the wrong sign: codes would be paid to be expensive.": (-log_px - total).mean(),
        "The KL is missing.": -log_px.mean(),
        "That is one loss for each image. The optimiser needs one number: average over the batch.": total
        - log_px,
    }
    praise = "Sum over pixels and latents, mean over the batch."
    return judge(lambda: loss(log_px, kl), (total - log_px).mean(), praise, mistakes)


def check_bits_per_dim(bits_per_dim: Callable[[float, int], float]) -> Verdict:
    """bits_per_dim(log_p, n_dims): the cost in bits of each pixel, from log p(x) in nats."""
    log_p, n_dims = -1_000.0, 784
    right = -log_p / (n_dims * math.log(2))
    mistakes = {
        "The sign is turned round: log p(x) is negative, a cost is positive.": -right,
        "Those are nats per pixel. One bit is log 2 = 0.69 nats: divide by it.": -log_p / n_dims,
        "You multiply by log 2. There are more bits than nats: divide.": -log_p * math.log(2) / n_dims,
        "Those are the bits of the whole image: divide by the number of pixels.": -log_p / math.log(2),
    }
    praise = "And 8 would be what the raw file costs."
    as_tensors = {message: torch.tensor(value) for message, value in mistakes.items()}
    return judge(lambda: bits_per_dim(log_p, n_dims), torch.tensor(right), praise, as_tensors)


def check_best_variance(best_variance: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """best_variance(x, mu): the one variance under which the pixels x are likeliest, given their means mu."""
    x = torch.tensor([[0.1, 0.9, 0.4], [0.3, 0.2, 1.0]])
    mu = torch.tensor([[0.2, 0.7, 0.4], [0.0, 0.2, 0.6]])
    squares = (x - mu) ** 2
    mistakes = {
        "That is the standard deviation; the variance is its square.": squares.mean().sqrt(),
        "That is the sum of the squared errors; the variance is their mean.": squares.sum(),
        "That is half of it: set the derivative of log(v)/2 + e/(2v) to zero.": squares.mean() / 2,
        "That is the variance of x about its own mean; what counts is its distance from mu.": x.var(),
        "That is the variance of x about its own mean; what counts is the distance to mu.": x.var(
            correction=0
        ),
        "That is log of the variance.": squares.mean().log(),
    }
    praise = "The mean squared error is the variance that a squared-error loss has hidden."
    return judge(lambda: best_variance(x, mu), squares.mean(), praise, mistakes)


def check_importance_weighted_bound(bound: Callable[[Tensor], Tensor]) -> Verdict:
    """bound(log_w): the log of the mean weight of each image, from its K log weights, (K, B) -> (B,)."""
    log_w = torch.tensor([[-900.0, -12.0], [-903.0, -10.0], [-901.0, -15.0], [-900.5, -11.0]])
    naive = torch.log(torch.exp(log_w).mean(dim=0))
    mistakes = {
        "That is the mean of the logs: the ordinary bound. The mean must be inside the log.": log_w.mean(
            dim=0
        ),
        "The weights are summed, not averaged: subtract log K.": torch.logsumexp(log_w, dim=0),
        "exp(-900) is 0, in float64 too, so your first image has log 0: use torch.logsumexp.": naive,
        "You average over the images. The K draws of an image are along the first axis.": (
            torch.logsumexp(log_w, dim=1) - math.log(2)
        ),
        "You took log B away. The number of draws is K, the length of the first axis.": (
            torch.logsumexp(log_w, dim=0) - math.log(2)
        ),
    }
    praise = "It never falls below the ordinary bound, on average."
    return judge(lambda: bound(log_w), importance_weighted_bound(log_w), praise, mistakes)
