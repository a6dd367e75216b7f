"""The hierarchical VAE of lesson 04: layers of latents, each a Gaussian that the layer above sets.

    p(x, z) = p(x|z_1) p(z_1|z_2) ... p(z_{L-1}|z_L) p(z_L)           from the top down to the pixels
    N(mu_l(x), var_l(x)) = evidence_l(d_l),  d_l = up_l(d_{l-1}),  d_0 = x      from the pixels up

Two posteriors are made of the evidence, what the image alone says of a layer:

    mean-field   q(z_l|x) is the evidence                       (PixelVAE, Gulrajani et al. 2016)
    top-down     q(z_l|x, z_{l+1}) is prior times evidence      (ladder, Sønderby et al. 2016, eq. 13-15)

With skip paths everything above speaks to a layer, p(z_l|z_{l+1}, ..., z_L), not only its neighbour.
`z[0]` in the code is z_1 of the equations, the layer next to the pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.distributions import Bernoulli, normal_sample
from course_utils.models.common import Output, must_be_images

Gaussian = tuple[Tensor, Tensor]  # mu, log_var


def merge(prior: Gaussian, evidence: Gaussian) -> Gaussian:
    """The product of two normal densities, normalised: precisions add up, and weigh the means.

    1/var = 1/var_p + 1/var_e,   mu = var (mu_p/var_p + mu_e/var_e):   Sønderby et al. 2016, eq. 13-14.
    """
    (mu_p, log_var_p), (mu_e, log_var_e) = prior, evidence
    share = torch.sigmoid(log_var_p - log_var_e)  # of the evidence in the summed precision
    return mu_p + share * (mu_e - mu_p), log_var_p + F.logsigmoid(log_var_e - log_var_p)


class HierarchicalVAE(nn.Module):
    """models/layers.py builds `layers`, from the pixels upwards, and `decoder`, and says what they hold;
    `top_shape` is the shape of the last layer's latents, such as (16,).

    `top_down` chooses between the two posteriors, `skip` adds the paths past a layer. `learned_top` lets
    p(z_L) learn its mean and variance, `zero_heads` starts every evidence and prior at N(0, I).
    """

    def __init__(
        self,
        layers: Sequence[nn.Module],
        decoder: nn.Module,
        top_shape: tuple[int, ...],
        image_shape: tuple[int, int, int] = (1, 28, 28),
        likelihood: nn.Module | None = None,
        top_down: bool = True,
        skip: bool = False,
        learned_top: bool = False,
        zero_heads: bool = False,
    ):
        super().__init__()
        self.layers, self.decoder = nn.ModuleList(layers), decoder
        self.image_shape, self.likelihood = image_shape, likelihood or Bernoulli()
        self.top_down, self.skip = top_down, skip
        self.top = nn.Parameter(
            torch.zeros(2, *top_shape), requires_grad=learned_top
        )  # mu, log_var of p(z_L)
        self.register_buffer("mean", torch.zeros(image_shape))
        heads = [head for layer in layers for head in (layer.evidence, layer.prior) if head] * zero_heads
        for value in (value for head in heads for value in head.parameters()):
            nn.init.zeros_(value)

    @torch.no_grad()
    def start_at_mean(self, mean: Tensor) -> None:
        """Before training: let the encoder see x - mean, and the decoder answer with the mean (C, H, W)."""
        self.mean.copy_(mean)
        bias = [m for m in self.decoder.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1].bias
        n = len(bias) // self.likelihood.n_params  # of these speak of the mean: one a pixel, or one a channel
        mean = mean.flatten() if n == mean.numel() else mean.mean()
        bias[:n] = self.likelihood.from_mean(mean)

    def evidence(self, x: Tensor) -> list[Gaussian]:
        """What images x (B, C, H, W) in [0, 1] say of each layer: (mu, log_var), the bottom layer first."""
        must_be_images(x, self.image_shape)
        d, found = 2 * (x - self.mean), []  # most pixels are near their mean
        for layer in self.layers:
            d = layer.up(d)
            found.append(layer.evidence(d).float().chunk(2, dim=1))
        return found

    def descend(
        self, draw: Callable[[int, Gaussian], Tensor], n: int
    ) -> tuple[list[Tensor], list[Gaussian], Tensor]:
        """From the top to the pixels: `draw(l, prior)` says what z[l] is, given its prior; returns z, p, px.

        Everything that is done with a hierarchy is this walk under another `draw`.
        """
        z, p, above = [], [], None
        for level in reversed(range(len(self.layers))):
            if above is not None:
                h = self.layers[level].down(above)
                prior = self.layers[level].prior(h).float().chunk(2, dim=1)
            else:
                h, prior = None, self.top.unsqueeze(1).expand(-1, n, *self.top.shape[1:]).unbind()
            z.insert(0, draw(level, prior))
            p.insert(0, prior)
            above = torch.cat([h, z[0]], dim=1) if self.skip and h is not None else z[0]
        return z, p, self.decoder(above).float()

    def forward(self, x: Tensor, n_draws: int = 1, n_from_prior: int = 0) -> Output:
        """Gather the evidence once, then walk down `n_draws` times for each image, drawing from q.

        The bottom `n_from_prior` layers are drawn from the prior instead: what do the layers above know?
        """
        evidence = [[t.repeat(n_draws, *[1] * (t.ndim - 1)) for t in pair] for pair in self.evidence(x)]
        q: list[Gaussian] = []

        def draw(level: int, prior: Gaussian) -> Tensor:
            q.insert(0, self.posterior(prior, evidence[level]) if level >= n_from_prior else prior)
            return normal_sample(*q[0])

        z, p, px = self.descend(draw, n_draws * len(x))
        return Output(px=px, z=z, q=q, p=p)

    def encode(self, x: Tensor) -> list[Gaussian]:
        """q of each layer (mu, log_var), the bottom one first, where every layer above is at its mean."""
        evidence, q = self.evidence(x), []

        def draw(level: int, prior: Gaussian) -> Tensor:
            q.insert(0, self.posterior(prior, evidence[level]))
            return q[0][0]

        self.descend(draw, len(x))
        return q

    def posterior(self, prior: Gaussian, evidence: Gaussian) -> Gaussian:
        """q of one layer."""
        return merge(prior, evidence) if self.top_down else evidence

    @torch.no_grad()
    def generate(self, n: int) -> Tensor:
        """The mean of p(x|z) for n walks that draw every layer from its prior: (n, C, H, W) in [0, 1]."""
        return self.likelihood.mean(self.descend(lambda level, prior: normal_sample(*prior), n)[2])
