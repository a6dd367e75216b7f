"""A lesson away from the repository: with the package alone, as `pip install` and Colab put it."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parent.parent
LESSON = "04_hierarchical_vae.ipynb"

# Python runs this once it has found this environment's packages, the checkout being one of them.
FORGET = f"import sys\nsys.path[:] = [place for place in sys.path if place != {str(ROOT)!r}]\n"

# The last cell of the copy: where everything came from and went.
WHERE = """
import json, sys
from pathlib import Path

import course_utils
from course_utils import ledger, recipes

print(json.dumps({
    "package": course_utils.__file__,
    "path": sys.path,
    "weights": str(recipes.checkpoint_path("topdown", "embedded")),
    "study": str(ledger.study_path()),
    "rows": len(ledger.study()),
    "own": str(ledger.own_path()),
    "recorded": len(ledger.read(ledger.own_path())),
}))
"""


def build(folder: Path) -> Path:
    """The wheel, without a network where the builder is in uv's cache, as it is after tools/install.py."""
    uv = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if uv is None:
        pytest.skip("there is no uv here to build with")
    command = [uv, "build", "--wheel", "--quiet", "--python", sys.executable, "--out-dir", str(folder), ROOT]
    for offline in (["--offline"], []):
        answer = subprocess.run([*command, *offline], capture_output=True, text=True)
        if answer.returncode == 0:
            return next(folder.glob("*.whl"))
        if "build-system.requires" not in answer.stderr:
            pytest.fail(answer.stderr)
    pytest.skip("the builder, hatchling, is neither in uv's cache nor to be had")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_lesson_runs_with_the_package_alone(tmp_path):
    """The weights and the study's ledger come with it; what the lesson writes lands where it runs."""
    install, here = tmp_path / "install", tmp_path / "here"
    with zipfile.ZipFile(build(tmp_path / "wheel")) as wheel:
        wheel.extractall(install)
    (tmp_path / "forget").mkdir()
    (tmp_path / "forget" / "sitecustomize.py").write_text(FORGET)
    before = contents(install)
    here.mkdir()
    lesson = nbformat.read(ROOT / "notebooks" / LESSON, as_version=4)
    lesson.cells.append(new_code_cell(WHERE, id="where"))
    nbformat.write(lesson, here / LESSON)

    environment = {name: value for name, value in os.environ.items() if not name.startswith("COURSE_")}
    environment |= {"PYTHONPATH": os.pathsep.join([str(tmp_path / "forget"), str(install)])}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    environment |= {"OMP_NUM_THREADS": "1", "COURSE_THREADS": "1", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-P", "-m", "papermill", LESSON, "ran.ipynb", "--kernel", "python3"]
    command += ["-p", "profile", "smoke", "-p", "data", "embedded", "--no-progress-bar"]
    answer = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]

    said = json.loads(nbformat.read(here / "ran.ipynb", as_version=4).cells[-1].outputs[0].text)
    package = install / "course_utils"
    assert said["package"] == str(package / "__init__.py")
    assert str(ROOT) not in said["path"], "the checkout could have been imported"
    assert Path(said["weights"]).parent == package / "shipped" / "checkpoints"
    assert said["study"] == str(package / "shipped" / "ledger.csv") and said["rows"] > 100
    assert said["own"] == str(here / "build" / "ledger.csv") and said["recorded"] > 0
    assert {path.name for path in here.iterdir()} <= {LESSON, "ran.ipynb", "build", "data"}
    assert contents(install) == before, "written into the installed package"
