"""The ledger: every number that the course prints, one CSV row for each model, metric, seed and draw.

    build/ledger.csv   what your own runs measured; lessons write it, `make series` renews it
    data/ledger.csv    what the studies measured (`make study`); it comes with the course

A lesson plots the second and adds the first beside it.
"""

import csv
import math
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock

from course_utils.data import project_root
from course_utils.evaluate import Estimate
from course_utils.train import choose_device

COLUMNS = [
    *("notebook", "model", "role", "data", "split", "labels", "profile", "seed", "draw"),
    *("metric", "unit", "value", "stderr", "n", "steps", "seconds", "device", "machine"),
]
ROLES = ("headline", "baseline", "study", "toy")
KEY = ("notebook", "model", "role", "data", "split", "labels", "profile", "seed", "draw", "metric", "unit")


def own_path() -> Path:
    """Where the numbers of your own runs go; COURSE_LEDGER keeps those of a test apart."""
    return Path(os.environ.get("COURSE_LEDGER") or project_root() / "build" / "ledger.csv")


def study_path() -> Path:
    """The numbers that come with the course: in the checkout, or inside the installed package."""
    checkout = project_root() / "data" / "ledger.csv"
    return checkout if checkout.exists() else Path(__file__).parent / "shipped" / "ledger.csv"


def machine() -> str:
    """The GPU's name, or the number of cores."""
    on_gpu = choose_device().type == "cuda"
    return torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} cores"


def read(path: Path, **where: str | int) -> list[dict[str, str]]:
    """The rows whose columns equal those named: read(path, model="mlp", metric="neg_elbo")."""
    unknown = set(where) - set(COLUMNS)
    if unknown:
        raise ValueError(
            f"the ledger has no column {', '.join(sorted(unknown))}; it has {', '.join(COLUMNS)}"
        )
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if all(row[column] == str(value) for column, value in where.items())]


def record(
    estimate: Estimate | float,
    *,
    notebook: str,
    model: str,
    role: str,
    data: str,
    metric: str,
    unit: str,
    profile: str,
    seed: int,
    split: str = "test",
    labels: int = 0,
    draw: int = 0,
    steps: int = 0,
    seconds: float = 0.0,
    path: Path | None = None,
) -> None:
    """Write one number, in place of an earlier one for the same thing."""
    if role not in ROLES:
        raise ValueError(f"role={role!r}: choose one of {', '.join(ROLES)}")
    value, stderr, n = estimate if isinstance(estimate, Estimate) else (estimate, 0.0, 0)
    row = {
        "notebook": notebook,
        "model": model,
        "role": role,
        "data": data,
        "split": split,
        "labels": labels,
        "profile": profile,
        "seed": seed,
        "draw": draw,
        "metric": metric,
        "unit": unit,
        "value": f"{value:.6g}",
        "stderr": f"{stderr:.3g}",
        "n": n,
        "steps": steps,
        "seconds": f"{seconds:.1f}",
        "device": choose_device().type,
        "machine": machine(),
    }
    row = {column: str(value) for column, value in row.items()}
    rewrite(path or own_path(), lambda old: any(old[c] != row[c] for c in KEY), [row])


def forget(notebooks: Iterable[str], path: Path | None = None) -> None:
    """Remove the rows of these notebooks, so that a new run leaves none of the old ones behind."""
    names = set(notebooks)
    rewrite(path or own_path(), lambda row: row["notebook"] not in names, [])


def rewrite(path: Path, keep, new_rows: list[dict[str, str]]) -> None:
    """Replace the file by the rows to keep and the new ones; safe when several notebooks write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        rows = [row for row in read(path) if keep(row)] + new_rows
        partial = path.with_suffix(".part")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, path)


def study(**where: str | int) -> list[dict[str, str]]:
    """The rows of the studies that come with the course."""
    return read(study_path(), profile="study", **where)


def over_seeds(rows: list[dict[str, str]]) -> tuple[float, float, int]:
    """(mean, standard deviation over seeds, number of rows); ValueError if there are none."""
    values = [float(row["value"]) for row in rows]
    if not values:
        raise ValueError("the ledger has no such rows; run the study or the lesson that writes them")
    if math.inf in values:  # a run that diverged
        return math.inf, 0.0, len(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, len(values)


def quote(rows: list[dict[str, str]]) -> str:
    """The rows as words: "93.1 ± 0.2 nats/image (3 seeds)"; of one row, ± is its standard error."""
    mean, spread, n = over_seeds(rows)
    unit = rows[0]["unit"]
    digits = 2 if "bits" in unit else 1
    if n == 1:
        return f"{mean:.{digits}f} ± {float(rows[0]['stderr']):.{digits}f} {unit}"
    return f"{mean:.{digits}f} ± {spread:.{digits}f} {unit} ({n} seeds)"


class Table(NamedTuple):
    """A small table that a notebook shows as such, and a terminal as text."""

    header: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def _repr_markdown_(self) -> str:
        lines = [self.header, ("---",) * len(self.header), *self.rows]
        cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]  # as in log p(x|z)
        return "\n".join("| " + " | ".join(line) + " |" for line in cells)

    def __repr__(self) -> str:
        return "\n".join("   ".join(map(str, line)) for line in (self.header, *self.rows))
