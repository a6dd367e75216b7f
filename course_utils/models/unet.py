"""A U-Net (Ronneberger et al. 2015) that guesses what a hole holds from what is around it (lesson 06).

    guess = smooth fill + u(photograph with the smooth fill, mask)

u starts at 0, so training starts from the smooth fill. A batch is x (B, 7, 64, 64) of `course_utils.holes`;
the network does not look at its first three channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.common import Residual, centre, must_be_images, rise, stage


class UNet(nn.Module):
    """One guess at what the hole holds, and the features that led to it.

    Down over the whole photograph, from maps of 32x32 to a single place; up again over the hole only.
    `down` and `up` are the channels of the five scales, the finest first.
    """

    image_shape = (7, 64, 64)

    def __init__(self, down: Sequence[int] = (8, 32, 64, 96, 128), up: Sequence[int] = (24, 48, 64, 96, 128)):
        super().__init__()
        self.widths = up
        stages = zip([16, *down[:3]], down[:4], (1, 2, 2, 2), strict=True)
        self.down = nn.ModuleList(stage(*sizes) for sizes in stages)
        to_one_place = [nn.Conv2d(down[3], down[4], 4), nn.SiLU(), nn.Conv2d(down[4], down[4], 1)]
        self.down.append(nn.Sequential(*to_one_place))
        self.across = nn.ModuleList(nn.Conv2d(n_down, n_up, 1) for n_down, n_up in zip(down, up, strict=True))
        self.up = nn.ModuleList(rise(up[i + 1], up[i]) for i in range(4))
        self.refine = nn.ModuleList(Residual(n, batch_norm=False) for n in up[:4])
        self.pixels = nn.Sequential(nn.SiLU(), nn.Conv2d(up[0], 12, 3, padding=1), nn.PixelShuffle(2))
        nn.init.zeros_(self.pixels[1].weight)
        nn.init.zeros_(self.pixels[1].bias)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x (B, 7, 64, 64) -> the hole (B, 3, 32, 32), and features (B, up[i], SIDES[i], SIDES[i]) of it."""
        must_be_images(x, self.image_shape)
        around = torch.cat([2 * x[:, 3:6] - 1, x[:, 6:]], dim=1)
        h, seen = F.pixel_unshuffle(around, 2).contiguous(memory_format=torch.channels_last), []
        for down, across in zip(self.down, self.across, strict=True):
            h = down(h)
            seen.append(across(centre(h) if h.shape[-1] > 1 else h))
        features = [seen.pop()]
        while seen:
            level = len(seen) - 1
            features.insert(0, self.refine[level](seen.pop() + self.up[level](features[0])))
        return centre(x[:, 3:6]) + 0.25 * self.pixels(features[0]), features

    def complete(self, x: Tensor) -> Tensor:
        """The guess, within [0, 1]: (B, 7, 64, 64) -> (B, 3, 32, 32)."""
        return self(x)[0].clamp(0, 1)
