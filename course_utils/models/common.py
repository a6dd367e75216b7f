"""What all models share: the shape of their answer, and a stack of linear layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """One pass through a model. With S draws for each of B images all batches are S * B, draw by draw."""

    px: Tensor  # (S * B, P, C, H, W) parameters of p(x|z), for the model's likelihood to read
    z: list[Tensor]  # one (S * B, D_l) per layer, the layer next to the pixels first
    q: list[tuple[Tensor, Tensor]]  # posterior (mu, log_var) of each layer
    p: list[tuple[Tensor, Tensor]]  # prior (mu, log_var) of each layer


def mlp(sizes: Sequence[int], batch_norm: bool = False) -> nn.Sequential:
    """Linear layers with a SiLU between each two: (B, sizes[0]) -> (B, sizes[-1]).

    With `batch_norm` each hidden layer is normalised before its SiLU, the last layer never (lesson 02).
    """
    *hidden, last = pairwise(sizes)
    layers = []
    for n_in, n_out in hidden:
        layers += [nn.Linear(n_in, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(*last))
