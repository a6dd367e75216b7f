"""The evidence lower bound, term by term, and its importance-weighted sharpening. Nats per image.

    log p(x) >= E_q[ log p(x|z) ] - sum_l E_q[ KL( q(z_l|x) || p(z_l | the layers above) ) ] = elbo

Derived in lesson 01.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.distributions import normal_kl, normal_log_prob, per_image
from course_utils.models.common import Output


class Elbo(NamedTuple):
    """The two terms of the bound, one row an image; nothing is averaged yet."""

    log_px: Tensor  # (B,) log p(x|z) at one draw of z
    kl: Tensor  # (B, L) what each layer of latents costs, the layer next to the pixels first

    def value(self) -> Tensor:
        """The bound itself, higher is better: (B,) nats."""
        return self.log_px - self.kl.sum(dim=1)

    def loss(self, beta: float | Tensor = 1.0, free_bits: float = 0.0) -> Tensor:
        """What is minimised, a scalar: the batch mean of -log_px + beta * kl. beta = 1 is the bound.

        `beta` is one number, or one for each layer (L,). A layer whose mean KL is below `free_bits` nats
        pays that much anyway and so has no reason to fall further (Kingma et al. 2016, eq. 15).
        """
        price = self.kl.mean(dim=0).clamp(min=free_bits)  # (L,)
        weight = torch.as_tensor(beta).to(price.device, non_blocking=True)
        return (weight * price).sum() - self.log_px.mean()


def elbo(model: nn.Module, x: Tensor) -> Elbo:
    """The bound of each image at one draw of its latents: x (B, C, H, W) -> Elbo."""
    return terms(model.likelihood, x, model(x))


def terms(likelihood: nn.Module, x: Tensor, out: Output) -> Elbo:
    """The terms of the bound for one pass of x through a model."""
    log_px = likelihood.log_prob(x, out.px)
    kl = [per_image(normal_kl(*q, *p)) for q, p in zip(out.q, out.p, strict=True)]
    return Elbo(log_px, torch.stack(kl, dim=1))


def warm_up(step: int, n_steps: int, n_layers: int = 1, from_below: bool = False) -> Tensor:
    """beta of each layer at this step of a training, (n_layers,): from 0 to 1 in n_steps, then 1.

    All layers at once, linear as in Sønderby et al. 2016 (the idea is Bowman et al. 2016); or `from_below`
    one after the other, the bottom layer first, as the network of March 2017 had it.
    """
    share = torch.tensor((step + 1) / n_steps if n_steps else 1.0)
    if from_below:
        return (n_layers * share - torch.arange(n_layers)).clamp(0, 1)
    return share.clamp(max=1).expand(n_layers)


def log_weights(model: nn.Module, x: Tensor, n_draws: int) -> Tensor:
    """log w = log p(x|z) + log p(z) - log q(z|x) for draws z ~ q(z|x): (B, C, H, W) -> (n_draws, B) nats."""
    out = model(x, n_draws=n_draws)
    log_w = model.likelihood.log_prob(x.repeat(n_draws, 1, 1, 1), out.px)  # (n_draws * B,)
    for z, q, p in zip(out.z, out.q, out.p, strict=True):
        log_w = log_w + per_image(normal_log_prob(z, *p) - normal_log_prob(z, *q))
    return log_w.unflatten(0, (n_draws, len(x)))


def importance_weighted_bound(log_w: Tensor) -> Tensor:
    """log of the mean weight, the bound of Burda et al. 2016, eq. 8: (K, B) -> (B,) nats.

    One draw gives the ordinary bound, more draws a tighter one; as K grows it rises to log p(x).
    """
    return torch.logsumexp(log_w, dim=0) - math.log(len(log_w))
