"""One plain function for each trained model: what a lesson, a study, a checkpoint and a benchmark share.

    python -m course_utils.recipes mlp --profile full --data real --seed 0

trains the recipe, goes on where it stopped if it was interrupted, measures the bound on the validation
digits and writes the checkpoint. Each recipe has a `build_` function beside it, which gives the same model
untrained, for a checkpoint to be loaded into.
"""

import argparse
import math
import sys
from pathlib import Path

import torch
from torch import nn

from course_utils.data import KINDS, Batches, DataError, Images, fixed_binary, load_digits, project_root
from course_utils.distributions import Bernoulli, DiscretisedLogistic
from course_utils.evaluate import bound, mean_and_error
from course_utils.models.vae import VAE
from course_utils.models.vae_2015 import VAE2015
from course_utils.optim import Committed2015
from course_utils.train import (
    Training,
    TrainingError,
    choose_device,
    constant,
    fit,
    load_checkpoint,
    pick,
    save_checkpoint,
    set_threads,
)

# A budget is a profile of the lessons, or "study": a row of data/ledger.csv, at most ten minutes of one core.
BUDGETS = ("smoke", "quick", "study", "full")


def train_digits(
    model: nn.Module, train: Images, n_steps: int, *, lr: float, seed: int, state: Path | None, label: str
) -> Training:
    """What the models of digits have in common: batches of 128, a warm-up over a tenth of the steps."""
    model.start_at_mean(train.pixels.float().mean(dim=0) / 255)
    model.to(choose_device())
    binary = isinstance(model.likelihood, Bernoulli)
    device = next(model.parameters()).device
    batches = Batches(train.pixels, 128, binarise=binary, seed=seed, device=device)
    return fit(model, batches, n_steps, lr=lr, warm_up_steps=n_steps // 10, state=state, label=label)


# Lesson 01 ---------------------------------------------------------------------------------------


def build_mlp() -> VAE:
    """784-512-512-40 and back, for binary pixels."""
    return VAE(hidden=(512, 512), latent_dim=40, likelihood=Bernoulli())


def mlp(train: Images, budget: str, seed: int = 0, state: Path | None = None) -> tuple[VAE, Training]:
    """The headline of lesson 01: binary digits, a new draw of each grey value every time it is seen."""
    n_steps = pick(budget, smoke=40, quick=5_000, study=20_000, full=120_000)
    torch.manual_seed(seed)
    model = build_mlp()
    return model, train_digits(model, train, n_steps, lr=3e-3, seed=seed, state=state, label="mlp")


def build_mlp_grey(likelihood: nn.Module | None = None) -> VAE:
    """784-512-512-40 and back, for 8-bit pixels under a discretised logistic, or the likelihood given."""
    return VAE(hidden=(512, 512), latent_dim=40, likelihood=likelihood or DiscretisedLogistic())


def mlp_grey(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, likelihood: nn.Module | None = None
) -> tuple[VAE, Training]:
    """Grey digits. The Gaussians that lesson 01 compares are this with another likelihood."""
    n_steps = pick(budget, smoke=40, miniature=400, quick=3_000, study=12_000, full=120_000)
    torch.manual_seed(seed)
    model = build_mlp_grey(likelihood)
    label = f"mlp_grey {type(model.likelihood).__name__}"
    return model, train_digits(model, train, n_steps, lr=2e-3, seed=seed, state=state, label=label)


def build_plane() -> VAE:
    """784-512-256-2 and back, for binary pixels: a latent space that can be drawn on a page."""
    return VAE(hidden=(512, 256), latent_dim=2, likelihood=Bernoulli())


def plane(train: Images, budget: str, seed: int = 0, state: Path | None = None) -> tuple[VAE, Training]:
    """The latent plane of lesson 01's board."""
    n_steps = pick(budget, smoke=40, quick=4_000, study=20_000, full=120_000)
    torch.manual_seed(seed)
    model = build_plane()
    return model, train_digits(model, train, n_steps, lr=2e-3, seed=seed, state=state, label="plane")


# Lesson 02 ---------------------------------------------------------------------------------------


def build_vae_2015() -> VAE2015:
    """The network of vae.py, 784-512-512-256-384 and back."""
    return VAE2015()


def vae_2015(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, rule=Committed2015, lr: float = 1e-4
) -> tuple[VAE2015, Training]:
    """vae.py as it was run: grey digits in batches of 1,000, never shuffled, at a constant learning rate.

    Its 500 epochs are the study's 25,000 updates. `rule(parameters, lr=, n_images=)` is the optimiser.
    """
    n_steps = pick(budget, smoke=20, miniature=100, quick=300, study=25_000, full=25_000)
    torch.manual_seed(seed)
    model = build_vae_2015().to(choose_device())
    device = next(model.parameters()).device
    n_images = min(1_000, len(train.pixels))
    batches = Batches(train.pixels, n_images, shuffle=False, device=device)
    optimizer = rule(model.parameters(), lr=lr, n_images=n_images)
    training = fit(
        model,
        batches,
        n_steps,
        optimizer=optimizer,
        schedule=constant,
        max_gradient=math.inf,
        state=state,
        label="vae_2015",
    )
    return model, training


# Shipped weights and the command line ------------------------------------------------------------

RECIPES = {"mlp": (build_mlp, mlp), "mlp_grey": (build_mlp_grey, mlp_grey), "plane": (build_plane, plane)}


def checkpoint_path(name: str, data: str) -> Path:
    """Where the course keeps the weights of a recipe: in the checkout, or inside the installed package."""
    file = f"{name}_{data}.safetensors"
    checkout = project_root() / "data" / "checkpoints" / file
    shipped = Path(__file__).parent / "shipped" / "checkpoints" / file
    return checkout if checkout.exists() or not shipped.exists() else shipped


def load_shipped(name: str, data: str) -> tuple[nn.Module, dict[str, str]]:
    """(model in evaluation mode, facts) of a recipe's shipped weights, data "real" or "embedded"."""
    path = checkpoint_path(name, data)
    if not path.exists():
        raise TrainingError(
            f"there are no weights for {name} on {data} data ({path.name}); "
            f"train them with: python -m course_utils.recipes {name} --data {data} --profile quick"
        )
    model = RECIPES[name][0]()
    facts = load_checkpoint(model, path)
    return model.eval(), facts


def main(arguments: list[str]) -> int:
    """Train one recipe and write its checkpoint; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.recipes", description=main.__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--profile", choices=BUDGETS, default="quick")
    parser.add_argument("--data", choices=KINDS, default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the checkpoint; by default where the course keeps its own")
    wish = parser.parse_args(arguments)
    set_threads()
    try:
        splits, data = load_digits(wish.data, small=wish.profile == "smoke")
        run = f"{wish.name}_{data}_{wish.profile}_{wish.seed}"
        state = project_root() / "build" / "state" / f"{run}.safetensors"
        model, training = RECIPES[wish.name][1](splits.train, wish.profile, wish.seed, state)
    except (DataError, TrainingError) as error:
        print(error, file=sys.stderr)
        return 1
    if not training.finished:
        print("Run the same command again to go on.", file=sys.stderr)
        return 130
    valid = fixed_binary(splits.valid) if isinstance(model.likelihood, Bernoulli) else splits.valid
    measured = mean_and_error(-bound(model, valid).value())
    path = wish.out or checkpoint_path(wish.name, data)
    facts = {"recipe": wish.name, "data": data, "profile": wish.profile, "seed": wish.seed}
    save_checkpoint(model, path, **facts, neg_elbo_validation=f"{measured} nats/image")
    print(f"{run}: -ELBO {measured} nats/image on {measured.n} validation images -> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
