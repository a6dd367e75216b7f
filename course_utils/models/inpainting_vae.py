"""Filling a hole: a U-Net that makes one guess, and a conditional hierarchy that makes many (lesson 06).

    p(x_hole, z | c) = p(x_hole|z, c) p(z_1|z_2, ..., z_L, c) ... p(z_L|c)      c: all that is around the hole
    q(z_l | x, z_{l+1}, ..., z_L, c) = N(mu_p + sigma_p a, var_p exp(b)),       a, b see the hole's content

The U-Net (Ronneberger et al. 2015) sees the context only; from its features each prior and the decoder are
told of the context, and what the latents say is added to its guess. a and b start at 0, and so does the KL
(residual posterior, Vahdat & Kautz 2020). A batch x (B, 7, 64, 64) is a photograph, the same with its
hole filled smoothly, and a mask that is 1 where it is known: see `course_utils.holes`.
"""

from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import BlockLogistic, normal_sample
from course_utils.models.common import Output, Residual, centre, descent, head, stage

Gaussian = tuple[Tensor, Tensor]  # mu, log_var
LIMIT = 4.0  # of a prior's log_var, either way
SIDES = (16, 8, 4)  # of the hole's maps, the finest first


class InpaintingVAE(nn.Module):
    """Layers of latents over the hole, what they say added to the guess of `unet`.

    `layers` holds (side of the maps, one of SIDES, and channels) of each, from the pixels up. `widths` are
    channels of the way down at each of SIDES, `evidence` those of the way up, which sees what the hole holds.
    """

    def __init__(
        self,
        unet: nn.Module,
        layers: Sequence[tuple[int, int]] = ((16, 4), (8, 4), (4, 4)),
        widths: Sequence[int] = (48, 64, 64),
        evidence: Sequence[int] = (32, 48, 48),
        likelihood: nn.Module | None = None,
    ):
        super().__init__()
        self.unet, self.likelihood = unet, likelihood or BlockLogistic()
        self.image_shape, self.stages = unet.image_shape, [SIDES.index(side) for side, _ in layers]
        width, n_z = [widths[s] for s in self.stages], [n for _, n in layers]
        ups = list(zip((24, *evidence[:-1]), evidence, (1, 2, 2), strict=True))[: max(self.stages) + 1]
        self.up = nn.ModuleList(stage(*sizes) for sizes in ups)
        of_context = zip((unet.widths[s] for s in self.stages), width, strict=True)
        self.told = nn.ModuleList(nn.Conv2d(*sizes, 1) for sizes in of_context)
        self.down = nn.ModuleList(
            descent(widths[below : above + 1][::-1], n)
            for below, above, n in zip(self.stages, self.stages[1:], n_z[1:], strict=False)
        )
        self.prior = nn.ModuleList(head(n, 2 * z) for n, z in zip(width, n_z, strict=True))
        self.posterior = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n + evidence[s], n, 1), head(n, 2 * z))
            for s, n, z in zip(self.stages, width, n_z, strict=True)
        )
        self.sketch = nn.ModuleList(head(n, 3) for n in width[:-1])
        n_params = self.likelihood.n_params
        self.decoder = nn.Sequential(
            *descent(widths[: self.stages[0] + 1][::-1], n_z[0]),
            Residual(widths[0], batch_norm=False),
            *head(widths[0], 12 * n_params, kernel=3),
            nn.PixelShuffle(2),
            nn.Unflatten(1, (n_params, 3)),
        )

    def context(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(guess (B, 3, 32, 32), what each layer is told of the context (B, width, side, side)) of x."""
        guess, features = self.unet(x)
        return guess, [told(features[s]) for told, s in zip(self.told, self.stages, strict=True)]

    def evidence(self, x: Tensor, guess: Tensor) -> list[Tensor]:
        """What the hole's content, and how it differs from the guess, says to each layer."""
        content = centre(x[:, :3])
        seen = F.pixel_unshuffle(torch.cat([4 * (content - guess), 2 * content - 1], dim=1), 2)
        h, found = seen.contiguous(memory_format=torch.channels_last), []
        for up in self.up:
            h = up(h)
            found.append(h)
        return [found[s] for s in self.stages]

    def descend(
        self, guess: Tensor, told: list[Tensor], draw: Callable[[int, Gaussian, Tensor], Tensor]
    ) -> tuple[list[Tensor], list[Gaussian], Tensor]:
        """From the top to the pixels: `draw(l, prior, h)` says what z[l] is; returns z, p, px.

        Lesson 04's walk with skip paths, where each layer is told of the context as well.
        """
        z, p, above = [], [], None
        for level in reversed(range(len(told))):
            h = told[level] if above is None else told[level] + self.down[level](above)
            mu, raw = self.prior[level](h).float().chunk(2, dim=1)
            p.insert(0, (mu, bounded(raw, LIMIT)))
            z.insert(0, draw(level, p[0], h))
            above = torch.cat([h, z[0]], dim=1)
        px = self.decoder(above).float()
        location = px[:, :1] + self.likelihood.from_mean(guess).unsqueeze(1)
        return z, p, torch.cat([location, px[:, 1:]], dim=1)

    def forward(self, x: Tensor, n_draws: int = 1) -> Output:
        """Context and evidence once, then `n_draws` walks down for each photograph, drawing from q."""
        return self.sketched(x, n_draws)[0]

    def sketched(self, x: Tensor, n_draws: int = 1) -> tuple[Output, list[Tensor]]:
        """`forward`, and of each layer but the top a sketch by those above (n_draws * B, 3, side, side)."""
        guess, told = self.context(x)
        guess, *evidence = repeated([guess, *self.evidence(x, guess)], n_draws)
        q, sketches = [], []

        def draw(level: int, prior: Gaussian, h: Tensor) -> Tensor:
            if level < len(self.sketch):
                coarse = F.adaptive_avg_pool2d(guess, h.shape[-1])
                sketches.insert(0, coarse + self.sketch[level](h).float())
            heads = self.posterior[level](torch.cat([h, evidence[level]], dim=1)).float()
            q.insert(0, moved(prior, *heads.chunk(2, dim=1)))
            return normal_sample(*q[0])

        z, p, px = self.descend(guess, repeated(told, n_draws), draw)
        return Output(px=px, z=z, q=q, p=p), sketches

    @torch.no_grad()
    def complete(self, x: Tensor, n_draws: int = 1, vary: Collection[int] | None = None) -> Tensor:
        """Fillings of each hole, the mean of p(x|z, c): (n_draws * B, 3, 32, 32), draw by draw.

        The layers in `vary`, by default all, are drawn from their prior, the others are its mean.
        """
        guess, told = self.context(x)

        def draw(level: int, prior: Gaussian, h: Tensor) -> Tensor:
            return normal_sample(*prior) if vary is None or level in vary else prior[0]

        px = self.descend(*repeated([guess], n_draws), repeated(told, n_draws), draw)[2]
        return self.likelihood.mean(px)


def bounded(values: Tensor, limit: float) -> Tensor:
    """Nearly the values where they are small, never beyond the limit."""
    return limit * torch.tanh(values / limit)


def moved(prior: Gaussian, a: Tensor, b: Tensor) -> Gaussian:
    """The posterior a and b prior deviations away: the prior itself at a = b = 0."""
    mu, log_var = prior
    return mu + torch.exp(0.5 * log_var) * a, log_var + bounded(b, 6.0)


def repeated(tensors: list[Tensor], n: int) -> list[Tensor]:
    """Each batch n times over, draw by draw."""
    return [t.repeat(n, 1, 1, 1) for t in tensors]
