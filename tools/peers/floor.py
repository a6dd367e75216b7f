"""The floor under a training step: its matrix products and convolutions, forward and backward, nothing else.

    y = x W',   dW = dy' x,   dx = dy W        a linear layer; likewise for a convolution

A step cannot take less while it computes the same in the same precision.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Product(NamedTuple):
    """One layer of a step, its input as the model gave it: the same shape, in the same order in memory."""

    layer: nn.Linear | nn.Conv2d
    x: Tensor
    wants_dx: bool  # not of the layer that sees the images
    wants_dw: bool  # not of a layer that is not trained


def products_of(model: nn.Module, step: Callable[[], object]) -> list[Product]:
    """The linear layers and convolutions that a call of `step`, forward and backward, goes through, in order.

    What no gradient reaches, such as an output that the loss does not use, is only computed forwards.
    """
    passed: list[tuple[nn.Module, Tensor, bool]] = []
    reached: set[int] = set()

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,), number = inputs, len(passed)
        same = torch.randn_like(x.detach())
        same = same.flatten(end_dim=-2) if isinstance(layer, nn.Linear) else same
        passed.append((layer, same, x.requires_grad))
        if output.requires_grad:
            output.register_hook(lambda gradient: reached.add(number))

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        step()
    finally:
        for handle in handles:
            handle.remove()
    return [
        Product(layer, x, wants_dx and i in reached, layer.weight.requires_grad and i in reached)
        for i, (layer, x, wants_dx) in enumerate(passed)
    ]


def multiply(products: list[Product]) -> Callable[[], None]:
    """A function that computes all products of one step: forwards, then backwards from the last layer."""
    passes = [linear(product) if product.x.ndim == 2 else convolution(product) for product in products]

    @torch.no_grad()
    def step() -> None:
        for forward, _ in passes:
            forward()
        for _, backward in reversed(passes):
            backward()

    return step


Pass = tuple[Callable[[], object], Callable[[], object]]


def linear(product: Product) -> Pass:
    """Into memory that is there already."""
    _, x, wants_dx, wants_dw = product
    weight = product.layer.weight.detach()
    y, dx, dw = x @ weight.T, torch.empty_like(x), torch.empty_like(weight)
    dy = torch.randn_like(y)

    def backward() -> None:
        if wants_dx:
            torch.mm(dy, weight, out=dx)
        if wants_dw:
            torch.mm(dy.T, x, out=dw)

    return lambda: torch.mm(x, weight.T, out=y), backward


def convolution(product: Product) -> Pass:
    layer, x, wants_dx, wants_dw = product
    weight = layer.weight.detach()
    geometry = (layer.stride, layer.padding, layer.dilation)
    dy = torch.randn_like(F.conv2d(x, weight, None, *geometry, layer.groups))
    mask = (wants_dx, wants_dw, False)

    def backward() -> None:
        if wants_dx or wants_dw:
            rest = (False, (0, 0), layer.groups, mask)  # not transposed
            torch.ops.aten.convolution_backward(dy, x, weight, None, *geometry, *rest)

    return lambda: F.conv2d(x, weight, None, *geometry, layer.groups), backward
