"""The VAE of lesson 03: the same bound, with convolutions where lesson 01 has full layers.

    28x28 --unshuffle--> 14x14 --stride 2--> 7x7 --> h --> q(z|x)
    z --> h --> 7x7 --nearest up--> 14x14 --shuffle--> 28x28

Convolutions are normalised over batch and places (Ioffe & Szegedy 2015), thousands of numbers a channel;
the full layers, with one number an image, are not. A channel costs most on the finest grid, with its 784
places, so no hidden layer lives there: on the way in each 2x2 cell of pixels becomes four channels of a
14x14 image, and on the way out four channels become a cell (Shi et al. 2016).
"""

import torch
from torch import Tensor, nn

from course_utils.distributions import Bernoulli
from course_utils.models.common import Output, Residual, conv, must_be_images, one_code


def full(n_in: int, n_out: int) -> nn.Sequential:
    """Linear layer, SiLU: (B, n_in) -> (B, n_out)."""
    return nn.Sequential(nn.Linear(n_in, n_out), nn.SiLU())


class ConvVAE(nn.Module):
    """`channels` are those at 14x14 and at 7x7, `hidden` the width of two full layers at the latent."""

    image_shape = (1, 28, 28)

    def __init__(
        self,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 384,
        latent_dim: int = 40,
        likelihood: nn.Module | None = None,
    ):
        super().__init__()
        self.latent_dim = latent_dim
        self.likelihood = likelihood or Bernoulli()
        fine, coarse = channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),  # (B, 4, 14, 14)
            conv(4, fine),
            conv(fine, coarse, stride=2),  # (B, coarse, 7, 7)
            Residual(coarse),
            nn.Flatten(),
            full(49 * coarse, hidden),
            full(hidden, hidden),
            nn.Linear(hidden, 2 * latent_dim),
        )
        self.decoder = nn.Sequential(
            full(latent_dim, hidden),
            full(hidden, hidden),
            full(hidden, 49 * coarse),
            nn.Unflatten(1, (coarse, 7, 7)),
            Residual(coarse),
            nn.Upsample(scale_factor=2),
            conv(coarse, fine),  # (B, fine, 14, 14)
            nn.Conv2d(fine, 4 * self.likelihood.n_params, 3, padding=1),
            nn.PixelShuffle(2),  # (B, P, 28, 28)
        )
        self.to(memory_format=torch.channels_last)  # the order in which convolutions read

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        """Before training: let the decoder answer with the mean image's mean (C, H, W)."""
        last = self.decoder[-2]
        last.bias[:4] = self.likelihood.from_mean(mean.mean())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) of q(z|x), each (B, D), for images x (B, 1, 28, 28) in [0, 1]."""
        must_be_images(x, self.image_shape)
        return self.encoder(x).float().chunk(2, dim=1)

    def decode(self, z: Tensor) -> Tensor:
        """The parameters of p(x|z) for each pixel: (B, D) -> (B, P, 1, 28, 28)."""
        return self.decoder(z).float().unsqueeze(2)

    def forward(self, x: Tensor, n_draws: int = 1) -> Output:
        """Encode once, draw `n_draws` latents for each image, decode them all."""
        return one_code(self, x, n_draws)

    @torch.no_grad()
    def generate(self, n: int) -> Tensor:
        """The mean of p(x|z) for n latents from the prior: (n, 1, 28, 28) in [0, 1]."""
        z = torch.randn(n, self.latent_dim, device=next(self.parameters()).device)
        return self.likelihood.mean(self.decode(z))
