"""The comparisons and seeds that a lesson has no time for: writes data/ledger.csv and data/checkpoints.

    python tools/study.py [--only 01] [--jobs 4]

A job trains one model on one core for at most ten minutes, then measures it on the test images. Jobs that the
ledger has are left out, and a job that was interrupted goes on where it stopped. At the end the weights
that are best on the validation digits become the checkpoints that the course ships.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import company
import torch
from filelock import FileLock
from torch import nn
from torchvision.utils import save_image

from course_utils import baselines, evaluate, fillings, ledger, objectives, recipes
from course_utils.data import (
    Images,
    Splits,
    fixed_binary,
    load_digits,
    load_photographs,
    random_subset,
)
from course_utils.distributions import DiscretisedLogistic, GaussianPerPixel, GaussianShared
from course_utils.evaluate import Estimate, bits_per_dim, mean_and_error
from course_utils.holes import holes_of
from course_utils.models.common import centre
from course_utils.models.hierarchical_vae import HierarchicalVAE
from course_utils.models.inpainting_2017 import InpaintingVAE2017
from course_utils.models.inpainting_vae import InpaintingVAE
from course_utils.models.semi_supervised_vae import Classifier
from course_utils.models.unet import UNet
from course_utils.models.vae_2015 import ConvVAE2015, SquaredError
from course_utils.objectives import Elbo
from course_utils.optim import Committed2015, Final2015, July2015
from course_utils.train import Training, TrainingError, load_checkpoint, read_safely, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "data" / "ledger.csv"
WEIGHTS = ROOT / "build" / "study"
STATES = ROOT / "build" / "state"
FIGURES = ROOT / "notebooks" / "figures"
N_DRAWS = 500  # of the importance-weighted bound
# The recipes whose weights come with the course: 40 MB are for all lessons.
PATIENTS = ("patient_a", "patient_b", "patient_c", "patient_d")  # of lesson 04's clinic
SHIPPED = ("plane", "mlp_bn", "conv_bn", "topdown", *PATIENTS, "mixture_prior", "hier")


class Job(NamedTuple):
    """One training run and its rows in the ledger."""

    notebook: str
    model: str
    data: str  # "real" or "embedded"
    seed: int


class Plan(NamedTuple):
    """How the jobs of one model are done."""

    train: Callable  # (images, "study", seed, state) -> (model, Training)
    grey: bool = False
    role: str = "study"
    ledger_name: str = ""  # if it is not the job's: binary or grey, a network keeps its name
    nll_digits: int = 0  # on how many test digits the importance-weighted bound is measured
    labels: int = 0  # that are known; the seed is then the number of their draw, too
    terms: objectives.Terms | None = None  # what lesson 05 trains the model with


# The plans ---------------------------------------------------------------------------------------


def likelihood(choice: Callable) -> Plan:
    """Lesson 01: the grey network under another likelihood."""
    return Plan(lambda *run: recipes.mlp_grey(*run, likelihood=choice()), grey=True)


def normalised(**parts) -> Plan:
    """Lesson 02: the same network with other parts of it normalised."""
    return Plan(lambda *run: recipes.mlp_bn_ablation(*run, **parts))


def updates_2015(budget: str, rule: Callable, **parts) -> Plan:
    """Lesson 02: some updates of the network of 2015 under a rule; `parts` as in `build_vae_2015`."""

    def train(images, _, seed, state):
        torch.manual_seed(seed)
        model = recipes.build_vae_2015(**parts)
        return recipes.vae_2015(images, budget, seed, state, model=model, rule=rule)

    return Plan(train, grey=True)


def few_labels(train: Callable, terms: objectives.Terms | None, **parts) -> Plan:
    """Lesson 05: a rung of the ladder, whose draw of labels has the number of the seed."""

    def with_draw(images, budget, seed, state):
        return train(images, budget, seed, state, draw=seed, **parts)

    return Plan(with_draw, role="baseline", labels=recipes.N_LABELS, terms=terms)


def on_unet(build: Callable = recipes.build_hier, role: str = "study", **parts) -> Plan:
    """Lesson 06: a hierarchy on the U-Net of seed 0, which is trained once, by whoever comes first."""

    def train(images, budget, seed, state):
        kind = "embedded" if images.factors else "real"
        below = STATES / f"unet_l2_{kind}_study_0.safetensors"
        below.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(below.with_suffix(".lock")):
            unet, first = recipes.unet_l2(images, budget, 0, below)
        if not first.finished:
            return unet, first
        return recipes.hier(images, budget, seed, state, unet=unet, build=build, **parts)

    return Plan(train, role=role)


def one_logistic() -> InpaintingVAE:
    """`hier` with a likelihood that takes every number of a pixel by itself."""
    return InpaintingVAE(UNet(), likelihood=DiscretisedLogistic())


SGD = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
ADAM = partial(torch.optim.Adam, fused=True)
# Of each rule the learning rates that are tried, on the cost summed over 1,000 images.
LEARNING_RATES = {
    "sgd": (lambda p, lr: SGD(p, lr=1_000 * lr), (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)),
    "committed": (partial(Committed2015, n_images=1_000), (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    "july": (partial(July2015, n_images=1_000), (1e-5, 1e-4, 1e-3, 1e-2)),
    "final": (partial(Final2015, n_images=1_000), (1e-4, 1e-3, 1e-2, 1e-1)),
    "adam": (ADAM, (1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),  # knows no scale, so no sum
}
RULES = {
    f"rule {name} lr={lr:g}": updates_2015("short", partial(rule, lr=lr))
    for name, (rule, rates) in LEARNING_RATES.items()
    for lr in rates
}
# With batch norm and without, by the means of then and of today.
CLAIMS = {
    "claim bn then": updates_2015("claim", recipes.committed_2015),
    "claim plain then": updates_2015("claim", recipes.committed_2015, normalise=False),
    "claim bn today": Plan(recipes.vae_2015_today, grey=True),
    "claim plain today": Plan(partial(recipes.vae_2015_today, normalise=False), grey=True),
}
LONG = {"long plain then": updates_2015("long", recipes.committed_2015, normalise=False)}
ABLATIONS = {
    "bn none": normalised(batch_norm=False),
    "bn hidden": normalised(batch_norm=True),
    "bn also mu": normalised(batch_norm=True, mu_norm=partial(nn.BatchNorm1d, 40)),
    "bn fixed gain": normalised(batch_norm=True, mu_norm=partial(recipes.fixed_gain, 40, 1.0)),
}
# Shorter trainings, each with a learning rate that falls to zero: what a network reaches in how much time.
BUDGETS = {
    **{f"budget mlp {n}": Plan(partial(recipes.mlp, n_steps=n)) for n in (1_250, 2_500, 5_000, 10_000)},
    **{f"budget conv {n}": Plan(partial(recipes.conv_bn, n_steps=n)) for n in (300, 600, 1_200, 2_400)},
}
# Lesson 04: one remedy at a time for a hierarchy whose upper layers die.
CHOICES = {
    "none": {},
    "warm-up": {"warm_up": 0.5},
    "warm-up from below": {"warm_up": 0.5, "remedies": {"warm_up_from_below": True}},
    "free bits": {"remedies": {"free_bits": 2.0}},
    "zero heads": {"build": partial(recipes.build_sick, zero_heads=True)},
    "learned top": {"build": partial(recipes.build_sick, learned_top=True)},
    "gradient skipping": {"remedies": {"skip_gradient": 200.0}},
    "EMA": {"ema": True},
    "skip paths": {"build": partial(recipes.build_sick, skip=True)},
    "batch norm": {"build": partial(recipes.build_sick, batch_norm=True)},
    "top-down": {"build": partial(recipes.build_sick, top_down=True)},
    "batch norm + top-down": {"build": recipes.build_topdown},
    "batch norm + top-down + warm-up": {"build": recipes.build_topdown, "warm_up": 0.5},
}
REMEDIES = {f"remedy {name}": Plan(partial(recipes.remedied, **parts)) for name, parts in CHOICES.items()}
GAUSSIANS = {
    "gaussian_shared": likelihood(GaussianShared),
    "gaussian_per_pixel": likelihood(GaussianPerPixel),
    "squared_error": likelihood(lambda: GaussianShared(0.5, learned=False)),
}
# Lesson 05: the ladder, each rung with the function that gives its bound. The seed of a job is also the
# number of its draw of labels; "as they are" means that the labelled images are not jittered.
LADDER = {
    "labels_only": (recipes.labels_only, None),
    "softmax_after_code": (recipes.softmax_after_code, objectives.beside_code),
    "priced_label": (recipes.priced_label, objectives.priced_label),
    "sampled_label": (recipes.sampled_label, objectives.sampled_label),
    "m2": (recipes.m2, objectives.exact_sum),
    "m2_aux": (recipes.m2_aux, objectives.exact_sum),
    "m1_m2": (recipes.m1_m2, objectives.stacked),
    "softmax_on_code": (recipes.softmax_on_code, objectives.softmax_on_code),
    "mixture_prior": (recipes.mixture_prior, objectives.mixture_prior),
}
AS_THEY_ARE = [name for name in LADDER if name not in ("m2", "m1_m2")]
FEW_LABELS = {
    **{name: few_labels(*rung) for name, rung in LADDER.items()},
    **{f"{name} as they are": few_labels(*LADDER[name], jittered=False) for name in AS_THEY_ARE},
}
FEW_LABELS["mixture_prior"] = FEW_LABELS["mixture_prior"]._replace(role="headline")
NO_LABELS = {
    "no labels, softmax": Plan(recipes.no_labels, terms=objectives.beside_code),
    "no labels, standard VAE": Plan(partial(recipes.no_labels, beside=False)),
}
# Lesson 06: the network of 2017 and ours, and ours without one of its parts.
HOLES = {
    "unet_l2": Plan(recipes.unet_l2, role="baseline"),
    "cvae_1": on_unet(recipes.build_cvae_1, role="baseline"),
    "hier_2017": Plan(recipes.hier_2017, role="baseline"),
    "hier": on_unet(role="headline"),
    "hier, no sketches": on_unet(objective=objectives.hole_bound),
    "hier, warm-up from below": on_unet(objective=objectives.hole_bound, from_below=True),
    "hier, no warm-up": on_unet(warm_up=0.0),
    "hier, one logistic": on_unet(one_logistic),
}
PLANS = {
    "mlp": Plan(recipes.mlp, role="headline", nll_digits=10_000),
    "plane": Plan(recipes.plane, nll_digits=10_000),
    "mlp_grey": Plan(recipes.mlp_grey, grey=True, role="headline", ledger_name="mlp"),
    **GAUSSIANS,
    "mlp_bn": Plan(recipes.mlp_bn, role="headline", nll_digits=2_000),
    "vae_2015": Plan(recipes.vae_2015, grey=True),
    "conv_bn": Plan(recipes.conv_bn, role="headline", nll_digits=1_000),
    "conv_bn_grey": Plan(recipes.conv_bn_grey, grey=True, role="headline", ledger_name="conv_bn"),
    "conv_2015": Plan(recipes.conv_2015, grey=True),
    "topdown": Plan(recipes.topdown, role="headline", nll_digits=2_000),
    "meanfield": Plan(recipes.meanfield, role="baseline", nll_digits=2_000),
    **{name: Plan(recipes.RECIPES[name][1]) for name in PATIENTS},
    **REMEDIES,
    **FEW_LABELS,
    **NO_LABELS,
    **HOLES,
    **BUDGETS,
    **ABLATIONS,
    **CLAIMS,
    **LONG,
    **RULES,
}

LESSON_01, LESSON_02, LESSON_03 = "01_basic_vae", "02_batch_norm_vae", "03_conv_vae"
LESSON_04, LESSON_05 = "04_hierarchical_vae", "05_semi_supervised_vae"
LESSON_06 = "06_coco_inpainting"
JOBS = [
    *(Job(LESSON_01, "mlp", "real", seed) for seed in range(3)),
    *(Job(LESSON_01, "plane", data, 0) for data in ("real", "embedded")),
    *(Job(LESSON_01, "mlp_grey", "real", seed) for seed in range(3)),
    *(Job(LESSON_01, model, "embedded", 0) for model in ("mlp", "mlp_grey")),
    *(Job(LESSON_01, model, "real", seed) for seed in range(3) for model in GAUSSIANS),
    *(Job(LESSON_01, model, "embedded", 0) for model in GAUSSIANS),
    *(Job(LESSON_02, model, "real", 0) for model in RULES),
    *(Job(LESSON_02, model, "real", seed) for seed in range(3) for model in CLAIMS),
    Job(LESSON_02, "long plain then", "real", 0),
    *(Job(LESSON_02, model, "real", seed) for seed in range(3) for model in ABLATIONS),
    *(Job(LESSON_02, "mlp_bn", "real", seed) for seed in range(3)),
    Job(LESSON_02, "mlp_bn", "embedded", 0),
    Job(LESSON_02, "vae_2015", "real", 0),
    *(Job(LESSON_03, "conv_bn", "real", seed) for seed in range(3)),
    Job(LESSON_03, "conv_bn", "embedded", 0),
    *(Job(LESSON_03, "conv_bn_grey", "real", seed) for seed in range(3)),
    *(Job(LESSON_03, model, "real", 0) for model in BUDGETS),
    Job(LESSON_03, "conv_2015", "real", 0),
    *(Job(LESSON_04, model, data, 0) for data in ("real", "embedded") for model in PATIENTS),
    *(Job(LESSON_04, "topdown", "real", seed) for seed in range(3)),
    Job(LESSON_04, "topdown", "embedded", 0),
    *(Job(LESSON_04, "meanfield", "real", seed) for seed in range(3)),
    *(Job(LESSON_04, model, "real", seed) for seed in range(2) for model in REMEDIES),
    Job(LESSON_05, "mixture_prior", "embedded", 0),
    *(Job(LESSON_05, model, "real", seed) for seed in range(5) for model in FEW_LABELS),
    *(Job(LESSON_05, model, "real", seed) for seed in range(3) for model in NO_LABELS),
    *(Job(LESSON_06, model, "real", 0) for model in HOLES),
    *(Job(LESSON_06, "hier", "real", seed) for seed in (1, 2)),
    *(Job(LESSON_06, model, "embedded", 0) for model in ("unet_l2", "hier")),
]


# One job -----------------------------------------------------------------------------------------


def columns(job: Job) -> dict[str, str | int]:
    """What all rows of a job have in common."""
    plan = PLANS[job.model]
    if job.notebook == LESSON_06:
        row = {"notebook": job.notebook, "model": job.model, "role": plan.role, "profile": "study"}
        return row | {"data": "coco64" if job.data == "real" else "scenes", "seed": job.seed}
    source, kind = "mnist" if job.data == "real" else "digits", "grey" if plan.grey else "binary"
    common = {"notebook": job.notebook, "model": plan.ledger_name or job.model, "role": plan.role}
    draw = job.seed if plan.labels else 0
    data = {"data": f"{source}_{kind}", "labels": plan.labels, "draw": draw}
    return common | data | {"seed": job.seed, "profile": "study"}


def run(job: Job) -> None:
    """Train, keep the weights, measure on the test digits, write the rows."""
    load = load_photographs if job.notebook == LESSON_06 else load_digits
    splits, _ = load(job.data)
    plan, row = PLANS[job.model], columns(job) | {"path": LEDGER}
    name = f"{job.model.replace(' ', '_')}_{job.data}"
    started = time.process_time()
    try:
        state = STATES / f"{name}_study_{job.seed}.safetensors"
        model, training = plan.train(splits.train, "study", job.seed, state)
    except TrainingError as error:  # a rule that diverges is a result too
        print(error)
        ledger.record(math.inf, metric="cost_2015", unit=COST, **row)
        return
    if not training.finished:  # stopped by hand: half a training makes no row
        raise KeyboardInterrupt
    earlier = max(0.0, training.cpu_seconds - (time.process_time() - started))
    # Of photographs there is no third part that could choose between seeds: seed 0 is kept.
    if not isinstance(model, Classifier) and (job.notebook != LESSON_06 or job.seed == 0):
        validation, unit = recipes.measure(model, splits.valid)
        facts = {"recipe": job.model, "data": job.data, "profile": "study", "seed": job.seed}
        facts |= {"neg_elbo_validation": f"{validation.value:.4f}", "unit": unit}
        save_checkpoint(model, WEIGHTS / f"{name}_{job.seed}.safetensors", **facts)
    measure = measure_model
    if job.notebook == LESSON_06:
        measure = measure_holes
    elif job.notebook == LESSON_05:
        measure = measure_labels
    elif isinstance(model.likelihood, SquaredError):
        measure = measure_2015
    if not plan.grey and job.notebook != LESSON_06:
        splits = Splits(splits.train, fixed_binary(splits.valid), fixed_binary(splits.test))
    for estimate, metric, unit in measure(model, training, splits, plan):
        # The core's time, not the wall's: other jobs run beside this one. Earlier sittings are counted in.
        now = {"steps": training.n_steps, "seconds": earlier + time.process_time()}
        ledger.record(estimate, metric=metric, unit=unit, **now, **row)


Measurement = tuple[Estimate | float, str, str]  # estimate, metric, unit
COST = recipes.COST_2015
CURVE = (9, 30, 99, 300, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000)  # a log has some of these updates


def measure_model(model: nn.Module, training: Training, splits: Splits, plan: Plan) -> Iterator[Measurement]:
    """The bound and its price, bits or the likelihood, and what batch norm does to them."""
    bound = evaluate.bound(model, splits.test)
    yield mean_and_error(-bound.value()), "neg_elbo", "nats/image"
    for layer, kl in enumerate(bound.kl.T, start=1):
        yield mean_and_error(kl), f"kl_layer_{layer}", "nats/image"
    if plan.grey:
        yield mean_and_error(bits_per_dim(-bound.value(), 784)), "bits_per_dim", "bits/dim"
    if plan.nll_digits:
        images = random_subset(splits.test, plan.nll_digits)
        nll = mean_and_error(-evaluate.log_likelihood(model, images, N_DRAWS))
        yield nll, "nll_iwae", f"nats/image k={N_DRAWS}"
    if evaluate.batch_norms(model):
        population = evaluate.with_population_statistics(model, splits.train)
        gain = evaluate.bound(population, splits.test).value() - bound.value()  # the same digits and noise
        yield mean_and_error(gain), "gap_eval_population", "nats/image"
    yield active(model, splits.test), "active_units", "units"


def measure_labels(model: nn.Module, training: Training, splits: Splits, plan: Plan) -> Iterator[Measurement]:
    """How many labels are right, and what the images are worth to the model; accuracy comes last."""
    if isinstance(model, Classifier):
        yield evaluate.accuracy(model, splits.test), "accuracy", "share"
        return
    bound = evaluate.bound(model, splits.test)
    yield mean_and_error(-bound.value()), "neg_elbo", "nats/image"
    for layer, kl in enumerate(bound.kl.T, start=1):
        yield mean_and_error(kl), f"kl_layer_{layer}", "nats/image"
    if plan.terms in (objectives.beside_code, objectives.priced_label):
        yield from measure_softmax(model, splits, plan)
    if hasattr(model, "classify"):
        confidence = evaluate.label_log_probs(model, splits.test).max(dim=1).values.exp()
        yield mean_and_error(confidence), "confidence", "share"
        yield evaluate.accuracy(model, splits.test), "accuracy", "share"
    else:
        yield active(model, splits.test), "active_units", "units"


DEVIATIONS = [0.01 * 2**n for n in range(11)]  # of the noise that prices a softmax


def measure_softmax(model: nn.Module, splits: Splits, plan: Plan) -> Iterator[Measurement]:
    """What the training believes an image to cost, and what it costs if the softmax is paid for."""
    claim = evaluate.bound(model, splits.test, objective=objectives.without_labels(plan.terms))
    yield mean_and_error(-claim.value()), "claimed", "nats/image"
    over = evaluate.softmax_numbers(model, splits.train)

    def paid(images: Images, deviation: float) -> Elbo:
        objective = partial(evaluate.priced_softmax, over=over, deviation=deviation)
        return evaluate.bound(model, images, objective=objective)

    best = min(DEVIATIONS, key=lambda s: -paid(splits.valid, s).value().mean().item())
    bound = paid(splits.test, best)
    yield mean_and_error(-bound.value()), "paid", "nats/image"
    yield mean_and_error(bound.kl[:, 1]), "price_of_softmax", "nats/image"


def measure_2015(model: nn.Module, training: Training, splits: Splits, plan: Plan) -> Iterator[Measurement]:
    """The cost of 2015 on the test digits in batches of 1,000, and in training after some of the updates."""
    for log in training.rows:
        if log["step"] in CURVE:
            yield -log["elbo"], "cost_2015", f"{COST}, training, update {log['step']}"
    if plan is PLANS["vae_2015"]:
        yield from company.measure(model, splits)
    bound = evaluate.bound(model, splits.test, chunk=1_000)
    yield evaluate.over_batches(-bound.value(), 1_000), "cost_2015", COST
    yield mean_and_error(bound.kl[:, 0]), "kl_layer_1", "nats/image"
    yield active(model, splits.test), "active_units", "units"


N_HOLES = 200  # test pictures at most
CHUNKS = (5, 43)  # photographs that the network of 2017 reads together: as its validation did, and a batch's


def measure_holes(model: nn.Module, training: Training, splits: Splits, plan: Plan) -> Iterator[Measurement]:
    """How near, how diverse, how dear: `fillings` says what each number is. The price comes last."""
    x = holes_of(random_subset(splits.test, N_HOLES))
    if isinstance(model, UNet):
        known = holes_of(random_subset(splits.train, 500))
        with torch.no_grad():
            scale = baselines.fitted_log_scale(centre(known[:, :3]), model.complete(known))
            guess = model.complete(x)
        yield from fillings.variation(x, fillings.around(guess, centre(x[:, :3])), "missing")
        yield from fillings.measured_guess(x, guess, scale)
        return
    if isinstance(model, InpaintingVAE2017):
        for chunk in CHUNKS:
            yield from fillings.measured_bound(model, x, f" in {chunk}s", chunk)
        yield from fillings.measured(model, x, chunk=CHUNKS[-1])
        return
    seen = holes_of(random_subset(splits.train, len(x)))
    yield from fillings.measured_bound(model, seen, " train", CHUNKS[-1])
    yield from fillings.measured_layers(model, x)
    yield from fillings.measured(model, x)


def record_fillings() -> None:
    """The baselines of lesson 06 that need no training."""
    for data in ("real", "embedded"):
        splits, _ = load_photographs(data)
        x = holes_of(random_subset(splits.test, N_HOLES))
        kind = {"role": "baseline", "seed": 0, "profile": "study", "path": LEDGER}
        kind |= {"notebook": LESSON_06, "data": "coco64" if data == "real" else "scenes"}
        others = splits.train.subset(slice(500, None))  # `nearest` must not find the picture itself
        known = holes_of(splits.train.subset(slice(500)))
        found = {
            "harmonic": baselines.harmonic,
            "ring_mean": baselines.ring_mean,
            "nearest": partial(baselines.nearest, train=others),
        }
        for name, fill in found.items():
            scale = baselines.fitted_log_scale(centre(known[:, :3]), fill(known))
            for estimate, metric, unit in fillings.measured_guess(x, fill(x), scale):
                ledger.record(estimate, model=name, metric=metric, unit=unit, **kind)
        webp = mean_and_error(baselines.webp_of_hole_in_photograph(x))
        ledger.record(webp, model="webp", metric="hole_bits_per_dim", unit="bits/dim", **kind)
        truth = centre(x[:, :3])
        own = mean_and_error(fillings.seam_ratio(x, truth))
        ledger.record(own, model="photograph", metric="seam_ratio", unit="ratio", **kind)


def active(model: nn.Module, test: Images) -> float:
    if isinstance(model, HierarchicalVAE):
        return sum(evaluate.active_units(mu) for mu in evaluate.layer_means(model, test))
    return evaluate.active_units(evaluate.posterior_means(model, test))


def is_done(job: Job) -> bool:
    """Does the ledger have the row that a job writes last?"""
    rows = ledger.read(LEDGER, **columns(job))
    last = ("active_units", "accuracy", "hole_bits_per_dim")
    return any(row["metric"] in last or row["value"] == "inf" for row in rows)


def record_histograms() -> None:
    """The zero line of lesson 01, which needs no training."""
    for data in ("real", "embedded"):
        splits, _ = load_digits(data)
        nats = -evaluate.histogram_log_prob(splits.train, splits.test)
        row = {"notebook": LESSON_01, "model": "histogram", "role": "baseline", "seed": 0, "profile": "study"}
        row |= {"data": "mnist_grey" if data == "real" else "digits_grey", "path": LEDGER}
        bits = mean_and_error(bits_per_dim(nats, 784))
        ledger.record(bits, metric="bits_per_dim", unit="bits/dim", **row)


# All of them -------------------------------------------------------------------------------------


def run_alone(job: Job) -> bool:
    """Run the job in a process of its own, on one core; True if it succeeded."""
    started = time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COURSE_THREADS": "1", "TQDM_DISABLE": "1"}
    environment |= {"COURSE_DEVICE": "cpu"}  # a study says what a core can do, also where there is a GPU
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


def draw_samples() -> None:
    """Pictures by the two networks of 2015, whose weights are too many to come with the course."""
    weights = WEIGHTS / "vae_2015_real_0.safetensors"
    if weights.exists():
        model = recipes.build_vae_2015()
        load_checkpoint(model, weights)
        company.draw(model, load_digits("real")[0], FIGURES)
    weights = WEIGHTS / "conv_2015_real_0.safetensors"
    if weights.exists():
        model = ConvVAE2015()
        load_checkpoint(model, weights)
        torch.manual_seed(0)
        samples = model.generate(1_000)[:24]  # together, as in 2015: batch norm uses the batch
        large = torch.nn.functional.interpolate(samples, scale_factor=2)
        save_image(large, FIGURES / "conv_2015_samples.png", nrow=12, pad_value=1)


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
    if wish.only in ("", "01"):
        record_histograms()
    if wish.only in ("", "06"):
        record_fillings()
    todo = [job for job in JOBS if job.notebook.startswith(wish.only) and not is_done(job)]
    print(f"{len(todo)} of {len(JOBS)} jobs to do, {wish.jobs} at a time", flush=True)
    with ThreadPoolExecutor(wish.jobs) as pool:
        succeeded = list(pool.map(run_alone, todo))
    ship()
    draw_samples()
    return 0 if all(succeeded) else 1


if __name__ == "__main__":
    sys.exit(main())
