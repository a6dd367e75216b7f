"""tools/install.py: what it says when it cannot, and that half an install is never taken for a whole one."""

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tool(load_tool):
    return load_tool("install")


@pytest.fixture
def project(tmp_path):
    """A project with a lock of two packages."""
    (tmp_path / "requirements.lock").write_text(
        "# made by uv\nnumpy==2.4.6 ; python_version >= '3.11' \\\n    --hash=sha256:00 \\\n"
        "    --hash=sha256:11\n"
        "    # via torch\ntorch==2.15.0 \\\n    --hash=sha256:22\n"
    )
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


@pytest.fixture
def fake_run(tool, project, monkeypatch):
    """Records the steps instead of taking them; a step in `fails` fails as the real one would."""
    steps, fails = [], set()

    def run(command, what):
        steps.append(command)
        run.before(command)
        if any(word in command for word in fails):
            raise tool.Failure(f"Failed at {what}")
        if "venv" in command:
            python = Path(tool.venv_python(str(project / ".venv")))
            python.parent.mkdir(parents=True, exist_ok=True)
            python.touch()

    monkeypatch.setattr(tool, "run", run)
    monkeypatch.setattr(tool, "check_disk", lambda *_: None)
    monkeypatch.setattr(tool, "is_usable", lambda python, pack: os.path.exists(python))
    run.steps, run.fails, run.before = steps, fails, lambda command: None
    return run


def test_old_python_can_parse_it():
    ast.parse((ROOT / "tools" / "install.py").read_text(), feature_version=(3, 6))


def test_versions_are_those_of_pyproject(tool):
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert wanted == f">=3.{tool.OLDEST[1]},<3.{tool.NEWEST[1] + 1}"


@pytest.mark.parametrize("version", [(3, 8), (3, 10, 13), (3, 14), (4, 0)])
def test_python_that_does_not_suit(tool, version):
    assert not tool.suits(version)
    message = tool.python_message(version)
    assert f"This is Python {version[0]}.{version[1]}." in message
    assert "3.11 to 3.13" in message and "Install one" in message


@pytest.mark.parametrize("version", [(3, 11), (3, 12, 1), (3, 13)])
def test_python_that_suits(tool, version):
    assert tool.suits(version)


@pytest.mark.skipif(os.name == "nt", reason="uses shell scripts as fake Pythons")
def test_looks_for_another_python(tool, tmp_path, monkeypatch):
    """A pyenv shim without its Python, and one that is too old, are passed over."""
    for name, script in [
        ("python3.13", "echo 'pyenv: command not found' >&2; exit 127"),
        ("python3.12", "echo 3 9"),
        ("python3.11", "echo 3 11"),
    ]:
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.find_python() == ["python3.11"]
    (tmp_path / "python3.11").unlink()
    assert tool.find_python() is None


