"""tools/series.py and tools/notebooks.py on small notebooks: what is reported, what is refused."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = (
    'import os\nprofile = os.environ.get("COURSE_PROFILE", "quick")\n'
    'data = os.environ.get("COURSE_DATA_KIND", "auto")\nseed = 0'
)
LOOK = 'print(profile, data, os.environ["COURSE_PROFILE"], os.environ["COURSE_DATA_KIND"])'


def write_lesson(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A lesson with a parameters cell and these code cells."""
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path = folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [new_markdown_cell("# A"), tagged, *map(new_code_cell, cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def series(tmp_path: Path, *options: str) -> tuple[subprocess.CompletedProcess, list[dict] | None]:
    """Run tools/series.py as a command: (what it said, its report or None)."""
    command = [sys.executable, "tools/series.py", "--notebooks", str(tmp_path / "in"), *options]
    command += ["--out", str(tmp_path / "out")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    report = tmp_path / "out" / "report.json"
    return answer, json.loads(report.read_text()) if report.exists() else None


def test_the_rest_runs_when_one_fails(tmp_path):
    """One of each kind, side by side: all are reported, the status is 1, the reasons printed."""
    folder = tmp_path / "in"
    write_lesson(folder, "01_ok", LOOK)
    write_lesson(folder, "02_error", "raise ValueError('no such digit')", "print('not reached')")
    write_lesson(folder, "03_no_seed", LOOK, parameters=PARAMETERS.replace("seed", "sead"))
    write_lesson(folder, "04_empty")
    write_lesson(folder, "05_dies", "os._exit(3)")
    write_lesson(folder, "06_memory", "import time\nblock = b'x' * 300_000_000\ntime.sleep(1)")
    write_lesson(folder / "solutions", "01_ok_solutions", LOOK)
    answer, report = series(tmp_path, "--profile", "smoke", "--data", "embedded", "--solutions")

    assert answer.returncode == 1, answer.stderr
    status = {row["notebook"]: row["status"] for row in report}
    failed = {name for name in status if status[name] == "failed"}
    assert failed == {"02_error", "03_no_seed", "04_empty", "05_dies"} and len(status) == 7
    assert all(set(row) == {"notebook", "status", "seconds", "peak_mb", "profile", "data"} for row in report)
    assert all(row["profile"] == "smoke" and row["data"] == "embedded" for row in report)
    assert next(row for row in report if row["notebook"] == "06_memory")["peak_mb"] > 300
    said = " ".join(answer.stdout.split())
    for words in ("ValueError: no such digit", "no seed", "no code to run", "01_ok started", "01_ok ok"):
        assert words in said

    assert not (tmp_path / "out" / "03_no_seed.ipynb").exists(), "refused, and yet run"
    for name in ("01_ok", "solutions/01_ok_solutions"):
        cells = nbformat.read(tmp_path / "out" / f"{name}.ipynb", as_version=4).cells
        assert cells[-1].outputs[0].text == "smoke embedded smoke embedded\n"


def test_one_lesson_only(tmp_path):
    for name in ("01_one", "02_two"):
        write_lesson(tmp_path / "in", name, LOOK)
    answer, report = series(tmp_path, "--profile", "quick", "--data", "embedded", "--only", "02")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert [(row["notebook"], row["status"]) for row in report] == [("02_two", "ok")]
    assert not (tmp_path / "out" / "02_two.log").exists()


@pytest.mark.parametrize(
    "options",
    [["--profile", "quik"], ["--data", "fake"], ["--only", "09"], ["--onyl", "01"], ["--jobs", "x"]],
)
def test_what_does_not_exist_is_an_error_before_anything_runs(tmp_path, options):
    write_lesson(tmp_path / "in", "01_ok", LOOK)
    answer, report = series(tmp_path, "--data", "embedded", *options)
    assert answer.returncode == 2 and report is None and not (tmp_path / "out").exists()
    assert options[1] in answer.stderr


def test_no_lesson_at_all_is_an_error(tmp_path):
    answer, _ = series(tmp_path, "--data", "embedded")
    assert answer.returncode == 2 and "no lesson" in answer.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends a signal")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(tmp_path, sent):
    """The kernels end and the report is whole."""
    write_lesson(
        tmp_path / "in", "01_slow", "print(os.getpid(), file=open('pid', 'w'))\nimport time\ntime.sleep(99)"
    )
    command = [sys.executable, "tools/series.py", "--notebooks", str(tmp_path / "in"), "--data", "embedded"]
    command += ["--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    pid_file = tmp_path / "in" / "pid"
    wait_for(lambda: pid_file.exists() and pid_file.read_text().strip())
    process.send_signal(sent)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in said
    assert json.loads((tmp_path / "out" / "report.json").read_text())[0]["status"] == "failed"
    wait_for(lambda: not alive(int(pid_file.read_text())), seconds=20)


def alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_the_order_is_each_lesson_then_its_solutions(load_tool, tmp_path):
    for name in ("02_b", "01_a", "solutions/01_a_solutions", "solutions/02_b_solutions"):
        write_lesson(tmp_path, name)
    find = load_tool("series").find_notebooks
    names = [path.stem for path in find(tmp_path, solutions=True)]
    assert names == ["01_a", "01_a_solutions", "02_b", "02_b_solutions"]
    assert [path.stem for path in find(tmp_path, "02", solutions=True)] == ["02_b", "02_b_solutions"]
    assert [path.stem for path in find(tmp_path, "02_b")] == ["02_b"]


def test_a_kernel_sees_nothing_of_the_users_jupyter(load_tool, monkeypatch):
    tool = load_tool("series")
    monkeypatch.setenv("MPLBACKEND", "TkAgg")
    smoke, quick = (tool.kernel_environment(profile, "real", jobs=1) for profile in ("smoke", "quick"))
    assert "MPLBACKEND" not in smoke
    assert smoke["OMP_NUM_THREADS"] == smoke["COURSE_THREADS"] == "1"
    assert quick.get("OMP_NUM_THREADS") == os.environ.get("OMP_NUM_THREADS")


# Digits are real, photographs are not there --------------------------------------------------------


@pytest.fixture
def digits_only(monkeypatch, tmp_path):
    """A folder of real data in which MNIST counts as whole, and no photographs are."""
    from course_utils import data

    monkeypatch.setattr(data, "MNIST_FILES", {})
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "real"))
    monkeypatch.delenv("COURSE_DATA_KIND", raising=False)
    (tmp_path / "real").mkdir()
    sys.modules.pop("series", None)  # which remembers what it decided
    yield
    sys.modules.pop("series", None)


def test_without_photographs_lesson_06_is_embedded_and_the_others_real(
    digits_only, load_tool, tmp_path, monkeypatch, capsys
):
    """By `--data auto`: what a lesson is told, what its kernel is told, and what the report says."""
    tool, told = load_tool("series"), []

    def lesson(command, env, stdout, **rest):
        order = json.loads(command[-1])
        told.append((Path(order["source"]).stem, order["data"], env["COURSE_DATA_KIND"]))
        stdout.write('{"error": ""}')
        return SimpleNamespace(pid=0, poll=lambda: 0)

    monkeypatch.setattr(tool.subprocess, "Popen", lesson)
    monkeypatch.setattr(tool, "kernel_mb", lambda pid: 0.0)
    for name in ("05_e", "06_f", "solutions/06_f_solutions"):
        write_lesson(tmp_path / "in", name, LOOK)
    folders = ["--notebooks", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(tool.signal, "signal", lambda *_: None)
        assert tool.main([*folders, "--data", "auto", "--solutions"]) == 0
    expected = {"05_e": "real", "06_f": "embedded", "06_f_solutions": "embedded"}
    assert told == [(name, data, data) for name, data in expected.items()]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["notebook"]: row["data"] for row in report} == expected
    assert capsys.readouterr().out.count("uses the embedded landscapes") == 1, "decided once"


def test_a_wish_is_kept_whatever_there_is(digits_only, load_tool):
    decide = load_tool("series").decide_data
    assert [decide(kind, True) for kind in ("real", "embedded")] == ["real", "embedded"]
    assert decide("auto", False) == "real" and decide("auto", True) == "embedded"


# tools/notebooks.py -----------------------------------------------------------------------------


@pytest.fixture
def notebooks(load_tool):
    return load_tool("notebooks")


def test_stored_outputs_hold_nothing_that_comes_and_goes(notebooks, tmp_path):
    path = write_lesson(tmp_path, "01_ok", LOOK, "from IPython.display import display, Image", "2 + 2")
    before = nbformat.read(path, as_version=4)
    before.metadata.update(kernelspec={"name": "my-env", "display_name": "x"}, title="kept", papermill={})
    nbformat.write(before, path)
    notebooks.run(path, "embedded")
    stored = nbformat.read(path, as_version=4)
    assert stored.metadata.kernelspec.name == "python3" and stored.metadata.title == "kept"
    assert not {"widgets", "papermill"} & set(stored.metadata)
    colab = stored.cells.pop(1)
    assert colab.id == "colab" and colab.source == notebooks.colab_source() and colab.outputs == []
    assert [cell.source for cell in stored.cells] == [cell.source for cell in before.cells]
    assert [cell.id for cell in stored.cells] == [cell.id for cell in before.cells]
    code = [colab, *(cell for cell in stored.cells if cell.cell_type == "code")]
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4, 5]
    assert all("execution" not in cell.metadata for cell in code)
    assert code[2].outputs[0].text == "quick embedded quick embedded\n"
    assert code[4].outputs[0].data["text/plain"] == "4"
    assert not list(tmp_path.glob("*.new"))


def test_a_new_address_leaves_everything_else_as_a_run_would_have_it(notebooks, tmp_path, monkeypatch):
    """Without running anything: the cell for Colab is put in once and then renewed; its tags stay."""
    path = write_lesson(tmp_path, "01_ok", "2 + 2")
    notebooks.run(path, "embedded")
    ran = nbformat.read(path, as_version=4)
    before = nbformat.read(path, as_version=4)
    before.cells.pop(1)  # as it was before there was a cell for Colab
    for part in (*before.cells[1:], before.cells[2].outputs[0]):
        part.execution_count -= 1
    nbformat.write(before, path)
    assert notebooks.main(["address", "--notebooks", str(tmp_path)]) == 0
    stored = nbformat.read(path, as_version=4)
    assert stored == ran

    stored.cells[1].metadata["tags"] = ["remove-cell"]
    nbformat.write(stored, path)
    monkeypatch.setattr(notebooks, "repository", lambda: "ssh://elsewhere/course")
    notebooks.main(["address", "--notebooks", str(tmp_path)])
    moved = nbformat.read(path, as_version=4)
    assert '"git+ssh://elsewhere/course"' in moved.cells[1].source
    assert moved.cells[1].metadata["tags"] == ["remove-cell"]
    assert [cell.get("execution_count") for cell in moved.cells] == [None, 1, 2, 3]


def test_a_solution_has_no_cell_for_colab(notebooks, tmp_path):
    write_lesson(tmp_path, "01_ok", "2 + 2")
    path = write_lesson(tmp_path / "solutions", "01_ok_solutions", "2 + 2")
    before = path.read_bytes()
    assert notebooks.main(["address", "--notebooks", str(tmp_path)]) == 0
    assert path.read_bytes() == before
    notebooks.run(path, "embedded")
    assert "colab" not in {cell.id for cell in nbformat.read(path, as_version=4).cells}


def test_the_cell_for_colab_installs_there_and_only_there(notebooks, monkeypatch):
    """In Colab: the course without what it depends on, then what Colab has not."""
    from IPython.core.inputtransformer2 import TransformerManager

    ran, magics = TransformerManager().transform_cell(notebooks.colab_source()), []
    shell = SimpleNamespace(run_line_magic=lambda name, line: magics.append(f"{name} {line}"))
    exec(ran, {"get_ipython": lambda: shell})
    assert magics == []
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    exec(ran, {"get_ipython": lambda: shell})
    assert len(magics) == 2 and magics[0].startswith("pip install -q --no-deps ")
    assert f"git+{notebooks.repository()}" in magics[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {Requirement(line).name for line in project["dependencies"]}
    fetched = set(magics[1].removeprefix("pip install -q ").split())
    assert fetched < wanted and not fetched & {"torch", "torchvision", "numpy", "ipywidgets", "matplotlib"}


def test_alt_texts_stay_and_widget_state_goes(notebooks, tmp_path):
    path = write_lesson(tmp_path, "01_ok", "show()")
    notebook = nbformat.read(path, as_version=4)
    alt = {"image/png": {"alt": "two curves that part after the tenth epoch"}}
    notebook.cells[-1].outputs = [new_output("display_data", {"image/png": "AAAA"}, metadata=alt)]
    notebook.cells[-1].metadata["execution"] = {"iopub.status.busy": "now"}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    notebooks.store(notebook, path)
    stored = nbformat.read(path, as_version=4)
    assert stored.cells[-1].outputs[0].metadata == alt
    assert "widgets" not in stored.metadata and "execution" not in stored.cells[-1].metadata


def test_a_notebook_that_fails_is_left_as_it_was(notebooks, tmp_path):
    path = write_lesson(tmp_path, "01_bad", "1 / 0")
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        notebooks.run(path, "embedded")
    assert path.read_bytes() == before


def test_photographs_are_not_published(notebooks):
    assert notebooks.published_data(Path("06_coco_inpainting.ipynb")) == "embedded"
    assert notebooks.published_data(Path("06_coco_inpainting_solutions.ipynb")) == "embedded"
    assert notebooks.published_data(Path("01_basic_vae.ipynb")) == "real"


def test_compare_finds_a_changed_output_and_fails_on_none(tmp_path):
    """The stored-notebook test can fail: a wrong number does it, and so does an empty folder."""
    path = write_lesson(tmp_path, "01_ok", "# NBVAL_CHECK_OUTPUT\n2 + 2")
    command = [sys.executable, "tools/notebooks.py", "compare", "--notebooks", str(tmp_path)]
    environment = {**os.environ, "COURSE_DATA_KIND": "embedded"}
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[-1].outputs = [new_output("execute_result", {"text/plain": "5"}, execution_count=2)]
    notebook.cells[-1].execution_count = 2
    nbformat.write(notebook, path)
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 1 and "1 failed" in answer.stdout, answer.stdout + answer.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["01_ok.ipynb"]
    path.unlink()
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 2 and "no lesson" in answer.stderr


def test_compare_leaves_it_to_each_notebook_where_they_differ(digits_only, load_tool, monkeypatch):
    """They share one environment, so it names a kind only if it is that of all."""
    tool, told = load_tool("notebooks"), []
    monkeypatch.setattr(tool.subprocess, "call", lambda *_, env, **rest: told.append(env["COURSE_DATA_KIND"]))
    for names in (["05_e"], ["06_f"], ["05_e", "06_f"]):
        tool.compare([Path(f"{name}.ipynb") for name in names], "auto")
    tool.compare([Path("05_e.ipynb"), Path("06_f.ipynb")], "embedded")
    assert told == ["real", "embedded", "auto", "embedded"]


def test_lesson_06_is_run_on_what_may_be_shown(notebooks, monkeypatch):
    from course_utils import ledger

    told = []
    monkeypatch.setattr(ledger, "forget", lambda names: told.append(names))
    monkeypatch.setattr(notebooks, "run", lambda path, data: told.append((path.stem, data)))
    assert notebooks.run_all([Path("05_e.ipynb"), Path("06_f.ipynb")]) == 0
    assert told == [["05_e", "06_f"], ("05_e", "real"), ("06_f", "embedded")]
