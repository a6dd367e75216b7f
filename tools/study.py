"""The comparisons and seeds that a lesson has no time for: writes data/ledger.csv and data/checkpoints.

    python tools/study.py [--only 01] [--jobs 4]

A job trains one model on one core for at most ten minutes, then measures it on the test digits. Jobs that the
ledger has are left out, and a job that was interrupted goes on where it stopped. At the end the weights
that are best on the validation digits become the checkpoints that the course ships.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from course_utils import evaluate, ledger, recipes
from course_utils.data import fixed_binary, load_digits
from course_utils.distributions import GaussianPerPixel, GaussianShared
from course_utils.evaluate import Estimate, bits_per_dim, mean_and_error
from course_utils.train import read_safely, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "data" / "ledger.csv"
WEIGHTS = ROOT / "build" / "study"
STATES = ROOT / "build" / "state"
N_DRAWS = 500  # of the importance-weighted bound
SHIPPED = ("mlp", "plane")  # the recipes whose weights come with the course: 40 MB are for all lessons


class Job(NamedTuple):
    """One training run and its rows in the ledger."""

    notebook: str
    model: str
    data: str  # "real" or "embedded"
    seed: int


LESSON_01 = "01_basic_vae"
GAUSSIANS = {
    "gaussian_shared": GaussianShared,
    "gaussian_per_pixel": GaussianPerPixel,
    "squared_error": lambda: GaussianShared(0.5, learned=False),
}
JOBS = [
    *(Job(LESSON_01, "mlp", "real", seed) for seed in range(3)),
    *(Job(LESSON_01, "plane", data, 0) for data in ("real", "embedded")),
    *(Job(LESSON_01, "mlp_grey", "real", seed) for seed in range(3)),
    *(Job(LESSON_01, model, "embedded", 0) for model in ("mlp", "mlp_grey")),
    *(Job(LESSON_01, "histogram", data, 0) for data in ("real", "embedded")),
    *(Job(LESSON_01, model, "real", seed) for seed in range(3) for model in GAUSSIANS),
    *(Job(LESSON_01, model, "embedded", 0) for model in GAUSSIANS),
]


# One job -----------------------------------------------------------------------------------------


def is_binary(job: Job) -> bool:
    return job.model in ("mlp", "plane")


def columns(job: Job) -> dict[str, str | int]:
    """What all rows of a job have in common. Grey or binary, the net of lesson 01 is called mlp."""
    name = "mlp" if job.model == "mlp_grey" else job.model
    source = "mnist" if job.data == "real" else "digits"
    data = f"{source}_{'binary' if is_binary(job) else 'grey'}"
    return {"notebook": job.notebook, "model": name, "data": data, "seed": job.seed, "profile": "study"}


def run(job: Job) -> None:
    """Train, keep the weights, measure on the test digits, write the rows."""
    started = time.process_time()
    splits, _ = load_digits(job.data)
    if job.model == "histogram":
        nats = -evaluate.histogram_log_prob(splits.train, splits.test)
        ledger.record(in_bits(nats), **BITS, **columns(job), role="baseline", path=LEDGER)
        return
    train = {"mlp": recipes.mlp, "plane": recipes.plane}.get(job.model, recipes.mlp_grey)
    choice = {"likelihood": GAUSSIANS[job.model]()} if job.model in GAUSSIANS else {}
    state = STATES / f"{job.model}_{job.data}_study_{job.seed}.safetensors"
    model, training = train(splits.train, "study", job.seed, state, **choice)
    valid, test = (fixed_binary(s) if is_binary(job) else s for s in (splits.valid, splits.test))

    validation = mean_and_error(-evaluate.bound(model, valid).value())
    facts = {"recipe": job.model, "data": job.data, "profile": "study", "seed": job.seed}
    facts |= {"neg_elbo_validation": f"{validation.value:.4f}", "unit": "nats/image"}
    save_checkpoint(model, WEIGHTS / f"{job.model}_{job.data}_{job.seed}.safetensors", **facts)

    bound = evaluate.bound(model, test)
    n_active = evaluate.active_units(evaluate.posterior_means(model, test))
    nats = {"unit": "nats/image"}
    cpu_seconds = time.process_time() - started  # not the clock on the wall: other jobs run beside this one
    common = columns(job) | {"steps": training.n_steps, "seconds": cpu_seconds, "path": LEDGER}
    common["role"] = "headline" if job.model in ("mlp", "mlp_grey") else "study"
    ledger.record(mean_and_error(-bound.value()), metric="neg_elbo", **nats, **common)
    ledger.record(mean_and_error(bound.kl[:, 0]), metric="kl_layer_1", **nats, **common)
    ledger.record(n_active, metric="active_units", unit="units", **common)
    if is_binary(job):
        nll = mean_and_error(-evaluate.log_likelihood(model, test, N_DRAWS))
        ledger.record(nll, metric="nll_iwae", unit=f"nats/image k={N_DRAWS}", **common)
    else:
        ledger.record(in_bits(-bound.value()), **BITS, **common)


BITS = {"metric": "bits_per_dim", "unit": "bits/dim"}


def in_bits(nats: Tensor) -> Estimate:
    """Nats per digit, (N,), as bits/dim: mean and standard error."""
    return mean_and_error(bits_per_dim(nats, 784))


def is_done(job: Job) -> bool:
    """Does the ledger have the row that a job writes last?"""
    last = "nll_iwae" if is_binary(job) else "bits_per_dim"
    return bool(ledger.read(LEDGER, metric=last, **columns(job)))


# All of them -------------------------------------------------------------------------------------


def run_alone(job: Job) -> bool:
    """Run the job in a process of its own, on one core; True if it succeeded."""
    started = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COURSE_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, __file__, "--job", *map(str, job)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    status = "ok" if result.returncode == 0 else f"FAILED\n{result.stderr[-2_000:]}"
    minutes = (time.monotonic() - started) / 60
    print(f"{job.notebook} {job.model} {job.data} seed {job.seed}: {minutes:.1f} min, {status}", flush=True)
    return result.returncode == 0


def ship() -> None:
    """Of each recipe's weights in build/study, copy those that are best on validation to data/checkpoints."""
    for name in SHIPPED:
        for data in ("real", "embedded"):
            found = sorted(WEIGHTS.glob(f"{name}_{data}_*.safetensors"))
            if found:
                best = min(found, key=lambda path: float(read_safely(path)[1]["neg_elbo_validation"]))
                shutil.copy(best, recipes.checkpoint_path(name, data))
                print(f"shipped {best.name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the number of a lesson, such as 01")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at once, one core each")
    parser.add_argument("--job", nargs=4, help=argparse.SUPPRESS)
    wish = parser.parse_args()
    if wish.job:
        notebook, model, data, seed = wish.job
        run(Job(notebook, model, data, int(seed)))
        return 0
    lessons = sorted({job.notebook[:2] for job in JOBS})
    if wish.only and wish.only not in lessons:
        parser.error(f"--only {wish.only}: there are studies for {', '.join(lessons)}")
    todo = [job for job in JOBS if job.notebook.startswith(wish.only) and not is_done(job)]
    print(f"{len(todo)} of {len(JOBS)} jobs to do, {wish.jobs} at a time", flush=True)
    with ThreadPoolExecutor(wish.jobs) as pool:
        succeeded = list(pool.map(run_alone, todo))
    ship()
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
