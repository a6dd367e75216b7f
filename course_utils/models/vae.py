"""The variational autoencoder of Kingma & Welling 2014 and Rezende et al. 2014, built from linear layers.

    p(x, z) = p(z) p(x|z),   p(z) = N(0, I),   p(x|z) = likelihood(decoder(z))
    q(z|x)  = N(mu(x), diag exp(log_var(x))),  (mu, log_var) = encoder(x)

Spelled out in lesson 01.
"""

import math

import torch
from torch import Tensor, nn

from course_utils.distributions import Bernoulli
from course_utils.models.common import Output, mlp, must_be_images, one_code


class VAE(nn.Module):
    """Encoder and decoder are mirror images, `hidden` their widths from the pixels to the latent.

    `batch_norm` normalises their hidden layers, `mu_norm`, a module the mean of q (lesson 02).
    What they return is float32, also where autocast computes in bfloat16: the sums of the bound need it.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, ...] = (512, 512),
        latent_dim: int = 40,
        likelihood: nn.Module | None = None,
        batch_norm: bool = False,
        mu_norm: nn.Module | None = None,
    ):
        super().__init__()
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.likelihood = likelihood or Bernoulli()
        n_pixels = math.prod(image_shape)
        self.encoder = mlp([n_pixels, *hidden, 2 * latent_dim], batch_norm)
        self.mu_norm = mu_norm or nn.Identity()
        self.decoder = mlp([latent_dim, *reversed(hidden), self.likelihood.n_params * n_pixels], batch_norm)

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        """Before training: let the encoder see x - mean and the decoder answer with the mean image (C, H, W).

        Otherwise the first hundreds of steps go into learning what the average image looks like.
        """
        first, last = self.encoder[0], self.decoder[-1]
        first.weight *= 2  # x - mean is small for most pixels
        first.bias -= first.weight @ mean.flatten()
        last.bias[: mean.numel()] = self.likelihood.from_mean(mean).flatten()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) of q(z|x), each (B, D), for images x (B, C, H, W) in [0, 1].

        Raises ValueError if x is not a batch of images of the model's shape.
        """
        must_be_images(x, self.image_shape)
        mu, log_var = self.encoder(x.flatten(start_dim=1)).float().chunk(2, dim=1)
        return self.mu_norm(mu), log_var

    def decode(self, z: Tensor) -> Tensor:
        """The parameters of p(x|z) for each pixel: (B, D) -> (B, P, C, H, W)."""
        return self.decoder(z).float().unflatten(1, (self.likelihood.n_params, *self.image_shape))

    def forward(self, x: Tensor, n_draws: int = 1) -> Output:
        """Encode once, draw `n_draws` latents for each image, decode them all."""
        return one_code(self, x, n_draws)

    @torch.no_grad()
    def generate(self, n: int) -> Tensor:
        """The mean of p(x|z) for n latents from the prior: (n, C, H, W) in [0, 1]."""
        z = torch.randn(n, self.latent_dim, device=self.decoder[0].weight.device)
        return self.likelihood.mean(self.decode(z))
