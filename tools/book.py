"""The book: the executed series as a static site, its boards alive without a kernel. What `make book` does.

    python tools/book.py --profile quick --data auto      runs the lessons, then builds build/book/site
    python tools/book.py --keep                           builds it from the lessons as they ran the last time

Every script comes from an installed package and lies beside the pages, so the site opens from disk, or from
any web server, with the network off. Lesson 06 runs on painted landscapes: photographs may not be published.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from live import for_pages
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from readme_table import table
from series import (
    CELL_SECONDS,
    INTERRUPTED,
    KINDS,
    NOTEBOOKS,
    ROOT,
    Series,
    find_notebooks,
    has_run,
    jobs_of,
    write_json,
)

from course_utils import ledger
from notebooks import published_data, repository

PAGES = Path(__file__).parent / "pages"
# Of each lesson, the cell whose picture stands for it, and what there is to see.
CARDS = {
    "01": ("play-3", "The bound, and a plane of digits under your mouse"),
    "02": ("evaluation-5", "One model, four scores: which of them is a bound?"),
    "03": ("evaluation-3", "A walk between two digits, and what excites a channel"),
    "04": ("knows-2", "Hold one layer, let another sample: what does each know?"),
    "05": ("play-2", "The style of one digit, written as all ten"),
    "06": ("many-2", "One hole, many fillings, layer by layer"),
}
COLAB = "https://colab.research.google.com/github"
FRONT = ("04_hierarchical_vae", "play-2")  # the board of the front page


def main(arguments: list[str] | None = None) -> int:
    options = parse("Build the book.", ROOT / "build" / "book", arguments)
    series = options.out / "series"
    if status := provide_lessons(series, options, "book was"):
        return status
    write_sources(options.out / "source", series)
    return build(options.out / "source", options.out / "site")


# The lessons as they ran: book and slides show the same -----------------------------------------


def parse(description: str, out: Path, arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--profile", choices=CELL_SECONDS, default="quick")
    parser.add_argument("--data", choices=KINDS, default="auto")
    parser.add_argument("--keep", action="store_true", help="take the lessons as they ran the last time")
    parser.add_argument(
        "--jobs", type=int, help="lessons at a time (default: smoke as many as cores, else 1)"
    )
    parser.add_argument("--out", type=Path, default=out)
    return parser.parse_args(arguments)


def provide_lessons(series: Path, options: argparse.Namespace, what: str) -> int:
    """Run the lessons, or see that they have run; the exit status. `what` is not built without them."""
    sources = find_notebooks(NOTEBOOKS)
    if not options.keep and (status := run_series(sources, options, series)):
        print(f"No {what} built: the lessons come first.", file=sys.stderr)
        return status
    if missing := [path.stem for path in sources if not has_run(series / path.name)]:
        names = ", ".join(missing)
        print(f"No {what} built: {names} did not run to the end. Leave out --keep.", file=sys.stderr)
        return 2
    return 0


def run_series(sources: list[Path], options: argparse.Namespace, out: Path) -> int:
    """Execute the lessons; their numbers stay apart from the reader's own. Returns the exit status."""
    out.mkdir(parents=True, exist_ok=True)
    own = out.resolve() / "ledger.csv"  # a kernel starts in its notebook's folder
    own.unlink(missing_ok=True)
    os.environ["COURSE_LEDGER"] = str(own)
    report, status = [], 0
    for kind, group in itertools.groupby(sources, published_data):
        data = options.data if kind == "real" else kind
        series = Series(NOTEBOOKS, out, options.profile, data, jobs_of(options))
        status = series.run(list(group)) or status
        report += series.report
        if status == INTERRUPTED:
            break
    write_json(out / "report.json", sorted(report, key=lambda row: row["notebook"]))
    return status


# The pages --------------------------------------------------------------------------------------


def write_sources(out: Path, series: Path) -> None:
    """Everything that Sphinx reads, in a folder of its own."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "solutions").mkdir(parents=True)
    shutil.copy(PAGES / "conf.py", out)
    shutil.copytree(NOTEBOOKS / "figures", out / "figures")
    shutil.copytree(NOTEBOOKS / "figures", out / "solutions" / "figures")
    copy_scripts(("live.js", "book.css"), out / "_static")
    lessons = find_notebooks(NOTEBOOKS)
    offered = find_notebooks(NOTEBOOKS, solutions=True)
    solutions = [path for path in offered if path not in lessons]
    pages = {path.stem: for_pages(nbformat.read(series / path.name, as_version=4)) for path in lessons}
    for name, page in pages.items():
        nbformat.write(lesson(name, page), out / f"{name}.ipynb")
    for path in solutions:
        nbformat.write(for_pages(nbformat.read(path, as_version=4)), out / "solutions" / path.name)
    for path in offered:
        target = out / "extra" / "notebooks" / path.relative_to(NOTEBOOKS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    report = json.loads((series / "report.json").read_text())
    marks = numbers(report, series) | {
        "board": raw(picture_of(pages[FRONT[0]], FRONT[1])),
        "lessons": raw(cards(pages)),
        "toc": "\n".join(pages),
        "solutions": "\n".join(f"solutions/{path.stem}" for path in solutions),
    }
    (out / "index.md").write_text(filled("index.md", marks), encoding="utf-8")
    (out / "ledger.md").write_text(ledger_page(), encoding="utf-8")


def copy_scripts(names: tuple[str, ...], out: Path) -> None:
    """Ours of these names, and MathJax from the package that brings it."""
    out.mkdir(parents=True, exist_ok=True)
    for path in [PAGES / name for name in names] + [packaged("sphinx-mathjax-offline", "mathjax/tex-svg.js")]:
        shutil.copy(path, out)


def packaged(package: str, end: str) -> Path:
    """The file of an installed package whose path ends so."""
    (path,) = [path for path in importlib.metadata.files(package) if str(path).endswith(end)]
    return Path(path.locate())


def lesson(name: str, page: NotebookNode) -> NotebookNode:
    """A lesson as a page: what runs it folded away, and where else it can be had below its title."""
    page.cells = [
        cell for cell in page.cells if cell.id not in ("colab", "parameters") and not injected(cell)
    ]
    for cell in page.cells:
        cell.metadata["tags"] = ["hide-input"] if cell.id == "set-up" else []
        cell.source = cell.source.removeprefix("# NBVAL_CHECK_OUTPUT\n")
    page.cells.insert(1, new_markdown_cell(elsewhere(name)))
    return page


def injected(cell: NotebookNode) -> bool:
    """Whether papermill put the cell there."""
    return "injected-parameters" in cell.metadata.get("tags", [])


def elsewhere(name: str) -> str:
    """Where a lesson can be run, downloaded, and where its solutions are."""
    on_github = repository().partition("github.com/")[2]
    links = [
        f'<a href="{COLAB}/{on_github}/blob/main/notebooks/{name}.ipynb">Open in Colab</a>',
        f'<a href="notebooks/{name}.ipynb" download>Download the notebook</a>',
    ]
    if (NOTEBOOKS / "solutions" / f"{name}_solutions.ipynb").exists():
        links.append(f'<a href="solutions/{name}_solutions.html">Solutions</a>')
    return f'<p class="elsewhere">{" ".join(links)}</p>'


# The front page, and the ledger -----------------------------------------------------------------


def filled(page: str, marks: dict[str, str]) -> str:
    """The page of that name in pages/, its marks filled in."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: marks[mark[1]], text)


