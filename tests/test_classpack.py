"""tools/classpack.py: what is in the pack, what its installer refuses, and that it needs no network."""

import ast
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOCK = """# made by uv
numpy==2.4.6 ; python_version >= '3.11' \\
    --hash=sha256:00 \\
    --hash=sha256:11
    # via torch
torch==2.15.0 \\
    --hash=sha256:22
"""
PINS = {"numpy==2.4.6": "usual", "torch==2.15.0": "usual", "uv==0.13.9": "usual"}


@pytest.fixture
def project(tmp_path):
    """A course of five files under git."""
    root = tmp_path / "course"
    texts = {
        "requirements.lock": LOCK,
        "pyproject.toml": '[build-system]\nrequires = ["hatchling>=1.25"]\n',
        "notebooks/00_start_here.ipynb": "{}",
        "tools/install.py": (ROOT / "tools" / "install.py").read_text(),
        ".gitignore": "build/\n",
        "untracked.txt": "not the course's",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run(["git", "add", *[name for name in texts if name != "untracked.txt"]], cwd=root, check=True)
    return root


@pytest.fixture
def tool(load_tool, project, monkeypatch):
    """The tool on that course; pip writes fake wheels and notes what it was asked for."""
    tool = load_tool("classpack")
    tool.fetched = []

    def fetch(options, lines, folder):
        tool.fetched.append((options, lines))
        for line in lines:
            name, version = line.split()[0].split("==")
            (Path(folder) / f"{name}-{version}-py3-none-any.whl").write_text(f"the wheel of {name}")

    monkeypatch.setattr(tool, "ROOT", project)
    monkeypatch.setattr(tool, "resolve", lambda gpu: dict(PINS))
    monkeypatch.setattr(tool, "fetch", fetch)
    return tool


@pytest.fixture
def unpacked(tool, project, tmp_path):
    """The pack as a student has it."""
    assert tool.main([]) == 0
    unpack(next((project / "build" / "classpack").glob("vae-course-*.*")), tmp_path / "student")
    return tmp_path / "student" / "vae-course"


def unpack(archive, folder):
    if archive.suffix == ".zip":
        zipfile.ZipFile(archive).extractall(folder)
    else:
        with tarfile.open(archive) as file:
            file.extractall(folder, filter="data")


def install_offline(folder):
    return subprocess.run([sys.executable, "install_offline.py"], cwd=folder, capture_output=True, text=True)


def change_manifest(folder, **changes):
    path = folder / "wheels" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# The pack ---------------------------------------------------------------------------------------


def test_what_is_in_it(tool, unpacked):
    names = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert names == {
        *("requirements.lock", "pyproject.toml", "notebooks/00_start_here.ipynb", "tools/install.py"),
        *(".gitignore", "install_offline.py", "wheels/manifest.json"),
        *(f"wheels/{pin.replace('==', '-')}-py3-none-any.whl" for pin in PINS),
    }
    manifest = json.loads((unpacked / "wheels" / "manifest.json").read_text())
    assert manifest["packages"] == list(PINS) and not manifest["cpu"]
    assert manifest["python"] == list(sys.version_info[:2])
    for name, digest in manifest["wheels"].items():
        assert hashlib.sha256((unpacked / "wheels" / name).read_bytes()).hexdigest() == digest
    options, lines = zip(*tool.fetched, strict=True)
    assert options == (["--require-hashes"], ["--require-hashes"], [])
    assert sorted(lines[0] + lines[1]) == [
        "numpy==2.4.6 --hash=sha256:00 --hash=sha256:11",
        "torch==2.15.0 --hash=sha256:22",
    ]
    assert lines[2] == ["uv==0.13.9"]


def test_a_second_time_downloads_nothing(tool, project, monkeypatch):
    assert tool.main([]) == 0
    tool.fetched.clear()
    with monkeypatch.context() as patch:
        patch.setattr(tool, "resolve", lambda gpu: pytest.fail("asked the registry again"))
        assert tool.main([]) == 0
    assert not tool.fetched
    next(project.glob("build/classpack/*/wheels/numpy*.whl")).write_text("half a wheel")
    assert tool.main([]) == 0  # only the broken one
    assert [line[:5] for _, lines in tool.fetched for line in lines] == ["numpy"]


def test_a_new_lock_takes_the_old_wheel_away(tool, project, monkeypatch):
    assert tool.main([]) == 0
    tool.fetched.clear()
    (project / "requirements.lock").write_text(LOCK.replace("2.4.6", "2.5.0"))
    monkeypatch.setattr(tool, "resolve", lambda gpu: {"numpy==2.5.0": "", "torch==2.15.0": ""})
    assert tool.main([]) == 0
    wheels = sorted(path.name for path in project.glob("build/classpack/*/wheels/*.whl"))
    assert wheels == ["numpy-2.5.0-py3-none-any.whl", "torch-2.15.0-py3-none-any.whl"]
    assert len(tool.fetched) == 1


def test_the_cpu_build_comes_from_its_own_index(tool, unpacked, project, monkeypatch):
    """With --gpu another pack is asked for, so it is resolved again."""
    pins = {**PINS, "torch==2.15.0+cpu": "the CPU index"}
    del pins["torch==2.15.0"]
    monkeypatch.setattr(tool, "resolve", lambda gpu: pins)
    tool.fetched.clear()
    assert tool.main(["--gpu"]) == 0
    assert tool.fetched == [(["-i", "the CPU index"], ["torch==2.15.0+cpu"])]
    manifest = next(project.glob("build/classpack/*/wheels/manifest.json"))
    assert json.loads(manifest.read_text())["cpu"]


def test_what_pip_did_not_bring(tool, project, monkeypatch, capsys):
    monkeypatch.setattr(tool, "fetch", lambda *_: None)
    assert tool.main([]) == 1
    assert "not downloaded as wheels: numpy==2.4.6, torch==2.15.0, uv==0.13.9" in capsys.readouterr().err
    assert not list(project.glob("build/classpack/*.*")) and not list(project.rglob("manifest.json"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is one build")
def test_without_the_cpu_index_the_usual_build(load_tool, project, monkeypatch, capsys):
    tool, asked = load_tool("classpack"), []
    answers = {
        True: SimpleNamespace(returncode=2, stdout="", stderr="no such host"),
        False: SimpleNamespace(returncode=0, stdout="torch==2.15.0\n    # from here\n", stderr=""),
    }

    def run(command, **settings):
        asked.append(command)
        assert settings["input"].split("\n") == ["hatchling>=1.25", "editables", tool.install.UV]
        return answers["--torch-backend" in command]

    monkeypatch.setattr(tool, "ROOT", project)
    monkeypatch.setattr(tool.subprocess, "run", run)
    assert tool.resolve(gpu=False) == {"torch==2.15.0": "here"}
    assert "CPU build cannot be had here" in capsys.readouterr().out
    assert tool.resolve(gpu=True) == {"torch==2.15.0": "here"} and len(asked) == 3
    assert not capsys.readouterr().out
    answers[True] = SimpleNamespace(returncode=0, stdout="torch==2.15.0+cpu\n    # from there\n", stderr="")
    assert tool.resolve(gpu=False) == {"torch==2.15.0+cpu": "there"}
    answers[True] = answers[False] = SimpleNamespace(returncode=2, stdout="", stderr="no such host")
    with pytest.raises(tool.install.Failure, match=r"no such host[^$]*Without a network"):
        tool.resolve(gpu=False)


def test_the_oldest_glibc(tool):
    names = ["a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl"]
    assert tool.oldest_glibc(names) == [2, 17]
    assert tool.oldest_glibc([*names, "b-1-cp311-cp311-manylinux_2_27_x86_64.whl"]) == [2, 27]
    assert tool.oldest_glibc(["c-1-py3-none-any.whl", "d-1-cp311-cp311-win_amd64.whl"]) is None


def test_book_and_slides(tool, project, tmp_path, capsys):
    assert tool.main([]) == 0
    said = capsys.readouterr().out
    assert "Not in the pack: the book. To have it there, run `make book` first." in said
    assert "Not in the pack: the slides. To have it there, run `make slides` first." in said
    for name in ("book/site/index.html", "slides/index.html"):
        (project / "build" / name).parent.mkdir(parents=True)
        (project / "build" / name).write_text("a page")
    assert tool.main([]) == 0
    assert "Not in the pack" not in capsys.readouterr().out
    unpack(next((project / "build" / "classpack").glob("vae-course-*.*")), tmp_path)
    assert (tmp_path / "vae-course" / "book" / "index.html").is_file()
    assert (tmp_path / "vae-course" / "slides" / "index.html").is_file()


def test_student_edition(tool, project, tmp_path, capsys):
    assert tool.main(["--student"]) == 1
    assert "Make it with `make student`" in capsys.readouterr().err
    edition, site = project / "build" / "student", project / "build" / "book" / "site"
    for folder in (edition / "tools", edition / ".venv", edition / "notebooks", site):
        folder.mkdir(parents=True)
        (folder / "file.txt").touch()
    assert tool.main(["--student"]) == 1
    assert "lacks tools/install.py" in capsys.readouterr().err
    for name in tool.NEEDED:
        shutil.copy(project / name, edition / name)
    assert tool.main(["--student"]) == 0
    assert "the book, since it has the solutions" in capsys.readouterr().out
    unpack(next((project / "build" / "classpack").glob("vae-course-student-*.*")), tmp_path)
    names = {path.name for path in (tmp_path / "vae-course-student").iterdir()}
    assert "notebooks" in names and not names & {".venv", "book"}


def test_an_archive_is_whole_or_not_there(tool, project, monkeypatch, capsys):
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert tool.main([]) == 1
    assert "Free some space" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(tool.tarfile.TarFile, "add", lambda *_, **__: 1 / 0)
    target = project / "build" / "pack.tar"
    with pytest.raises(ZeroDivisionError):
        tool.write_archive(target, {"lock": project / "requirements.lock"}, "top")
    assert not list((project / "build").glob("pack*"))


def test_it_names_nobody(tool, project):
    target = project / "pack.tar"
    tool.write_archive(target, {"lock": project / "requirements.lock"}, "top")
    with tarfile.open(target) as archive:
        entry = archive.getmember("top/lock")
    assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")


def test_not_a_checkout(tool, project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tool.main([]) == 1
    assert "not a git checkout" in capsys.readouterr().err


# Its installer ----------------------------------------------------------------------------------


def test_old_python_can_parse_the_installer(tool):
    ast.parse(tool.INSTALLER, feature_version=(3, 4))


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"platform": "plan9-mips"}, r"This pack is for plan9-mips; this machine is \w+-\w+\."),
        ({"python": [3, 99]}, r"This is Python 3\.\d+\. This pack is for Python 3\.99, which is not on"),
        ({"glibc": [99, 1]}, r"needs a Linux with glibc 99\.1 or later"),
        ({"wheels": {"numpy-2.4.6-py3-none-any.whl": "00"}}, r"wheels/numpy-\S+ is not the file that was"),
        ({"wheels": {"gone-1-py3-none-any.whl": "00"}}, r"wheels/gone-1-py3-none-any.whl is missing"),
    ],
)
def test_refused(unpacked, changes, says):
    """One message, status 1, and nothing is left."""
    before = sorted(unpacked.rglob("*"))
    change_manifest(unpacked, **changes)
    answer = install_offline(unpacked)
    assert answer.returncode == 1 and re.search(says, answer.stderr), answer.stderr
    assert "Traceback" not in answer.stderr and answer.stderr.strip().count("\n") == 1
    assert sorted(unpacked.rglob("*")) == before


