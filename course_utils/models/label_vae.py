"""The label beside the code: M2 of Kingma et al. 2014, the plan of 2015 before it, and M1+M2 on top.

    LabelVAE      p(x, y, z) = p(y) p(z) p(x|y, z)      q(y, z|x) = q(y|x) q(z|x, y)
    StackedVAE    a LabelVAE of the codes of a VAE

p(y) is uniform. `classify(x)` gives log q(y|x). Their costs are in `objectives`; lesson 05.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import Bernoulli, normal_sample
from course_utils.models.common import N_CLASSES, Output, mlp, must_be_images


class LabelVAE(nn.Module):
    """The decoder is given the label beside the code; one network reads x for q(y|x) and q(z|x, y).

    Without `code_sees_label` the code is q(z|x), as in the plan of 2015; with it, that of M2. A label y is
    (B, 10): a one-hot vector, or whatever else adds up to 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int] = (1, 28, 28),
        hidden: tuple[int, int] = (400, 400),
        latent_dim: int = 16,
        likelihood: nn.Module | None = None,
        code_sees_label: bool = False,
    ):
        super().__init__()
        self.image_shape, self.latent_dim = image_shape, latent_dim
        self.likelihood = likelihood or Bernoulli()
        n_pixels, (wide, narrow) = math.prod(image_shape), hidden
        self.features = nn.Sequential(mlp([n_pixels, wide, narrow], True), nn.BatchNorm1d(narrow), nn.SiLU())
        self.label_head = nn.Linear(narrow, N_CLASSES)
        self.code_sees_label = code_sees_label
        n_in = narrow + (N_CLASSES if code_sees_label else 0)
        self.code_head = mlp([n_in, narrow // 2, 2 * latent_dim], True)
        n_out = self.likelihood.n_params * n_pixels
        self.decoder = mlp([latent_dim + N_CLASSES, narrow, wide, n_out], True)

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        """Before training: see x - mean and answer with the mean image (C, H, W), as `VAE.start_at_mean`."""
        first, last = self.features[0][0], self.decoder[-1]
        first.weight *= 2
        first.bias -= first.weight @ mean.flatten()
        last.bias[: mean.numel()] = self.likelihood.from_mean(mean).flatten()

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(features (B, H), log q(y|x) (B, 10)) of images x (B, C, H, W)."""
        must_be_images(x, self.image_shape)
        h = self.features(x.flatten(start_dim=1))
        return h, self.label_head(h).float().log_softmax(dim=1)

    def code(self, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, log_var) of q(z|x, y), each (B, D), from the features of x."""
        h = torch.cat([h, y.to(h)], dim=1) if self.code_sees_label else h
        return self.code_head(h).float().chunk(2, dim=1)

    def decode(self, z: Tensor, y: Tensor) -> Tensor:
        """The parameters of p(x|y, z) for each pixel: (B, D), (B, 10) -> (B, P, C, H, W)."""
        px = self.decoder(torch.cat([z, y.to(z)], dim=1)).float()
        return px.unflatten(1, (self.likelihood.n_params, *self.image_shape))

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x): (B, C, H, W) -> (B, 10)."""
        return self.read(x)[1]

    def forward(self, x: Tensor) -> Output:
        """One pass with q(y|x) itself for the label, which costs nothing; the code's prior is N(0, I)."""
        h, log_q = self.read(x)
        y = log_q.exp()
        mu, log_var = self.code(h, y)
        z = normal_sample(mu, log_var)
        prior = (torch.zeros_like(mu), torch.zeros_like(log_var))
        return Output(px=self.decode(z, y), z=[z], q=[(mu, log_var)], p=[prior])

    @torch.no_grad()
    def generate(self, n: int, label: int | None = None) -> Tensor:
        """The mean of p(x|y, z) for n codes from the prior, of one class or any: (n, C, H, W) in [0, 1]."""
        device = self.label_head.weight.device
        y = torch.randint(N_CLASSES, (n,)) if label is None else torch.full((n,), label)
        y = F.one_hot(y, N_CLASSES).to(device)
        return self.likelihood.mean(self.decode(torch.randn(n, self.latent_dim, device=device), y))


class StackedVAE(nn.Module):
    """M1+M2: `m1`, a VAE that was trained before, without labels, and `m2`, a `LabelVAE` of its codes.

    The codes z (B, D) are for m2 images of shape (D, 1, 1).
    """

    def __init__(self, m1: nn.Module, m2: LabelVAE):
        super().__init__()
        self.m1, self.m2, self.likelihood = m1.eval(), m2, m1.likelihood

    def train(self, mode: bool = True) -> "StackedVAE":
        """m1 stays in evaluation mode: m2 learns from the codes that it will be given later."""
        super().train(mode)
        self.m1.eval()
        return self

    def classify(self, x: Tensor) -> Tensor:
        """log q(y|x) at the mean of the lower code: (B, C, H, W) -> (B, 10)."""
        return self.m2.classify(self.m1.encode(x)[0][:, :, None, None])

    def forward(self, x: Tensor) -> Output:
        return self.m1(x)
