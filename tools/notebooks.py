"""The stored notebooks: write their outputs, or compare them with what they say today.

    python tools/notebooks.py run [--only 01]    execute lessons and solutions in place (`make notebooks`)
    python tools/notebooks.py compare            run them with nbval, compare marked cells (`make test`)
    python tools/notebooks.py address            the repository has moved: write it into the cells for Colab

`run` is the only thing that writes outputs. It uses the quick profile and real data, except where real
pictures may not be published (PUBLISHED). A notebook that fails is left as it was.
"""

import argparse
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbstripout import strip_output
from series import (
    CELL_SECONDS,
    NOTEBOOKS,
    ROOT,
    cores,
    decide_data,
    find_notebooks,
    has_photographs,
    kernel_environment,
)

# COCO's licences forbid showing its photographs here; the numbers of lesson 06 may still come from them.
PUBLISHED = {"06": "embedded"}
# What comes and goes with each run and says nothing to a reader; `make lint` looks for the same.
EXTRA_KEYS = [
    "metadata.widgets",
    "metadata.papermill",
    "cell.metadata.papermill",
    "cell.metadata.execution",
]
# The first code cell of a lesson. Colab keeps its own torch and ipywidgets, which fit its machines and pages.
COLAB = """\
# In Google Colab this fetches the course; anywhere else it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install -q --no-deps "git+{repository}"
    %pip install -q {lacks}"""
COLAB_LACKS = "anywidget filelock safetensors torchmetrics"  # of what the course needs
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write or compare what the stored notebooks hold.")
    parser.add_argument("verb", choices=("run", "compare", "address"))
    parser.add_argument("--only", default="", help="one lesson, by its number or its name")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="folder of the lessons")
    options = parser.parse_args(arguments)
    try:
        paths = find_notebooks(options.notebooks, options.only, solutions=True)
        if options.verb == "compare":
            return compare(paths, os.environ.get("COURSE_DATA_KIND", "auto"))
        if options.verb == "address":
            return address([path for path in paths if path.parent.name != "solutions"])
        for path in paths:
            decide_data(published_data(path), has_photographs(path))  # the lessons need it: find out now
    except Exception as error:
        print(f"Nothing was run: {error}", file=sys.stderr)
        return 2
    return run_all(paths)


def published_data(path: Path) -> str:
    return PUBLISHED.get(path.stem[:2], "real")


# run --------------------------------------------------------------------------------------------


def run_all(paths: list[Path]) -> int:
    """Execute each in place, in order; returns the exit status."""
    from course_utils import ledger

    ledger.forget([path.stem for path in paths])
    failed = 0
    for path in paths:
        data = published_data(path)
        started = time.monotonic()
        print(f"{path.stem}  started, data {data}", flush=True)
        try:
            run(path, data)
            print(f"{path.stem}  written  {time.monotonic() - started:.1f} s", flush=True)
        except Exception as error:
            failed += 1
            print(f"{path.stem}  FAILED, left as it was\n{error}", flush=True)
    return 1 if failed else 0


def run(path: Path, data: str) -> None:
    """Execute one notebook from a clean kernel and store its outputs."""
    notebook = nbformat.read(path, as_version=4)
    if path.parent.name != "solutions":
        put_colab(notebook)
    metadata = {**notebook.metadata, "kernelspec": KERNEL, "language_info": {"name": "python"}}
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_SECONDS["quick"],
        startup_timeout=120,
        store_widget_state=False,
        record_timing=False,
        extra_arguments=["--log-level=40"],  # errors only: each kernel warns that it uses TCP
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=kernel_environment("quick", data, jobs=1))
    notebook.metadata = nbformat.from_dict(metadata)  # the kernel has put this machine's versions there
    store(notebook, path)


def store(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Strip what comes and goes, write beside, then rename."""
    strip_output(notebook, keep_output=True, keep_count=True, keep_id=True, extra_keys=EXTRA_KEYS)
    nbformat.validate(notebook)
    beside = path.with_suffix(".new")
    nbformat.write(notebook, beside)
    beside.replace(path)


# address ----------------------------------------------------------------------------------------


def address(lessons: list[Path]) -> int:
    """Let each lesson begin with today's Colab cell; nothing is executed."""
    for path in lessons:
        notebook = nbformat.read(path, as_version=4)
        put_colab(notebook)
        store(notebook, path)
    print(f"{len(lessons)} lessons fetch {repository()} in Colab")
    return 0


def repository() -> str:
    """Where the course lives; only pyproject.toml knows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def colab_source() -> str:
    return COLAB.format(repository=repository(), lacks=COLAB_LACKS)


def put_colab(notebook: nbformat.NotebookNode) -> None:
    """Make the first code cell the one for Colab. It prints nothing; a new one moves the later counts on."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code[0].get("id") == "colab":
        code[0].source = colab_source()
        return
    first = nbformat.v4.new_code_cell(colab_source(), id="colab")
    if code[0].execution_count:  # it has been run
        first.execution_count = 1
        for part in [part for cell in code for part in (cell, *cell.outputs)]:
            if part.get("execution_count"):
                part.execution_count += 1
    notebook.cells.insert(notebook.cells.index(code[0]), first)


# compare ----------------------------------------------------------------------------------------


def compare(paths: list[Path], data: str) -> int:
    """Let nbval run the notebooks in the smoke profile and compare their marked cells.

    They share one environment. Where digits are at hand and photographs are not, each decides for itself.
    """
    found = {decide_data(data, has_photographs(path)) for path in paths}
    data = found.pop() if len(found) == 1 else "auto"
    command = [sys.executable, "-m", "pytest", *map(str, paths), "-p", "no:cacheprovider"]
    command += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", str(CELL_SECONDS["smoke"])]
    command += ["--nbval-kernel-startup-timeout", "120"]
    command += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]
    # The cells of one notebook need one kernel, so a notebook stays with one worker.
    command += ["-n", str(min(cores(), len(paths))), "--dist", "loadfile"]
    environment = kernel_environment("smoke", data, jobs=1) | {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.call(command, cwd=ROOT, env=environment)


if __name__ == "__main__":
    sys.exit(main())
