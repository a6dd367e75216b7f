"""The networks of a hierarchical VAE, layer by layer: fully connected or convolutional.

    HierarchicalVAE(*mlp_layers(latent_dims=(64, 32, 16)), top_down=True)

Both functions return (layers, decoder, shape of the top latents). `skip` must be the model's own: with it a
layer is told z of the layer above together with what that layer was told itself.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from course_utils.models.common import Residual, conv


class Layer(nn.Module):
    """One layer of latents: `up` leads to it from below and `evidence` reads it off there; `down` leads to it
    from above and `prior` reads it off there. Above the topmost there is nothing.
    """

    def __init__(self, up: nn.Module, evidence: nn.Module, down: nn.Module | None, prior: nn.Module | None):
        super().__init__()
        self.up, self.evidence, self.down, self.prior = up, evidence, down, prior


class Networks(NamedTuple):
    """What a HierarchicalVAE is made of."""

    layers: list[Layer]
    decoder: nn.Sequential
    top_shape: tuple[int, ...]


def full(n_in: int, n_out: int, batch_norm: bool) -> nn.Sequential:
    """Two linear layers, each with batch norm and SiLU: (B, n_in) -> (B, n_out)."""
    layers = []
    for n in (n_in, n_out):
        layers += [nn.Linear(n, n_out), *([nn.BatchNorm1d(n_out)] if batch_norm else []), nn.SiLU()]
    return nn.Sequential(*layers)


def mlp_layers(
    latent_dims: Sequence[int] = (64, 32, 16),
    hidden: Sequence[int] = (512, 256, 128),
    skip: bool = False,
    batch_norm: bool = True,
    n_params: int = 1,
) -> Networks:
    """For 28x28 digits, sizes as in Sønderby et al. 2016; `n_params` is the likelihood's."""
    top = len(latent_dims) - 1
    told = [latent_dims[level] + hidden[level] * (skip and level < top) for level in range(top + 1)]
    layers = []
    for level, (dim, width) in enumerate(zip(latent_dims, hidden, strict=True)):
        entry, n_below = ([], hidden[level - 1]) if level else ([nn.Flatten()], 784)
        up = nn.Sequential(*entry, *full(n_below, width, batch_norm))
        down = full(told[level + 1], width, batch_norm) if level < top else None
        prior = nn.Linear(width, 2 * dim) if level < top else None
        layers.append(Layer(up, nn.Linear(width, 2 * dim), down, prior))
    pixels = [nn.Linear(hidden[0], n_params * 784), nn.Unflatten(1, (n_params, 1, 28, 28))]
    return Networks(layers, nn.Sequential(*full(told[0], hidden[0], batch_norm), *pixels), (latent_dims[-1],))


def conv_layers(
    sides: Sequence[int] = (14, 14, 7, 7),
    n_channels: Sequence[int] = (2, 2, 4, 4),
    width: int = 32,
    skip: bool = False,
    n_params: int = 1,
) -> Networks:
    """For 28x28 digits: layer l holds `n_channels[l]` maps of side `sides[l]`, 14 or 7, never larger above.

    2x2 pixels become four channels at 14x14 and back, as in lesson 03.
    """
    top = len(sides) - 1
    told = [n + width * (skip and level < top) for level, n in enumerate(n_channels)]
    layers = []
    for level, (side, n) in enumerate(zip(sides, n_channels, strict=True)):
        entry = [] if level else [nn.PixelUnshuffle(2)]
        finer = sides[level - 1] if level else 14
        up = nn.Sequential(*entry, conv(width if level else 4, width, stride=finer // side), Residual(width))
        down = descent(told[level + 1], width, side // sides[level + 1]) if level < top else None
        prior = nn.Conv2d(width, 2 * n, 1) if level < top else None
        layers.append(Layer(up, nn.Conv2d(width, 2 * n, 1), down, prior))
    pixels = [
        nn.Conv2d(width, 4 * n_params, 3, padding=1),
        nn.PixelShuffle(2),
        nn.Unflatten(1, (n_params, 1)),
    ]
    decoder = nn.Sequential(*descent(told[0], width, 14 // sides[0]), *pixels)
    return Networks(layers, decoder, (n_channels[-1], sides[-1], sides[-1]))


def descent(n_in: int, n_out: int, scale: int) -> nn.Sequential:
    """(B, n_in, H, W) -> (B, n_out, scale * H, scale * W), by the nearest neighbour."""
    larger = [nn.Upsample(scale_factor=2)] if scale == 2 else []
    return nn.Sequential(conv(n_in, n_out), *larger, Residual(n_out))
