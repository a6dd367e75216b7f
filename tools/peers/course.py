"""The course's own rows in `make bench`, and the floors under them.

python -m peers.course MODEL WAY FOLDER STEPS
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from peers.floor import multiply, products_of
from peers.turns import BATCH_SIZE, read_digits, set_threads, take_turns
from torch import Tensor, nn

from course_utils import objectives, recipes
from course_utils.data import Batches, scenes
from course_utils.distributions import Bernoulli
from course_utils.holes import HoleBatches
from course_utils.models.vae import VAE
from course_utils.train import fit


class Subject(NamedTuple):
    """What is trained, and on what."""

    model: nn.Module
    batches: Batches | HoleBatches
    objective: Callable[[nn.Module, Tensor], objectives.Elbo] = objectives.elbo


# What --------------------------------------------------------------------------------------------


def mlp(
    folder: str, hidden: tuple[int, ...] = (400,), batch_size: int = BATCH_SIZE, latent_dim: int = 20
) -> Subject:
    """784-400-20 and back on grey digits, as the peers have it."""
    model = VAE(hidden=hidden, latent_dim=latent_dim, likelihood=Bernoulli())
    return Subject(model, Batches(read_digits(folder), batch_size))


def conv(folder: str) -> Subject:
    """Lesson 03's network."""
    return Subject(recipes.build_conv_bn(), Batches(read_digits(folder), BATCH_SIZE, binarise=True))


def topdown(folder: str) -> Subject:
    """Lesson 04's hierarchy."""
    return Subject(recipes.build_topdown(), Batches(read_digits(folder), BATCH_SIZE, binarise=True))


def inpainting(folder: str) -> Subject:
    """Lesson 06's hierarchy over a hole, on a U-Net that stays as it is."""
    model = recipes.build_hier().to(memory_format=torch.channels_last)
    model.unet.requires_grad_(False)
    photographs = Batches(scenes(64, 1, 1).train.pixels, 16)
    return Subject(model, HoleBatches(photographs), objectives.hole_bound)


# How ---------------------------------------------------------------------------------------------


def train_by_fit(subject: Subject, n_steps: int, *, bf16: bool = False, compile: bool = False) -> None:
    """As a recipe does."""
    model, batches, objective = subject
    fit(model, batches, n_steps, objective=objective, bf16=bf16, compile=compile)


def train_plainly(subject: Subject, n_steps: int) -> None:
    """The least that trains: no schedule, no guard, no log."""
    model, batches, objective = subject
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for step in range(n_steps):
        optimizer.zero_grad()
        objective(model, batches[step]).loss().backward()
        optimizer.step()


def floor_under(subject: Subject) -> Callable[[], None]:
    """The products of one step."""
    model, batches, objective = subject
    return multiply(products_of(model, lambda: objective(model, batches[0]).loss().backward()))


MODELS = {"mlp": mlp, "conv": conv, "topdown": topdown, "inpainting": inpainting}
WAYS = {
    "plain": train_plainly,
    "fit": train_by_fit,
    "bf16": partial(train_by_fit, bf16=True),
    "compiled": partial(train_by_fit, compile=True),
    "compiled_bf16": partial(train_by_fit, compile=True, bf16=True),
}


def main(model: str, way: str, folder: str, n_steps: int) -> None:
    set_threads()
    subject = MODELS[model](folder)
    if way == "floor":
        step = floor_under(subject)

        def turn(n_steps: int) -> None:
            for _ in range(n_steps):
                step()
    else:
        turn = partial(WAYS[way], subject)

    turn(3)  # what happens only once, such as compiling
    take_turns(lambda: turn(n_steps))


if __name__ == "__main__":
    main(*sys.argv[1:4], int(sys.argv[4]))
