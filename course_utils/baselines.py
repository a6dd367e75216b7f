"""Fillings that nothing was trained for, and what a hole costs without a model (lesson 06).

A filling is (B, 7, 64, 64) of `course_utils.holes` -> (B, 3, 32, 32), and sees what a model may see:
x[:, 3:6] and where it is known. Prices are bits per number, of 3 x 32 x 32 to a hole.
"""

import io
import math

import torch
from PIL import Image
from torch import Tensor

from course_utils.data import Images, as_grey
from course_utils.distributions import LEVELS, discretised_logistic_log_prob, per_image
from course_utils.evaluate import bits_per_dim
from course_utils.holes import pasted, rim
from course_utils.models.common import centre

CHUNK = 256  # training photographs at a time


# Fillings ----------------------------------------------------------------------------------------


def ring_mean(x: Tensor) -> Tensor:
    """One colour, the mean of the pixels next to the hole."""
    hole = centre(x[:, 3:6])
    return rim(x[:, 3:6]).mean(dim=-1)[..., None, None].expand_as(hole)


def harmonic(x: Tensor) -> Tensor:
    """The smooth fill: `holes.harmonic_fill`, which came with x."""
    return centre(x[:, 3:6])


def nearest(x: Tensor, train: Images) -> Tensor:
    """The middle of the training photograph that is most alike around it.

    Least squared error over all pixels that x says are known, hence never of the hole.
    """
    known = x[:, 6:].expand(-1, 3, -1, -1).flatten(start_dim=1)  # (B, 3 * 64 * 64)
    seen = known * x[:, 3:6].flatten(start_dim=1)
    distances = []
    for pixels in train.pixels.split(CHUNK):
        other = as_grey(pixels.to(x.device)).flatten(start_dim=1)
        # |k (x - t)|² but for |k x|², the same for every t: products of matrices in place of B x M pictures.
        distances.append(known @ other.square().T - 2 * seen @ other.T)
    found = torch.cat(distances, dim=1).argmin(dim=1)
    return as_grey(centre(train.pixels[found.cpu()]).to(x.device))


# What a filling saves ----------------------------------------------------------------------------


def fitted_log_scale(truth: Tensor, filling: Tensor) -> Tensor:
    """The log_scale that makes `residual_bits` least on average, a scalar: fit it on training photographs."""
    truth, filling = truth.detach(), filling.detach()
    mean_error = (truth - filling).abs().mean().clamp(min=0.25 / LEVELS)
    log_scale = torch.log(mean_error / math.log(4)).requires_grad_()  # where E|x - mu| is this
    optimiser = torch.optim.LBFGS([log_scale], line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -discretised_logistic_log_prob(truth, filling, log_scale).mean()
        value.backward()
        return value

    optimiser.step(loss)
    return log_scale.detach()


def residual_bits(truth: Tensor, filling: Tensor, log_scale: Tensor) -> Tensor:
    """What the truth costs if the filling is known: (N, 3, 32, 32) twice -> (N,) bits per number.

    A discretised logistic about each number of the filling (`distributions.DiscretisedLogistic`), one scale
    for all. So a single guess, a U-Net's too, has a price to set beside a model's `hole_bits_per_dim`.
    """
    nats = -per_image(discretised_logistic_log_prob(truth, filling, log_scale))
    return bits_per_dim(nats, truth[0].numel())


def webp_of_hole(x: Tensor) -> Tensor:
    """The hole's content as a file of its own, lossless WebP: (N,) bits per number.

    The coder was made by hand, for any picture, and sees nothing of what is around the hole. About 0.07 bits
    are the file's header.
    """
    hole = centre(x[:, :3])
    return webp_file_bits(hole) / hole[0].numel()


def webp_of_hole_in_photograph(x: Tensor) -> Tensor:
    """How much longer the file of the photograph is than with one colour in its hole: (N,) bits per number.

    By the chain rule a price of the hole given all that is around it, as far as a coder uses that which goes
    row by row and predicts from the nearest pixels; its codes are fitted to the whole photograph.
    """
    flat = pasted(x[:, :3], ring_mean(x))
    return (webp_file_bits(x[:, :3]) - webp_file_bits(flat)) / centre(x[0, :3]).numel()


def webp_file_bits(pictures: Tensor) -> Tensor:
    """The length of each picture's lossless WebP file: (N, 3, H, W) -> (N,) bits.

    Of the coder's methods number 4 makes the shortest files of pictures as small as these.
    """
    levels = ((LEVELS - 1) * pictures).round().byte().movedim(1, -1).cpu().numpy()
    lengths = []
    for picture in levels:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "WEBP", lossless=True, quality=100, method=4)
        lengths.append(8 * file.tell())
    return torch.tensor(lengths, dtype=torch.float32)
