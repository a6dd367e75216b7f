"""The doctor: it finds what is wrong, says how to mend it, and never fails itself."""

import builtins
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from course_utils import doctor
from course_utils.doctor import EXAMINATIONS, Finding, Report, attempt, examine, live_slider, report
from course_utils.train import save_checkpoint

ROOT = Path(doctor.__file__).parent.parent


def look(name: str) -> Finding:
    return attempt(name, EXAMINATIONS[name])


@pytest.fixture
def broken(monkeypatch):
    """broken("torch") makes the import of that package fail."""
    real = builtins.__import__

    def start(package: str, error: Exception | None = None):
        def refuse(name, *args, **kwargs):
            if name == package or name.startswith(package + "."):
                raise error or ModuleNotFoundError(f"No module named {name!r}")
            return real(name, *args, **kwargs)

        for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(builtins, "__import__", refuse)
        monkeypatch.setattr(doctor.importlib, "import_module", lambda name: refuse(name))

    return start


# All together -----------------------------------------------------------------------------------


def test_an_examination_is_quick_quiet_and_changes_nothing(capsys, monkeypatch, tmp_path):
    import torchvision.datasets  # noqa: F401  imports are not what is timed

    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *args: pytest.fail("it asked the network"))
    attempt("warm", EXAMINATIONS["Widgets, JupyterLab"])
    start = time.monotonic()
    findings = examine()
    assert time.monotonic() - start < 2
    assert [finding.name for finding in findings] == list(EXAMINATIONS)
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []
    for finding in findings:
        assert finding.ok in (True, False, None) and finding.found
        assert "could not be examined" not in finding.found
        assert finding.fix if finding.ok is False else not finding.fix


def test_importing_the_doctor_imports_no_package():
    code = "import sys, course_utils.doctor; print({'torch', 'ipywidgets', 'psutil'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"


@pytest.mark.parametrize(
    "package", ["torch", "torchvision", "ipywidgets", "anywidget", "psutil", "safetensors"]
)
def test_a_missing_package_is_a_finding_with_a_fix(package, broken):
    broken(package)
    findings = examine()
    named = [finding for finding in findings if package in finding.found and finding.ok is False]
    assert named and all("make lab" in finding.fix or "pip install" in finding.fix for finding in named)
    repr(Report(findings))


def test_a_package_of_the_wrong_build_is_a_finding(broken):
    broken("torchvision", RuntimeError("operator torchvision::nms does not exist"))
    finding = look("PyTorch")
    assert finding.ok is False and "torchvision::nms" in finding.found and "make lab" in finding.fix


def test_whatever_an_examination_raises_is_a_finding():
    finding = attempt("Moon", lambda: 1 / 0)
    assert finding == Finding("Moon", None, "could not be examined (ZeroDivisionError: division by zero)")


# One by one -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "version, ok", [((3, 10), False), ((3, 11), True), ((3, 13), True), ((3, 14), False)]
)
def test_python_must_be_one_that_the_course_supports(version, ok, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    finding = look("Python")
    assert finding.ok is ok and (ok or "3.11 to 3.13" in finding.fix)


def test_the_supported_pythons_are_those_of_the_project():
    assert (
        f'requires-python = ">=3.{doctor.OLDEST[1]},<3.{doctor.NEWEST[1] + 1}"'
        in (ROOT / "pyproject.toml").read_text()
    )


def test_a_package_from_another_checkout_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "course_utils").mkdir()
    (tmp_path / "course_utils" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    finding = look("Course")
    assert (
        finding.ok is False
        and str(ROOT) in finding.found
        and f"pip install --no-deps -e {tmp_path}" in finding.fix
    )
    monkeypatch.chdir(ROOT)
    assert look("Course") == Finding("Course", True, "./course_utils")


def test_a_finding_that_is_well_does_not_tell_where_the_reader_lives(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/users/ada"))
    course = str(ROOT)
    assert doctor.shorten(f"3.11 in {course}/.venv and {course}") == "3.11 in ./.venv and ."
    assert doctor.shorten("/users/ada/data, /users/adam") == "~/data, /users/adam"


def test_the_device_is_named_and_a_missing_one_has_its_fix(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert look("Device") == Finding("Device", True, "cpu")
    monkeypatch.setenv("COURSE_DEVICE", "gpu")
    finding = look("Device")
    assert finding.ok is False and "COURSE_DEVICE=gpu" in finding.found and "COURSE_DEVICE=cpu" in finding.fix


@pytest.mark.parametrize(
    "load, wish, ok", [(0.2, "", True), (9.0, "", False), (9.0, "1", True), (0.2, "two", False)]
)
def test_a_busy_machine_asks_for_one_thread(load, wish, ok, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0, 0), raising=False)
    monkeypatch.setenv("COURSE_THREADS", wish)
    finding = look("Threads")
    assert finding.ok is ok and (ok or "COURSE_THREADS=1" in finding.fix)


def test_without_load_average_nothing_is_said_of_it(monkeypatch):
    """Windows has none."""
    monkeypatch.delattr(os, "getloadavg", raising=False)
    finding = look("Threads")
    assert finding.ok and "load" not in finding.found


def test_little_memory_and_a_full_disk_are_noticed(monkeypatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0.5e9))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=0.1e9))
    for name, said in (("Memory", "0.5 GB free"), ("Disk", "0.1 GB free")):
        finding = look(name)
        assert finding.ok is False and said in finding.found and finding.fix


