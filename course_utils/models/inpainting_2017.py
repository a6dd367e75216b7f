"""The conditional hierarchical VAE of a 2017 class, as its code had it: shawntan/ift6266, 9 April 2017.

    p(x_hole, z | border) = p(x_hole | z) p(z_1 | z_2..7, border) ... p(z_6 | z_7, border) p(z_7 | border)
    q(z | x) = q(z_1 | x) ... q(z_7 | x)                      mean-field: no layer looks at a drawn one
    every mu and sigma = softplus(. + log(e - 1)) starts at 0 and 1: the first KL is exactly 0

One encoder, one set of weights, reads two pictures: for q the whole one; for p the one with 0 in the hole,
and 1 there in a fourth channel. On the way down the map of each scale is framed by one cell of the second
picture's map before it goes on ("border re-inclusion", for the colours). `z[0]` is z_1 of the equations.

To be looked at, faults included: batch norm that knows the batch's statistics only, also when testing; dense
layers that add their bias twice; pixels in [0, 1] going in, in [-1, 1] coming out; an up-sampling that moves
maps half a cell up and to the left. Left out: 36,998 parameters that its code made and never used.
"""

import math
from collections.abc import Callable, Collection
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import TruncatedGaussian, normal_sample
from course_utils.models.common import Output, must_be_images

Gaussian = tuple[Tensor, Tensor]  # mu, log_var
Draw = Callable[[int, Gaussian], Tensor]  # what z[l] is, given l and its prior
WIDTHS = (4, 8, 16, 32, 64, 128)  # channels of the maps 64x64, 32x32, ... 2x2, and of z[0], ... z[5]
N_FEATURES, N_TOP = 512, 256  # of the whole picture, and z[6]