def numbers(report: list[dict], series: Path) -> dict[str, str]:
    """What the front page says of results and costs."""
    rows = ledger.read(series / "ledger.csv")
    return {
        "results": table(),
        "profile": report[0]["profile"],
        "machine": rows[0]["machine"] if rows else ledger.machine(),
        "costs": costs(report),
    }


def raw(html: str) -> str:
    return f"````{{raw}} html\n{html}\n````"


def picture_of(page: NotebookNode, cell_id: str) -> str:
    """The HTML of a cell's first picture or board."""
    (cell,) = [cell for cell in page.cells if cell.id == cell_id]
    return next(o.data["text/html"] for o in cell.outputs if "text/html" in o.get("data", {}))


def cards(pages: dict[str, NotebookNode]) -> str:
    """The lessons, each with its picture."""
    links = [card(name, page) for name, page in pages.items() if name[:2] in CARDS]
    return f'<div class="cards">{"".join(links)}</div>'


def card(name: str, page: NotebookNode) -> str:
    """A lesson's picture, number and idea, as a link."""
    cell_id, idea = CARDS[name[:2]]
    picture = re.search(r'<img class="figure"[^>]*>', picture_of(page, cell_id))[0]
    return f'<a class="card" href="{name}.html"><b>{title_of(page)}</b><span>{idea}</span>{picture}</a>'


def title_of(page: NotebookNode) -> str:
    return page.cells[0].source.partition("\n")[0].removeprefix("# ")


def costs(report: list[dict]) -> str:
    """What each lesson took when the book was made."""
    header = ("lesson", "CPU", "peak memory", "data", "GPU")
    lines = [
        (
            row["notebook"],
            f"{row['seconds'] / 60:.1f} min",
            f"{row['peak_mb'] / 1000:.1f} GB",
            row["data"],
            "not measured",
        )
        for row in report
    ]
    return ledger.Table(header, lines)._repr_markdown_()


def ledger_page() -> str:
    """Every number of the studies, a line for each model and metric."""
    text = """# The ledger

Every number of the studies: the mean ± the spread over seeds or draws of the labels, or, of a single run,
± its standard error over the images. `data/ledger.csv` has a row for each run.
"""
    same = ("notebook", "model", "data", "split", "labels", "metric", "unit")
    rows = sorted(ledger.study(), key=lambda row: [row[column] for column in same])
    header = ("model", "data", "metric", "value", "unit", "runs", "images", "machine")
    for name, of_lesson in itertools.groupby(rows, lambda row: row["notebook"]):
        groups = itertools.groupby(of_lesson, lambda row: [row[column] for column in same])
        lines = [summary(list(group)) for _, group in groups]
        text += f"\n## {name}\n\n{ledger.Table(header, lines)._repr_markdown_()}\n"
    return text


def summary(runs: list[dict[str, str]]) -> tuple[str, ...]:
    """One line of the ledger's page: runs that differ in seed and draw only."""
    first = runs[0]
    mean, spread, n = ledger.over_seeds(runs)
    error = spread if n > 1 else float(first["stderr"])
    where = first["data"] + (f", {first['labels']} labels" if first["labels"] != "0" else "")
    value = f"{mean:.4g} ± {error:.2g}" if error else f"{mean:.4g}"
    return (
        f"`{first['model']}`",
        where,
        first["metric"],
        value,
        first["unit"],
        n,
        first["n"],
        first["machine"],
    )


# Build ------------------------------------------------------------------------------------------


def build(source: Path, site: Path) -> int:
    """Sphinx, into a folder beside the site; then the one takes the place of the other."""
    beside = site.with_name("site.new")
    shutil.rmtree(beside, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-d", str(source.with_name("doctrees"))]
    status = subprocess.call([*command, "--fail-on-warning", "--keep-going", str(source), str(beside)])
    if status:
        print("No book was built: the lines above say what Sphinx stumbled over.", file=sys.stderr)
        return status
    shutil.rmtree(site, ignore_errors=True)
    beside.rename(site)
    print(f"The book: {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