def test_widgets_must_have_the_pinned_versions(monkeypatch):
    assert doctor.pins()["ipywidgets"] == "8.1.8"
    assert look("Widgets, kernel").ok is True
    real = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "8.1.9" if name == "ipywidgets" else real(name)
    )
    finding = look("Widgets, kernel")
    assert finding.ok is False and "ipywidgets 8.1.9" in finding.found
    assert finding.fix.startswith(f"Run `{sys.executable} -m pip install ipywidgets==8.1.8`")
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    assert look("Widgets, kernel").ok is None


# The server's environment -----------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A process that claims to be the JupyterLab of tmp_path/.venv, started there as .venv/bin/python."""
    prefix = tmp_path / ".venv"
    (prefix / "share" / "jupyter" / "labextensions").mkdir(parents=True)
    (prefix / "bin").mkdir()
    process = SimpleNamespace(
        pid=1234,
        cmdline=lambda: [".venv/bin/python", "-m", "jupyterlab"],
        cwd=lambda: str(tmp_path),
        exe=lambda: "/usr/bin/python3.11",
        environ=dict,
    )
    monkeypatch.setattr(doctor, "find_server", lambda: process)
    monkeypatch.setattr(doctor, "shared_folders", list)
    process.prefix = prefix
    return process


def install(prefix: Path, extension: str):
    folder = prefix / "share" / "jupyter" / "labextensions" / extension
    folder.mkdir(parents=True)
    (folder / "package.json").write_text("{}")


def test_a_server_that_lacks_an_extension_is_told_which(server):
    install(server.prefix, "@jupyter-widgets/jupyterlab-manager")
    finding = look("Widgets, JupyterLab")
    assert finding.ok is False and f"{server.prefix} lacks anywidget" in finding.found
    assert f"`{server.prefix}/bin/python -m pip install anywidget`" in finding.fix
    install(server.prefix, "anywidget")
    assert look("Widgets, JupyterLab").ok is True


def test_a_server_without_any_extension_gets_the_pinned_one(server):
    finding = look("Widgets, JupyterLab")
    assert "pip install anywidget jupyterlab_widgets==3.0.16`" in finding.fix


def test_extensions_of_the_user_or_the_system_count(server, tmp_path, monkeypatch):
    for extension in doctor.LAB_EXTENSIONS:
        install(tmp_path / "user", extension)
    monkeypatch.setattr(doctor, "shared_folders", lambda: [tmp_path / "user" / "share" / "jupyter"])
    assert look("Widgets, JupyterLab").ok is True


def test_the_servers_environment_is_found_however_it_was_started(server, tmp_path):
    def found() -> Path:
        return doctor.find_prefix(server)

    assert found() == server.prefix
    python = server.prefix / "bin" / "python"
    python.touch(mode=0o755)
    server.cmdline = lambda: ["python", "-m", "jupyterlab"]
    server.environ = lambda: {"PATH": str(python.parent)}
    assert found() == server.prefix, "by the PATH of the server, not of this process"
    framework = str(tmp_path / "Python.app" / "Contents" / "MacOS" / "Python")
    server.cmdline = lambda: [framework, "-m", "jupyterlab"]
    assert found() is None
    server.environ = lambda: {"__PYVENV_LAUNCHER__": str(python)}
    assert found() == server.prefix
    server.environ, server.cmdline = dict, lambda: [framework, str(server.prefix / "bin" / "jupyter-lab")]
    assert found() == server.prefix


def test_a_server_that_may_not_be_looked_at_is_no_crash(server):
    import psutil

    def refuse():
        raise psutil.AccessDenied(1234)

    server.cmdline = server.exe = refuse
    finding = look("Widgets, JupyterLab")
    assert finding.ok is None and "process 1234" in finding.found


