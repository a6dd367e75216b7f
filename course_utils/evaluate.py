"""What a trained model is worth on held-out images, each number with its standard error. Nats per image.

Everything here returns one value per image; `mean_and_error` reduces, once.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from course_utils.data import Batches, Images, as_grey
from course_utils.distributions import LEVELS, Bernoulli, normal_kl, normal_sample, per_image
from course_utils.objectives import (
    Elbo,
    image_bound,
    importance_weighted_bound,
    log_weights,
    terms,
    with_label,
)

CHUNK = 500  # images at a time
DRAWS_AT_A_TIME = 20  # of the importance-weighted bound, for each of 100 images


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the model's own mode is restored."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class Estimate(NamedTuple):
    """A mean over images and its standard error."""

    value: float
    stderr: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"


def mean_and_error(values: Tensor) -> Estimate:
    """The mean over images and its standard error: (N,) -> Estimate, computed in float64."""
    values = values.double()
    return Estimate(values.mean().item(), (values.std() / math.sqrt(len(values))).item(), len(values))


def over_batches(values: Tensor, size: int) -> Estimate:
    """The mean over images that a model read `size` at a time, and could not tell from their company.

    What is independent is a batch, not an image: (N,) -> an Estimate from the means of the batches.
    """
    return mean_and_error(torch.stack([batch.mean() for batch in values.split(size)]))


def in_chunks(model: nn.Module, images: Images, chunk: int = CHUNK) -> Iterator[Tensor]:
    """The images as x (B, C, H, W) on the model's device."""
    device = next(model.parameters()).device
    for pixels in images.pixels.split(chunk):
        yield as_grey(pixels.to(device))


def bound(
    model: nn.Module,
    images: Images,
    *,
    chunk: int = CHUNK,
    seed: int = 0,
    objective: Callable[[nn.Module, Tensor], Elbo] = image_bound,
) -> Elbo:
    """The bound of each image at one draw of its latents, on the CPU: log_px (N,), kl (N, L).

    `chunk` images at a time: that changes nothing but the noise, except under
    `batch_statistics` or in a network that always reads its batch (those of 2015 and 2017).
    """
    return bound_over(model, in_chunks(model, images, chunk), objective, seed)


def bound_over(
    model: nn.Module, batches: Iterable[Tensor], objective: Callable[[nn.Module, Tensor], Elbo], seed: int
) -> Elbo:
    """The bounds of all images of the batches, one after the other, on the CPU."""
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [objective(model, x) for x in batches]
    return Elbo(*(torch.cat(term).cpu() for term in zip(*parts, strict=True)))


def bound_from_above(model: nn.Module, images: Images, n_from_prior: int, *, seed: int = 0) -> Elbo:
    """The bound of a hierarchy whose bottom layers are drawn from their priors, as in `bound`.

    Those cost nothing: what is left is what the image is worth to the model when only the layers above are
    told of it. It is the L^{>k} of Havtorn et al. 2021, who ask with it if an image is of a new kind.
    """

    def objective(model: nn.Module, x: Tensor) -> Elbo:
        return terms(model.likelihood, x, model(x, n_from_prior=n_from_prior))

    return bound(model, images, seed=seed, objective=objective)


