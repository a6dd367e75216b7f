"""The student edition: the course as git tracks it, without solutions and answers, in build/student.

    python tools/student.py [--out build/student]     (`make student`)

What says an answer, or needs one, is left out (LEFT_OUT), and a link to it becomes plain words. Lessons keep
their outputs. The checks of the exercises stay and work, but they hold the right answers, so they are packed:
whoever looks one up sees what it is for and not what it expects. That is a curtain, not a lock.

Files are taken as they are in the working tree. An edition that is there already is replaced whole.
"""

import argparse
import base64
import re
import shutil
import subprocess
import sys
import textwrap
import zlib
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote

import nbformat

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = (
    "TEACHING.md",
    "notebooks/solutions/*",
    "tests/test_checks*.py",  # they spell the answers out
    "tests/test_house_rules.py",  # this one and the next ask for the solutions
    "tests/test_book.py",
    "tests/test_student.py",
)
PACKED = "course_utils/checks/lesson_*.py"
# What else goes from texts, beside the links to what is left out.
WORDS = (re.compile(r" *\[Solutions\]\([^)]*\)"), re.compile(r", their solutions\b"))
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
CURTAIN = '''"""{about}

Packed, since it holds the answers of the exercises; the course itself has it readable.
"""

import base64
import zlib

SOURCE = """
{packed}
"""
exec(compile(zlib.decompress(base64.b85decode(SOURCE.replace("\\n", ""))), f"<{{__name__}}, packed>", "exec"))
'''


class Failure(Exception):
    """What went wrong, and what to do next."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the course without its solutions and answers.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "student", help="folder of the edition")
    options = parser.parse_args(arguments)
    try:
        names = kept(tracked(ROOT))
        write(ROOT, names, options.out.resolve())
    except Failure as failure:
        print(f"Nothing was written: {failure}", file=sys.stderr)
        return 2
    print(f"{len(names)} files in {options.out}. Hand the folder out; in it, `make lab` opens the course.")
    return 0


# What to take -----------------------------------------------------------------------------------


def tracked(root: Path) -> list[str]:
    """The names of the files that git tracks, from `root`. Raises Failure if there is no checkout."""
    try:
        answer = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        raise Failure("git is not installed, and it knows which files belong to the course") from None
    names = [name for name in answer.stdout.split("\0") if name]
    if answer.returncode or not names:
        raise Failure(
            f"{root} is no git checkout, and git knows which files belong to the course. Clone its "
            "repository, or run `git init && git add .` in a fresh copy, and try again."
        )
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise Failure(f"git tracks {missing[0]}, and it is not there: `git restore` it, or `git rm` it")
    return names


def kept(names: list[str]) -> list[str]:
    """The names without what is left out. Raises Failure if no solutions are among them."""
    found = [name for name in names if not any(fnmatch(name, pattern) for pattern in LEFT_OUT)]
    if not any(name.startswith("notebooks/solutions/") for name in names):
        raise Failure("there are no solutions in notebooks/solutions: this is a student edition already")
    return found


# Writing it -------------------------------------------------------------------------------------


def write(root: Path, names: list[str], out: Path) -> None:
    """Write the edition beside `out`, then put it there."""
    beside, old = (out.with_name(f"{out.name}.{word}") for word in ("new", "old"))
    for folder in (beside, old):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    for name in names:
        (beside / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, beside / name)
    for name in names:
        if fnmatch(name, PACKED):
            (beside / name).write_text(packed((root / name).read_text(encoding="utf-8")), encoding="utf-8")
        elif name.endswith((".md", ".ipynb")):
            trim(root, beside, name)
    if out.exists():
        out.rename(old)
    beside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def packed(source: str) -> str:
    """The source of a module that does the same and cannot be read at a glance."""
    about = source.removeprefix('"""').partition("\n")[0].removesuffix('"""')
    text = base64.b85encode(zlib.compress(source.encode(), 9)).decode()
    return CURTAIN.format(about=about, packed="\n".join(textwrap.wrap(text, 100, break_on_hyphens=False)))


def trim(root: Path, out: Path, name: str) -> None:
    """Take out of a text or a notebook what speaks of what is not there."""
    path = out / name
    if path.suffix == ".md":
        text = path.read_text(encoding="utf-8")
        if (short := trimmed(text, root, out, name)) != text:
            path.write_text(short, encoding="utf-8")
        return
    notebook, changed = nbformat.read(path, as_version=nbformat.NO_CONVERT), False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            short = trimmed(cell.source, root, out, name)
            changed, cell.source = changed or short != cell.source, short
    if changed:
        nbformat.write(notebook, path)


def trimmed(text: str, root: Path, out: Path, name: str) -> str:
    """The text without WORDS, and with plain words for each link whose target has been left out."""

    def plain(link: re.Match) -> str:
        target = Path(name).parent / unquote(link[2].partition("#")[0])
        is_gone = (root / target).exists() and not (out / target).exists()
        return link[1] if is_gone else link[0]

    for words in WORDS:
        text = words.sub("", text)
    return LINK.sub(plain, text)


if __name__ == "__main__":
    sys.exit(main())
