"""The evidence lower bound, term by term, and its importance-weighted sharpening. Nats per image.

    log p(x) >= E_q[ log p(x|z) ] - sum_l E_q[ KL( q(z_l|x) || p(z_l | the layers above) ) ] = elbo

Derived in lesson 01.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import normal_kl, normal_log_prob, normal_sample, per_image
from course_utils.models.common import Output, centre
from course_utils.models.label_vae import LabelVAE, StackedVAE
from course_utils.models.semi_supervised_vae import HeadVAE, MixtureVAE


class Elbo(NamedTuple):
    """The two terms of the bound, one row an image; nothing is averaged yet."""

    log_px: Tensor  # (B,) log p(x|z) at one draw of z
    kl: Tensor  # (B, L) what each layer of latents costs, the layer next to the pixels first

    def value(self) -> Tensor:
        """The bound itself, higher is better: (B,) nats."""
        return self.log_px - self.kl.sum(dim=1)

    def loss(self, beta: float | Tensor = 1.0, free_bits: float | Tensor = 0.0) -> Tensor:
        """What is minimised, a scalar: the batch mean of -log_px + beta * kl. beta = 1 is the bound.

        `beta` and `free_bits` are one number, or one for each layer (L,). A layer whose mean KL is below
        `free_bits` nats pays that much anyway and so has no reason to fall further (Kingma et al. 2016,
        eq. 15).
        """
        price = self.kl.mean(dim=0)  # (L,)
        weight, least = (torch.as_tensor(t).to(price.device, non_blocking=True) for t in (beta, free_bits))
        return (weight * torch.maximum(price, least)).sum() - self.log_px.mean()


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


# Few labels: nll + KL + indicator x softmax error -------------------------------------------------
#
# Of a batch x (B, C, H, W) the labels of the first images are known, `labels` (n,); n may be 0. Each of the
# functions from `beside_code` to `stacked` gives the terms of one model's cost and its classifier:
#
#     (model, x, labels) -> Elbo with kl (B, 1) or (B, 2), the code and the label; log q(y|x) (B, 10)

Terms = Callable[[nn.Module, Tensor, Tensor], tuple[Elbo, Tensor]]
KNOWN_WEIGHT = 0.1  # of a labelled image in the mean: it is in every batch, any other in one of hundreds


class LabelledElbo(NamedTuple):
    """nll and KL of each image, and what the classifier thinks of the labels that are known."""

    log_px: Tensor  # (B,)
    kl: Tensor  # (B, L)
    softmax_error: Tensor  # (n,) alpha * -log q(y|x) of the labelled images, which are the first

    def value(self) -> Tensor:
        """What is maximised beside the softmax error, a bound for most models: (B,) nats."""
        return Elbo(self.log_px, self.kl).value()

    def loss(self, beta: float | Tensor = 1.0, free_bits: float | Tensor = 0.0) -> Tensor:
        """The mean of -log_px + beta * kl, plus the mean softmax error of those whose label is known."""
        n = len(self.softmax_error)
        weight = torch.ones_like(self.log_px)
        weight[:n] = KNOWN_WEIGHT
        weight = weight / weight.mean()
        bound = Elbo(weight * self.log_px, weight.unsqueeze(1) * self.kl).loss(beta, free_bits)
        return bound + self.softmax_error.mean() if n else bound


def few_labels(model: nn.Module, x: Tensor, terms: Terms, labels: Tensor, alpha: float) -> LabelledElbo:
    """nll + KL + indicator * alpha * softmax error; nll and KL are what `terms` has for the model."""
    bound, log_q = terms(model, x, labels)
    error = F.nll_loss(log_q[: len(labels)], labels, reduction="none")
    return LabelledElbo(*bound, alpha * error)


def without_labels(terms: Terms) -> Callable[[nn.Module, Tensor], Elbo]:
    """The terms of images of which no label is known, as an objective (model, x) -> Elbo."""

    def objective(model: nn.Module, x: Tensor) -> Elbo:
        return terms(model, x, torch.empty(0, dtype=torch.long, device=x.device))[0]

    return objective


def label_log_prob(model: nn.Module, x: Tensor, labels: Tensor) -> Elbo:
    """What a classifier alone maximises, log p(y|x), as a bound without a code: x (n, C, H, W) -> Elbo."""
    log_p = -F.nll_loss(model.classify(x), labels, reduction="none")
    return Elbo(log_p, torch.zeros_like(log_p).unsqueeze(1))


def known_first(labels: Tensor, y: Tensor) -> Tensor:
    """y (B, 10) with its first rows replaced by the known labels (n,), one-hot."""
    return torch.cat([F.one_hot(labels, y.shape[1]).to(y), y[len(labels) :]])


def label_kl(log_q: Tensor, n_known: int) -> Tensor:
    """KL( q(y|x) || uniform ) of each image; a label that is known costs log 10: (B, 10) -> (B,) nats."""
    price = math.log(log_q.shape[1]) + (log_q.exp() * log_q).sum(dim=1)
    return torch.cat([torch.full_like(price[:n_known], math.log(log_q.shape[1])), price[n_known:]])


def standard_kl(mu: Tensor, log_var: Tensor) -> Tensor:
    """KL( N(mu, exp(log_var)) || N(0, I) ): (B, D) twice -> (B,) nats."""
    return per_image(normal_kl(mu, log_var, torch.zeros_like(mu), torch.zeros_like(log_var)))


def beside_code(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """The plan of 2015: the decoder gets the true label, or else the softmax itself; only the code is priced.

    No bound on log p(x): the nine free numbers of the softmax tell the decoder of x and cost nothing.
    """
    h, log_q = model.read(x)
    return with_label(model, x, h, known_first(labels, log_q.exp())), log_q


def with_label(model: nn.Module, x: Tensor, h: Tensor, y: Tensor) -> Elbo:
    """One pass of a `LabelVAE` with this label; the price of the code only, kl (B, 1)."""
    mu, log_var = model.code(h, y)
    px = model.decode(normal_sample(mu, log_var), y)
    return Elbo(model.likelihood.log_prob(x, px), standard_kl(mu, log_var).unsqueeze(1))


def priced_label(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """The same, and the label is priced like a draw of q(y|x), though the decoder still gets the softmax."""
    bound, log_q = beside_code(model, x, labels)
    return with_price(bound, log_q, len(labels)), log_q


def with_price(bound: Elbo, log_q: Tensor, n_known: int) -> Elbo:
    """The price of the label beside that of the code: kl (B, 2)."""
    return Elbo(bound.log_px, torch.cat([bound.kl, label_kl(log_q, n_known).unsqueeze(1)], dim=1))


def sampled_label(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """A bound: the decoder gets a one-hot draw of q(y|x), the gradient goes straight through to the softmax.

    The gradient is biased (Bengio et al. 2013), the estimate of the bound is not.
    """
    h, log_q = model.read(x)
    draw = F.one_hot(torch.distributions.Categorical(logits=log_q).sample(), log_q.shape[1])
    y = draw + log_q.exp() - log_q.exp().detach()
    bound = with_label(model, x, h, known_first(labels, y))
    return with_price(bound, log_q, len(labels)), log_q


def exact_sum(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """M2: no draw, but the mean over all ten labels under q(y|x): ten decoders' worth of work.

    Kingma et al. 2014, eq. 6 and 7.
    """
    h, log_q = model.read(x)
    n, n_classes = len(labels), log_q.shape[1]
    n_open = len(x) - n
    y = torch.cat(  # the known labels once, then of each other image all ten
        [F.one_hot(labels, n_classes), torch.eye(n_classes, device=x.device).repeat(n_open, 1)]
    )
    rows = torch.cat(
        [
            torch.arange(n, device=x.device),
            torch.arange(n, len(x), device=x.device).repeat_interleave(n_classes),
        ]
    )
    each = with_label(model, x[rows], h[rows], y)
    q = log_q[n:].exp()  # (B - n, 10)

    def averaged(values: Tensor) -> Tensor:
        return torch.cat([values[:n], (q * values[n:].unflatten(0, (n_open, n_classes))).sum(dim=1)])

    bound = Elbo(averaged(each.log_px), averaged(each.kl[:, 0]).unsqueeze(1))
    return with_price(bound, log_q, n), log_q


def softmax_on_code(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """The bound of lesson 01, of a `HeadVAE`; the classifier reads the code as it was drawn."""
    out = model(x)
    return terms(model.likelihood, x, out), model.head(out.z[0]).log_softmax(dim=1)


def mixture_prior(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """A mixture of ten normals as prior of the code, of a `MixtureVAE`.

    The best q(y|x) that does not look at the drawn z follows from the prices, so the two KLs together are
    -log mean_y exp(-price_y): at most log 10 above the cheapest class. A label that is known costs its own
    price, and log 10.
    """
    mu, log_var = model.encode(x)
    prices = model.prices(mu, log_var)  # (B, 10)
    log_q = (-prices).log_softmax(dim=1)
    code_kl = (known_first(labels, log_q.exp()) * prices).sum(dim=1)
    log_px = model.likelihood.log_prob(x, model.decode(normal_sample(mu, log_var)))
    return with_price(Elbo(log_px, code_kl.unsqueeze(1)), log_q, len(labels)), log_q


def stacked(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[Elbo, Tensor]:
    """M1+M2, of a `StackedVAE`: the bound of m2, on the code that m1 draws, is the prior of that code."""
    mu, log_var = model.m1.encode(x)
    z = normal_sample(mu, log_var)
    prior, log_q = exact_sum(model.m2, z[:, :, None, None], labels)
    code_kl = per_image(normal_log_prob(z, mu, log_var)) - prior.value()
    return Elbo(model.likelihood.log_prob(x, model.m1.decode(z)), code_kl.unsqueeze(1)), log_q


# The hole of a photograph ------------------------------------------------------------------------


def hole_bound(model: nn.Module, x: Tensor) -> Elbo:
    """The bound of what is in the hole, given all that is around it: log p(x_hole|c) >= elbo.

    x (B, 7, 64, 64) as `course_utils.holes` makes it -> Elbo.
    """
    return terms(model.likelihood, centre(x[:, :3]), model(x))


class SketchedElbo(NamedTuple):
    """The terms of the bound, and how far off the sketches are that the layers above owe those below."""

    log_px: Tensor  # (B,)
    kl: Tensor  # (B, L)
    sketch_error: Tensor  # (B,) nats

    def value(self) -> Tensor:
        """The bound alone: (B,) nats."""
        return Elbo(self.log_px, self.kl).value()

    def loss(self, beta: float | Tensor = 1.0, free_bits: float | Tensor = 0.0) -> Tensor:
        """The mean of -log_px + beta * kl, plus that of the sketches' errors."""
        return Elbo(self.log_px, self.kl).loss(beta, free_bits) + self.sketch_error.mean()


