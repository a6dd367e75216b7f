"""What models share: the shape of their answer, a stack of linear layers, and convolutions over maps."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_utils.distributions import normal_sample

N_CLASSES = 10  # of digits


class Output(NamedTuple):
    """One pass through a model. With S draws for each of B images all batches are S * B, draw by draw."""

    px: Tensor  # (S * B, P, C, H, W) parameters of p(x|z), for the model's likelihood to read
    z: list[Tensor]  # one (S * B, D_l) per layer, the layer next to the pixels first
    q: list[tuple[Tensor, Tensor]]  # posterior (mu, log_var) of each layer
    p: list[tuple[Tensor, Tensor]]  # prior (mu, log_var) of each layer


def must_be_images(x: Tensor, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError if x is not a batch of images of this shape."""
    if x.shape[1:] != image_shape:
        raise ValueError(
            f"this model encodes batches of images (B, {', '.join(map(str, image_shape))}) "
            f"but was given {tuple(x.shape)}; for a single image, add the batch axis with x[None]"
        )


def one_code(model: nn.Module, x: Tensor, n_draws: int) -> Output:
    """The forward of a model with one layer of latents, whose prior is N(0, I).

    Encodes x (B, C, H, W) once, draws `n_draws` latents for each image, decodes them all.
    """
    mu, log_var = (t.repeat(n_draws, 1) for t in model.encode(x))  # (S * B, D)
    z = normal_sample(mu, log_var)
    prior = (torch.zeros_like(mu), torch.zeros_like(log_var))
    return Output(px=model.decode(z), z=[z], q=[(mu, log_var)], p=[prior])


def centre(values: Tensor) -> Tensor:
    """The middle half of the last two axes, where lesson 06 has its hole: (..., 2H, 2W) -> (..., H, W)."""
    height, width = values.shape[-2:]
    return values[..., height // 4 : -(height // 4), width // 4 : -(width // 4)]


def mlp(sizes: Sequence[int], batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with a SiLU between each two: (B, sizes[0]) -> (B, sizes[-1]).

    With `batch_norm` each hidden layer is normalised before its SiLU, the last layer never (lesson 02).
    """
    *hidden, last = pairwise(sizes)
    layers = []
    for n_in, n_out in hidden:
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(*last))


def conv(n_in: int, n_out: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch norm, SiLU: (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
    layers = [nn.Conv2d(n_in, n_out, 3, stride, padding=1), nn.BatchNorm2d(n_out), nn.SiLU()]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """h + f(h) with two convolutions, after He et al. 2016: a block that can start as nothing.

    Without batch norm f starts small instead, or each of a row of blocks would add to the variance of h.
    """

    def __init__(self, n_channels: int, batch_norm: bool = True):
        super().__init__()
        last = nn.Conv2d(n_channels, n_channels, 3, padding=1)
        if batch_norm:
            self.block = nn.Sequential(conv(n_channels, n_channels), last)
            return
        first = nn.Conv2d(n_channels, n_channels, 3, padding=1)
        self.block = nn.Sequential(nn.SiLU(), first, nn.SiLU(), last)
        with torch.no_grad():
            last.weight.mul_(0.3)
            last.bias.zero_()

    def forward(self, h: Tensor) -> Tensor:  # (B, C, H, W)
        return self.block(h) + h  # in the order in memory that the convolutions want, whatever that of h is


def stage(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """Maps smaller by `stride`: (B, n_in, H, W) -> (B, n_out, H / stride, W / stride)."""
    return nn.Sequential(nn.Conv2d(n_in, n_out, 3, stride, padding=1), Residual(n_out, batch_norm=False))


def rise(n_in: int, n_out: int, mode: str = "nearest") -> nn.Sequential:
    """To maps twice as large: (B, n_in, H, W) -> (B, n_out, 2H, 2W)."""
    return nn.Sequential(nn.SiLU(), nn.Conv2d(n_in, n_out, 1), nn.Upsample(scale_factor=2, mode=mode))


def head(n_in: int, n_out: int, kernel: int = 1) -> nn.Sequential:
    """A convolution that starts at 0."""
    last = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.SiLU(), last)


def descent(widths: Sequence[int], n_z: int) -> nn.Sequential:
    """From maps and their z to the finer maps below, the side doubled at each further entry of `widths`.

    (B, widths[0] + n_z, side, side) -> (B, widths[-1], ...). What is drawn at one place blends into what is
    drawn beside it: repeated instead of interpolated, the places would show as squares.
    """
    mix = nn.Conv2d(widths[0] + n_z, widths[0], 1)
    with torch.no_grad():
        nn.init.dirac_(mix.weight[:, : widths[0]])  # the maps pass as they are, z is added to them
    rises = [rise(*pair, mode="bilinear") for pair in pairwise(widths)]
    return nn.Sequential(mix, Residual(widths[0], batch_norm=False), *rises)
