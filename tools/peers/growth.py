"""How the time of a step grows with batch, depth and width, and that of its matrix products.

python -m peers.growth FOLDER SECONDS

Small steps cost what Python and the start of each operation cost, whatever they compute: the curve is flat.
From where the products take longer than that, it is as steep as theirs.
"""

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from peers.course import Subject, floor_under, mlp, train_by_fit
from peers.turns import answer, set_threads

REPEATS = 3
GROWTH = {  # which of the three grows, the others staying as in the rows `course` and `floor`
    "batch": (1, 4, 16, 64, 128, 256, 512, 1024, 2048),
    "width": (16, 64, 128, 256, 400, 1024, 2048, 4096),
    "depth": (1, 2, 4, 8, 16),
}


def subject_of(folder: str, what: str, value: int) -> Subject:
    """784-400-20 in batches of 128, but for one thing."""
    if what == "batch":
        return mlp(folder, batch_size=value)
    return mlp(folder, hidden=(value,) if what == "width" else (400,) * value)


def milliseconds(train: Callable[[int], object], seconds: float) -> float:
    """Of one step: the median of some runs of as many steps as take these seconds."""
    n_steps, times = 4, []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        train(n_steps)
        times.append((time.perf_counter() - start) / n_steps)
        if len(times) == 1:  # this one does not count
            n_steps = max(n_steps, min(300, round(seconds / times[0])))
    return 1000 * statistics.median(times[1:])


def measure(folder: str, what: str, value: int, seconds: float) -> dict:
    """One point of the plot."""
    subject = subject_of(folder, what, value)
    products = floor_under(subject)

    def multiply(n_steps: int) -> None:
        for _ in range(n_steps):
            products()

    step, floor = milliseconds(partial(train_by_fit, subject), seconds), milliseconds(multiply, seconds)
    return {"grows": what, "value": value, "step_ms": step, "floor_ms": floor}


def main(folder: str, seconds: float) -> None:
    set_threads()
    points = [(what, value) for what, values in GROWTH.items() for value in values]
    answer([measure(folder, what, value, seconds) for what, value in points])


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
