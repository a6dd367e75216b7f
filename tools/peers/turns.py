"""What the contestants of `make bench` share: the digits, and training once for each line they are sent.

Runs in the course's environment and in that of the peers, so it imports nothing of the course.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

BATCH_SIZE = 128


def set_threads() -> None:
    """All contestants have the same number of threads."""
    torch.set_num_threads(int(os.environ["COURSE_THREADS"]))
    torch.manual_seed(0)


def read_digits(folder: str | Path) -> torch.Tensor:
    """The digits that `bench.py` wrote for torchvision to find: uint8 (N, 1, 28, 28)."""
    path = Path(folder) / "MNIST" / "raw" / "train-images-idx3-ubyte"
    return torch.from_numpy(np.fromfile(path, dtype=np.uint8, offset=16).reshape(-1, 1, 28, 28))


def peak_mb() -> float | None:
    """The most memory that this process had at once, Python and torch included; None where /proc is not."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def take_turns(train: Callable[[], object]) -> None:
    """Say that everything is ready, then train for each line on stdin, and answer with the seconds."""
    answer({"ready": True})
    for _ in sys.stdin:
        start = time.perf_counter()
        train()
        answer({"seconds": time.perf_counter() - start, "peak_mb": peak_mb()})


def answer(what: object) -> None:
    """One line of JSON on stdout, where libraries may write lines of their own."""
    print(f"\n{json.dumps(what)}", flush=True)