def test_full_disk(tool, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(tool.Failure, match=r"4\.0 GB are free .* needs 8 GB[^$]*CPU-only"):
        tool.check_disk("here", cpu=False, free=4e9)
    tool.check_disk("here", cpu=True, free=4e9)
    tool.check_disk("here", cpu=False, free=9e9)
    with pytest.raises(tool.Failure, match="needs 3 GB"):
        tool.check_disk("here", cpu=True, free=1e9)


def test_debian_without_ensurepip(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(tool.Failure, match="apt install python3-venv"):
        tool.check_ensurepip()


def test_a_whole_install_leaves_a_stamp(tool, project, fake_run):
    venv = str(project / ".venv")
    tool.install(str(project), venv, cpu=False)
    assert tool.is_installed(venv, tool.fingerprint(str(project), cpu=False))
    packages = fake_run.steps[-2]
    assert "--require-hashes" in packages and str(project / "requirements.lock") in packages
    assert fake_run.steps[-1][-3:] == ["--no-deps", "-e", str(project)]


@pytest.mark.parametrize("step", ["venv", "pip", "--require-hashes", "--no-deps"])
def test_a_failed_install_leaves_no_stamp(tool, project, fake_run, step):
    venv = str(project / ".venv")
    fake_run.fails.add(step)
    with pytest.raises(tool.Failure, match="Failed at"):
        tool.install(str(project), venv, cpu=False)
    assert not tool.is_installed(venv, tool.fingerprint(str(project), cpu=False))
    fake_run.fails.clear()
    tool.install(str(project), venv, cpu=False)
    assert tool.is_installed(venv, tool.fingerprint(str(project), cpu=False))


def test_a_failed_renewal_takes_the_old_stamp_away(tool, project, fake_run):
    venv = str(project / ".venv")
    tool.install(str(project), venv, cpu=False)
    before = tool.fingerprint(str(project), cpu=False)
    fake_run.fails.add("--require-hashes")
    with pytest.raises(tool.Failure):
        tool.install(str(project), venv, cpu=False)
    assert not tool.is_installed(venv, before)


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_installs_again(tool, project, fake_run, name):
    venv = str(project / ".venv")
    tool.install(str(project), venv, cpu=False)
    with (project / name).open("a") as file:
        file.write("# changed\n")
    assert not tool.is_installed(venv, tool.fingerprint(str(project), cpu=False))


def test_a_lost_python_installs_again(tool, project, fake_run):
    venv = str(project / ".venv")
    tool.install(str(project), venv, cpu=False)
    Path(tool.venv_python(venv)).unlink()
    assert not tool.is_installed(venv, tool.fingerprint(str(project), cpu=False))


def test_cpu_keeps_the_versions_and_the_choice(tool, project, fake_run):
    venv = project / ".venv"
    tool.install(str(project), str(venv), cpu=True)
    assert (venv / "constraints.txt").read_text().splitlines() == [
        "numpy==2.4.6 ; python_version >= '3.11'",
        "torch==2.15.0",
    ]
    packages = fake_run.steps[-2]
    assert packages[packages.index("--torch-backend") + 1] == "cpu" and "--require-hashes" not in packages
    assert (venv / ".cpu").exists()
    assert not tool.is_installed(str(venv), tool.fingerprint(str(project), cpu=False))


def test_unknown_option(tool):
    with pytest.raises(tool.Failure, match="--gpu"):
        tool.main(["--gpu"])


# A class pack -----------------------------------------------------------------------------------


@pytest.fixture
def pack(tool, project):
    """What the project is when it was unpacked from an archive of tools/classpack.py."""
    (project / "wheels").mkdir()
    (project / "wheels" / "numpy.whl").write_text("numpy")
    digest = hashlib.sha256(b"numpy").hexdigest()
    pack = {
        "platform": tool.platform_name(),
        "python": list(sys.version_info[:2]),
        "glibc": None,
        "cpu": True,
    }
    pack |= {"packages": ["numpy==2.4.6"], "wheels": {"numpy.whl": digest}}
    (project / "wheels" / "manifest.json").write_text(json.dumps(pack))
    return tool.read_pack(str(project))


def test_a_pack_installs_from_its_wheels_alone(tool, project, fake_run, pack, monkeypatch):
    monkeypatch.setattr(tool, "ROOT", str(project))
    tool.main([])
    wheels = ["--no-index", "-f", str(project / "wheels")]
    for step in fake_run.steps[1:]:
        assert step[step.index("--no-index") :][:3] == wheels
    assert fake_run.steps[2][-1:] == pack["packages"] and "--offline" in fake_run.steps[2]
    assert tool.is_installed(str(project / ".venv"), tool.fingerprint(str(project), cpu=True))
    fake_run.steps.clear()
    (project / "wheels" / "numpy.whl").unlink()
    tool.main([])  # the stamp is enough
    assert not fake_run.steps


def test_outside_of_a_pack_nothing_is_offline(tool, project, fake_run):
    tool.install(str(project), str(project / ".venv"), cpu=False)
    assert not any({"--no-index", "--offline"} & set(step) for step in fake_run.steps)


@pytest.mark.parametrize("step", ["venv", "pip", "--offline", "--no-deps"])
def test_an_interrupted_pack_goes_on(tool, project, fake_run, pack, monkeypatch, step):
    monkeypatch.setattr(tool, "ROOT", str(project))
    fake_run.fails.add(step)
    with pytest.raises(tool.Failure):
        tool.main([])
    assert not (project / ".venv" / ".installed").exists()
    half = project / ".venv" / ".cache" / "half"  # uv fails on a cache that lacks some of its files
    half.mkdir(parents=True)
    fake_run.fails.clear()
    fake_run.before = lambda command: "--offline" in command and half.exists() and pytest.fail("half a cache")
    tool.main([])
    assert (project / ".venv" / ".installed").exists()


def test_a_broken_wheel_is_named(tool, project, fake_run, pack, monkeypatch):
    monkeypatch.setattr(tool, "ROOT", str(project))
    (project / "wheels" / "numpy.whl").write_text("another")
    with pytest.raises(tool.Failure, match=r"wheels/numpy\.whl is not the file that was packed"):
        tool.main([])
    assert not fake_run.steps and not (project / ".venv").exists()


def test_a_pack_is_for_one_python(tool, pack):
    pack["python"] = [3, 12]
    assert tool.suits((3, 12, 4), pack) and not tool.suits((3, 11), pack) and not tool.suits((3, 13), pack)


def test_a_pack_on_an_old_linux(tool, pack, monkeypatch):
    pack["glibc"] = [2, 34]
    for found, fits in [
        (("glibc", "2.34"), True),
        (("glibc", "2.40"), True),
        (("glibc", "2.9"), False),
        (("", ""), False),
    ]:
        monkeypatch.setattr(tool.platform, "libc_ver", lambda found=found: found)
        if fits:
            tool.check_machine(pack)
        else:
            with pytest.raises(tool.Failure, match=r"glibc 2\.34 or later"):
                tool.check_machine(pack)


def test_settings_for_a_network_do_not_count_in_a_pack(tool, monkeypatch, capfd):
    for name in ("PIP_FIND_LINKS", "UV_TORCH_BACKEND"):
        monkeypatch.setenv(name, "elsewhere")
    names = "import os; print([name for name in os.environ if name[:3] in ('PIP', 'UV_')])"
    tool.run([sys.executable, "-c", names, "--no-index"], "asking")
    assert capfd.readouterr().out.strip() == "[]"
    with pytest.raises(tool.Failure, match="Most often the disk is full"):
        tool.run([sys.executable, "-c", "raise SystemExit(1)", "--no-index"], "asking")


@pytest.mark.skipif(
    os.name == "nt", reason="the check of the message is the same; Windows needs a minute for it"
)
def test_without_a_network(tmp_path):
    """The real thing: a fresh checkout, no package to be had. One message, status 1, no stamp."""
    for name in ("requirements.lock", "pyproject.toml", "tools/install.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    answer = subprocess.run(
        [sys.executable, "tools/install.py", "--cpu"],  # with CPU torch, so that a small disk will do
        cwd=tmp_path,
        env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": ""},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "Failed at installing uv" in answer.stderr and "run this again" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / ".venv" / ".installed").exists()