SKETCH_WEIGHT = 4.0


def sketched_bound(model: nn.Module, x: Tensor) -> SketchedElbo:
    """`hole_bound` for training: what the layers above have drawn must also give a sketch of the hole.

    The hole as coarse as each layer's maps is to be read from what those above say, a lesson in every layer
    (deeply supervised nets, Lee et al. 2015). Without it all is said in the layer next to the pixels.
    """
    out, sketches = model.sketched(x)
    hole = centre(x[:, :3])
    error = torch.zeros(len(x), device=x.device)
    for sketch in sketches:
        coarse = F.adaptive_avg_pool2d(hole, sketch.shape[-1])
        error = error + log_error(coarse, sketch, least=1e-5)
    return SketchedElbo(*terms(model.likelihood, hole, out), SKETCH_WEIGHT * error)


def log_error(x: Tensor, guess: Tensor, least: float) -> Tensor:
    """D/2 log(mean squared error) of each image of D numbers, (B,); below `least` there is little to win.

    Up to a constant minus the log-likelihood of a Gaussian whose variance is each image's own error.
    """
    error = (guess - x).square().flatten(start_dim=1).mean(dim=1)
    return 0.5 * x[0].numel() * torch.log(error + least)


def decibels(model: nn.Module, x: Tensor) -> Elbo:
    """What a `UNet` maximises: -D/2 log(mean squared error) of each hole of D numbers, an Elbo without code.

    Its mean over photographs is the mean PSNR in other units: a striking photograph weighs no more than a
    grey one, and none much once it is better than 30 dB.
    """
    log_px = -log_error(centre(x[:, :3]), model(x)[0], least=1e-3)
    return Elbo(log_px, torch.zeros_like(log_px).unsqueeze(1))


def image_bound(model: nn.Module, x: Tensor) -> Elbo:
    """A bound on log p(x), whatever the model, of images without labels: x (B, C, H, W) -> Elbo.

    A decoder with the label beside the code is a model of images if it is given a label at random, so its
    bound is that of `exact_sum`, also where the training had another cost.
    """
    match model:
        case LabelVAE():
            terms = exact_sum
        case StackedVAE():
            terms = stacked
        case HeadVAE():
            terms = softmax_on_code
        case MixtureVAE():
            terms = mixture_prior
        case _:
            return elbo(model, x)
    return without_labels(terms)(model, x)
