"""One plain function for each trained model: what a lesson, a study, a checkpoint and a benchmark share.

    python -m course_utils.recipes mlp --profile full --data real --seed 0

trains the recipe, goes on where it stopped if it was interrupted, measures the bound on the validation
digits and writes the checkpoint. Each recipe has a `build_` function beside it, which gives the same model
untrained, for a checkpoint to be loaded into.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_utils import objectives, processes
from course_utils.data import (
    KINDS,
    Batches,
    DataError,
    Images,
    LabelledFirst,
    draw_labels,
    fixed_binary,
    load_digits,
    load_photographs,
    project_root,
)
from course_utils.distributions import Bernoulli, DiscretisedLogistic, Gaussian
from course_utils.evaluate import Estimate, bound, mean_and_error, over_batches
from course_utils.fillings import bounds_of
from course_utils.holes import HoleBatches, holes_of
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.hierarchical_vae import HierarchicalVAE
from course_utils.models.inpainting_2017 import InpaintingVAE2017
from course_utils.models.inpainting_vae import InpaintingVAE
from course_utils.models.label_vae import LabelVAE, StackedVAE
from course_utils.models.layers import conv_layers, mlp_layers
from course_utils.models.semi_supervised_vae import Classifier, HeadVAE, MixtureVAE
from course_utils.models.unet import UNet
from course_utils.models.vae import VAE
from course_utils.models.vae_2015 import VAE2015, BatchNorm2015, ConvVAE2015, SquaredError
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
    model: nn.Module,
    train: Images,
    n_steps: int,
    *,
    lr: float,
    seed: int,
    state: Path | None,
    label: str,
    batch_size: int = 128,
    warm_up: float = 0.1,
    remedies: dict | None = None,
) -> Training:
    """What the models of digits have in common: a start at the mean, a warm-up over a share of the steps.

    `remedies` are further arguments of `fit`, those that lesson 04 compares.
    """
    model.start_at_mean(train.pixels.float().mean(dim=0) / 255)
    model.to(choose_device())
    binary = isinstance(model.likelihood, Bernoulli)
    device = next(model.parameters()).device
    batches = Batches(train.pixels, batch_size, binarise=binary, seed=seed, device=device)
    settings = {"lr": lr, "warm_up_steps": round(warm_up * n_steps), "state": state, "label": label}
    return fit(model, batches, n_steps, **settings, **(remedies or {}))


# Lesson 01 ---------------------------------------------------------------------------------------


def build_mlp() -> VAE:
    """784-512-512-40 and back, for binary pixels."""
    return VAE(hidden=(512, 512), latent_dim=40, likelihood=Bernoulli())


def mlp(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, n_steps: int | None = None
) -> tuple[VAE, Training]:
    """The headline of lesson 01: binary digits, a new draw of each grey value every time it is seen.

    `n_steps` stands in for the budget where lesson 03 compares budgets.
    """
    n_steps = n_steps or pick(budget, smoke=40, quick=5_000, study=20_000, full=120_000)
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


def build_mlp_bn() -> VAE:
    """The network of lesson 01 with batch norm on its hidden layers."""
    return VAE(hidden=(512, 512), latent_dim=40, likelihood=Bernoulli(), batch_norm=True)


def mlp_bn(train: Images, budget: str, seed: int = 0, state: Path | None = None) -> tuple[VAE, Training]:
    """The headline of lesson 02: binary digits, in batches large enough for their mean and variance."""
    n_steps = pick(budget, smoke=40, quick=3_000, study=4_200, full=60_000)
    batch_size = pick(budget, smoke=512, quick=512, study=1_024, full=1_024)
    lr = 2e-2 * (batch_size / 512) ** 0.5
    torch.manual_seed(seed)
    model = build_mlp_bn()
    settings = {"lr": lr, "batch_size": batch_size, "seed": seed, "state": state, "label": "mlp_bn"}
    return model, train_digits(model, train, n_steps, **settings)


def fixed_gain(latent_dim: int, gain: float) -> nn.BatchNorm1d:
    """A batch norm for mu whose gain stays: it bounds the KL from below (Zhu et al. 2020, BN-VAE)."""
    norm = nn.BatchNorm1d(latent_dim)
    nn.init.constant_(norm.weight, gain)
    norm.weight.requires_grad_(False)
    return norm


def mlp_bn_ablation(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    batch_norm: bool = True,
    mu_norm: Callable[[], nn.Module] | None = None,
) -> tuple[VAE, Training]:
    """A short training in batches of 128, with other parts of the network normalised."""
    n_steps = pick(budget, smoke=40, quick=1_000, study=2_500, full=30_000)
    torch.manual_seed(seed)
    norm = mu_norm() if mu_norm else None
    model = VAE(batch_norm=batch_norm, mu_norm=norm)
    return model, train_digits(model, train, n_steps, lr=4e-3, seed=seed, state=state, label="ablation")


def restless(train: Images, budget: str, seed: int = 0, state: Path | None = None) -> tuple[VAE, Training]:
    """mlp_bn stopped in full motion: batches of 16 and a high learning rate that never falls."""
    n_steps = pick(budget, smoke=20, quick=1_000, study=1_000, full=1_000)
    torch.manual_seed(seed)
    model = build_mlp_bn().to(choose_device())
    device = next(model.parameters()).device
    batches = Batches(train.pixels, 16, binarise=True, seed=seed, device=device)
    training = fit(model, batches, n_steps, lr=1e-2, schedule=constant, state=state, label="restless")
    return model, training


COST_2015 = "squared error + KL per image"  # the unit: no nats


def build_vae_2015(normalise: bool = True, as_then: bool = True, network: type = VAE2015) -> VAE2015:
    """The network of vae.py, or another of 2015; without its batch norms, or initialised as by torch."""
    model = network()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm2015) and not normalise:
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.Linear | nn.Conv2d) and not as_then:
                child.reset_parameters()
    return model


def committed_2015(parameters: Iterable[nn.Parameter]) -> Committed2015:
    """The optimiser of vae.py with its settings: 0.1 / 1000 on the cost summed over a batch of 1,000."""
    return Committed2015(parameters, lr=1e-4, n_images=1_000)


def vae_2015(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    model: VAE2015 | None = None,
    rule: Callable = committed_2015,
) -> tuple[VAE2015, Training]:
    """vae.py as it was run: grey digits in batches of 1,000, never shuffled, at a constant learning rate.

    Its 500 epochs are the study's 25,000 updates; "short", "claim" and "long" are the first 6, 12 and 50.
    `model` and `rule`, which makes an optimiser of the parameters, stand in for its own.
    """
    n_steps = pick(budget, smoke=20, quick=100, short=300, claim=600, long=2_500, study=25_000, full=25_000)
    torch.manual_seed(seed)
    model = (model or build_vae_2015()).to(choose_device())
    device = next(model.parameters()).device
    batches = Batches(train.pixels, min(1_000, len(train.pixels)), shuffle=False, device=device)
    plain = {"schedule": constant, "max_gradient": math.inf}  # what `fit` adds was not there in 2015
    optimizer = rule(model.parameters())
    return model, fit(model, batches, n_steps, optimizer=optimizer, **plain, state=state, label="vae_2015")


def vae_2015_today(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, normalise: bool = True
) -> tuple[VAE2015, Training]:
    """The network and cost of vae.py under habits of today: torch's initialisation, Adam, small batches."""
    n_steps = pick(budget, smoke=20, quick=500, study=2_500, full=20_000)
    torch.manual_seed(seed)
    model = build_vae_2015(normalise, as_then=False).to(choose_device())
    device = next(model.parameters()).device
    batches = Batches(train.pixels, 128, seed=seed, device=device)
    label = "vae_2015_today"
    return model, fit(model, batches, n_steps, lr=1e-3, warm_up_steps=n_steps // 10, state=state, label=label)


# Lesson 03 ---------------------------------------------------------------------------------------


def build_conv_bn(likelihood: nn.Module | None = None) -> ConvVAE:
    """Convolutions of 16 channels at 14x14 and 32 at 7x7, for binary pixels or the likelihood given."""
    return ConvVAE(channels=(16, 32), hidden=384, latent_dim=40, likelihood=likelihood or Bernoulli())


def conv_bn(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, n_steps: int | None = None
) -> tuple[ConvVAE, Training]:
    """The headline of lesson 03: binary digits. `n_steps` is there for a comparison of budgets."""
    compared = n_steps is not None  # then with the batches and the warm-up of lesson 01, to be fair
    batch_size = 128 if compared else pick(budget, smoke=128, quick=128, study=256, full=256)
    n_steps = n_steps or pick(budget, smoke=20, quick=2_800, study=2_900, full=60_000)
    lr = 4e-3 * (batch_size / 128) ** 0.5
    torch.manual_seed(seed)
    model = build_conv_bn()
    warm_up = 0.1 if compared else 0.5
    settings = {"lr": lr, "batch_size": batch_size, "warm_up": warm_up, "seed": seed, "state": state}
    return model, train_digits(model, train, n_steps, label="conv_bn", **settings)


def build_conv_bn_grey() -> ConvVAE:
    """The same for 8-bit pixels under a discretised logistic."""
    return build_conv_bn(DiscretisedLogistic())


def conv_bn_grey(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[ConvVAE, Training]:
    """Grey digits."""
    n_steps = pick(budget, smoke=20, quick=2_000, study=4_800, full=60_000)
    torch.manual_seed(seed)
    model = build_conv_bn_grey()
    return model, train_digits(model, train, n_steps, lr=3e-3, seed=seed, state=state, label="conv_bn_grey")


def conv_2015(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[ConvVAE2015, Training]:
    """conv_vae.py as far as ten minutes of one core go: it ran for 391,000 updates, about three days."""
    n_steps = pick(budget, smoke=2, quick=20, study=300, full=40_000)
    torch.manual_seed(seed)
    model = ConvVAE2015().to(choose_device())
    device = next(model.parameters()).device
    batches = Batches(train.pixels, 128, keep_last=True, shuffle=False, device=device)
    optimizer = Committed2015(model.parameters(), lr=0.01 / 128, n_images=128)
    plain = {"schedule": constant, "max_gradient": math.inf}
    return model, fit(model, batches, n_steps, optimizer=optimizer, **plain, state=state, label="conv_2015")


# Lesson 04 ---------------------------------------------------------------------------------------

LATENTS, WIDTHS = (40, 24, 12), (480, 256, 128)  # three layers, the one next to the pixels first


def build_topdown(
    *,
    top_down: bool = True,
    batch_norm: bool = True,
    skip: bool = False,
    learned_top: bool = False,
    zero_heads: bool = False,
) -> HierarchicalVAE:
    """p(x|z1) p(z1|z2) p(z2|z3) p(z3) with 40, 24 and 12 latents; q of a layer is prior times evidence."""
    networks = mlp_layers(LATENTS, WIDTHS, skip=skip, batch_norm=batch_norm)
    choices = {"learned_top": learned_top, "zero_heads": zero_heads}
    return HierarchicalVAE(*networks, top_down=top_down, skip=skip, **choices)


# The same networks; q of a layer is the evidence alone.
build_meanfield = partial(build_topdown, top_down=False)
# The hierarchy as one writes it down first: mean-field q, and no batch norm.
build_sick = partial(build_meanfield, batch_norm=False)


def topdown(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[nn.Module, Training]:
    """The headline of lesson 04: binary digits."""
    torch.manual_seed(seed)
    return hierarchy(build_topdown(), train, budget, seed, state, label="topdown")


def meanfield(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[nn.Module, Training]:
    """The same training for the posterior of 2017."""
    torch.manual_seed(seed)
    return hierarchy(build_meanfield(), train, budget, seed, state, label="meanfield")


def hierarchy(
    model: HierarchicalVAE, train: Images, budget: str, seed: int, state: Path | None, label: str
) -> tuple[HierarchicalVAE, Training]:
    """What the two have in common: batches large enough for batch norm, a warm-up over half of the steps."""
    n_steps = pick(budget, smoke=20, quick=5_000, study=9_000, full=60_000)
    batch_size = pick(budget, smoke=128, quick=128, study=256, full=256)
    lr = 6e-3 * (batch_size / 128) ** 0.5
    settings = {
        "lr": lr,
        "batch_size": batch_size,
        "warm_up": 0.5,
        "seed": seed,
        "state": state,
        "label": label,
    }
    return model, train_digits(model, train, n_steps, **settings)


def build_topdown_conv() -> HierarchicalVAE:
    """Four layers of maps, two at 14x14 and two at 7x7, with skip paths."""
    return HierarchicalVAE(*conv_layers((14, 14, 7, 7), (2, 2, 4, 8), width=32, skip=True), skip=True)


def topdown_conv(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[HierarchicalVAE, Training]:
    """Binary digits with convolutions; its full profile asks for a GPU."""
    n_steps = pick(budget, smoke=5, quick=200, study=900, full=60_000)
    torch.manual_seed(seed)
    model = build_topdown_conv()
    settings = {"lr": 4e-3, "warm_up": 0.5, "seed": seed, "state": state, "label": "topdown_conv"}
    return model, train_digits(model, train, n_steps, **settings)


def remedied(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    build: Callable[[], HierarchicalVAE] = build_sick,
    warm_up: float = 0.0,
    remedies: dict | None = None,
    ema: bool = False,
) -> tuple[HierarchicalVAE, Training]:
    """A short training of a hierarchy under the remedies of lesson 04, by default under none of them.

    With `ema` what comes back is the average of the weights, and of the statistics of batch norm.
    """
    n_steps = pick(budget, smoke=10, quick=400, study=1_200, full=10_000)
    torch.manual_seed(seed)
    model = build()
    ema_of = get_ema_multi_avg_fn(0.99)
    average = AveragedModel(model, multi_avg_fn=ema_of, use_buffers=True) if ema else None
    settings = {"lr": 3e-3, "warm_up": warm_up, "seed": seed, "state": state, "label": "remedied"}
    training = train_digits(
        model, train, n_steps, remedies={"average": average, **(remedies or {})}, **settings
    )
    return (average.module if average else model), training


# The four patients of lesson 04's clinic: small hierarchies, each with one thing wrong.


def build_patient() -> HierarchicalVAE:
    """Three layers of 16, 8 and 4 latents between narrow networks."""
    return HierarchicalVAE(*mlp_layers((16, 8, 4), (128, 64, 32)), top_down=True)


def build_patient_c() -> HierarchicalVAE:
    """The same without batch norm, and with the mean-field posterior."""
    return HierarchicalVAE(*mlp_layers((16, 8, 4), (128, 64, 32), batch_norm=False), top_down=False)


def patient(
    model: HierarchicalVAE, train: Images, budget: str, seed: int, state: Path | None, warm_up: float = 0.2
) -> tuple[HierarchicalVAE, Training]:
    """The training that the four have in common."""
    n_steps = pick(budget, smoke=10, quick=4_000, study=4_000, full=4_000)
    settings = {"lr": 4e-3, "warm_up": warm_up, "seed": seed, "state": state, "label": "patient"}
    return model, train_digits(model, train, n_steps, **settings)


def patient_a(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[HierarchicalVAE, Training]:
    """Overfitted: it has seen 1,000 digits, hundreds of times."""
    torch.manual_seed(seed)
    return patient(build_patient(), train.subset(slice(1_000)), budget, seed, state)


def patient_b(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[HierarchicalVAE, Training]:
    """Batch norm in the wrong mode: its running averages crept, and are those of weights long gone."""
    torch.manual_seed(seed)
    model = build_patient()
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]:
        layer.momentum = 5e-4  # usually 0.1
    return patient(model, train, budget, seed, state)


def patient_c(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[HierarchicalVAE, Training]:
    """Collapsed layers: no batch norm, no warm-up."""
    torch.manual_seed(seed)
    return patient(build_patient_c(), train, budget, seed, state, warm_up=0.0)


def patient_d(
    train: Images, budget: str, seed: int = 0, state: Path | None = None
) -> tuple[HierarchicalVAE, Training]:
    """An exploded variance: after a sound training the log_var of layer 2's prior went up by 6."""
    torch.manual_seed(seed)
    model, training = patient(build_patient(), train, budget, seed, state)
    with torch.no_grad():
        bias = model.layers[1].prior.bias
        bias[len(bias) // 2 :] += 6
    return model, training


# Lesson 05 ---------------------------------------------------------------------------------------

# Weight of the softmax error, its mean over the labelled images, in nats. Kingma et al.'s 0.1 N comes to 10.
ALPHA = 60.0
N_LABELS = 100


def build_code_vae(width: int = 400) -> VAE:
    """784-400-400-16 and back with batch norm: the networks that all of lesson 05 has in common."""
    return VAE(hidden=(width, width), latent_dim=16, likelihood=Bernoulli(), batch_norm=True)


def build_head() -> HeadVAE:
    """The code is read by a softmax."""
    return HeadVAE(build_code_vae())


def build_mixture_prior() -> MixtureVAE:
    """The prior of the code has a part for each class."""
    return MixtureVAE(build_code_vae())


def build_m1_m2() -> StackedVAE:
    """A VAE, and of its sixteen numbers a VAE with the label beside its ten."""
    m2 = LabelVAE((16, 1, 1), hidden=(200, 200), latent_dim=10, likelihood=Gaussian(), code_sees_label=True)
    return StackedVAE(build_code_vae(), m2)


def labelled(train: Images, draw: int, n_labels: int, seed: int, jittered: bool) -> tuple[Batches, Tensor]:
    """(batches, labels) of the images whose label is known: all of them in each batch, in the same order."""
    known = train.subset(draw_labels(train.labels, n_labels, draw))
    settings = {"binarise": True, "shuffle": False, "jittered": jittered, "seed": seed}
    device = choose_device()
    return Batches(known.pixels, n_labels, device=device, **settings), known.labels.to(device)


def labelled_first(
    train: Images, draw: int, n_labels: int, n_others: int, seed: int, jittered: bool
) -> tuple[LabelledFirst, Tensor]:
    """(batches, labels): in front of each batch all images whose label is known, then others."""
    known, labels = labelled(train, draw, n_labels, seed, jittered)
    others = Batches(train.pixels, n_others, binarise=True, seed=seed, device=choose_device())
    return LabelledFirst(known, others), labels


def few_labels(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    *,
    build: Callable[[], nn.Module],
    terms: objectives.Terms,
    draw: int = 0,
    n_labels: int = N_LABELS,
    alpha: float = ALPHA,
    jittered: bool = True,
    passes: int = 1,
) -> tuple[nn.Module, Training]:
    """One rung of lesson 05's ladder: binary digits, of which the labels of draw number `draw` are known.

    `terms` is the rung's function in `objectives`. `passes` is how many times the work of one pass a step
    costs; a batch has that many times fewer unlabelled images, so that a step costs the same.
    """
    n_steps = pick(budget, smoke=20, miniature=200, quick=2_500, study=4_000, full=60_000)
    torch.manual_seed(seed)
    model = build()
    model.start_at_mean(train.pixels.float().mean(dim=0) / 255)
    model.to(choose_device())
    batches, labels = labelled_first(train, draw, n_labels, 200 // passes, seed, jittered)
    objective = partial(objectives.few_labels, terms=terms, labels=labels, alpha=alpha)
    settings = {"lr": 3e-3, "warm_up_steps": n_steps // 10, "state": state, "label": terms.__name__}
    return model, fit(model, batches, n_steps, objective=objective, **settings)


build_m2 = partial(LabelVAE, code_sees_label=True)
softmax_after_code = partial(few_labels, build=LabelVAE, terms=objectives.beside_code)
priced_label = partial(few_labels, build=LabelVAE, terms=objectives.priced_label)
sampled_label = partial(few_labels, build=LabelVAE, terms=objectives.sampled_label)
m2_aux = partial(few_labels, build=build_m2, terms=objectives.exact_sum, passes=4)
m2 = partial(m2_aux, alpha=0.0)
softmax_on_code = partial(few_labels, build=build_head, terms=objectives.softmax_on_code)
mixture_prior = partial(few_labels, build=build_mixture_prior, terms=objectives.mixture_prior)


def labels_only(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    *,
    draw: int = 0,
    n_labels: int = N_LABELS,
    jittered: bool = True,
) -> tuple[Classifier, Training]:
    """The encoder as a classifier of the labelled images, without the others."""
    n_steps = pick(budget, smoke=20, quick=1_000, study=2_000, full=4_000)
    torch.manual_seed(seed)
    model = Classifier().to(choose_device())
    known, labels = labelled(train, draw, n_labels, seed, jittered)
    objective = partial(objectives.label_log_prob, labels=labels)
    return model, fit(model, known, n_steps, objective=objective, lr=3e-3, state=state, label="labels_only")


def no_labels(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, *, beside: bool = True
) -> tuple[nn.Module, Training]:
    """The plan of 2015 with no label at all; not `beside`, the standard VAE that it was meant to be then."""
    n_steps = pick(budget, smoke=20, quick=700, study=4_000, full=60_000)
    width = pick(budget, smoke=200, quick=200, study=400, full=400)
    torch.manual_seed(seed)
    model = LabelVAE(hidden=(width, width)) if beside else build_code_vae(width)
    objective = objectives.without_labels(objectives.beside_code) if beside else objectives.elbo
    settings = {"batch_size": 200, "lr": 1.2 / width, "seed": seed, "state": state, "label": "no_labels"}
    return model, train_digits(model, train, n_steps, remedies={"objective": objective}, **settings)


def m1_m2(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, *, draw: int = 0
) -> tuple[StackedVAE, Training]:
    """M1 for two thirds of the steps, which needs no label, then M2 on what it makes of the images."""
    n_steps = pick(budget, smoke=10, quick=800, study=2_000, full=20_000)
    torch.manual_seed(seed)
    model = build_m1_m2()
    below = state.with_stem(f"{state.stem}_m1") if state else None
    settings = {"batch_size": 256, "lr": 4e-3, "seed": seed, "state": below, "label": "m1"}
    training = train_digits(model.m1, train, 2 * n_steps, **settings)
    if not training.finished:  # M2 is not to learn from half an M1
        return model, training
    model.m1.requires_grad_(False)
    model.to(choose_device())
    batches, labels = labelled_first(train, draw, N_LABELS, 200, seed, jittered=True)
    objective = partial(objectives.few_labels, terms=objectives.stacked, labels=labels, alpha=ALPHA)
    settings = {"objective": objective, "lr": 3e-3, "state": state, "label": "m1_m2"}
    return model, fit(model, batches, n_steps, **settings)


# Lesson 06 ---------------------------------------------------------------------------------------


def with_holes(train: Images, batch_size: int, seed: int, vary: bool = True) -> HoleBatches:
    """What the networks of the lesson see: photographs varied anew each time, their middle missing."""
    return HoleBatches(Batches(train.pixels, batch_size, seed=seed, device=choose_device()), vary)


def unet_l2(train: Images, budget: str, seed: int = 0, state: Path | None = None) -> tuple[UNet, Training]:
    """One guess at each hole, by its squared error in decibels: a baseline, and the start of `hier`."""
    n_steps = pick(budget, smoke=4, quick=1_000, study=3_600, full=60_000)
    torch.manual_seed(seed)
    model = UNet().to(choose_device(), memory_format=torch.channels_last)
    settings = {"objective": objectives.decibels, "lr": 1.5e-3, "state": state, "label": "unet_l2"}
    return model, fit(model, with_holes(train, 32, seed), n_steps, **settings)


def build_hier() -> InpaintingVAE:
    """Three layers of maps over the hole: of 16x16 places, 8x8 and 4x4."""
    return InpaintingVAE(UNet())


def build_cvae_1() -> InpaintingVAE:
    """One layer of maps in place of three: every place of the hole draws by itself."""
    return InpaintingVAE(UNet(), layers=((16, 24),))


def hier(
    train: Images,
    budget: str,
    seed: int = 0,
    state: Path | None = None,
    *,
    unet: UNet | None = None,
    build: Callable[[], InpaintingVAE] = build_hier,
    objective: Callable = objectives.sketched_bound,
    warm_up: float = 0.9,
    from_below: bool = False,
) -> tuple[InpaintingVAE, Training]:
    """The headline of lesson 06. `unet`, which is trained first if it is not given, stays as it is.

    The price of the latents rises over most of the training, and each layer owes a sketch to the one below.
    """
    n_steps = pick(budget, smoke=4, quick=900, study=2_400, full=60_000)
    first = None
    if unet is None:
        below = state.with_stem(f"{state.stem}_unet") if state else None
        unet, first = unet_l2(train, budget, seed, below)
    torch.manual_seed(seed)
    model = build()
    model.unet.load_state_dict(unet.state_dict())
    if first and not first.finished:  # the latents are not to learn beside half a U-Net
        return model, first
    model.unet.requires_grad_(False)
    model.to(choose_device(), memory_format=torch.channels_last)
    trained = [values for values in model.parameters() if values.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-3, betas=(0.9, 0.99), fused=True)
    settings = {"optimizer": optimizer, "warm_up_steps": round(warm_up * n_steps)}
    settings |= {"objective": objective, "warm_up_from_below": from_below}
    settings |= {"state": state, "label": "hier"}
    return model, fit(model, with_holes(train, 16, seed), n_steps, **settings)


cvae_1 = partial(hier, build=build_cvae_1)


def cost_2017(model: InpaintingVAE2017, x: Tensor) -> objectives.Elbo:
    """The bound less 0.001 times the square of every parameter, gains and biases too."""
    bound = objectives.hole_bound(model, x)
    squares = sum(values.square().sum() for values in model.parameters())
    return bound._replace(log_px=bound.log_px - 1e-3 * squares)


def hier_2017(
    train: Images, budget: str, seed: int = 0, state: Path | None = None, *, lr: float = 1e-3
) -> tuple[InpaintingVAE2017, Training]:
    """The network of 9 April 2017, trained as by its code; in the study for 20 passes over 2,056 photographs.

    Its gradient was no longer than 1 for a cost divided by 1,024. It had a step of 1e-4, for 50 passes over
    82,783 photographs; that of March, 1e-3, gets somewhere in our time.
    """
    n_steps = pick(budget, smoke=4, quick=100, study=650, full=64_000)
    torch.manual_seed(seed)
    model = InpaintingVAE2017().to(choose_device())
    batches = with_holes(train, 64, seed, vary=False)
    settings = {"objective": cost_2017, "optimizer": torch.optim.Adam(model.parameters(), lr=lr)}
    settings |= {"schedule": constant, "max_gradient": 1_024.0, "state": state, "label": "hier_2017"}
    return model, fit(model, batches, n_steps, **settings)


# Shipped weights and the command line ------------------------------------------------------------

RECIPES = {
    "mlp": (build_mlp, mlp),
    "mlp_grey": (build_mlp_grey, mlp_grey),
    "plane": (build_plane, plane),
    "mlp_bn": (build_mlp_bn, mlp_bn),
    "restless": (build_mlp_bn, restless),
    "vae_2015": (build_vae_2015, vae_2015),
    "conv_bn": (build_conv_bn, conv_bn),
    "conv_bn_grey": (build_conv_bn_grey, conv_bn_grey),
    "topdown": (build_topdown, topdown),
    "meanfield": (build_meanfield, meanfield),
    "topdown_conv": (build_topdown_conv, topdown_conv),
    "patient_a": (build_patient, patient_a),
    "patient_b": (build_patient, patient_b),
    "patient_c": (build_patient_c, patient_c),
    "patient_d": (build_patient, patient_d),
    "softmax_after_code": (LabelVAE, softmax_after_code),
    "m2_aux": (build_m2, m2_aux),
    "mixture_prior": (build_mixture_prior, mixture_prior),
    "unet_l2": (UNet, unet_l2),
    "hier": (build_hier, hier),
    "cvae_1": (build_cvae_1, cvae_1),
    "hier_2017": (InpaintingVAE2017, hier_2017),
}
OF_PHOTOGRAPHS = ("unet_l2", "hier", "cvae_1", "hier_2017")  # the others are of digits


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
    with processes.joined(choose_device()):
        return train_and_keep(wish)


def train_and_keep(wish: argparse.Namespace) -> int:
    """What the command line asked for. Of several processes all train; the first one measures and writes."""
    set_threads()
    try:
        load = load_photographs if wish.name in OF_PHOTOGRAPHS else load_digits
        with processes.first_before_others():  # who downloads or paints what the others find
            splits, data = load(wish.data, small=wish.profile == "smoke")
        run = f"{wish.name}_{data}_{wish.profile}_{wish.seed}"
        state = project_root() / "build" / "state" / f"{run}.safetensors"
        model, training = RECIPES[wish.name][1](splits.train, wish.profile, wish.seed, state)
    except (DataError, TrainingError) as error:
        print(error, file=sys.stderr)
        return 1
    if not training.finished:
        print("Run the same command again to go on.", file=sys.stderr)
        return 130
    if processes.rank() == 0:
        measured, unit = measure(model, splits.valid)
        path = wish.out or checkpoint_path(wish.name, data)
        facts = {"recipe": wish.name, "data": data, "profile": wish.profile, "seed": wish.seed}
        save_checkpoint(model, path, **facts, neg_elbo_validation=f"{measured} {unit}")
        print(f"{run}: -ELBO {measured} {unit} on {measured.n} validation images -> {path}")
    return 0


def measure(model: nn.Module, valid: Images) -> tuple[Estimate, str]:
    """(-ELBO of the validation images, its unit); of a U-Net, which has none, what it minimises."""
    if isinstance(model, UNet):
        guesses = bounds_of(model, holes_of(valid), chunk=64, objective=objectives.decibels)
        return mean_and_error(-guesses.value()), "D/2 log of the squared error of a hole"
    if isinstance(model, InpaintingVAE | InpaintingVAE2017):
        return mean_and_error(-bounds_of(model, holes_of(valid)).value()), "nats/hole"
    if isinstance(model.likelihood, SquaredError):
        size = min(1_000, len(valid.pixels) // 2)  # as in training, if there are two
        costs = -bound(model, valid, chunk=size).value()
        return over_batches(costs, size)._replace(n=len(costs)), COST_2015
    valid = fixed_binary(valid) if isinstance(model.likelihood, Bernoulli) else valid
    return mean_and_error(-bound(model, valid).value()), "nats/image"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
