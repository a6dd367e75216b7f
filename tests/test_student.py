"""The student edition has every lesson, no answer, no link into nowhere, and checks that work.

And TEACHING.md, which it leaves out, quotes the checks word for word.
"""

import ast
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
# What the package itself defines, and a lesson uses by name: there it may stand.
TAUGHT = {
    "course_utils/objectives.py": "return torch.logsumexp(log_w, dim=0) - math.log(len(log_w))",
}
# Where the package lies and what looking a check up shows; then each exercise cell of the notebooks named,
# run with the package of the folder that this is started in: a verdict a line.
RUN_CELLS = """
import inspect, json, sys
import course_utils.checks
print(course_utils.__file__)
try:
    print(inspect.getsource(course_utils.checks.check_kl))
except OSError:
    print(course_utils.checks.check_kl.__doc__)
for path in sys.argv[1:]:
    names = {"checks": course_utils.checks}
    for cell in json.load(open(path, encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "from course_utils import" in source:
            exec("\\n".join(line for line in source.splitlines() if "import" in line), names)
        elif cell["cell_type"] == "code" and "checks.check_" in source:
            body, _, last = source.rstrip().rpartition("\\n")
            exec(body, names)
            print(eval(last, names))
"""


@pytest.fixture(scope="module")
def edition(tmp_path_factory) -> Path:
    """The student edition of this checkout."""
    out = tmp_path_factory.mktemp("student") / "edition"
    command = [sys.executable, ROOT / "tools" / "student.py", "--out", out]
    answer = subprocess.run(command, capture_output=True, text=True)
    if "no git checkout" in answer.stderr or "git is not installed" in answer.stderr:
        pytest.skip("not a git checkout")
    assert answer.returncode == 0, answer.stderr
    return out


@pytest.fixture
def tool(load_tool):
    return load_tool("student")


# No answers -------------------------------------------------------------------------------------


