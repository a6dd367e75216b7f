"""The label behind the code: a softmax that reads it, and a prior that has a part for each class.

    Classifier    q(y|x) alone
    HeadVAE       p(x, z) = p(z) p(x|z), and beside it a softmax that reads z
    MixtureVAE    p(x, y, z) = p(y) p(z|y) p(x|z)       q(y, z|x) = q(y|x) q(z|x)

p(y) is uniform. `classify(x)` gives log q(y|x). Their costs are in `objectives`; models that have the label
beside the code are in `label_vae`. Lesson 05.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import normal_kl, normal_sample
from course_utils.models.common import N_CLASSES, Output, mlp


class Classifier(nn.Module):
    """The encoder of a VAE with classes at its end instead of a code; `sizes` are its widths from x on."""

    def __init__(self, sizes: tuple[int, ...] = (784, 400, 400)):
        super().__init__()
        self.network = mlp([*sizes, N_CLASSES], batch_norm=True)

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x): (B, C, H, W) -> (B, 10)."""
        return self.network(x.flatten(start_dim=1)).log_softmax(dim=1)

    forward = classify


class HeadVAE(nn.Module):
    """A VAE of lessons 01 to 03 with a softmax that reads the code."""

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae, self.likelihood = vae, vae.likelihood
        self.head = nn.Linear(vae.latent_dim, N_CLASSES)

    def start_at_mean(self, mean: Tensor) -> None:
        self.vae.start_at_mean(mean)

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x) at the mean of the code: (B, C, H, W) -> (B, 10)."""
        return self.head(self.vae.encode(x)[0]).log_softmax(dim=1)

    def forward(self, x: Tensor) -> Output:
        return self.vae(x)


class MixtureVAE(nn.Module):
    """A VAE of lessons 01 to 03 whose codes have a normal of their own for each class, p(z|y).

    The means start `norm` away from 0 in random directions, the variances at 1; both are learned.
    """

    def __init__(self, vae: nn.Module, norm: float = 3.0):
        super().__init__()
        self.vae, self.likelihood, self.latent_dim = vae, vae.likelihood, vae.latent_dim
        self.mu = nn.Parameter(norm * F.normalize(torch.randn(N_CLASSES, vae.latent_dim), dim=1))  # (10, D)
        self.log_var = nn.Parameter(torch.zeros(N_CLASSES, vae.latent_dim))

    def start_at_mean(self, mean: Tensor) -> None:
        self.vae.start_at_mean(mean)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) of q(z|x), each (B, D)."""
        return self.vae.encode(x)

    def decode(self, z: Tensor) -> Tensor:
        """The parameters of p(x|z) for each pixel: (B, D) -> (B, P, C, H, W)."""
        return self.vae.decode(z)

    def prices(self, mu: Tensor, log_var: Tensor) -> Tensor:
        """KL( q(z|x) || p(z|y) ), what the code costs if the class is y: (B, D) twice -> (B, 10) nats."""
        return normal_kl(mu.unsqueeze(1), log_var.unsqueeze(1), self.mu, self.log_var).sum(dim=2)

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x), the softmax of minus the prices: the cheapest class is the likeliest."""
        return (-self.prices(*self.encode(x))).log_softmax(dim=1)

    def forward(self, x: Tensor) -> Output:
        """One pass; `p` is empty, as a mixture is no normal: `objectives.mixture_prior` prices the code."""
        mu, log_var = self.encode(x)
        z = normal_sample(mu, log_var)
        return Output(px=self.decode(z), z=[z], q=[(mu, log_var)], p=[])

    @torch.no_grad()
    def generate(self, n: int, label: int | None = None) -> Tensor:
        """The mean of p(x|z) for n codes from p(z|y) of one class, or of any: (n, C, H, W) in [0, 1]."""
        y = torch.randint(N_CLASSES, (n,)) if label is None else torch.full((n,), label)
        return self.likelihood.mean(self.decode(normal_sample(self.mu[y], self.log_var[y])))
