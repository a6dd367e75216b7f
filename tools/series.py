"""Run the lessons from clean kernels: what `make series` does.

    python tools/series.py --profile quick --data auto [--only 04] [--jobs 1] [--solutions]

papermill runs each lesson in a process of its own and writes build/series/NN_*.ipynb; report.json beside
them says how it went. A lesson that fails does not stop the others. Exit status: 0 all well, 1 a lesson
failed, 2 nothing was run, since something asked for does not exist.
"""

import argparse
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
CELL_SECONDS = {"smoke": 300, "quick": 1200, "full": None}  # how long one cell may take, by profile
KINDS = ("auto", "embedded", "real")
PARAMETERS = {"profile", "data", "seed"}
INTERRUPTED = 130  # the shell's exit status for Ctrl-C


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        sources = find_notebooks(options.notebooks, options.only, options.solutions)
        for source in sources:  # the lessons need it: find out now
            decide_data(options.data, has_photographs(source))
    except Exception as error:
        print(f"Nothing was run: {error}", file=sys.stderr)
        return 2
    if options.notebooks == NOTEBOOKS:  # their rows are about to be written anew
        from course_utils import ledger

        ledger.forget([source.stem for source in sources])
    series = Series(options.notebooks, options.out, options.profile, options.data, jobs_of(options))
    for stop in (signal.SIGINT, signal.SIGTERM):  # KeyboardInterrupt, which ends the series in good order
        signal.signal(stop, signal.default_int_handler)
    return series.run(sources)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run the lessons from clean kernels.", allow_abbrev=False)
    parser.add_argument("--profile", choices=CELL_SECONDS, default="quick")
    parser.add_argument("--data", choices=KINDS, default="auto")
    parser.add_argument("--only", default="", help="one lesson, by its number or its name")
    parser.add_argument("--solutions", action="store_true", help="the worked solutions as well")
    parser.add_argument(
        "--jobs", type=int, help="lessons at a time (default: smoke as many as cores, else 1)"
    )
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, help="folder of the lessons")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "series", help="folder of the results")
    return parser.parse_args(arguments)


def jobs_of(options: argparse.Namespace) -> int:
    """How many lessons run at a time: as many as asked for; in the smoke profile as many as cores."""
    return options.jobs or (cores() if options.profile == "smoke" else 1)


# What to run, and on what -----------------------------------------------------------------------


def find_notebooks(folder: Path, only: str = "", solutions: bool = False) -> list[Path]:
    """The lessons in their order, each followed by its solutions if asked for."""
    lessons = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not lessons:
        raise FileNotFoundError(f"there is no lesson (NN_name.ipynb) in {folder}")
    chosen = [lesson for lesson in lessons if not only or only in (lesson.stem, lesson.stem[:2])]
    if not chosen:
        names = ", ".join(lesson.stem for lesson in lessons)
        raise ValueError(f"no lesson is called {only!r}; there are {names}")
    worked = sorted((folder / "solutions").glob("[0-9][0-9]_*.ipynb")) if solutions else []
    chosen += [path for path in worked if path.stem[:2] in {lesson.stem[:2] for lesson in chosen}]
    return sorted(chosen, key=lambda path: (path.stem[:2], path.parent != folder))


def has_photographs(source: Path) -> bool:
    """Whether the pictures of a lesson are photographs; those of all others are digits."""
    return source.stem.startswith("06")


@functools.cache
def decide_data(kind: str, photographs: bool = False) -> str:
    """Real or embedded, decided once: the lessons need not each wait for a network that is not there."""
    resolve_data_root()
    if kind == "embedded":
        return kind
    from course_utils import data

    return data.decide_photographs(kind) if photographs else data.decide(kind)


def resolve_data_root() -> None:
    """COURSE_DATA may be relative to where we are, but a kernel starts in its notebook's folder."""
    if os.environ.get("COURSE_DATA"):
        os.environ["COURSE_DATA"] = str(Path(os.environ["COURSE_DATA"]).expanduser().resolve())


