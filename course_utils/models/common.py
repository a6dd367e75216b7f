"""What all models share: the shape of their answer, and a stack of linear layers."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """One pass through a model. With S draws of the latents for each of B images the batch is S * B, draw by draw."""

    px: Tensor  # (S * B, P, C, H, W) parameters of p(x|z), for the model's likelihood to read
    z: list[Tensor]  # one (S * B, D_l) per layer, the layer next to the pixels first
    q: list[tuple[Tensor, Tensor]]  # posterior (mu, log_var) of each layer
    p: list[tuple[Tensor, Tensor]]  # prior (mu, log_var) of each layer


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers from sizes[0] to sizes[-1], with a SiLU between each two: (B, sizes[0]) -> (B, sizes[-1])."""
    layers = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