def code_of(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


@cache
def answers() -> dict[str, set[str]]:
    """Of each solutions notebook the lines of its answers that no lesson has, short ones apart."""
    known = "\n".join(source for path in LESSONS for source in code_of(path))
    found = {}
    for path in SOLUTIONS:
        cells = [source for source in code_of(path) if "checks.check_" in source]
        lines = {line.strip() for source in cells for line in source.splitlines()}
        found[path.stem] = {line for line in lines if len(line) > 25 and line not in known}
    return found


def leaks(folder: Path, lines: set[str]) -> list[str]:
    """As "file: line", each of the lines in a text below the folder, also as JSON writes it."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # weights and pictures
            continue
        name = path.relative_to(folder).as_posix()
        there = {line for line in lines if line in text or json.dumps(line, ensure_ascii=False)[1:-1] in text}
        found += [f"{name}: {line}" for line in sorted(there - {TAUGHT.get(name)})]
    return found


def test_no_line_of_an_answer_is_in_it(edition):
    assert len(answers()) == len(LESSONS) - 1, "each lesson but 00 has exercises"
    assert min(map(len, answers().values())) >= 5, "an answer has a line that the lesson has not"
    assert not leaks(edition, set().union(*answers().values()))


@pytest.mark.parametrize("lesson", range(1, 7))
def test_a_planted_line_is_found(tmp_path, lesson):
    (stem,) = (stem for stem in answers() if stem.startswith(f"0{lesson}"))
    line = max(answers()[stem], key=len)
    cell = nbformat.v4.new_code_cell(f"def answer():\n    {line}")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "lesson.ipynb")
    (tmp_path / "checks").mkdir()
    (tmp_path / "checks" / "lesson.py").write_text(f"x = 1\n{line}\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("nothing to see here\n")
    assert leaks(tmp_path, answers()[stem]) == [f"checks/lesson.py: {line}", f"lesson.ipynb: {line}"]


def test_checks_as_they_are_would_not_pass():
    """Why they are packed: some hold an answer word for word."""
    assert leaks(ROOT / "course_utils" / "checks", set().union(*answers().values()))


def test_what_is_for_teachers_is_not_in_it(edition):
    names = {path.relative_to(edition).as_posix() for path in edition.rglob("*")}
    assert not {"TEACHING.md", "notebooks/solutions", "tests/test_checks.py", "tests/test_student.py"} & names
    assert {"README.md", "Makefile", "data/ledger.csv", "tools/install.py", "tests/conftest.py"} <= names
    assert not re.search(r"their solutions|TEACHING\.md\)", (edition / "README.md").read_text())


# The lessons ------------------------------------------------------------------------------------


def test_every_lesson_is_there_with_its_outputs(edition):
    assert len(LESSONS) == 7
    for path in LESSONS:
        lesson = nbformat.read(edition / "notebooks" / path.name, as_version=nbformat.NO_CONVERT)
        nbformat.validate(lesson)
        original = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        for cell, before in zip(lesson.cells, original.cells, strict=True):
            if cell.cell_type == "code":
                assert cell == before
            elif cell.source != before.source:
                assert "solutions/" in before.source, "nothing else is taken from a text"
                assert "solutions/" not in cell.source and cell.source.strip()


def dangling(folder: Path) -> list[str]:
    """As "file: target", each relative link of a text or a notebook that leads nowhere."""
    found = []
    for path in sorted([*folder.rglob("*.md"), *folder.rglob("*.ipynb")]):
        if path.parent.name == "pages":  # the book's front page, whose links are those of the book
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells
            text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
        for target in targets:
            file = unquote(target.partition("#")[0])
            is_file = re.search(r"\.\w+$|/", file) and not re.match(r"\w+:", file)
            if is_file and not (path.parent / file).exists():
                found.append(f"{path.relative_to(folder).as_posix()}: {target}")
    return found


def test_no_link_leads_nowhere(edition):
    assert not dangling(edition)


def test_a_link_into_nowhere_is_found(tmp_path):
    cell = nbformat.v4.new_markdown_cell("See [here](solutions/01.ipynb#x) and [there](b.md), $[x](y)$.")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    (tmp_path / "b.md").write_text('[a](a.ipynb) [web](http://localhost/x.html) <img src="c.png">')
    assert dangling(tmp_path) == ["a.ipynb: solutions/01.ipynb#x", "b.md: c.png"]


# The checks -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said(edition) -> list[str]:
    """What the edition's checks say: of looking one up, of each stub, of each answer."""
    notebooks = [*sorted((edition / "notebooks").glob("0[1-6]_*.ipynb")), *SOLUTIONS]
    command = [sys.executable, "-c", RUN_CELLS, *notebooks]
    answer = subprocess.run(command, cwd=edition, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    package, *lines = answer.stdout.splitlines()
    assert Path(package).is_relative_to(edition), "those are the checks of another copy"
    assert len(lines) == 1 + 30 + 30
    return lines


def test_looking_a_check_up_shows_no_answer(said):
    assert said[0].startswith("kl(mu, log_var): KL(")


def test_a_stub_gets_its_first_message(said):
    first = ("✗ Not yet. Your function returns nothing yet", "✗ Not yet. No diagnosis yet")
    assert all(line.startswith(first) for line in said[1:31]), said


def test_an_answer_still_passes(said):
    assert all(line.startswith("✓ Right.") for line in said[31:]), said


# The tool ---------------------------------------------------------------------------------------


def course(root: Path) -> list[str]:
    """A small course below `root`; its files, by name."""
    texts = {
        "README.md": "The lessons, their solutions. [For teachers](TEACHING.md), [data](data/README.md#x)\n",
        "TEACHING.md": "secret\n",
        "data/README.md": "[up](../README.md) and [the answer](../notebooks/solutions/01_a.ipynb)\n",
        "notebooks/solutions/01_a.ipynb": "{}\n",
        "course_utils/checks/lesson_01.py": '"""Checks of lesson 01: \'one\'."""\n\nANSWER = 42\n',
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return list(texts)


def test_texts_lose_what_they_cannot_link_to(tool, tmp_path):
    names = tool.kept(course(tmp_path))
    assert names == ["README.md", "data/README.md", "course_utils/checks/lesson_01.py"]
    tool.write(tmp_path, names, tmp_path / "out")
    assert (tmp_path / "out/README.md").read_text() == "The lessons. For teachers, [data](data/README.md#x)\n"
    assert (tmp_path / "out/data/README.md").read_text() == "[up](../README.md) and the answer\n"


def test_a_packed_module_is_the_same_module(tool, tmp_path):
    course(tmp_path)
    text = tool.packed((tmp_path / "course_utils/checks/lesson_01.py").read_text())
    names = {"__name__": "lesson_01"}
    exec(compile(text, "lesson_01.py", "exec"), names)
    assert names["ANSWER"] == 42 and "ANSWER" not in text
    assert ast.get_docstring(ast.parse(text)).startswith("Checks of lesson 01: 'one'.\n")
    assert max(map(len, text.splitlines())) <= 110


def test_an_older_edition_is_replaced_whole(tool, tmp_path):
    names, out = tool.kept(course(tmp_path)), tmp_path / "build" / "student"
    for folder in ("student", "student.new", "student.old"):  # the last two of a run that was interrupted
        (tmp_path / "build" / folder).mkdir(parents=True)
        (tmp_path / "build" / folder / "stale.txt").touch()
    tool.write(tmp_path, names, out)
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "course_utils", "data"]
    assert [path.name for path in out.parent.iterdir()] == ["student"]


def test_without_git_it_says_what_to_do(tool, tmp_path, monkeypatch, capsys):
    course(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    assert tool.main(["--out", str(tmp_path / "out")]) == 2
    assert "git init && git add" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_tracked_file_that_is_gone_is_named(tool, tmp_path):
    course(tmp_path)
    subprocess.run("git init -q && git add .", shell=True, cwd=tmp_path, check=True)
    assert "TEACHING.md" in tool.tracked(tmp_path)
    (tmp_path / "TEACHING.md").unlink()
    with pytest.raises(tool.Failure, match=r"TEACHING\.md, and it is not there"):
        tool.tracked(tmp_path)


def test_an_edition_of_an_edition_is_refused(tool):
    with pytest.raises(tool.Failure, match="already"):
        tool.kept(["README.md", "notebooks/01_basic_vae.ipynb"])


# The page for teachers --------------------------------------------------------------------------


def misquoted(text: str) -> list[str]:
    """Rows of the tables of mistakes whose last cell is no message of that lesson's checks."""
    found, messages = [], set()
    for line in text.splitlines():
        if lesson := re.match(r"## (0[1-6]) · ", line):
            path = ROOT / "course_utils" / "checks" / f"lesson_{lesson[1]}.py"
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            messages = {node.value for node in nodes if isinstance(node, ast.Constant)}
        elif row := re.fullmatch(r"\| \d [^|]+ \| [^|]+ \| (.+) \|", line):
            found += [row[1]] * (row[1].replace(r"\|", "|") not in messages)
    return found


def test_teaching_quotes_the_checks():
    text = (ROOT / "TEACHING.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^\| \d [^|]+ \|", text, re.MULTILINE)) >= 6 * 5
    assert not misquoted(text)
    said = "The KL is missing."
    assert misquoted(f"## 01 · A\n| 2 loss | forgets it | {said} |\n| 2 loss | it | Oh {said} |") == [
        f"Oh {said}"
    ]
