"""environment.yml, binder/ and requirements.lock say the same as pyproject.toml."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"torch": "pytorch", "jupyterlab-widgets": "jupyterlab_widgets"}
NOT_IN_CONDA = {"pytest-playwright", "axe-playwright-python"}


def wanted(*extras: str) -> dict[str, Requirement]:
    """What the course needs and these extras of it (course and test), by name, the course itself apart."""
    lines = PROJECT["dependencies"]
    for name in extras or ("course", "test"):
        lines = lines + PROJECT["optional-dependencies"][name]
    requirements = [Requirement(line) for line in lines]
    return {canonicalize_name(r.name): r for r in requirements if r.name != PROJECT["name"]}


def conda(folder: Path = ROOT) -> dict:
    return yaml.safe_load((folder / "environment.yml").read_text())


def locked() -> dict[str, str]:
    """The lock's text, by package."""
    text = re.sub(r"^#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    return {entry.split("==")[0]: entry for entry in entries}


def test_conda_has_the_same_ranges():
    lines = [line for line in conda()["dependencies"] if isinstance(line, str)]
    there = dict(line.split(maxsplit=1) for line in lines if " " in line)
    assert set(re.split(",", there.pop("python"))) == set(PROJECT["requires-python"].split(","))
    ranges = {
        CONDA_NAMES.get(name, name): str(requirement.specifier)
        for name, requirement in wanted().items()
        if name not in NOT_IN_CONDA
    }
    assert there == ranges
    assert [line for line in lines if " " not in line] == ["pip"], "a package without a range"


def test_conda_takes_everything_from_conda_forge():
    assert conda()["channels"] == ["conda-forge", "nodefaults"]
    assert conda()["name"] == "vae-course"
    assert [line for line in conda()["dependencies"] if not isinstance(line, str)] == [{"pip": ["-e ."]}]


def test_binder_has_the_same_ranges_and_pytorch_without_a_gpu():
    lines = conda(ROOT / "binder")["dependencies"]
    assert lines[1] == "pip" and conda(ROOT / "binder")["channels"] == ["conda-forge"]
    found = re.fullmatch(r"python=(3\.\d+)", lines[0])
    assert found, "repo2docker knows no other spelling"
    assert SpecifierSet(PROJECT["requires-python"]).contains(found.group(1))
    names = CONDA_NAMES | {"torch": "pytorch-cpu"}
    expected = {names.get(name, name): str(line.specifier) for name, line in wanted("course").items()}
    assert dict(line.split(maxsplit=1) for line in lines[2:]) == expected


@pytest.mark.skipif(os.name == "nt", reason="Windows has no executable bit")
@pytest.mark.parametrize("name", ["postBuild", "start"])
def test_binder_can_run_its_scripts(name):
    script = ROOT / "binder" / name
    assert os.access(script, os.X_OK) and script.read_text().startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.skipif(os.name == "nt", reason="Binder runs Linux")
def test_binder_starts_what_it_is_given():
    command = [ROOT / "binder" / "start", "bash", "-c", 'echo "$COURSE_THREADS $0 $*"', "jupyter", "a b"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "1 jupyter a b\n"


def test_lock_satisfies_the_ranges():
    entries = locked()
    for name, requirement in wanted().items():
        version = re.match(r"[\w.-]+==([\w.+]+)", entries[name]).group(1)
        assert requirement.specifier.contains(version), f"{name} {version} is outside {requirement}"


def test_lock_has_hashes_and_no_address():
    entries = locked()
    assert len(entries) > 100
    for name, entry in entries.items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), f"{name} has no hash"
        assert re.match(r"[\w.-]+==[\w.+]+( ;|\s)", entry), f"{name} is not pinned to a version"
        assert "://" not in entry and " @ " not in entry, f"{name} comes from an address"


def test_hooks_run_the_locked_versions():
    """Otherwise pre-commit formats a file and `make lint` wants it back."""
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {Path(repo["repo"]).name: repo["rev"].removeprefix("v") for repo in repos}
    for repo, package in {"ruff-pre-commit": "ruff", "nbstripout": "nbstripout"}.items():
        assert locked()[package].startswith(f"{package}=={revisions[repo]}")
