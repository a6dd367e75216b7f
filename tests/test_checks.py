"""For each exercise: the blank fails, the solution passes, every known mistake gets a message of its own."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Normal, kl_divergence
from torch.nn import functional as F

from course_utils import checks
from course_utils.checks.verdict import judge
from course_utils.models.vae_2015 import Perforated
from course_utils.objectives import warm_up

HALF = 0.5


def kl_terms(mu, log_var):
    return HALF * (log_var.exp() + mu**2 - 1 - log_var)


def normed(h, gain, bias, eps, *, dim=0, correction=0):
    var, mean = torch.var_mean(h, dim, correction=correction, keepdim=True)
    return (h - mean) / (var + eps).sqrt() * gain + bias


def torch_running(mean, var, h, momentum):
    layer = nn.BatchNorm1d(h.shape[1], momentum=momentum)
    layer.running_mean, layer.running_var = mean, var
    layer(h)
    return layer.running_mean, layer.running_var


def torch_folded(weight, bias, mean, var, gain, shift, eps):
    return nn.utils.fusion.fuse_linear_bn_weights(weight, bias, mean, var, eps, gain, shift)


def folded(weight, bias, mean, var, gain, shift, eps):
    scale = gain / (var + eps).sqrt()
    return scale.diag() @ weight, (bias - mean) * scale + shift


def torch_size(height, kernel, stride, padding):
    layer = nn.Conv2d(1, 1, kernel, stride, padding)
    return layer(torch.zeros(1, 1, height, height)).shape[2]


def weights_times_places(n_in, n_out, kernel, height, width):
    return nn.Conv2d(n_in, n_out, kernel).weight.numel() * height * width


def pixels_with_a_gradient(layers):
    stack = nn.Sequential(*(nn.Conv1d(1, 1, kernel, stride) for kernel, stride in layers))
    x = torch.zeros(1, 1, 60, requires_grad=True)
    stack(x)[0, 0, 0].backward()
    return int((x.grad != 0).sum())


def arc(a, b, t, angle=None):
    w = torch.acos(F.cosine_similarity(a, b, dim=0)) if angle is None else angle
    return torch.sin((1 - t) * w) / torch.sin(w) * a + torch.sin(t * w) / torch.sin(w) * b


def product(mu_p, log_var_p, mu_e, log_var_e):
    """Mean and log-variance of the product, by quadrature."""
    z = torch.linspace(-12, 12, 40_001, dtype=torch.float64)[:, None, None]
    pairs = ((mu_p, log_var_p), (mu_e, log_var_e))
    log_density = sum(Normal(mu, (log_var / 2).exp()).log_prob(z) for mu, log_var in pairs)
    weight = torch.softmax(log_density, dim=0)
    mu = (weight * z).sum(dim=0)
    return mu, (weight * (z - mu) ** 2).sum(dim=0).log()


def blend(mu_p, mu_e, weight_p, weight_e):
    return (weight_p * mu_p + weight_e * mu_e) / (weight_p + weight_e)


def price_list(q, p, *, reduce=torch.sum, dim=1):
    def normal(mu, log_var):
        return Normal(mu, (log_var / 2).exp())

    return torch.stack(
        [reduce(kl_divergence(normal(*a), normal(*b)), 1) for a, b in zip(q, p, strict=True)], dim
    )


def ramps(progress, n_layers, low=0.0, high=1.0):
    return (n_layers * progress - torch.arange(n_layers)).clamp(low, high)


def softmax_error(log_q, labels, known=0, reduction="mean"):
    """Of the images whose label is `known` or higher; 0 if there is none."""
    error = F.nll_loss(log_q[labels >= known], labels[labels >= known], reduction="none")
    return {"mean": error.sum() / max(len(error), 1), "sum": error.sum()}[reduction]


def plan(log_px, kl, log_q, labels, alpha, **changes):
    return (kl - log_px).mean() + alpha * softmax_error(log_q, labels, **changes)


def entropy(log_q):
    return Categorical(logits=log_q).entropy()


def uniform_price(log_q):
    return kl_divergence(Categorical(logits=log_q), Categorical(logits=torch.zeros(10)))


def m2(log_px, kl, log_q, weight=None, label_price=None):
    q = log_q.exp() if weight is None else weight
    price = uniform_price(log_q) if label_price is None else label_price
    return torch.einsum("by,by->b", q, log_px - kl) - price


def class_prices(mu, log_var, mu_y, log_var_y, *, each=False):
    q, p = Normal(mu[:, None], (log_var / 2).exp()[:, None]), Normal(mu_y, (log_var_y / 2).exp())
    return kl_divergence(q, p) if each else kl_divergence(q, p).sum(2)


def distances(mu, mu_y):
    return (mu[:, None] - mu_y) ** 2


def given(log_q, labels):
    return log_q[torch.arange(len(labels)), labels]


EXERCISES = {
    checks.check_kl: {
        "Right": lambda mu, log_var: kl_terms(mu, log_var).sum(1),
        "factor 1/2": lambda mu, log_var: (log_var.exp() + mu**2 - 1 - log_var).sum(1),
        "never negative": lambda mu, log_var: -kl_terms(mu, log_var).sum(1),
        "log of the variance": lambda mu, log_var: kl_terms(mu, 2 * log_var).sum(1),
        "The -1": lambda mu, log_var: (HALF * (log_var.exp() + mu**2 - log_var)).sum(1),
        "average over the latents": lambda mu, log_var: kl_terms(mu, log_var).mean(1),
        "sum over the batch": lambda mu, log_var: kl_terms(mu, log_var).sum(),
        "average over the batch": lambda mu, log_var: kl_terms(mu, log_var).sum(1).mean(),
        "KL of each latent": kl_terms,
        "expectation is taken under q": lambda mu, log_var: (
            HALF * (-log_var).exp() * (1 + mu**2) - HALF + HALF * log_var
        ).sum(1),
    },
    checks.check_loss: {
        "Right": lambda log_px, kl: (kl.sum(1) - log_px).mean(),
        "should rise": lambda log_px, kl: (log_px - kl.sum(1)).mean(),
        "averaged over": lambda log_px, kl: kl.mean() - log_px.mean(),
        "sum over the batch": lambda log_px, kl: (kl.sum(1) - log_px).sum(),
        "wrong sign": lambda log_px, kl: (-log_px - kl.sum(1)).mean(),
        "missing": lambda log_px, kl: -log_px.mean(),
        "one loss for each image": lambda log_px, kl: kl.sum(1) - log_px,
    },
    checks.check_bits_per_dim: {
        "Right": lambda log_p, n_dims: -log_p / n_dims / math.log(2),
        "turned round": lambda log_p, n_dims: log_p / n_dims / math.log(2),
        "nats per pixel": lambda log_p, n_dims: -log_p / n_dims,
        "multiply by log 2": lambda log_p, n_dims: -log_p / n_dims * math.log(2),
        "whole image": lambda log_p, n_dims: -log_p / math.log(2),
    },
    checks.check_best_variance: {
        "Right": lambda x, mu: ((x - mu) ** 2).mean(),
        "standard deviation": lambda x, mu: ((x - mu) ** 2).mean().sqrt(),
        "sum of the squared": lambda x, mu: ((x - mu) ** 2).sum(),
        "half of it": lambda x, mu: ((x - mu) ** 2).mean() / 2,
        "own mean; what counts is its": lambda x, mu: x.var(),
        "own mean; what counts is the": lambda x, mu: x.var(correction=0),
        "log of the variance": lambda x, mu: ((x - mu) ** 2).mean().log(),
    },
    checks.check_importance_weighted_bound: {
        "Right": lambda log_w: torch.logsumexp(log_w, 0) - math.log(len(log_w)),
        "mean of the logs": lambda log_w: log_w.mean(0),
        "subtract log K": lambda log_w: torch.logsumexp(log_w, 0),
        "logsumexp": lambda log_w: log_w.exp().mean(0).log(),
        "over the images": lambda log_w: torch.logsumexp(log_w, 1) - math.log(2),
        "log B": lambda log_w: torch.logsumexp(log_w, 0) - math.log(2),
    },
    # Lesson 02
    checks.check_batch_norm: {
        "Right": lambda h, gain, bias, eps: F.batch_norm(h, None, None, gain, bias, training=True, eps=eps),
        "B - 1": lambda h, gain, bias, eps: normed(h, gain, bias, eps, correction=1),
        "layer norm": lambda h, gain, bias, eps: F.layer_norm(h, h.shape[1:], gain, bias, eps),
        "for all features": lambda h, gain, bias, eps: normed(h, gain, bias, eps, dim=(0, 1)),
        "divide by the variance": lambda h, gain, bias, eps: (
            (h - h.mean(0)) / (h.var(0, correction=0) + eps) * gain + bias
        ),
        "The gain and the bias": lambda h, gain, bias, eps: normed(h, 1, 0, eps),
        "The bias is missing": lambda h, gain, bias, eps: normed(h, gain, 0, eps),
        "variant of 2015": lambda h, gain, bias, eps: (
            (h - h.mean(0)) / (h.std(0, correction=0) + eps) * gain + bias
        ),
        "The eps is missing": lambda h, gain, bias, eps: normed(h, gain, bias, 0),
        "mean is not subtracted": lambda h, gain, bias, eps: (
            h / (h.var(0, correction=0) + eps).sqrt() * gain + bias
        ),
    },
    checks.check_kl_floor: {
        # a batch of two, whose normalised values are 1 and -1
        "Right": lambda gain, bias: ((torch.stack([bias + gain, bias - gain]) ** 2) / 2).sum(1).mean(),
        "The bias is missing": lambda gain, bias: (gain**2).sum() / 2,
        "The gain is missing": lambda gain, bias: (bias**2).sum() / 2,
        "twice too large": lambda gain, bias: (gain**2 + bias**2).sum(),
        "average over the latents": lambda gain, bias: (gain**2 + bias**2).mean() / 2,
        "floor of each latent": lambda gain, bias: (gain**2 + bias**2) / 2,
        "square the sum": lambda gain, bias: ((gain + bias) ** 2).sum() / 2,
        "not squared": lambda gain, bias: (gain + bias**2).sum() / 2,
    },
    checks.check_running_average: {
        "Right": torch_running,
        "wrong way round": lambda mean, var, h, m: (
            m * mean + (1 - m) * h.mean(0),
            m * var + (1 - m) * h.var(0),
        ),
        "divides by B. Torch": lambda mean, var, h, m: (
            mean.lerp(h.mean(0), m),
            var.lerp(h.var(0, correction=0), m),
        ),
        "standard deviation": lambda mean, var, h, m: (mean.lerp(h.mean(0), m), var.lerp(h.std(0), m)),
        "replace": lambda mean, var, h, m: (h.mean(0), h.var(0)),
        "Only the mean": lambda mean, var, h, m: (mean.lerp(h.mean(0), m), var),
        "Only the variance": lambda mean, var, h, m: (mean, var.lerp(h.var(0), m)),
        "exchanged": lambda *inputs: torch_running(*inputs)[::-1],
    },
    checks.check_fold: {
        "Right": torch_folded,
        "columns": lambda w, b, mean, var, gain, shift, eps: (
            w * (gain / (var + eps).sqrt()),
            folded(w, b, mean, var, gain, shift, eps)[1],
        ),
        "not scaled: it": lambda w, b, mean, var, gain, shift, eps: (
            folded(w, b, mean, var, gain, shift, eps)[0],
            b + folded(w, 0 * b, mean, var, gain, shift, eps)[1],
        ),
        "old bias is missing": lambda w, b, *others: folded(w, 0 * b, *others),
        "mean is not subtracted": lambda w, b, mean, *others: folded(w, b, 0 * mean, *others),
        "without being scaled": lambda w, b, mean, *others: (
            folded(w, b, mean, *others)[0],
            folded(w, b, 0 * mean, *others)[1] - mean,
        ),
        "shift": lambda w, b, mean, var, gain, shift, eps: folded(w, b, mean, var, gain, 0 * shift, eps),
        "not by its root": lambda w, b, mean, var, gain, shift, eps: folded(
            w, b, mean, (var + eps) ** 2, gain, shift, 0
        ),
        "unchanged": lambda w, *others: (w, folded(w, *others)[1]),
    },
    checks.check_compressed_length: {
        "Right": lambda n: n if n <= 25 else 5 * math.sqrt(n),
        "clipping": lambda n: n * 5 / max(5, n),
        "5 for every gradient": lambda n: 5.0,
        "root of n. The": lambda n: n**0.5,
        "left alone": lambda n: 5 * n**0.5,
        "from n = 5 on": lambda n: n if n < 5 else 5 * n**0.5,
        "factor. The length": lambda n: 5 / max(5, n**0.5),
    },
    # Lesson 03
    checks.check_conv_size: {
        "Right": torch_size,
        "The + 1 is missing": lambda h, k, s, p: (h + 2 * p - k) // s,
        "added once": lambda h, k, s, p: (h + p - k) // s + 1,
        "padding is missing": lambda h, k, s, p: (h - k) // s + 1,
        "divide the height": lambda h, k, s, p: h // s + 2 * p - k + 1,
        "divide the + 1": lambda h, k, s, p: (h + 2 * p - k + 1) // s,
        "round up": lambda h, k, s, p: -(-(h + 2 * p - k) // s) + 1,
        "do not round": lambda h, k, s, p: (h + 2 * p - k) / s + 1,
        "but a float": lambda h, k, s, p: float((h + 2 * p - k) // s + 1),
    },
    checks.check_multiplications: {
        "Right": weights_times_places,
        "number of weights": lambda i, o, k, h, w: i * o * k * k,
        "input channels are missing": lambda i, o, k, h, w: o * k * k * h * w,
        "output channels are missing": lambda i, o, k, h, w: i * k * k * h * w,
        "kernel is square": lambda i, o, k, h, w: i * o * k * h * w,
        "additions": lambda i, o, k, h, w: 2 * i * o * k * k * h * w,
        "kernel is missing": lambda i, o, k, h, w: i * o * h * w,
    },
    checks.check_receptive_field: {
        "Right": pixels_with_a_gradient,
        "add the kernels": lambda layers: sum(k for k, _ in layers),
        "ignore the strides": lambda layers: 1 + sum(k - 1 for k, _ in layers),
        "own stride": lambda layers: (
            1 + sum((layers[n][0] - 1) * math.prod(s for _, s in layers[: n + 1]) for n in range(len(layers)))
        ),
        "multiply the kernels": lambda layers: math.prod(k for k, _ in layers),
        "from the top": lambda layers: pixels_with_a_gradient(layers[::-1]),
        "The 1 is missing": lambda layers: pixels_with_a_gradient(layers) - 1,
    },
    checks.check_nearest: {
        "Right": lambda h: F.interpolate(h, scale_factor=2, mode="nearest"),
        "perforated": Perforated(),
        "side by side": lambda h: torch.cat([torch.cat([h, h], 3)] * 2, 2),
        "Only the height": lambda h: F.interpolate(h, scale_factor=(2, 1)),
        "Only the width": lambda h: F.interpolate(h, scale_factor=(1, 2)),
        "cuts the rows": lambda h: (
            h[..., None, None].expand(*h.shape, 2, 2).reshape(*h.shape[:2], 2 * h.shape[2], 2 * h.shape[3])
        ),
        "bilinear": lambda h: F.interpolate(h, scale_factor=2, mode="bilinear"),
    },
    checks.check_sphere: {
        "Right": arc,
        "line: half-way": lambda a, b, t: torch.lerp(a, b, t),
        "stretched": lambda a, b, t: torch.lerp(a, b, t) / torch.lerp(a, b, t).norm(),
        "exchanged": lambda a, b, t: arc(a, b, 1 - t),
        "acos is missing": lambda a, b, t: arc(a, b, t, angle=F.cosine_similarity(a, b, dim=0)),
        "by their lengths": lambda a, b, t: arc(a, b, t, angle=torch.acos(a @ b)),
        "mix the directions": lambda a, b, t: arc(a / a.norm(), b / b.norm(), t),
        "division by sin(w)": lambda a, b, t: (
            arc(a, b, t) * torch.sin(torch.acos(F.cosine_similarity(a, b, dim=0)))
        ),
    },
    # Lesson 04
    checks.check_merge: {
        "Right": product,
        "evidence alone": lambda m, v, n, w: (n, w),
        "The means count alike": lambda m, v, n, w: ((m + n) / 2, product(m, v, n, w)[1]),
        "weights are swapped": lambda m, v, n, w: (blend(m, n, v.exp(), w.exp()), product(m, v, n, w)[1]),
        "sum of two random": lambda m, v, n, w: (m + n, (v.exp() + w.exp()).log()),
        "add the variances": lambda m, v, n, w: (product(m, v, n, w)[0], torch.logaddexp(v, w)),
        "for a standard deviation": lambda m, v, n, w: (
            product(m, 2 * v, n, 2 * w)[0],
            product(m, 2 * v, n, 2 * w)[1] / 2,
        ),
        "1 / standard deviation": lambda m, v, n, w: product(m, v / 2, n, w / 2),
        "half the log-variance": lambda m, v, n, w: (product(m, v, n, w)[0], product(m, v, n, w)[1] / 2),
        "log of the precision": lambda m, v, n, w: (product(m, v, n, w)[0], torch.logaddexp(-v, -w)),
        "return the precision": lambda m, v, n, w: (product(m, v, n, w)[0], (-v).exp() + (-w).exp()),
        "The log is missing": lambda m, v, n, w: (product(m, v, n, w)[0], product(m, v, n, w)[1].exp()),
        "not normalised": lambda m, v, n, w: (m / v.exp() + n / w.exp(), product(m, v, n, w)[1]),
        "average the precisions": lambda m, v, n, w: (
            product(m, v, n, w)[0],
            -(((-v).exp() + (-w).exp()) / 2).log(),
        ),
        "2 tensors are asked for": lambda m, v, n, w: product(m, v, n, w)[0],
    },
    checks.check_layer_kl: {
        "Right": price_list,
        "N(0, I)": lambda q, p: price_list(q, [(0 * mu, 0 * log_var) for mu, log_var in q]),
        "sum over the layers": lambda q, p: price_list(q, p).sum(1),
        "average over the latents": lambda q, p: price_list(q, p, reduce=torch.mean),
        "top layer comes first": lambda q, p: price_list(q[::-1], p[::-1]),
        "swapped": lambda q, p: price_list(p, q),
        "layers are the rows": lambda q, p: price_list(q, p, dim=0),
        "average over the batch": lambda q, p: price_list(q, p).mean(0),
        "factor 1/2": lambda q, p: 2 * price_list(q, p),
        "bottom layer alone": lambda q, p: price_list(q[:1], p[:1]),
        "stops with RuntimeError: stack": lambda q, p: torch.stack([mu for mu, _ in q]),
        "returns a list": lambda q, p: list(price_list(q, p).unbind(1)),
    },
    checks.check_free_bits: {
        "Right": lambda kl, floor: sum(max(layer.mean(), torch.tensor(floor)) for layer in kl.unbind(1)),
        "hold each image": lambda kl, floor: kl.clamp(min=floor).sum(1).mean(),
        "hold the sum": lambda kl, floor: kl.sum(1).mean().clamp(min=floor),
        "ceiling": lambda kl, floor: kl.mean(0).minimum(torch.tensor(floor)).sum(),
        "The floor is not paid": lambda kl, floor: F.relu(kl.mean(0) - floor).sum(),
        "average over the layers": lambda kl, floor: kl.mean(0).clamp(min=floor).mean(),
        "price of each layer": lambda kl, floor: kl.mean(0).clamp(min=floor),
        "The floor is missing": lambda kl, floor: kl.sum(1).mean(),
        "add the floor": lambda kl, floor: (kl + floor).sum(1).mean(),
        "sum over the batch": lambda kl, floor: kl.sum(0).clamp(min=floor).sum(),
        "pays nothing with you": lambda kl, floor: torch.stack([m * (m > floor) for m in kl.mean(0)]).sum(),
    },
    checks.check_warm_up_from_below: {
        "Right": lambda step, n, k: warm_up(step, n, k, from_below=True),
        "top layer comes first": lambda step, n, k: ramps((step + 1) / n, k).flip(0),
        "at once": lambda step, n, k: warm_up(step, n, k),
        "one step late": lambda step, n, k: ramps(step / n, k),
        "beyond 1": lambda step, n, k: ramps((step + 1) / n, k, high=math.inf),
        "negative": lambda step, n, k: ramps((step + 1) / n, k, low=-math.inf),
        "clamp it": lambda step, n, k: ramps((step + 1) / n, k, -math.inf, math.inf),
        "n_steps of its own": lambda step, n, k: ramps((step + 1) / n / k, k),
        "jumps": lambda step, n, k: ramps((step + 1) / n, k).floor(),
        "shape": lambda step, n, k: min(1.0, (step + 1) / n),
        "term by term": lambda step, n, k: [  # whole steps for each layer: wrong where n is no multiple of k
            min(1.0, max(0.0, (step + 1 - layer * (n // k)) / (n // k))) for layer in range(k)
        ],
    },
    # Lesson 05
    checks.check_cost: {
        "Right": plan,
        "one number for each image": lambda p, k, q, y, a: k - p + a * softmax_error(q, y),
        "The KL has the wrong sign": lambda p, k, q, y, a: plan(p, -k, q, y, a),
        "nll + KL has the wrong sign": lambda p, k, q, y, a: plan(-p, -k, q, y, a),
        "log_px has the wrong sign": lambda p, k, q, y, a: plan(-p, k, q, y, a),
        "The KL is missing": lambda p, k, q, y, a: plan(p, 0 * k, q, y, a),
        "The nll is missing": lambda p, k, q, y, a: plan(0 * p, k, q, y, a),
        "labelled images only": lambda p, k, q, y, a: (k - p)[y >= 0].mean() + a * softmax_error(q, y),
        "unlabelled images only": lambda p, k, q, y, a: (k - p)[y < 0].mean() + a * softmax_error(q, y),
        "sum nll + KL": lambda p, k, q, y, a: (k - p).sum() + a * softmax_error(q, y),
        "size of the batch. It": lambda p, k, q, y, a: (
            plan(p, k, q, y, 0) + a * F.nll_loss(q, y, ignore_index=-1, reduction="sum") / len(y)
        ),
        "index -1 picks": lambda p, k, q, y, a: (k - p - a * q[range(len(y)), y]).mean(),
        "leave class 0 out": lambda p, k, q, y, a: plan(p, k, q, y, a, known=1),
        "softmax error has the wrong sign": lambda p, k, q, y, a: plan(p, k, q, y, -a),
        "take the probability": lambda p, k, q, y, a: plan(p, k, q.exp(), y, a),
        "take 1 - q": lambda p, k, q, y, a: plan(p, k, q.exp(), y, a) + a,
        "softmax of probabilities": lambda p, k, q, y, a: (
            plan(p, k, q, y, 0) + a * F.cross_entropy(q.exp(), y, ignore_index=-1)
        ),
        "alpha is forgotten": lambda p, k, q, y, a: plan(p, k, q, y, 1),
        "alpha multiplies everything": lambda p, k, q, y, a: a * plan(p, k, q, y, 1),
        "alpha multiplies nll": lambda p, k, q, y, a: plan(a * p, a * k, q, y, 1),
        "over the labelled images. Take": lambda p, k, q, y, a: plan(p, k, q, y, a, reduction="sum"),
        "twice": lambda p, k, q, y, a: (k - p).sum() + a * softmax_error(q, y, reduction="sum"),
        "over the classes too": lambda p, k, q, y, a: (
            plan(p, k, q, y, 0) - a * (F.one_hot(y.clamp(min=0), 10) * q)[y >= 0].mean()
        ),
        "entropy": lambda p, k, q, y, a: plan(p, k, q, y, 0) + a * entropy(q[y >= 0]).mean(),
        "cost of lesson 01": lambda p, k, q, y, a: plan(p, k, q, y, 0),
        "the mean of nothing": lambda p, k, q, y, a: (
            plan(p, k, q, y, 0) + a * F.nll_loss(q, y, ignore_index=-1)
        ),
        "you return 0": lambda p, k, q, y, a: plan(p, k, q, y, a) if (y >= 0).any() else torch.tensor(0.0),
        "picks class 9": lambda p, k, q, y, a: (
            plan(p, k, q, y, a) if (y >= 0).any() else (k - p - a * q[range(len(y)), y]).mean()
        ),
        "stops with IndexError": lambda p, k, q, y, a: plan(p, k, q, y, 0) + a * F.nll_loss(q, y),
    },
    checks.check_label_kl: {
        "Right": uniform_price,
        "That is the entropy": entropy,
        "log 10 is missing": lambda log_q: -entropy(log_q),
        "never negative": lambda log_q: -uniform_price(log_q),
        "KL(uniform || q)": lambda log_q: F.kl_div(log_q, torch.full_like(log_q, 0.1), reduction="none").sum(
            1
        ),
        "You average over the classes. The": lambda log_q: uniform_price(log_q) / 10,
        "average q log q": lambda log_q: math.log(10) - entropy(log_q) / 10,
        "bits. Here": lambda log_q: uniform_price(log_q) / math.log(2),
        "math.log10(10) is 1": lambda log_q: math.log10(10) - entropy(log_q),
        "math.log2(10) is in bits": lambda log_q: math.log2(10) - entropy(log_q),
        "set brackets": lambda log_q: (log_q.exp() * log_q + math.log(10)).sum(1),
        "cross-entropy": lambda log_q: -(log_q.exp() * math.log(0.1)).sum(1),
        "weigh by log q": lambda log_q: (log_q * (log_q - math.log(0.1))).sum(1),
        "one number for each class": lambda log_q: log_q.exp() * (log_q - math.log(0.1)),
        "The classes are the last axis": lambda log_q: (log_q.exp() * (log_q - math.log(0.1))).sum(0),
        "sum over the batch as well": lambda log_q: uniform_price(log_q).sum(),
        "average over the batch": lambda log_q: uniform_price(log_q).mean(),
    },
    checks.check_exact_sum: {
        "Right": m2,
        "All classes count alike": lambda p, k, q: m2(p, k, q, weight=torch.full_like(q, 0.1)),
        "most likely class only": lambda p, k, q: m2(p, k, q, weight=F.one_hot(q.argmax(1), 10).float()),
        "added without weights. Weigh each": lambda p, k, q: m2(p, k, q, weight=torch.ones_like(q)),
        "weigh by log q": lambda p, k, q: m2(p, k, q, weight=q),
        "The KL has the wrong sign": lambda p, k, q: m2(p, -k, q),
        "The KL of the code is missing": lambda p, k, q: m2(p, 0 * k, q),
        "The KLs are added": lambda p, k, q: m2(p, 0 * k, q) - k.sum(1),
        "The KLs are averaged": lambda p, k, q: m2(p, 0 * k, q) - k.mean(1),
        "best q(y|x)": lambda p, k, q: (0.1 * (p - k).exp()).sum(1).log(),
        "log of a mean": lambda p, k, q: (q.exp() * (p - k).exp()).sum(1).log() - uniform_price(q),
        "The entropy is missing": lambda p, k, q: m2(p, k, q, label_price=math.log(10)),
        "entropy has the wrong sign": lambda p, k, q: m2(p, k, q, label_price=entropy(q) + math.log(10)),
        "log 10 is missing": lambda p, k, q: m2(p, k, q, label_price=-entropy(q)),
        "log 10 has the wrong sign": lambda p, k, q: m2(p, k, q, label_price=-entropy(q) - math.log(10)),
        "price of the label is missing": lambda p, k, q: m2(p, k, q, label_price=0),
        "Yours lacks the q": lambda p, k, q: (q.exp() * (p - k) - q).sum(1) - math.log(10),
        "averaged over the classes": lambda p, k, q: (
            m2(p, k, q, label_price=math.log(10)) - (q.exp() * q).mean(1)
        ),
        "subtract log 10 once for each": lambda p, k, q: (q.exp() * (p - k - q) - math.log(10)).sum(1),
        "math.log10(10) is 1": lambda p, k, q: m2(p, k, q, label_price=1 - entropy(q)),
        "turn the sign": lambda p, k, q: -m2(p, k, q),
        "average over the batch": lambda p, k, q: m2(p, k, q).mean(),
        "sum over the batch": lambda p, k, q: m2(p, k, q).sum(),
        "one term for each class": lambda p, k, q: q.exp() * (p - k - q - math.log(10)),
    },
    checks.check_prices: {
        "Right": class_prices,
        "swapped": lambda m, v, n, w: class_prices(n, w, m, v).T,
        "log of the standard deviation": lambda m, v, n, w: class_prices(m, 2 * v, n, 2 * w),
        "factor 1/2": lambda m, v, n, w: 2 * class_prices(m, v, n, w),
        "never negative": lambda m, v, n, w: -class_prices(m, v, n, w),
        "The -1 is missing": lambda m, v, n, w: class_prices(m, v, n, w) + m.shape[1] / 2,
        "not divided by anything": lambda m, v, n, w: (
            class_prices(0 * m, v, 0 * n, w) + distances(m, n).sum(2) / 2
        ),
        "variance of q. Divide": lambda m, v, n, w: (
            class_prices(0 * m, v, 0 * n, w) + (distances(m, n) / v.exp()[:, None]).sum(2) / 2
        ),
        "not squared": lambda m, v, n, w: (
            class_prices(0 * m, v, 0 * n, w) + ((m[:, None] - n) / w.exp()).sum(2) / 2
        ),
        "wrong way round": lambda m, v, n, w: class_prices(m, v, n, w) + v.sum(1)[:, None] - w.sum(1),
        "difference of the log-variances is missing": lambda m, v, n, w: (
            class_prices(m, v, n, w) + (v.sum(1)[:, None] - w.sum(1)) / 2
        ),
        "ratio of the variances is missing": lambda m, v, n, w: (
            class_prices(m, v, n, w) - (v[:, None] - w).exp().sum(2) / 2
        ),
        "log-density": lambda m, v, n, w: -Normal(n, (w / 2).exp()).log_prob(m[:, None]).sum(2),
        "N(0, I). Each": lambda m, v, n, w: class_prices(m, v, 0 * n, 0 * w)[:, 0],
        "N(0, I) for every class": lambda m, v, n, w: class_prices(m, v, 0 * n, 0 * w),
        "average over the latents": lambda m, v, n, w: class_prices(m, v, n, w, each=True).mean(2),
        "classes are the rows": lambda m, v, n, w: class_prices(m, v, n, w).T,
        "That is the squared distance": lambda m, v, n, w: distances(m, n).sum(2),
        "half the squared distance": lambda m, v, n, w: distances(m, n).sum(2) / 2,
        "price of each latent": lambda m, v, n, w: class_prices(m, v, n, w, each=True),
        "average over the batch": lambda m, v, n, w: class_prices(m, v, n, w).mean(0),
        "add up the classes": lambda m, v, n, w: class_prices(m, v, n, w).sum(1),
        "cheapest class. Keep": lambda m, v, n, w: class_prices(m, v, n, w).amin(1),
        "That is log q(y|x)": lambda m, v, n, w: F.softmin(class_prices(m, v, n, w), 1).log(),
        "That is q(y|x)": lambda m, v, n, w: F.softmin(class_prices(m, v, n, w), 1),
        "stops with RuntimeError: The size": lambda m, v, n, w: (m - n) ** 2,
    },
    checks.check_suspects: {
        "Right": lambda q, y, n: given(q, y).topk(n, largest=False).indices,
        "believes most": lambda q, y, n: given(q, y).topk(n).indices,
        "least sure of": lambda q, y, n: q.amax(1).topk(n, largest=False).indices,
        "highest entropy": lambda q, y, n: entropy(q).topk(n).indices,
        "no order": lambda q, y, n: torch.where(q.argmax(1) != y)[0][:n],
        "all images where": lambda q, y, n: torch.where(q.argmax(1) != y)[0],
        "how far its own class": lambda q, y, n: (q.amax(1) - given(q, y)).topk(n).indices,
        "how sure it is of its own": lambda q, y, n: (q.amax(1) * 1.0 - 99.0 * (q.argmax(1) == y)).topk(n)[1],
        "labels are not used": lambda q, y, n: q.amin(1).topk(n, largest=False).indices,
        "values of log q": lambda q, y, n: given(q, y).sort().values[:n],
        "Those are probabilities": lambda q, y, n: given(q, y).exp().sort().values[:n],
        "labels of the suspects": lambda q, y, n: y[given(q, y).argsort()[:n]],
        "classes that it prefers": lambda q, y, n: q.argmax(1)[given(q, y).argsort()[:n]],
        "mask": lambda q, y, n: given(q, y) < given(q, y).sort().values[n],
        "most suspicious comes last": lambda q, y, n: given(q, y).argsort(descending=True)[-n:],
        "order of the file": lambda q, y, n: torch.where(given(q, y) < given(q, y).sort().values[n])[0],
        "n is not used": lambda q, y, n: given(q, y).argsort(),
        "Drop it": lambda q, y, n: q.gather(1, y[:, None]).argsort()[:n],
    },
}
CASES = [(check, words, answer) for check, answers in EXERCISES.items() for words, answer in answers.items()]


@pytest.mark.parametrize(
    ("check", "words", "answer"), CASES, ids=[f"{check.__name__}: {words}" for check, words, _ in CASES]
)
def test_each_answer_gets_its_own_message(check, words, answer):
    verdict = check(answer)
    assert words in repr(verdict)
    assert bool(verdict) == (words == "Right")


def test_messages_of_one_exercise_differ():
    for check, answers in EXERCISES.items():
        said = [check(answer).message for answer in answers.values()]
        assert len(set(said)) == len(said)


@pytest.mark.parametrize("check", EXERCISES)
def test_a_blank_an_error_and_a_wrong_type_fail_without_raising(check):
    assert "returns nothing yet" in check(lambda *inputs: ...).message
    assert "returns nothing yet" in check(lambda *inputs: None).message
    assert "stops with ZeroDivisionError" in check(lambda *inputs: 1 / 0).message
    assert "returns a str" in check(lambda *inputs: "42").message
    assert not any((check(lambda *inputs: ...), check(lambda *inputs: None), check(lambda *inputs: "42")))


@pytest.mark.parametrize("check", EXERCISES)
def test_an_unknown_mistake_is_told_the_true_value_or_the_shape(check):
    assert "True value" in check(lambda *inputs: torch.tensor(123.0)).message or "shape" in (
        check(lambda *inputs: torch.tensor(123.0)).message
    )
    assert "shape" in check(lambda *inputs: torch.zeros(7, 7)).message


def test_there_is_more_than_one_way_to_be_right():
    def by_a_loop(log_px, kl, log_q, labels, alpha):
        errors = [-float(log_q[i, label]) for i, label in enumerate(labels) if label != -1]
        return (kl - log_px).mean() + alpha * sum(errors) / max(len(errors), 1)

    def normalised_again(log_px, kl, log_q, labels, alpha):
        error = F.cross_entropy(log_q, labels, ignore_index=-1, reduction="sum")
        return kl.mean() - log_px.mean() + alpha * error / (labels >= 0).sum().clamp(min=1)

    assert checks.check_cost(by_a_loop) and checks.check_cost(normalised_again)
    assert checks.check_suspects(lambda log_q, labels, n: [5, 2, 7]), "a list is as good as a tensor"


def test_an_answer_of_two_parts_is_told_which_one_is_wrong():
    right = {"The mean": torch.zeros(3), "The variance": torch.ones(3)}

    def said(*answer):
        return judge(lambda: answer, right, "Good.", {}).message

    assert said(torch.zeros(3), torch.ones(3)) == "Good."
    assert judge(lambda: [torch.zeros(3), torch.ones(3)], right, "Good.", {})
    assert said(torch.zeros(3), torch.zeros(3)).startswith("The variance: Your value: 0, 0, 0.")
    assert said(torch.zeros(2), torch.ones(3)).startswith("The mean: The shape should be (3,) and is (2,)")
    assert said(torch.zeros(3)).startswith("2 tensors are asked for. You return 1")
    assert "returns nothing yet" in said(torch.zeros(3), ...)
    assert "returns a str" in said(torch.zeros(3), "1, 1, 1")


def test_a_number_that_is_wrong_is_told_with_its_input():
    said = checks.check_conv_size(lambda *inputs: 28).message
    assert said.startswith("For 28, 3, 2, 1: Your value: 28. True value: 14.")


@pytest.mark.parametrize("check", EXERCISES)
def test_a_function_that_changes_its_inputs_spoils_nothing(check):
    def overwrite(*inputs):
        for tensor in inputs:
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()
            elif isinstance(tensor, list):
                tensor.clear()

    check(overwrite)
    assert check(EXERCISES[check]["Right"])


# The clinic, whose answer is no function ------------------------------------------------------------

CAUSES = dict(zip("ABCD", (checks.ILLNESSES[i] for i in (1, 2, 0, 3)), strict=True))


def test_the_right_diagnosis_passes_however_it_is_typed():
    assert checks.check_diagnosis(CAUSES)
    assert checks.check_diagnosis({name: f" {cause.title()} " for name, cause in reversed(CAUSES.items())})


def test_each_wrong_diagnosis_is_told_what_speaks_against_it_and_not_what_is_right():
    said = []
    for name, cause in CAUSES.items():
        for claim in set(checks.ILLNESSES) - {cause}:
            verdict = checks.check_diagnosis(CAUSES | {name: claim})
            assert not verdict
            assert (
                verdict.message.startswith(f"3 of 4 are right. {name}: ") and verdict.message.count(":") == 1
            )
            assert not any(other in verdict.message for other in {*checks.ILLNESSES} - {claim})
            said.append(verdict.message.partition(": ")[2])
    assert len(set(said)) == 12


def test_a_diagnosis_is_counted_patient_by_patient():
    same = checks.check_diagnosis(dict.fromkeys("ABCD", "overfitted")).message
    assert same.startswith("1 of 4 are right. B: ") and " C: " in same and " D: " in same and "A:" not in same
    turned = dict(zip("ABCD", [*CAUSES.values()][1:] + ["overfitted"], strict=True))
    assert checks.check_diagnosis(turned).message.startswith("0 of 4 are right. A: ")


def test_a_blank_or_unknown_diagnosis_is_told_so():
    blank = checks.check_diagnosis(dict.fromkeys("ABCD", ...))
    assert not blank and blank.message.startswith("No diagnosis yet of A, B, C, D: choose from")
    assert all(illness in blank.message for illness in checks.ILLNESSES)
    for empty in (None, "", ...):
        assert "No diagnosis yet of C:" in checks.check_diagnosis(CAUSES | {"C": empty}).message
    missing = {name: cause for name, cause in CAUSES.items() if name in "AD"}
    assert "No diagnosis yet of B, C:" in checks.check_diagnosis(missing).message
    odd = checks.check_diagnosis(CAUSES | {"B": "batchnorm", "D": 4})
    assert not odd and "Not an illness of this clinic: B: 'batchnorm', D: 4. Choose from" in odd.message
    assert "There is no patient E, 7" in checks.check_diagnosis(CAUSES | {"E": "overfitted", 7: ""}).message
    for nothing in (..., None, "overfitted", [*CAUSES.values()]):
        assert "A dict is asked for" in checks.check_diagnosis(nothing).message
