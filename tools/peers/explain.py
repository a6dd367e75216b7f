"""Where the time of a step of `fit` goes: a profile, sorted into six parts.

python -m peers.explain MODEL FOLDER STEPS

    products    matrix products and convolutions, wherever they are
    data        batches[step]
    forward     the objective, without its products: elementwise operations, sums, random numbers
    backward    the same of loss.backward()
    optimiser   optimizer.step() and zero_grad()
    loop        everything else in `fit`: schedule, weights on the KL, guard against bad gradients, log, bar

The profiler itself takes time for each operation, so parts of many small ones look larger than they are;
compare a part with itself, before and after.
"""

import sys
import time
from collections import Counter
from unittest.mock import patch

import torch
from peers.course import MODELS, Subject, train_by_fit
from peers.turns import answer, set_threads
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity, profile

PARTS = ("products", "data", "forward", "backward", "optimiser", "loop")
PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::convolution", "aten::convolution_backward"}
OPTIMISER = ("Optimizer.step", "Optimizer.zero_grad")  # torch's own marks
MARK = "bench: "
N_NAMED = 3  # operations that a part names


def marked(part: str, function):
    """The function, and the profiler sees which part it is."""

    def call(*arguments):
        with record_function(MARK + part):
            return function(*arguments)

    return call


class MarkedBatches:
    """The batches, and the profiler sees them made."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> torch.Tensor:
        return marked("data", self.batches.__getitem__)(step)


def part_of(event) -> str:
    """The part that an event belongs to by itself, "" if that is for the event around it to say."""
    if event.name in PRODUCTS:
        return "products"
    if event.name.startswith(OPTIMISER):
        return "optimiser"
    return event.name.removeprefix(MARK) if event.name.startswith(MARK) else ""


def part_around(event) -> str:
    """The part of the outermost product, or else of the innermost mark, that an event lies in."""
    found = []
    while event is not None:
        found.append(part_of(event))
        event = event.cpu_parent
    return "products" if "products" in found else next(filter(None, found), "loop")


def sort_events(events, seconds: float, n_steps: int) -> dict[str, dict]:
    """part -> {"ms": of a step, "most": [(operation, ms), ...]}; what no event covers is the loop's."""
    total, operations = Counter(), {part: Counter() for part in PARTS}
    for event in events:
        part, ms = part_around(event), event.self_cpu_time_total / 1000 / n_steps
        total[part] += ms
        operations[part]["Python" if part_of(event) == part != "products" else event.name] += ms
    rest = max(0.0, 1000 * seconds / n_steps - total.total())
    total["loop"] += rest
    operations["loop"]["Python"] += rest
    return {part: {"ms": total[part], "most": operations[part].most_common(N_NAMED)} for part in PARTS}


def explain(subject: Subject, n_steps: int) -> dict[str, dict]:
    """The parts of a mean step, the first steps not counted."""
    marks = subject._replace(
        batches=MarkedBatches(subject.batches), objective=marked("forward", subject.objective)
    )
    backward = marked("backward", torch.Tensor.backward)
    train_by_fit(subject, 5)
    with patch.object(torch.Tensor, "backward", backward), profile(activities=[ProfilerActivity.CPU]) as run:
        start = time.perf_counter()
        train_by_fit(marks, n_steps)
        seconds = time.perf_counter() - start
    return sort_events(run.events(), seconds, n_steps)


def main(model: str, folder: str, n_steps: int) -> None:
    set_threads()
    answer(explain(MODELS[model](folder), n_steps))


if __name__ == "__main__":
    main(*sys.argv[1:3], int(sys.argv[3]))
