"""Checks of lesson 03: how large a feature map is, what it costs and sees; up-sampling; between two codes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from course_utils.checks.verdict import Verdict, judge, judge_each


def check_conv_size(size: Callable[[int, int, int, int], int]) -> Verdict:
    """size(height, kernel, stride, padding): the height of what a convolution returns."""
    cases = [(28, 3, 1, 1), (28, 3, 2, 1), (14, 5, 3, 0), (29, 4, 2, 1), (7, 2, 2, 0), (28, 5, 4, 3)]
    mistakes = {
        "The + 1 is missing: the first place counts before any step is taken.": lambda h, k, s, p: (
            (h + 2 * p - k) // s
        ),
        "The padding is added once; it stands above and below.": lambda h, k, s, p: (h + p - k) // s + 1,
        "The padding is missing.": lambda h, k, s, p: (h - k) // s + 1,
        "You divide the height by the stride first. What is divided is the way the kernel can go, "
        "height + 2 * padding - kernel.": lambda h, k, s, p: h // s + 2 * p - k + 1,
        "You divide the + 1 as well: it is added after the division.": lambda h, k, s, p: (
            (h + 2 * p - k + 1) // s
        ),
        "You round up: there the last kernel would stick out. Round down.": lambda h, k, s, p: (
            math.ceil((h + 2 * p - k) / s) + 1
        ),
        "You do not round: a kernel that does not fit is left out, so divide with //.": lambda h, k, s, p: (
            (h + 2 * p - k) / s + 1
        ),
    }
    praise = "Count on paper, and no layer will surprise you by its shape."
    return judge_each(size, cases, lambda h, k, s, p: (h + 2 * p - k) // s + 1, praise, mistakes)


def check_multiplications(multiplications: Callable[[int, int, int, int, int], int]) -> Verdict:
    """multiplications(n_in, n_out, kernel, height, width): those of a convolution for one image, whose output
    is height x width. The bias is added, so it counts nothing."""
    cases = [(16, 32, 3, 7, 7), (3, 8, 5, 6, 10)]
    mistakes = {
        "That is the number of weights. Each is used at every place of the output.": lambda i, o, k, h, w: (
            i * o * k**2
        ),
        "The input channels are missing: every output channel looks at all of them.": lambda i, o, k, h, w: (
            o * k**2 * h * w
        ),
        "The output channels are missing: each has weights of its own.": lambda i, o, k, h, w: (
            i * k**2 * h * w
        ),
        "The kernel is square: kernel * kernel weights for each pair of channels.": lambda i, o, k, h, w: (
            i * o * k * h * w
        ),
        "It is twice too many: you count additions too.": lambda i, o, k, h, w: 2 * i * o * k**2 * h * w,
        "The kernel is missing: a place looks at kernel * kernel places below.": lambda i, o, k, h, w: (
            i * o * h * w
        ),
    }
    praise = "Weights are shared by all places, work is not: a fine grid costs most and holds least."
    return judge_each(multiplications, cases, lambda i, o, k, h, w: i * o * k**2 * h * w, praise, mistakes)


def width_seen(layers: list[tuple[int, int]]) -> int:
    """How many pixels one unit sees across, by (kernel, stride) of the layers from the pixels up."""
    width, step = 1, 1  # step: how many pixels lie between two neighbours of the layer below
    for kernel, stride in layers:
        width += (kernel - 1) * step
        step *= stride
    return width


def check_receptive_field(receptive_field: Callable[[list[tuple[int, int]]], int]) -> Verdict:
    """receptive_field(layers): the pixels a unit sees across; layers are (kernel, stride), lowest first."""
    cases = [[(3, 1)], [(3, 1), (3, 1)], [(3, 2), (3, 2), (3, 1)], [(2, 2), (5, 1), (4, 2), (3, 1)]]
    mistakes = {
        "You add the kernels. Neighbouring kernels overlap: a layer adds kernel - 1.": lambda layers: sum(
            k for k, _ in layers
        ),
        "You ignore the strides: above a stride of 2, neighbours are two pixels apart.": lambda layers: (
            1 + sum(k - 1 for k, _ in layers)
        ),
        "You include the layer's own stride. Its kernel lies on the grid below it: only the strides below "
        "count.": lambda layers: (
            1 + sum((k - 1) * math.prod(s for _, s in layers[: n + 1]) for n, (k, _) in enumerate(layers))
        ),
        "You multiply the kernels. A layer adds to the width; strides multiply.": lambda layers: math.prod(
            k for k, _ in layers
        ),
        "You read the layers from the top. The first of the list stands on the pixels.": lambda layers: (
            width_seen(layers[::-1])
        ),
        "The 1 is missing: without any layer a unit sees one pixel.": lambda layers: width_seen(layers) - 1,
    }
    praise = "What a unit does not see, it cannot tell of; strides widen the view faster than kernels."
    return judge_each(receptive_field, [(layers,) for layers in cases], width_seen, praise, mistakes)


def check_nearest(nearest: Callable[[Tensor], Tensor]) -> Verdict:
    """nearest(h): each value in all four places of its 2x2 cell, (B, C, H, W) -> (B, C, 2H, 2W)."""
    h = torch.arange(1.0, 25).reshape(2, 2, 2, 3) ** 2
    high, wide = h.repeat_interleave(2, dim=2), h.repeat_interleave(2, dim=3)
    perforated = torch.zeros(2, 2, 4, 6)
    perforated[..., ::2, ::2] = h
    mistakes = {
        "That is the perforated up-sampling of 2015: three places of each cell are left at zero.": perforated,
        "You lay the whole image four times side by side. Each value stays where it is and grows.": h.repeat(
            1, 1, 2, 2
        ),
        "Only the height is doubled.": high,
        "Only the width is doubled.": wide,
        "You write each value four times into its row, and reshape cuts the rows in two. Repeat along one "
        "axis, then along the other.": h.repeat_interleave(4, dim=3).reshape(2, 2, 4, 6),
        "You blend neighbours: that is bilinear up-sampling.": nn.functional.interpolate(
            h, scale_factor=2, mode="bilinear"
        ),
    }
    praise = (
        "Every place gets a value, so the next convolution has as much to add up at each: no checkerboard."
    )
    return judge(lambda: nearest(h.clone()), high.repeat_interleave(2, dim=3), praise, mistakes)


def check_sphere(sphere: Callable[[Tensor, Tensor, float], Tensor]) -> Verdict:
    """sphere(a, b, t): from a (t = 0) to b (t = 1) along the arc between them, (D,), (D,) -> (D,)."""
    a, b, t = torch.tensor([1.2, -0.5, 0.8]), torch.tensor([-0.3, 0.9, 1.1]), 0.3
    unit_a, unit_b = nn.functional.normalize(a, dim=0), nn.functional.normalize(b, dim=0)
    cosine = unit_a @ unit_b

    def mixed(angle: Tensor, t: float, a: Tensor = a, b: Tensor = b) -> Tensor:
        return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)

    angle, line = torch.acos(cosine), (1 - t) * a + t * b
    mistakes = {
        "That is the straight line: half-way it is closer to 0 than the arc is.": line,
        "That is the straight line, stretched to length 1: it does not end in a and b.": (
            nn.functional.normalize(line, dim=0)
        ),
        "t and 1 - t are exchanged: t = 0 must give a.": mixed(angle, 1 - t),
        "You use the cosine for the angle: acos is missing.": mixed(cosine, t),
        "Divide a and b by their lengths before the product that acos takes.": mixed(torch.acos(a @ b), t),
        "You mix the directions. Mix a and b themselves, or their lengths are lost.": mixed(
            angle, t, unit_a, unit_b
        ),
        "The division by sin(w) is missing: t = 0 must give a.": mixed(angle, t) * torch.sin(angle),
    }
    praise = (
        "Codes of the prior lie in a shell of radius √D: the arc stays in it, a straight line cuts through."
    )
    return judge(lambda: sphere(a.clone(), b.clone(), t), mixed(angle, t), praise, mistakes)