class Normed(nn.Module):
    """relu(batch norm(layer)) of a layer without bias; the statistics are the batch's, also when testing."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        self.layer = layer
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.gain = nn.Parameter(torch.ones(len(layer.weight)))
        self.bias = nn.Parameter(torch.zeros(len(layer.weight)))

    def forward(self, h: Tensor) -> Tensor:
        # It had no eps: 0 / 0 where nothing varies. A std of 1e-5 is the least that gives the bias there, and
        # not the rounding blown up. F.batch_norm would refuse a batch of one.
        h = torch.batch_norm(self.layer(h), self.gain, self.bias, None, None, True, 0.0, 1e-10, False)
        return F.relu(h + self.bias if h.ndim == 2 else h)  # dense: the bias again, so it moves twice as far


def conv(n_in: int, n_out: int, padding: int = 1) -> Normed:
    return Normed(nn.Conv2d(n_in, n_out, 3, padding=padding, bias=False))


def head(n_in: int, n_out: int) -> nn.Conv2d:
    """A 1x1 convolution that starts as 0."""
    layer = nn.Conv2d(n_in, n_out, kernel_size=1)
    for value in layer.parameters():
        nn.init.zeros_(value)
    return layer


def gaussian(raw: Tensor) -> Gaussian:
    """mu and log_var from a head: (B, 2 C, H, W) -> twice (B, C, H, W); N(0, 1) from zeros."""
    mu, raw = raw.float().chunk(2, dim=1)
    return mu, 2 * torch.log(F.softplus(raw + math.log(math.e - 1)))


def doubled(h: Tensor) -> Tensor:
    """Twice as high and wide: values at even places, means of neighbours between them, as Theano had it."""
    size = (2 * h.shape[2] + 1, 2 * h.shape[3] + 1)
    h = F.interpolate(F.pad(h, (0, 1, 0, 1), mode="replicate"), size, mode="bilinear", align_corners=True)
    return h[..., :-1, :-1]


class InpaintingVAE2017(nn.Module):
    """x (B, 7, 64, 64) is a photograph; it again, the hole filled in somehow; 1 where a pixel is known."""

    image_shape = (7, 64, 64)

    def __init__(self):
        super().__init__()
        self.likelihood = TruncatedGaussian()
        steps, sizes = list(pairwise(WIDTHS)), [*((n, 2 * n) for n in WIDTHS), (N_FEATURES, 2 * N_TOP)]
        self.first = conv(4, WIDTHS[0])
        self.down = nn.ModuleList(nn.Sequential(conv(*step), nn.MaxPool2d(2)) for step in steps)
        self.features = Normed(nn.Linear(4 * WIDTHS[-1], N_FEATURES, bias=False))
        self.posterior = nn.ModuleList(head(*size) for size in sizes)
        self.prior = nn.ModuleList(head(*size) for size in sizes)
        self.unfold = Normed(nn.Linear(N_FEATURES + N_TOP, 4 * WIDTHS[-1], bias=False))
        self.up = nn.ModuleList(conv(2 * above, below) for below, above in steps)
        self.border = nn.ModuleList(conv(n, n, padding=0) for n in WIDTHS[:4])
        self.output = nn.Sequential(conv(2 * WIDTHS[0], WIDTHS[0]), head(WIDTHS[0], 6))

    def maps(self, picture: Tensor, missing: Tensor) -> list[Tensor]:
        """The encoder: 64x64, 32x32, ... 2x2, and (B, 512, 1, 1), from a picture and its fourth channel."""
        found = [self.first(torch.cat([picture, missing], dim=1))]
        for step in self.down:
            found.append(step(found[-1]))
        return [*found, self.features(found[-1].flatten(1))[:, :, None, None]]

    def evidence(self, x: Tensor) -> list[Gaussian]:
        """q of each layer, from the hole's place in the whole picture's maps, and all of the last two."""
        maps = self.maps(x[:, :3], torch.zeros_like(x[:, 6:7]))
        seen = [F.pad(h, [-(h.shape[-1] // 4)] * 4) for h in maps[:5]] + maps[5:]  # padding by -n crops
        return [gaussian(head(h)) for head, h in zip(self.posterior, seen, strict=True)]

    def context(self, x: Tensor, n_draws: int) -> list[Tensor]:
        """What p sees: in the maps 64x64 to 8x8 the hole's place and a cell around it, and the features."""
        must_be_images(x, self.image_shape)
        *maps, features = self.maps(x[:, 3:6] * x[:, 6:7], 1 - x[:, 6:7])
        seen = [*(F.pad(h, [1 - h.shape[-1] // 4] * 4) for h in maps[:4]), features]
        return [h.repeat(n_draws, 1, 1, 1) for h in seen]

    def hidden(self, level: int, above: Tensor, context: list[Tensor]) -> Tensor:
        """The map that the prior of this level reads, from that of the level above and its z."""
        if level == 5:
            return self.unfold(above.flatten(1)).unflatten(1, (-1, 2, 2))  # all of the picture, in four cells
        h = self.up[level](doubled(above))
        if level == 4:
            return F.pad(h, [-1] * 4)  # from here on only the hole
        framed = context[level].clone()
        framed[..., 1:-1, 1:-1] = h
        return self.border[level](framed)

    def descend(self, draw: Draw, context: list[Tensor]) -> tuple[list[Tensor], list[Gaussian], Tensor]:
        """From the top to the pixels of the hole: z, p, px (B, 2, 3, 32, 32)."""
        z, p, h = [], [], context[-1]
        for level in (6, 5, 4, 3, 2, 1, 0):
            h = self.hidden(level, torch.cat([h, z[0]], dim=1), context) if z else h
            p.insert(0, gaussian(self.prior[level](h)))
            z.insert(0, draw(level, p[0]))
        return z, p, self.output(torch.cat([h, z[0]], dim=1)).float().unflatten(1, (2, 3))

    def forward(self, x: Tensor, n_draws: int = 1) -> Output:
        """Read both pictures once, then walk down `n_draws` times, drawing from q."""
        context = self.context(x, n_draws)
        q = [tuple(t.repeat(n_draws, 1, 1, 1) for t in pair) for pair in self.evidence(x)]
        z, p, px = self.descend(lambda level, prior: normal_sample(*q[level]), context)
        return Output(px=px, z=z, q=q, p=p)

    @torch.no_grad()
    def complete(self, x: Tensor, n_draws: int = 1, vary: Collection[int] | None = None) -> Tensor:
        """Pictures for the hole of each x, draw by draw: (n_draws * B, 3, 32, 32) in [0, 1].

        The layers in `vary` (None: all) are drawn from the prior, the others are its mean, given what was
        drawn above. All are decoded as one batch, whose statistics they share.
        """
        context, vary = self.context(x, n_draws), range(7) if vary is None else vary
        *_, px = self.descend(lambda level, p: normal_sample(*p) if level in vary else p[0], context)
        return self.likelihood.mean(px)
