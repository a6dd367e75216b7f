"""Two networks of a 2015 class, as their code had them: kastnerkyle/ift6266h15, vae.py and conv_vae.py.

    every layer is   affine -> batch norm -> nonlinearity,   the heads and the output included
    q(z|x) = N(mu(x), diag softplus(.)^2),   p(z) = N(0, I)
    cost   = sum over pixels (x - px)^2 + KL(q || p): up to a constant the bound for a variance of 1/2

To be looked at, faults included; lessons 02 and 03 put sound ones beside them. Their ReLU was h * (h > 1e-6).
"""

import torch
from torch import Tensor, nn

from course_utils.distributions import per_image
from course_utils.models.common import Output, one_code


class SquaredError(nn.Module):
    """What the cost of 2015 takes for -log p(x|z). It lacks the normaliser: its values are no nats."""

    n_params = 1

    def log_prob(self, x: Tensor, px: Tensor) -> Tensor:
        return -per_image((x - px[:, 0]) ** 2)

    def mean(self, px: Tensor) -> Tensor:
        return px[:, 0].clamp(0, 1)


class BatchNorm2015(nn.Module):
    """(h - mean) / (std + 1e-6) * gain + bias, with mean and std of the batch at hand, also when testing.

    h is (B, D), or (B, C, H, W): a channel's batch is all its places. A batch of one comes out as the bias.
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def forward(self, h: Tensor) -> Tensor:
        axes = [axis for axis in range(h.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(h.ndim)]
        std, mean = torch.std_mean(h, dim=axes, correction=0, keepdim=True)
        return (h - mean) / (std + 1e-6) * self.gain.reshape(shape) + self.bias.reshape(shape)


def uniform(layer: nn.Module, limit: float) -> nn.Module:
    """The initialisation of 2015: weights uniform in [-limit, limit] whatever the layer's width, biases 0."""
    nn.init.uniform_(layer.weight, -limit, limit)
    nn.init.zeros_(layer.bias)
    return layer


def affine(n_in: int, n_out: int, nonlinearity: nn.Module | None = None, limit: float = 0.1) -> nn.Sequential:
    """One layer of 2015. The affine bias is lost in the batch norm and was in the code all the same."""
    layers = [uniform(nn.Linear(n_in, n_out), limit), BatchNorm2015(n_out)]
    return nn.Sequential(*layers, nonlinearity or nn.Identity())


def conv(n_in: int, n_out: int, nonlinearity: nn.Module) -> nn.Sequential:
    """A 3x3 convolution of 2015 that keeps the size: (B, n_in, H, W) -> (B, n_out, H, W)."""
    layers = [uniform(nn.Conv2d(n_in, n_out, 3, padding=1), 0.05), BatchNorm2015(n_out)]
    return nn.Sequential(*layers, nonlinearity)


class VAE2015(nn.Module):
    """vae.py: 784-512-512-256 to two heads of 384, and back 256-512-512-784."""

    image_shape = (1, 28, 28)
    latent_dim = 384

    def __init__(self):
        super().__init__()
        self.likelihood = SquaredError()
        self.encoder = nn.Sequential(
            nn.Flatten(),
            affine(784, 512, nn.ReLU()),
            affine(512, 512, nn.ReLU()),
            affine(512, 256, nn.Tanh()),
        )
        self.mu_head = affine(256, self.latent_dim)
        self.sigma_head = affine(256, self.latent_dim, nn.Softplus())
        self.decoder = nn.Sequential(
            affine(self.latent_dim, 256),
            affine(256, 512, nn.ReLU()),
            affine(512, 512, nn.ReLU()),
            affine(512, 784, nn.Hardtanh()),  # pixels in [0, 1], answers in [-1, 1]
            nn.Unflatten(1, self.image_shape),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) of q(z|x), each (B, D)."""
        h = self.encoder(x)
        return self.mu_head(h), 2 * torch.log(self.sigma_head(h))

    def decode(self, z: Tensor) -> Tensor:
        """The prediction of each pixel: (B, D) -> (B, 1, C, H, W)."""
        return self.decoder(z).unsqueeze(1)

    def forward(self, x: Tensor, n_draws: int = 1) -> Output:
        """Encode once, draw `n_draws` latents for each image, decode them all."""
        return one_code(self, x, n_draws)

    @torch.no_grad()
    def generate(self, n: int) -> Tensor:
        """The pictures of n latents from the prior, decoded as one batch: (n, C, H, W) in [0, 1]."""
        z = torch.randn(n, self.latent_dim, device=self.mu_head[0].weight.device)
        return self.likelihood.mean(self.decode(z))


class Perforated(nn.Module):
    """Twice as high and wide; each value at the upper left of its 2x2 cell, zeros elsewhere.

    In 2015 this was a product with a dense matrix, made anew at every call.
    """

    def forward(self, h: Tensor) -> Tensor:  # (B, C, H, W)
        columns = torch.stack([h, torch.zeros_like(h)], dim=-1).flatten(-2)  # (B, C, H, 2W)
        return torch.stack([columns, torch.zeros_like(columns)], dim=-2).flatten(-3, -2)  # (B, C, 2H, 2W)


class ConvVAE2015(VAE2015):
    """conv_vae.py: two convolutions and poolings to a code of 512, and back by perforated up-sampling."""

    latent_dim = 512

    def __init__(self):
        nn.Module.__init__(self)
        self.likelihood = SquaredError()
        self.encoder = nn.Sequential(
            conv(1, 64, nn.ReLU()),
            nn.MaxPool2d(2),  # (B, 64, 14, 14)
            conv(64, 128, nn.ReLU()),
            nn.MaxPool2d(2),  # (B, 128, 7, 7)
            nn.Flatten(),
            affine(6272, 512, nn.Tanh(), limit=0.05),
        )
        self.mu_head = affine(512, self.latent_dim, limit=0.05)
        self.sigma_head = affine(512, self.latent_dim, nn.Softplus(), limit=0.05)
        self.decoder = nn.Sequential(
            affine(self.latent_dim, 6272, nn.ReLU(), limit=0.05),
            nn.Unflatten(1, (128, 7, 7)),
            Perforated(),
            conv(128, 64, nn.ReLU()),  # (B, 64, 14, 14)
            Perforated(),
            conv(64, 1, nn.Hardtanh()),  # (B, 1, 28, 28)
        )
