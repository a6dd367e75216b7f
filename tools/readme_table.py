"""The README's table of results, from data/ledger.csv: what `make table` does.

python tools/readme_table.py            writes it between its two marks
python tools/readme_table.py --check    exit status 1 if the README says something else
"""

import sys
from pathlib import Path

from course_utils import ledger

README = Path(__file__).resolve().parents[1] / "README.md"
MARKS = "<!-- from data/ledger.csv by make table -->\n", "<!-- end -->\n"
BINARY, GREY = {"data": "mnist_binary"}, {"data": "mnist_grey"}
FEW, HOLES = {"data": "mnist_binary", "labels": 100}, {"data": "coco64"}

# lesson, model, where it is found, metric, what the number says (n: of how many images)
RESULTS = [
    ("01", "mlp", BINARY, "nll_iwae", "−log p(x), {n} test digits, binary"),
    ("01", "mlp", GREY, "bits_per_dim", "grey MNIST"),
    ("02", "mlp_bn", BINARY, "nll_iwae", "−log p(x), {n} test digits, binary"),
    ("03", "conv_bn", BINARY, "nll_iwae", "−log p(x), {n} test digits, binary"),
    ("03", "conv_bn", GREY, "bits_per_dim", "grey MNIST"),
    ("04", "meanfield", BINARY, "nll_iwae", "−log p(x), {n} test digits, binary"),
    ("04", "topdown", BINARY, "nll_iwae", "−log p(x), {n} test digits, binary"),
    ("05", "labels_only", FEW, "accuracy", "test digits right, 100 labels"),
    ("05", "m2_aux", FEW, "accuracy", "test digits right, 100 labels"),
    ("05", "mixture_prior", FEW, "accuracy", "test digits right, 100 labels"),
    ("06", "unet_l2", HOLES, "gain_single", "one guess at 129 holes"),
    ("06", "hier", HOLES, "gain_mean32", "mean of 32 fillings of 129 holes"),
    ("06", "hier", HOLES, "hole_bits_per_dim", "the same holes"),
]


def words(rows: list[dict[str, str]]) -> str:
    """The rows as words; decibels with a second digit, shares as per cent."""
    mean, spread, n = ledger.over_seeds(rows)
    spread = spread if n > 1 else float(rows[0]["stderr"])
    if "dB" in rows[0]["unit"]:
        return f"{mean:.2f} ± {spread:.2f} {rows[0]['unit']}" + (f" ({n} seeds)" if n > 1 else "")
    if rows[0]["unit"] == "share":
        return f"{100 * mean:.1f} ± {100 * spread:.1f} % ({n} draws of the labels)"
    return ledger.quote(rows)


def trained(row: dict[str, str]) -> float:
    """The seconds of the training that a row is of: its earliest row, as measuring adds to later ones."""
    same = {column: row[column] for column in ("notebook", "model", "data", "labels", "seed", "draw")}
    return min(float(each["seconds"]) for each in ledger.study(**same))


def table() -> str:
    lines = []
    for lesson, model, where, metric, what in RESULTS:
        rows = ledger.study(model=model, metric=metric, **where)
        minutes = max(trained(row) for row in rows) / 60
        cost = f"{int(rows[0]['steps']):,} steps, {minutes:.0f} min"
        what = what.format(n=f"{int(rows[0]['n']):,}")
        lines.append((lesson, f"`{model}`", what, words(rows), cost))
    header = ("lesson", "model", "measured", "value", "one training, one core")
    return ledger.Table(header, lines)._repr_markdown_()


def main() -> int:
    text = README.read_text(encoding="utf-8")
    if not all(mark in text for mark in MARKS):
        sys.exit("put back the lines of README.md that the table goes between:\n" + "".join(MARKS))
    before, _, rest = text.partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    new = f"{before}{MARKS[0]}{table()}\n{MARKS[1]}{after}"
    if "--check" in sys.argv[1:]:
        return int(new != text)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
