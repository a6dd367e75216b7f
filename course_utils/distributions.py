"""Log-densities, divergences and likelihoods, each spelled out; everything is in nats.

The functions work element by element and return the shape that they were given. One function, `per_image`,
sums: over pixels and latents, never over the batch. Derived in lesson 01.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOG_2PI = math.log(2 * math.pi)
LEVELS = 256  # grey levels of an 8-bit pixel
MAX_LOG_SCALE = 20.0  # of a logistic: at 88 the mass on one level would underflow, its log be -inf


def per_image(values: Tensor) -> Tensor:
    """The sum over everything but the batch: (B, ...) -> (B,)."""
    return values.flatten(start_dim=1).sum(dim=1)


# The normal distribution ------------------------------------------------------------------------


def normal_log_prob(z: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mu, exp(log_var)), element by element, in nats."""
    return -0.5 * (LOG_2PI + log_var + (z - mu) ** 2 * torch.exp(-log_var))


def normal_sample(mu: Tensor, log_var: Tensor) -> Tensor:
    """z = mu + sigma * eps with eps ~ N(0, 1): the reparameterisation of Kingma & Welling 2014, eq. 4."""
    return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)


def normal_kl(mu_q: Tensor, log_var_q: Tensor, mu_p: Tensor, log_var_p: Tensor) -> Tensor:
    """KL( N(mu_q, exp(log_var_q)) || N(mu_p, exp(log_var_p)) ), element by element, in nats.

    With mu_p = log_var_p = 0 this is Kingma & Welling 2014, appendix B.
    """
    variance_ratio = torch.exp(log_var_q - log_var_p)
    squared_distance = (mu_q - mu_p) ** 2 * torch.exp(-log_var_p)
    return 0.5 * (variance_ratio + squared_distance - 1 + log_var_p - log_var_q)


# Likelihoods ------------------------------------------------------------------------------------
#
# A likelihood reads p(x|z) off the numbers that the decoder gives to each pixel:
#
#     n_params            how many numbers a pixel needs
#     log_prob(x, px)     (B, C, H, W), (B, n_params, C, H, W) -> (B,) nats
#     mean(px)            -> (B, C, H, W): the mean, or the location, clamped to [0, 1]: the picture to show
#     from_mean(mean)     (C, H, W) -> (C, H, W): the first of those numbers, if that is to be the mean
#     sample(px)          -> (B, C, H, W) in [0, 1]
#
# Bernoulli speaks of binary pixels, Gaussian of real numbers. The others speak of 8-bit pixels, x = level /
# 255, and all return the log-probability of the integer image, so that their nats can be compared.


class Bernoulli(nn.Module):
    """Each pixel is a coin: p(x = 1) = sigmoid(logit). For binary x."""

    n_params = 1

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        (logits,) = px.unbind(dim=1)
        return -per_image(F.binary_cross_entropy_with_logits(logits, x, reduction="none"))

    def mean(self, px: Tensor) -> Tensor:
        return torch.sigmoid(px[:, 0])

    def from_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=1e-3)

    def sample(self, px: Tensor) -> Tensor:
        return torch.bernoulli(self.mean(px))