def kernel_environment(profile: str, data: str, jobs: int) -> dict[str, str]:
    """The environment of a lesson's kernel: nothing of the user's own Jupyter, its fair share of threads."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MPLBACKEND", "PYTHONPATH")
    }
    environment |= {
        "COURSE_PROFILE": profile,
        "COURSE_DATA_KIND": data,
        "IPYTHONDIR": str(ROOT / "build" / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "TQDM_DISABLE": "1",
    }
    if profile == "smoke" or jobs > 1:
        threads = "1" if profile == "smoke" else str(max(1, cores() // jobs))
        environment |= {"OMP_NUM_THREADS": threads, "COURSE_THREADS": threads}
    return environment


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# One series -------------------------------------------------------------------------------------


@dataclass
class Run:
    """A lesson at work, in its own process."""

    source: Path
    process: subprocess.Popen
    log: Path
    started: float = field(default_factory=time.monotonic)
    peak_mb: float = 0.0


@dataclass
class Series:
    folder: Path
    out: Path
    profile: str
    data: str
    jobs: int
    report: list[dict] = field(default_factory=list)

    def run(self, sources: list[Path]) -> int:
        """Run them all, `jobs` at a time, and return the exit status."""
        self.width = max(len(source.stem) for source in sources)
        print(f"{len(sources)} notebooks, profile {self.profile}, data {self.data}, {self.jobs} at a time")
        waiting, running = list(sources), []
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(self.start(waiting.pop(0)))
                time.sleep(0.2)
                for run in list(running):
                    run.peak_mb = max(run.peak_mb, kernel_mb(run.process.pid))
                    if run.process.poll() is not None:
                        running.remove(run)
                        self.finish(run, outcome(run))
        except KeyboardInterrupt:
            for run in running:
                kill_tree(run.process.pid)
                self.finish(run, "interrupted")
            return INTERRUPTED
        failed = [row["notebook"] for row in self.report if row["status"] == "failed"]
        print(f"{len(sources) - len(failed)} ok, {len(failed)} failed; {self.out / 'report.json'}")
        return 1 if failed else 0

    def start(self, source: Path) -> Run:
        target = self.out / source.relative_to(self.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        log = target.with_suffix(".log")
        data = decide_data(self.data, has_photographs(source))
        order = {"source": str(source), "target": str(target), "profile": self.profile, "data": data}
        print(f"{source.stem:{self.width}}  started", flush=True)
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, __file__, "--lesson", json.dumps(order)],
                env=kernel_environment(self.profile, data, self.jobs),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C comes to us alone; we stop the lessons
            )
        return Run(source, process, log)

    def finish(self, run: Run, error: str) -> None:
        status, seconds = "failed" if error else "ok", time.monotonic() - run.started
        print(
            f"{run.source.stem:{self.width}}  {status:6}  {seconds:6.1f} s  {run.peak_mb:6.0f} MB", flush=True
        )
        if error:
            print(f"    {error}\n    more in {run.log}", flush=True)
        else:
            run.log.unlink()
        self.report.append(
            {
                "notebook": run.source.stem,
                "status": status,
                "seconds": round(seconds, 1),
                "peak_mb": round(run.peak_mb),
                "profile": self.profile,
                "data": decide_data(self.data, has_photographs(run.source)),
            }
        )
        write_json(self.out / "report.json", sorted(self.report, key=lambda row: row["notebook"]))


def has_run(lesson: Path) -> bool:
    """Whether this lesson, as it was executed, came to its end; its log lies beside it if it did not."""
    return lesson.exists() and not lesson.with_suffix(".log").exists()


def outcome(run: Run) -> str:
    """What a finished lesson reported: an error, or nothing."""
    lines = [line for line in run.log.read_text(errors="replace").splitlines() if line.strip()]
    with contextlib.suppress(IndexError, ValueError, KeyError, TypeError):
        return json.loads(lines[-1])["error"]
    last = lines[-1] if lines else "nothing"
    return f"the process ended with status {run.process.returncode}; its last words: {last}"


def kernel_mb(pid: int) -> float:
    """Resident memory of everything that the process started, in MB."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                total += child.memory_info().rss
    return total / 1e6


def kill_tree(pid: int) -> None:
    import psutil

    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in [*parent.children(recursive=True), parent]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def write_json(path: Path, value: object) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)


# One lesson: the other end of Series.start ------------------------------------------------------


def run_lesson(source: str, target: str, profile: str, data: str) -> str:
    """Execute one notebook with papermill; returns what went wrong, or nothing."""
    import nbformat
    import papermill

    # A parameter that the notebook does not know is worth only a message to papermill: the default would run.
    try:
        missing = PARAMETERS - set(papermill.inspect_notebook(source))
        if missing:
            return f"its cell tagged `parameters` has no {', '.join(sorted(missing))}"
        papermill.execute_notebook(
            source,
            target,
            parameters={"profile": profile, "data": data},
            kernel_name="python3",
            cwd=str(Path(source).parent),
            start_timeout=120,
            execution_timeout=CELL_SECONDS[profile],
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        return f"cell [{error.exec_count}] {error.ename}: {error.evalue}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    cells = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    not_run = sum(cell.execution_count is None for cell in cells)
    # Besides the cell for Colab: the parameters, papermill's copy of them, and something to do.
    if sum(cell.get("id") != "colab" for cell in cells) < 3:
        return "it has no code to run"
    return f"{not_run} code cells did not run" if not_run else ""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--lesson"]:
        result = run_lesson(**json.loads(sys.argv[2]))
        print(f"\n{json.dumps({'error': result})}")
        sys.exit(1 if result else 0)
    sys.exit(main())
