"""A photograph with a hole: the smooth fill of it, the batch that models of lesson 06 see, and augmentation.

The hole is the middle of the picture, 32x32 of 64x64 as in the class of 2017. A batch is one tensor:

    x (B, 7, 64, 64)    x[:, :3]  the photograph in [0, 1]           what is to be guessed, in the hole
                        x[:, 3:6] the same, its hole filled smoothly  what may be looked at
                        x[:, 6:]  1 where the photograph is known, 0 in the hole and beyond its edges
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.data import Batches, Images, as_grey
from course_utils.models.common import centre

SIDE = 64  # of the picture; the hole has half of it
FARTHEST = 12  # places that augmentation moves a photograph; at 16 the hole would reach its edge


# The harmonic fill -------------------------------------------------------------------------------


@functools.cache
def harmonic_weights(side: int = SIDE // 2) -> Tensor:
    """What each pixel around a square hole says to each pixel inside it: (side², 4 side), rows sum to 1.

    The fill solves Laplace's equation: every pixel is the mean of its four neighbours, as on a plate
    whose rim is held at given temperatures. It is linear in the rim, whose order is that of `rim`.
    """
    n = side * side
    rows = torch.arange(n)
    row, column = rows // side, rows % side
    equations, from_rim = 4 * torch.eye(n, dtype=torch.float64), torch.zeros(n, 4 * side, dtype=torch.float64)
    neighbours = [
        (row > 0, rows - side, column),  # above, or the rim's top row
        (row < side - 1, rows + side, side + column),  # below, bottom row
        (column > 0, rows - 1, 2 * side + row),  # left
        (column < side - 1, rows + 1, 3 * side + row),  # right
    ]
    for is_inside, neighbour, place in neighbours:
        equations[rows[is_inside], neighbour[is_inside]] = -1
        from_rim[rows[~is_inside], place[~is_inside]] = 1
    return torch.linalg.solve(equations, from_rim).float()


def rim(x: Tensor) -> Tensor:
    """The pixels next to the hole: above, below, left, right of it: (B, C, 2n, 2n) -> (B, C, 4n)."""
    first, last = x.shape[-1] // 4, 3 * x.shape[-1] // 4
    inside = slice(first, last)
    sides = [x[..., first - 1, inside], x[..., last, inside], x[..., inside, first - 1], x[..., inside, last]]
    return torch.cat(sides, dim=-1)


def harmonic_fill(x: Tensor) -> Tensor:
    """The picture with its hole filled as smoothly as its rim allows; the hole's content is not looked at.

    (B, C, 2n, 2n) -> the same. A blur from the rim inwards, and the baseline that is hard to beat.
    """
    side = x.shape[-1] // 2
    filled = rim(x) @ harmonic_weights(side).to(x).T  # (B, C, side²)
    return pasted(x, filled.unflatten(-1, (side, side)))


def pasted(x: Tensor, hole: Tensor) -> Tensor:
    """A copy of the picture with this in its hole: (B, C, 2n, 2n), (B, C, n, n) -> (B, C, 2n, 2n)."""
    x = x.clone()
    centre(x).copy_(hole)
    return x


# What a model sees -------------------------------------------------------------------------------


def with_hole(x: Tensor, known: Tensor | None = None) -> Tensor:
    """(B, 3, 64, 64) in [0, 1] -> (B, 7, 64, 64), as this module's first lines say.

    `known` (B, 1, 64, 64) is 1 where there is a photograph, by default everywhere. Raises ValueError for
    other shapes.
    """
    if x.shape[1:] != (3, SIDE, SIDE):
        raise ValueError(
            f"give photographs as (B, 3, {SIDE}, {SIDE}), not {tuple(x.shape)}; "
            "`python -m course_utils.data coco` prepares any folder so; x[None] adds the batch axis to one"
        )
    known = torch.ones_like(x[:, :1]) if known is None else known
    return torch.cat([x, harmonic_fill(x), pasted(known, torch.zeros_like(centre(known)))], dim=1)


def holes_of(images: Images) -> Tensor:
    """All the pictures with their holes: (N, 7, 64, 64)."""
    return with_hole(as_grey(images.pixels))


# Training on few photographs ---------------------------------------------------------------------


def varied(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each photograph mirrored, moved and of other colours, at random; and where there still is one.

    (B, 3, 64, 64) -> (the same, known (B, 1, 64, 64)). Moved by up to 12 pixels, so that the hole lies
    elsewhere in it; what comes in from beyond its edge repeats the edge and is not known.
    """
    n = len(x)
    mirror = 1 - 2 * torch.randint(2, (n,), device=x.device)
    moves = 2 / SIDE * torch.randint(-FARTHEST, FARTHEST + 1, (2, n), device=x.device)
    placed = torch.zeros(n, 2, 3, device=x.device)
    placed[:, 0, 0], placed[:, 1, 1], placed[:, :, 2] = mirror, 1, moves.T
    grid = F.affine_grid(placed, x.shape, align_corners=False)
    known = F.grid_sample(torch.ones_like(x[:, :1]), grid, mode="nearest", align_corners=False)
    x = F.grid_sample(x, grid, mode="nearest", padding_mode="border", align_corners=False)
    return recoloured(x), known


def recoloured(x: Tensor) -> Tensor:
    """Contrast, brightness and each colour's strength a little changed: (B, 3, H, W) -> levels / 255."""
    contrast, light, *colours = torch.empty(5, len(x), 1, 1, 1, device=x.device).uniform_(-0.2, 0.2)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    strength = (1 + contrast) * (1 + 0.5 * torch.cat(colours, dim=1))
    return ((mean + strength * (x - mean) + 0.5 * light).clamp(0, 1) * 255).round() / 255


class HoleBatches:
    """`batches[step]` is (B, 7, 64, 64): photographs with holes, varied anew each time or as they are."""

    def __init__(self, photographs: Batches, vary: bool = True):
        self.photographs, self.vary = photographs, vary

    __iter__ = None

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, step: int) -> Tensor:
        x = self.photographs[step]
        return with_hole(*varied(x)) if self.vary else with_hole(x)