class Gaussian(nn.Module):
    """A mean and a variance for each number. For real x, such as the codes of another model (lesson 05)."""

    n_params = 2

    def moments(self, px: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, C, H, W); the deviation stays above 0.01."""
        mu, raw = px.unbind(dim=1)
        return mu, 2 * torch.log(F.softplus(raw) + 1e-2)

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        return per_image(normal_log_prob(x, *self.moments(px)))

    def mean(self, px: Tensor) -> Tensor:
        return px[:, 0]

    def sample(self, px: Tensor) -> Tensor:
        return normal_sample(*self.moments(px))


def dequantised_normal_log_prob(x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    """A lower bound on the log-probability of 8-bit pixels under a Gaussian density: (B, ...) -> (B,) nats.

    A density can grow without limit on a value that repeats exactly, as the black of MNIST does. So each
    level is first spread evenly over its bin, y = (level + u) / 256 with u ~ U(0, 1), and the width of the
    bin, 1/256, is multiplied in: E[log N(y)] - log 256 <= log P(level) (Theis et al. 2016, section 3.1).
    """
    level = (LEVELS - 1) * x
    y = (level + torch.rand_like(x)) / LEVELS
    return per_image(normal_log_prob(y, mu, log_var) - math.log(LEVELS))


class GaussianShared(nn.Module):
    """One variance for all pixels, learned (the sigma-VAE of Rybkin et al. 2021) or held where it is.

    Held at 1/2 this is squared error plus a constant: the loss of 2015.
    """

    n_params = 1

    def __init__(self, variance: float = 0.01, learned: bool = True):
        super().__init__()
        self.log_var = nn.Parameter(torch.tensor(math.log(variance)), requires_grad=learned)

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        return dequantised_normal_log_prob(x, px[:, 0], self.log_var)

    def mean(self, px: Tensor) -> Tensor:
        return px[:, 0].clamp(0, 1)

    def from_mean(self, mean: Tensor) -> Tensor:
        return mean

    def sample(self, px: Tensor) -> Tensor:
        return normal_sample(px[:, 0], self.log_var.expand_as(px[:, 0])).clamp(0, 1)


class GaussianPerPixel(nn.Module):
    """A mean and a variance for each pixel of each image."""

    n_params = 2

    def moments(self, px: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var), each (B, C, H, W); the deviation stays above a quarter of a grey level."""
        mu, raw = px.unbind(dim=1)
        return mu, 2 * torch.log(F.softplus(raw) + 1e-3)

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        return dequantised_normal_log_prob(x, *self.moments(px))

    def mean(self, px: Tensor) -> Tensor:
        return px[:, 0].clamp(0, 1)

    def from_mean(self, mean: Tensor) -> Tensor:
        return mean

    def sample(self, px: Tensor) -> Tensor:
        return normal_sample(*self.moments(px)).clamp(0, 1)