def log_likelihood(model: nn.Module, images: Images, n_draws: int, *, seed: int = 0) -> Tensor:
    """The importance-weighted bound with n_draws draws, an estimate of log p(x) from below: (N,) nats."""
    chunks = []
    with evaluating(model), torch.random.fork_rng():
        torch.manual_seed(seed)
        for x in in_chunks(model, images, chunk=100):
            draws = [DRAWS_AT_A_TIME] * (n_draws // DRAWS_AT_A_TIME) + [n_draws % DRAWS_AT_A_TIME]
            log_w = torch.cat([log_weights(model, x, n) for n in draws if n])  # (n_draws, B)
            chunks.append(importance_weighted_bound(log_w).cpu())
    return torch.cat(chunks)


def posterior_means(model: nn.Module, images: Images) -> Tensor:
    """The mean of q(z|x) of each image: (N, D), on the CPU."""
    with evaluating(model):
        return torch.cat([model.encode(x)[0] for x in in_chunks(model, images)]).cpu()


def layer_means(model: nn.Module, images: Images) -> list[Tensor]:
    """The posterior mean of each layer of a hierarchy, those above at theirs, bottom first: (N, ...) each."""
    with evaluating(model):
        chunks = [[mu.cpu() for mu, _ in model.encode(x)] for x in in_chunks(model, images)]
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def label_log_probs(model: nn.Module, images: Images) -> Tensor:
    """log q(y|x) of each image, by a model that has `classify`: (N, 10), on the CPU."""
    with evaluating(model):
        return torch.cat([model.classify(x) for x in in_chunks(model, images)]).cpu()


def accuracy(model: nn.Module, images: Images) -> Estimate:
    """The share of images whose likeliest class is their label."""
    right = label_log_probs(model, images).argmax(dim=1) == images.labels
    return mean_and_error(right.float())


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """How many latents the model uses: those whose posterior mean varies over images, (N, D) -> count.

    Var_x( E_q[z_d] ) > 0.01, Burda et al. 2016, section 5.
    """
    return int((mu.var(dim=0) > threshold).sum())


def bits_per_dim(nats: Tensor | float, n_dims: int) -> Tensor | float:
    """Nats per image as bits per pixel value: the negative log-probability / (n_dims * log 2)."""
    return nats / (n_dims * math.log(2))


def histogram_log_prob(train: Images, images: Images) -> Tensor:
    """log p(x) of 8-bit images under one histogram for each pixel, no latents at all: (N,) nats.

    Counts over the training images, one added to each of the 256 levels. The zero line of the lesson: a
    model with latents that does worse is, as a model of probabilities, not worth them.
    """
    levels = train.pixels.flatten(start_dim=1).long()  # (N, n_pixels)
    counts = torch.ones(levels.shape[1], LEVELS)
    counts.scatter_add_(1, levels.T, torch.ones(levels.T.shape))
    log_p = torch.log(counts / counts.sum(dim=1, keepdim=True))
    rows = images.pixels.flatten(start_dim=1).long()
    return per_image(log_p.T.gather(0, rows))


# Batch norm: whose mean and variance? ------------------------------------------------------------


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """torch's batch norms in the model, of features and of maps."""
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Every batch norm uses the batch at hand, in evaluation mode too; its running averages stay as they are.

    What an image is worth then depends on the images beside it.
    """
    layers = batch_norms(model)
    names = ("running_mean", "running_var", "num_batches_tracked")  # in training mode the last would count on
    kept = [(layer, name, getattr(layer, name)) for layer in layers for name in names]
    try:
        for layer, name, _ in kept:
            setattr(layer, name, None)
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)


def with_population_statistics(model: nn.Module, train: Images, *, seed: int = 0) -> nn.Module:
    """A copy of the model whose batch norms hold averages over the whole training set at its present weights.

    The running averages of training are those of the last batches, under weights that were still changing.
    This is the recipe of Ioffe & Szegedy 2015, algorithm 2: the mean of the batches' means and variances.
    Raises ValueError where `model(x)` leaves a batch norm out, as M1+M2 does with its M2.
    """
    model = copy.deepcopy(model)
    device = next(model.parameters()).device
    binary = isinstance(model.likelihood, Bernoulli)
    batches = Batches(train.pixels, min(CHUNK, len(train.pixels)), binarise=binary, seed=seed, device=device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        update_bn((batches[step] for step in range(len(batches))), model)
    # update_bn has reset all of them first.
    if any(layer.num_batches_tracked == 0 for layer in batch_norms(model)):
        raise ValueError("model(x) does not pass through every batch norm; give the model's parts one by one")
    return model


def with_prior_statistics(model: nn.Module, *, n: int = 10_000, seed: int = 0) -> nn.Module:
    """A copy of the model whose decoder's batch norms hold averages over n draws of z from N(0, I).

    In training they see z ~ q(z|x), when generating z ~ p(z). The code of NVAE (Vahdat & Kautz 2020) does
    this before it samples.
    """
    model = copy.deepcopy(model)
    z = torch.randn(n, model.latent_dim, generator=torch.Generator().manual_seed(seed))
    update_bn(z.to(next(model.parameters()).device).split(CHUNK), model.decoder)
    return model


# A softmax as a code: what does it carry? ---------------------------------------------------------


class Numbers(NamedTuple):
    """How the nine numbers of a softmax lie over a set of images: along each axis, a mean and a variance."""

    mean: Tensor  # (10,)
    axes: Tensor  # (10, 9)
    variances: Tensor  # (9,)


def centred(log_q: Tensor) -> Tensor:
    """Log-probabilities (B, 10) without their mean over the classes, which tells nothing."""
    return log_q - log_q.mean(dim=1, keepdim=True)


def softmax_numbers(model: nn.Module, images: Images) -> Numbers:
    """Mean and principal axes of the centred log q(y|x) over the images."""
    numbers = centred(label_log_probs(model, images))
    variances, axes = torch.linalg.eigh(torch.cov(numbers.T))
    return Numbers(numbers.mean(dim=0), axes[:, 1:], variances[1:])  # they add up to 0, so one axis is empty


def priced_softmax(model: nn.Module, x: Tensor, over: Numbers, deviation: float) -> Elbo:
    """The bound of a `LabelVAE` whose decoder gets the softmax, if the softmax is paid for: kl (B, 2).

    Its numbers l(x) become a code: q(l|x) = N(l(x), deviation^2) along each axis, and the prior is normal
    with the mean and variance that they have `over` the training images, plus deviation^2. A large deviation
    is cheap and blurs what the decoder is told; the best one gives the honest bound.
    """
    h, log_q = model.read(x)
    over = Numbers(*(values.to(x.device) for values in over))
    mu = (centred(log_q) - over.mean) @ over.axes  # (B, 9)
    log_var = torch.full_like(mu, 2 * math.log(deviation))
    log_var_p = torch.log(over.variances + deviation**2).expand_as(mu)
    price = per_image(normal_kl(mu, log_var, torch.zeros_like(mu), log_var_p))
    bound = with_label(model, x, h, (over.mean + normal_sample(mu, log_var) @ over.axes.T).softmax(dim=1))
    return Elbo(bound.log_px, torch.cat([bound.kl, price.unsqueeze(1)], dim=1))