def test_a_manifest_that_was_not_copied_whole(unpacked):
    (unpacked / "wheels" / "manifest.json").write_text('{"platform": ')
    answer = install_offline(unpacked)
    assert answer.returncode == 1 and "manifest.json cannot be read" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_second_run_returns_at_once(unpacked, load_tool):
    """With the stamp there, no wheel is looked at."""
    tool, venv = load_tool("install"), unpacked / ".venv"
    python = Path(tool.venv_python(str(venv)))
    python.parent.mkdir(parents=True)
    python.touch()
    (venv / ".installed").write_text(tool.fingerprint(str(unpacked), cpu=False))
    shutil.rmtree(unpacked / "wheels" / "nothing", ignore_errors=True)
    for wheel in (unpacked / "wheels").glob("*.whl"):
        wheel.unlink()
    answer = install_offline(unpacked)
    assert answer.returncode == 0 and "-m jupyterlab" in answer.stdout
    assert "Checking" not in answer.stdout


# The whole of it, without a network --------------------------------------------------------------

# Runs inside the new namespace: a loopback, over which Jupyter talks to its kernels, and nobody to reach.
ALONE = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
    fcntl.ioctl(door, 0x8914, struct.pack("16sH22x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
assert [name for _, name in socket.if_nameindex() if name == "lo"], "no loopback"
for address in ("192.0.2.1", "10.0.0.1", "1.1.1.1"):
    try:
        socket.create_connection((address, 443), timeout=2)
    except TimeoutError:
        sys.exit("a way leads out of the namespace")
    except OSError:
        continue
    sys.exit("the network is there")
os.execvp(sys.argv[1], sys.argv[1:])
"""


INSTALL = (sys.executable, "install_offline.py")
MAKE_LAB = """
import os, signal, subprocess, sys, threading
command = ["make", "lab", "PYTHON=" + sys.executable, "ARGS=--no-browser"]
lab = subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
)
late = threading.Timer(120, os.killpg, (lab.pid, signal.SIGKILL))
late.start()
print(next((line for line in lab.stdout if "is running at" in line), "JupyterLab did not start"))
late.cancel()
os.killpg(lab.pid, signal.SIGKILL)
"""


@functools.cache
def why_no_namespace():
    """Why this machine cannot shut the network off for one process; nothing if it can."""
    if not shutil.which("unshare"):
        return "there is no unshare"
    answer = subprocess.run(alone("true"), capture_output=True, text=True)
    return answer.stderr.strip() if answer.returncode else ""


def alone(*command):
    return ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", ALONE, *command]


def run_alone(folder, *command, fails=False):
    """Run a command in the pack, without a network and without anything of this user's; what it says."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "TMPDIR": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    started = time.monotonic()
    answer = subprocess.run(
        alone(*command), cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    print(f"{time.monotonic() - started:6.1f} s  {' '.join(command)[:90]}", flush=True)
    assert (answer.returncode != 0) == fails, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


@pytest.fixture
def room():
    """A folder on this disk for some 12 GB, removed at the end."""
    folder = ROOT / "build" / "test" / "classpack"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(
    os.environ.get("COURSE_TRY_CLASSPACK") != "1", reason="takes minutes and 12 GB: make try-classpack"
)
def test_installs_and_runs_a_lesson_without_a_network(room):
    if reason := why_no_namespace():
        if os.environ.get("COURSE_REQUIRE_BROWSER") == "1":
            pytest.fail(f"this machine cannot shut the network off: {reason}")
        pytest.skip(f"this machine cannot shut the network off: {reason}")
    command = [sys.executable, "tools/classpack.py", "--out", str(room)]
    subprocess.run(command, cwd=ROOT, check=True)
    archive = next(room.glob("vae-course-*.tar"))
    subprocess.run(["tar", "-xf", archive.name], cwd=room, check=True)
    archive.unlink()
    folder, python = room / "vae-course", ".venv/bin/python"

    assert "-m jupyterlab notebooks/00_start_here.ipynb" in run_alone(folder, *INSTALL)
    asked = run_alone(
        folder, python, "-m", "uv", "pip", "install", "--dry-run", "--no-cache", "six>99", fails=True
    )
    assert "Failed to fetch" in asked  # the registry is out of reach, or it would know that there is none
    again = run_alone(folder, *INSTALL)
    assert "-m jupyterlab" in again and not re.search("Checking|Making|Installing", again)
    assert "is running at" in run_alone(folder, sys.executable, "-c", MAKE_LAB)
    run_alone(folder, python, "-m", "uv", "pip", "check")

    run_alone(
        folder, python, *["tools/series.py", "--profile", "smoke", "--data", "embedded", "--only", "04"]
    )
    report = json.loads((folder / "build" / "series" / "report.json").read_text())
    assert [(row["notebook"], row["status"]) for row in report] == [("04_hierarchical_vae", "ok")]
    assert not (folder / ".venv" / ".cache").exists()