class DiscretisedLogistic(nn.Module):
    """P(level) is the mass of a logistic density from level - 1/2 to level + 1/2; 0 and 255 get the tails.

    It can give black or white nearly probability 1, and a level between them 0.79 at its least scale, where
    the dequantised bound of a Gaussian cannot cost less than log2(2 pi e / 12) / 2 = 0.25 bits a pixel
    (Kingma et al. 2016, Salimans et al. 2017).
    """

    n_params = 2

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        return per_image(discretised_logistic_log_prob(x, *self.location(px)))

    def location(self, px: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_scale), each (B, C, H, W), in units of the pixel range [0, 1].

        The scale stays above e^-7, 0.23 of a grey level. Narrower gains at most 0.34 bits where the
        prediction is right, and where it is wrong a single pixel can cost thousands of nats.
        """
        mu, log_scale = px.unbind(dim=1)
        return mu + 0.5, (log_scale - 2).clamp(-7.0, MAX_LOG_SCALE)

    def mean(self, px: Tensor) -> Tensor:
        return self.location(px)[0].clamp(0, 1)

    def from_mean(self, mean: Tensor) -> Tensor:
        return mean - 0.5

    def sample(self, px: Tensor) -> Tensor:
        return to_level(logistic_sample(*self.location(px)))


class TruncatedGaussian(nn.Module):
    """P(level) is proportional to exp(-(m - c)^2 / s), c = 2 level / 255 - 1: of the network of April 2017.

    Its "truncated discrete Gaussian": a softmax over the 256 levels, so s = softplus(.) is twice a variance,
    on a scale from -1 to 1. Whatever the bell loses beyond black and white is shared out among the levels.
    """

    n_params = 2

    def logits(self, px: Tensor) -> Tensor:
        """Of each level, up to a constant: (B, 2, C, H, W) -> (B, C, H, W, 256)."""
        m, raw = px.unsqueeze(-1).unbind(dim=1)  # (B, C, H, W, 1)
        return (m - torch.linspace(-1, 1, LEVELS, device=px.device)) ** 2 * (-1 / F.softplus(raw))

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        level = ((LEVELS - 1) * x).round().long().flatten(start_dim=1)  # (B, C * H * W)
        # An image at a time: 256 numbers a pixel of a whole batch leave the cache and take six times as long.
        each = zip(px.split(1), level, strict=True)
        cost = [F.cross_entropy(self.logits(one).flatten(0, -2), true, reduction="sum") for one, true in each]
        return -torch.stack(cost)

    def mean(self, px: Tensor) -> Tensor:
        return (0.5 * (px[:, 0] + 1)).clamp(0, 1)

    def from_mean(self, mean: Tensor) -> Tensor:
        return 2 * mean - 1

    def sample(self, px: Tensor) -> Tensor:
        each = [torch.distributions.Categorical(logits=self.logits(one)).sample() for one in px.split(1)]
        return torch.cat(each) / (LEVELS - 1)


class BlockLogistic(nn.Module):
    """Discretised logistics in blocks of 2x2 pixels: each of twelve numbers is told by those before it.

        location_i = mu_i + sum_{j < i} w_ij (x_j - mu_j),       i = 1..12

    PixelCNN++ (Salimans et al. 2017) has such weights for the three colours of one pixel. Neighbours are as
    much alike: once the first pixel of a block is known, few bits are left to say of the others. Numbers of a
    pixel: mu, log_scale, and a weight for each of the twelve, of which those of earlier numbers count.
    """

    n_params = 14

    def __init__(self):
        super().__init__()
        self.register_buffer("earlier", torch.ones(12, 12).triu(1)[:, :, None, None], persistent=False)

    def blocks(self, px: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mu, log_scale, each (B, 12, H/2, W/2), and weights[:, j, i] of number j for number i."""
        mu, raw, weights = F.pixel_unshuffle(px, 2).split((1, 1, 12), dim=1)
        return mu[:, 0], (raw[:, 0] - 3).clamp(-7.0, MAX_LOG_SCALE), weights * self.earlier

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        mu, log_scale, weights = self.blocks(px)
        x = F.pixel_unshuffle(x, 2)
        return per_image(discretised_logistic_log_prob(x, mu + self.moved(x - mu, weights), log_scale))

    def moved(self, error: Tensor, weights: Tensor) -> Tensor:
        """How far the numbers before it move each location."""
        return (weights * error.unsqueeze(2)).sum(dim=1)

    def mean(self, px: Tensor) -> Tensor:
        return px[:, 0].clamp(0, 1)  # the weights act on errors, whose mean is 0

    def from_mean(self, mean: Tensor) -> Tensor:
        return mean

    def sample(self, px: Tensor) -> Tensor:
        mu, log_scale, weights = self.blocks(px)
        noise, x = logistic_sample(torch.zeros_like(mu), log_scale), mu.clone()
        for i in range(mu.shape[1]):
            location = mu[:, i] + self.moved(x - mu, weights)[:, i]
            x[:, i] = to_level(location + noise[:, i])
        return F.pixel_shuffle(x, 2)


def discretised_logistic_log_prob(x: Tensor, mu: Tensor, log_scale: Tensor) -> Tensor:
    """log of the mass that a logistic density has on the level of x, element by element, in nats."""
    half_bin = 0.5 / (LEVELS - 1)
    inverse_scale = torch.exp(-log_scale)
    below = (x - mu - half_bin) * inverse_scale  # the standardised edges of the level's bin
    above = (x - mu + half_bin) * inverse_scale
    # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)): nothing cancels, even far out.
    is_black, is_white = x < half_bin, x > 1 - half_bin  # their bins are open to one side
    return (
        torch.where(is_white, 0.0, F.logsigmoid(above))
        + torch.where(is_black, 0.0, F.logsigmoid(-below))
        + torch.where(is_black | is_white, 0.0, torch.log(-torch.expm1(below - above)))
    )


def logistic_sample(mu: Tensor, log_scale: Tensor) -> Tensor:
    """A draw of the logistic density, element by element."""
    u = torch.rand_like(mu).clamp(1e-6, 1 - 1e-6)
    return mu + torch.exp(log_scale) * (torch.log(u) - torch.log1p(-u))


def to_level(x: Tensor) -> Tensor:
    """The nearest of the 256 levels, as a number in [0, 1]."""
    return (x.clamp(0, 1) * (LEVELS - 1)).round() / (LEVELS - 1)