def test_the_server_is_the_one_that_started_this_process(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    assert doctor.find_server() is None
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "jpserver-1.json").write_text(json.dumps({"pid": stranger.pid}))
        assert doctor.find_server() is None, "this server runs, but it did not start this process"
        (tmp_path / "jpserver-2.json").write_text(json.dumps({"pid": os.getppid()}))
        assert doctor.find_server().pid == os.getppid()
    finally:
        stranger.communicate(b"\n")


def test_without_a_server_there_is_nothing_to_compare(monkeypatch, tmp_path, broken):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    assert look("Widgets, JupyterLab").ok is None
    broken("jupyter_server")
    finding = look("Widgets, JupyterLab")
    assert finding.ok is None and "nothing to compare" in finding.found and not finding.fix


# Data and weights -------------------------------------------------------------------------------


@pytest.mark.real
def test_real_digits_are_found_where_they_are(real_data, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(real_data))
    expected = doctor.shorten(f"real MNIST in {real_data}/MNIST/raw")
    assert look("Real digits") == Finding("Real digits", True, expected)


def test_missing_digits_can_be_had_where_one_may_write(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    finding = look("Real digits")
    assert finding.ok is None and "not in" in finding.found and "downloads it" in finding.found
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    finding = look("Real digits")
    assert finding.ok is None and "damaged" in finding.found and "t10k-labels" in finding.found
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = look("Real digits")
    assert finding.ok is False and "cannot be written" in finding.found and "COURSE_DATA" in finding.fix


def test_a_course_data_that_does_not_exist_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    finding = look("Real digits")
    assert finding.ok is False and "nowhere" in finding.found and "Correct COURSE_DATA" in finding.fix


def test_checkpoints_are_counted_and_damaged_ones_named(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.data.project_root", lambda: tmp_path)
    monkeypatch.setattr(doctor, "__file__", str(tmp_path / "course_utils" / "doctor.py"))
    finding = look("Trained weights")
    assert finding.ok is False and "none" in finding.found and "git" in finding.fix
    folder = tmp_path / "data" / "checkpoints"
    for name in ("a", "b"):
        save_checkpoint(torch.nn.Linear(2, 2), folder / f"{name}.safetensors", recipe=name)
    assert look("Trained weights") == Finding("Trained weights", True, "2 in ./data/checkpoints")
    whole = (folder / "b.safetensors").read_bytes()
    (folder / "b.safetensors").write_bytes(whole[:-1])
    finding = look("Trained weights")
    assert finding.ok is False and finding.found == "damaged: b.safetensors"
    assert finding.fix == f"Run `git -C {tmp_path} checkout -- data/checkpoints`."


# What the reader sees ---------------------------------------------------------------------------

THREE = [
    Finding("Python", True, "3.11"),
    Finding("Disk", False, "0 GB in <here>", "Run `rm a&b`."),
    Finding("Lab", None, "none"),
]


def test_the_report_is_text_with_a_symbol_a_line_and_the_fix_below():
    assert repr(Report(THREE)).splitlines() == [
        "One thing to mend:",
        "✓ Python  3.11",
        "✗ Disk    0 GB in <here>",
        "          → Run `rm a&b`.",
        "– Lab     none",
    ]
    assert repr(Report(THREE[:1])).startswith("All is well.\n")
    assert Report(2 * THREE).summary() == "2 things to mend:"


def test_the_report_is_a_table_whose_text_is_escaped():
    page = Report(THREE)._repr_html_()
    assert page.count("<tr>") == 3 and all(symbol in page for symbol in "✓✗–")
    assert "0 GB in &lt;here&gt;" in page and "<code>rm a&amp;b</code>" in page
    assert "<here>" not in page and "`" not in page


def test_report_shows_it_with_and_without_ipython(capsys, broken):
    assert report(THREE) is None
    assert "✗ Disk" in capsys.readouterr().out
    broken("IPython")
    report(THREE)
    assert "✗ Disk" in capsys.readouterr().out


def test_the_slider_moves_its_bar_in_the_page_and_falls_back_to_words(monkeypatch):
    import ipywidgets

    linked = []
    monkeypatch.setattr(ipywidgets, "jslink", lambda *ends: linked.append(ends))
    box = live_slider()
    slider, bar = box.children[0].children
    assert isinstance(slider, ipywidgets.IntSlider) and isinstance(bar, ipywidgets.IntProgress)
    assert linked == [((slider, "value"), (bar, "value"))] and slider.value == bar.value
    bundle = box._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "see no slider" in bundle["text/plain"] and "restart JupyterLab" in bundle["text/plain"]


def test_without_ipywidgets_the_slider_says_so(broken):
    broken("ipywidgets")
    assert "ipywidgets cannot be imported" in repr(live_slider()) and "make lab" in repr(live_slider())
