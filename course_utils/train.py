"""The training loop, and what surrounds it: profile, seed, threads, device, resuming, checkpoints.

`fit` is the loop that lesson 01 writes out by hand, with four things added: a learning rate that rises and
falls, a guard that skips a bad gradient, a progress bar, and a file from which it can go on. Everything is
counted in steps, so a run costs the same wherever it runs.
"""

import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import tqdm

from course_utils import processes
from course_utils.objectives import Elbo, elbo, warm_up

PROFILES = ("smoke", "quick", "full")
MAX_GRADIENT = 200.0  # nats; longer gradients are shortened to this
MAX_BAD_STEPS = 20  # in a row, before training gives up


# Profile, device, threads ------------------------------------------------------------------------


def pick(profile: str, **choices: int) -> int:
    """The choice that belongs to the profile: pick("quick", smoke=10, quick=4_000, full=90_000) -> 4000.

    "smoke" is a test that takes seconds, "quick" a reader without a GPU, "full" one GPU.
    """
    if profile not in choices:
        raise ValueError(f"profile={profile!r}: choose one of {', '.join(choices)}")
    return choices[profile]


def choose_device() -> torch.device:
    """The device named by COURSE_DEVICE; "auto", the default, takes cuda, then mps, then cpu."""
    wish = os.environ.get("COURSE_DEVICE") or "auto"
    if wish != "auto":
        return torch.device(wish)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def set_threads() -> int:
    """Give torch COURSE_THREADS threads, by default as many as this process has cores; says how many.

    Threads that outnumber the free cores wait for each other: on a busy machine the same step took up
    to 50 times longer. Set COURSE_THREADS=1 there, and wherever several processes train at once; those that
    torchrun starts share the cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fair = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    n_threads = int(os.environ.get("COURSE_THREADS") or fair)
    torch.set_num_threads(n_threads)
    return n_threads


def set_up(profile: str, seed: int, minutes: dict[str, int]) -> torch.device:
    """Seed torch, set its threads, print one line on what to expect; returns the device to train on.

    `minutes` says for each profile how long the lesson takes, as far as it was measured (quick: 4 cores).
    """
    pick(profile, **dict.fromkeys(PROFILES, 0))
    torch.manual_seed(seed)
    n_threads, device = set_threads(), choose_device()
    threads = f"{n_threads} thread{'s' if n_threads > 1 else ''}"
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{device.type}, {threads}"
    time = f"about {minutes[profile]} min" if profile in minutes else "duration not measured"
    print(f"torch {torch.__version__.split('+')[0]} on {where}; profile {profile}, {time}")
    return device


# The loop ----------------------------------------------------------------------------------------


class Training(NamedTuple):
    """What `fit` leaves behind, beside the trained model."""

    rows: list[dict]  # step, elbo, kl, images_per_second: means over the steps since the row before
    n_steps: int  # taken, all sittings together
    finished: bool  # False if it was interrupted
    n_skipped: int  # steps whose gradient was too long or not finite
    seconds: float  # of training, all sittings together
    cpu_seconds: float  # the same, summed over the cores that worked


class TrainingError(RuntimeError):
    """Training cannot go on; the message says where it broke and what to try."""


def one_cycle(step: int, n_steps: int) -> float:
    """The learning rate as a share of its peak: up in a line for 5 % of the steps, down a half cosine."""
    share = (step + 1) / n_steps
    return min(1.0, share / 0.05) * 0.5 * (1 + math.cos(math.pi * step / n_steps))


def constant(step: int, n_steps: int) -> float:
    """The learning rate stays at its peak."""
    return 1.0


def fit(
    model: nn.Module,
    batches,
    n_steps: int,
    *,
    objective: Callable[[nn.Module, Tensor], Elbo] = elbo,
    optimizer: torch.optim.Optimizer | None = None,
    lr: float = 1e-3,
    warm_up_steps: int = 0,
    warm_up_from_below: bool = False,
    free_bits: float | Tensor = 0.0,
    schedule: Callable[[int, int], float] = one_cycle,
    max_gradient: float = MAX_GRADIENT,
    skip_gradient: float = math.inf,
    average: AveragedModel | None = None,
    bf16: bool = False,
    compile: bool = False,
    state: Path | None = None,
    label: str = "training",
) -> Training:
    """Maximise the objective over n_steps batches, `batches[0]` to `batches[n_steps - 1]`; trains in place.

    The optimiser is Adam unless given; `lr` is its peak, and `schedule(step, n_steps)` the share of it that a
    step takes. Gradients longer than `max_gradient` are shortened, longer than `skip_gradient` not followed
    at all (Child 2021). `warm_up_steps` let beta rise from 0 to 1, for all layers at once or one after the
    other from below. `free_bits` is the price that a layer pays at least, in nats: one for all, or one for
    each (L,). `average` follows every step: torch's
    `AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))` is the EMA.
    `bf16` computes the layers in bfloat16, sums stay in float32; `compile` compiles the objective.
    Stopping the cell keeps what is trained and returns it. With `state`, a path, training is saved there
    at the start, about every tenth of the way, and at the end. If that file exists, training goes on from
    it, not from the weights in `model`: the steps since the last saving are done again, and on the CPU it
    ends bit for bit where it would have ended uninterrupted. (That it is of the same seed and data is not
    checked.) Under torchrun each process takes its share of the batches (`course_utils.processes`). A step
    whose gradient is not finite is skipped too; raises TrainingError, naming the layer, after 20 of them in
    a row, when the next row is logged.
    """
    optimizer = optimizer or torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    peaks = [group.setdefault("peak_lr", group["lr"]) for group in optimizer.param_groups]
    objective = torch.compile(objective) if compile else objective
    log = Log(every=max(1, n_steps // 100))
    run = (label, n_steps, model, optimizer, average, log)
    start = load_state(state, *run) if state and state.exists() else 0
    compute_bound, batches = processes.shared(model, objective, batches, start)
    state = None if processes.rank() else state
    if state and start == 0:
        save_state(state, *run)
    buffers = list(model.buffers())
    finished, was_training = False, model.training
    model.train()
    quiet = bool(os.environ.get("TQDM_DISABLE") or processes.rank())  # tqdm's notebook bar does not read it
    bar = tqdm(range(start, n_steps), initial=start, total=n_steps, desc=label, leave=False, disable=quiet)
    try:
        for step in bar:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule(step, n_steps)

            x = batches[step]
            before = [(buffer, buffer.clone()) for buffer in buffers]
            with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
                bound = compute_bound(x)
            beta = warm_up(step, warm_up_steps, bound.kl.shape[1], warm_up_from_below)
            loss = bound.loss(beta, free_bits)
            went = descend(loss, model, optimizer, before, max_gradient, skip_gradient, average)
            if log.add(step, bound, went):
                if log.n_bad >= MAX_BAD_STEPS:
                    raise TrainingError(explain_failure(model, x, step))
                bar.set_postfix_str(log.line(), refresh=False)
            if state and (log.step % (10 * log.every) == 0 or log.step == n_steps):
                save_state(state, *run)
        finished = True
    except KeyboardInterrupt:
        print(f"{label}: stopped after {log.step} of {n_steps} steps; the model keeps what it has learned")
    finally:
        bar.close()
        model.train(was_training)
    return Training(log.rows, log.step, finished, log.total_skipped(), log.seconds, log.cpu_seconds)


def descend(
    loss: Tensor,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    before: list[tuple[Tensor, Tensor]],
    max_gradient: float,
    skip_gradient: float,
    average: AveragedModel | None,
) -> Tensor:
    """One step along the gradient, shortened if it is long; whether there was one, a tensor on the device.

    A gradient that is too long or not finite is left as it is, for `explain_failure` to look at, and the
    buffers become what they were `before`: one NaN would stay in the running mean of a batch norm for good.
    Nothing is read here, so that a card need not wait for Python: a fused optimiser reads for itself that it
    is to skip.
    """
    optimizer.zero_grad()
    loss.backward()
    reached = [p for p in model.parameters() if p.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in reached])
    went = norm < skip_gradient  # not so if it is NaN
    nn.utils.clip_grads_with_norm_(reached, max_gradient, torch.where(went, norm, 0.0))
    for buffer, kept in before:
        torch.where(went, buffer, kept, out=buffer)
    if getattr(optimizer, "_step_supports_amp_scaling", False):  # as GradScaler asks
        optimizer.found_inf = (~went).float()
        optimizer.step()
        del optimizer.found_inf
    elif went:
        optimizer.step()
    if average and went:
        average.update_parameters(model)
    return went


class Log:
    """Sums the terms of the bound on the device and reads them every few steps only, since reading waits."""

    def __init__(self, every: int):
        self.every, self.rows, self.step = every, [], 0
        self.n_skipped = self.n_bad = 0  # in all, and in a row just now, as of the last row
        self.in_a_row = torch.zeros(())
        self.seconds = self.cpu_seconds = 0.0
        self.clear()

    def clear(self) -> None:
        self.sums, self.n_images = 0.0, 0
        self.started, self.cpu_started = time.perf_counter(), time.process_time()

    def add(self, step: int, bound: Elbo, went: Tensor) -> bool:
        """Count one step; True if it completed a row."""
        self.step = step + 1
        with torch.no_grad():
            skipped = (~went).float()
            self.in_a_row = (self.in_a_row.to(skipped) + 1) * skipped
            self.sums = self.sums + torch.stack([bound.value().sum(), bound.kl.sum(), skipped])
        self.n_images += len(bound.log_px)
        if self.step % self.every:
            return False
        total_elbo, total_kl, _ = self.sums.tolist()
        self.n_skipped, self.n_bad = self.total_skipped(), int(self.in_a_row)
        seconds = time.perf_counter() - self.started
        self.seconds += seconds
        self.cpu_seconds += time.process_time() - self.cpu_started
        row = {"step": self.step, "elbo": total_elbo / self.n_images, "kl": total_kl / self.n_images}
        self.rows.append(row | {"images_per_second": processes.n_processes() * self.n_images / seconds})
        self.clear()
        return True

    def total_skipped(self) -> int:
        """Since the beginning, also those after the last row."""
        return self.n_skipped + (int(self.sums[2]) if self.n_images else 0)

    def line(self) -> str:
        """The last row, for the progress bar."""
        row, skipped = self.rows[-1], f", {self.n_skipped} skipped" if self.n_skipped else ""
        speed = f"{row['images_per_second']:,.0f} images/s"
        return f"bound {row['elbo']:.1f}, KL {row['kl']:.1f} nats, {speed}{skipped}"


def explain_failure(model: nn.Module, x: Tensor, step: int) -> str:
    """Where the first non-finite number appears when x goes through the model, and what to try."""
    if not x.isfinite().all():
        return f"step {step}: the batch itself holds NaN or infinite values; check the images before training"
    bad = []

    def look(name: str):
        def hook(module, inputs, output):
            if isinstance(output, Tensor) and not output.isfinite().all():
                bad.append(name)

        return hook

    probe = copy.deepcopy(model)  # batch norm keeps its statistics, and no hook stays behind
    for name, layer in probe.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(look(name))
    with torch.no_grad():
        probe(x)
    lengths = [p.grad for p in model.parameters() if p.grad is not None]
    if not bad and (norm := nn.utils.get_total_norm(lengths)).isfinite():
        return (
            f"step {step}: {MAX_BAD_STEPS} steps in a row the gradient was longer than skip_gradient, now "
            f"{norm:.0f} nats. The weights are those before. Raise skip_gradient or lower the lr."
        )
    gradients = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    if bad:
        where = f"the output of layer {bad[0]!r}"
    elif gradients:  # they flow from the loss backwards, so the last one hit is the nearest to the cause
        where = f"the gradient of {gradients[-1]!r}"
    else:  # each number is finite, but not the sum of their squares
        where = "the length of the gradient"
    return (
        f"step {step}: {where} is not finite, {MAX_BAD_STEPS} steps in a row. The weights are "
        "those before them. Try a lower learning rate, a longer KL warm-up, or bound that layer's output."
    )


# Going on where it stopped -----------------------------------------------------------------------
#
# One safetensors file, never a pickle: tensors by name, everything else as JSON in the metadata.


def write_safely(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file beside its place, then move it there: it is whole or it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial, metadata)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_safely(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a safetensors file; TrainingError with what to do if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise TrainingError(
            f"{path} is damaged ({error}). If it is a training state, delete it to start afresh; if it came "
            f"with the course, restore it with: git checkout -- {path}"
        ) from error


def save_state(path: Path, label: str, n_steps: int, model, optimizer, average, log: Log) -> None:
    """Everything that the rest of the training depends on."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if average:
        tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    saved = optimizer.state_dict()
    for index, values in saved["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    tensors["rng.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    progress = {"step": log.step, "rows": log.rows, "n_skipped": log.n_skipped}
    progress |= {"seconds": log.seconds, "cpu_seconds": log.cpu_seconds}
    metadata = {"label": label, "n_steps": n_steps, "groups": saved["param_groups"], "progress": progress}
    write_safely(tensors, path, {key: json.dumps(value) for key, value in metadata.items()})


def load_state(path: Path, label: str, n_steps: int, model, optimizer, average, log: Log) -> int:
    """Restore what `save_state` wrote and return the step to go on with."""
    tensors, metadata = read_safely(path)
    if (metadata.get("label"), metadata.get("n_steps")) != (json.dumps(label), json.dumps(n_steps)):
        raise TrainingError(
            f"{path} belongs to another run ({metadata.get('label')}, {metadata.get('n_steps')} steps; this "
            f'is "{label}", {n_steps} steps). Delete it, or keep the state of this run in another file.'
        )
    found = {key: json.loads(value) for key, value in metadata.items()}
    kept = {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}
    if bool(kept) != bool(average):
        raise TrainingError(
            f"{path} was saved {'with' if kept else 'without'} an average of the weights, this run is "
            f"{'with' if average else 'without'} one. Delete it, or give this run another file."
        )
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    if trouble := mismatch(model, weights):
        raise TrainingError(
            f"{path} belongs to another model: {trouble}. Delete it, or keep the state of this run in "
            "another file."
        )
    model.load_state_dict(weights)
    if average:
        average.load_state_dict(kept)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": found["groups"]})
    lay_out(optimizer)
    torch.set_rng_state(tensors["rng.cpu"])
    if torch.cuda.is_available() and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"])
    for key, value in found["progress"].items():
        setattr(log, key, value)
    return log.step


def lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give what an optimiser keeps the weights' own order in memory, which a file does not know.

    A fused step takes moments and weights number by number as they lie there: with weights channels last and
    moments channels first it would mix them up.
    """
    for values, moments in optimizer.state.items():
        for key, value in moments.items():
            if value.shape == values.shape:
                moments[key] = torch.empty_like(values).copy_(value)


# Checkpoints: a trained model to ship or to look at ----------------------------------------------


def save_checkpoint(model: nn.Module, path: Path, **facts: str | int | float) -> None:
    """The weights as float16, and what they are (recipe, data, seed, measured bound, ...) as metadata.

    Raises TrainingError if a number is not finite, or beyond float16's 65,504.
    """
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    if lost := [name for name, value in halves.items() if not value.isfinite().all()]:
        raise TrainingError(f"{lost[0]} holds numbers that float16 cannot hold; {path} was not written.")
    write_safely(halves, Path(path), {name: str(value) for name, value in facts.items()})


def load_checkpoint(model: nn.Module, path: Path) -> dict[str, str]:
    """Load the weights into the model, which must have the right sizes; returns the metadata."""
    tensors, facts = read_safely(Path(path))
    if trouble := mismatch(model, tensors):
        recipe = facts.get("recipe", "recipe unknown")
        raise TrainingError(
            f"{path} holds the weights of another model ({recipe}): {trouble}. Build the model with the "
            "sizes of that recipe."
        )
    model.load_state_dict(tensors)
    return facts


def mismatch(model: nn.Module, weights: dict[str, Tensor]) -> str:
    """The first difference in names or sizes between the model and weights meant for it, "" if none."""
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    found = {name: list(value.shape) for name, value in weights.items()}
    for name in wanted | found:
        if wanted.get(name) != found.get(name):
            there, here = found.get(name, "missing"), wanted.get(name, "missing")
            return f"{name} is {there} in the file and {here} in the model"
    return ""
