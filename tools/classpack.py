"""Pack the course for a class room without a network: what `make classpack` does.

    python tools/classpack.py              this folder's tracked files
    python tools/classpack.py --student    the student edition, build/student
    python tools/classpack.py --gpu        with PyTorch's usual build, also where its CPU build can be had

Writes build/classpack/vae-course-<platform>-py3XX.tar (.zip on Windows): the course, every wheel that the
lessons need on a machine of the same platform and Python, the built book and slides if they exist, and
install_offline.py, which installs all of it without a network. The versions are those of requirements.lock,
each wheel checked by its hash; the lock has none for PyTorch's CPU build and for the two builders, uv and
hatchling. What was downloaded stays in build/classpack: a second run downloads nothing.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import install
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
LABEL = f"{install.platform_name()}-py3{sys.version_info.minor}"
BUILT = {  # what: where it lies, what makes it
    "book": ("build/book/site", "make book"),
    "slides": ("build/slides", "make slides"),
}
FETCHERS = 4  # downloads at a time
NEEDED = ("tools/install.py", "requirements.lock", "pyproject.toml", "notebooks/00_start_here.ipynb")
INSTALLER = '''"""Install the course from this folder, without a network:

    python3 install_offline.py
"""

import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
try:
    status = subprocess.call([sys.executable, os.path.join(HERE, "tools", "install.py")])
except KeyboardInterrupt:  # install.py has said what to do
    sys.exit(1)
if status == 0:
    python = os.path.join(".venv", *(["Scripts", "python"] if os.name == "nt" else ["bin", "python"]))
    lesson = os.path.join("notebooks", "00_start_here.ipynb")
    root = " --allow-root" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""
    print("Open it, in this folder, with\\n\\n    " + python + " -m jupyterlab " + lesson + root + "\\n")
sys.exit(status)
'''


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Pack the course with all it needs.", allow_abbrev=False)
    parser.add_argument("--student", action="store_true", help="the student edition, build/student")
    parser.add_argument("--gpu", action="store_true", help="PyTorch's usual build: on Linux it brings CUDA")
    parser.add_argument("--out", type=Path, help="folder of the archive (default: build/classpack)")
    options = parser.parse_args(arguments)
    kept = ROOT / "build" / "classpack" / LABEL  # the wheels, kept for the next time
    try:
        course = student_files() if options.student else tracked_files()
        gather(kept, options.gpu)
        name = "vae-course-student" if options.student else "vae-course"
        target = (options.out or kept.parent) / f"{name}-{LABEL}{'.zip' if os.name == 'nt' else '.tar'}"
        files = course | built_files(options.student) | packed_files(kept)
        write_archive(target, files, name)
    except install.Failure as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    return 0


# The course -------------------------------------------------------------------------------------


def tracked_files() -> dict[str, Path]:
    """What git tracks, as it lies here: name in the archive -> file."""
    try:
        listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        raise install.Failure(
            f"{ROOT} is not a git checkout, so it is not known which files are the course's.\n"
            "Clone the repository with git, then run this again."
        ) from None
    names = listed.decode().split("\0")[:-1]
    return {name: ROOT / name for name in names if (ROOT / name).is_file()}


def student_files() -> dict[str, Path]:
    """The student edition without what a try of it left there."""
    folder = ROOT / "build" / "student"
    if not folder.is_dir():
        raise install.Failure("There is no build/student. Make it with `make student`, then run this again.")
    left = {".venv", "build", "__pycache__", ".ipynb_checkpoints", ".git"}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder): path for path in paths}
    files = {name.as_posix(): path for name, path in files.items() if not left & set(name.parts)}
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise install.Failure(f"build/student cannot be installed: it lacks {', '.join(missing)}.")
    return files


def built_files(student: bool) -> dict[str, Path]:
    """The book and the slides; says which are not there and how to make them."""
    files = {}
    for what, (folder, command) in BUILT.items():
        built = sorted(path for path in (ROOT / folder).rglob("*") if path.is_file())
        if student and what == "book":
            print("Not in the pack: the book, since it has the solutions.")
        elif built:
            files |= {f"{what}/{path.relative_to(ROOT / folder).as_posix()}": path for path in built}
        else:
            print(f"Not in the pack: the {what}. To have it there, run `{command}` first.")
    return files


def packed_files(kept: Path) -> dict[str, Path]:
    """The wheels, their manifest and the installer."""
    installer = kept / "install_offline.py"
    install.write(str(installer), INSTALLER)
    wheels = {f"wheels/{path.name}": path for path in sorted((kept / "wheels").iterdir())}
    return wheels | {"install_offline.py": installer}


# The wheels -------------------------------------------------------------------------------------


def gather(kept: Path, gpu: bool) -> None:
    """Fill kept/wheels and write its manifest; nothing to do if an earlier run did it for this lock."""
    wheels = kept / "wheels"
    made_from = hashlib.sha256(f"{LABEL} {gpu}".encode())
    for name in ("requirements.lock", "pyproject.toml"):
        made_from.update((ROOT / name).read_bytes())
    pack = install.read_pack(str(kept))
    if pack and pack["made_from"] == made_from.hexdigest() and not drop_broken(wheels, pack["wheels"]):
        return
    wheels.mkdir(parents=True, exist_ok=True)
    pins = resolve(gpu)
    download(pins, wheels)
    for path, pin in wheels_in(wheels).items():
        if pin not in pins:  # of an earlier lock
            path.unlink()
    names = [path.name for path in wheels_in(wheels)]
    pack = {
        "platform": install.platform_name(),
        "python": list(sys.version_info[:2]),
        "glibc": oldest_glibc(names),
        "cpu": any(re.fullmatch(r"torch==.*[+]cpu", pin) for pin in pins),
        "packages": list(pins),
        "wheels": {name: install.sha256(wheels / name) for name in names},
        "made_from": made_from.hexdigest(),
    }
    install.write(str(wheels / "manifest.json"), json.dumps(pack, indent=1) + "\n")


def drop_broken(wheels: Path, hashes: dict[str, str]) -> list[str]:
    """Remove what is no longer as it was downloaded; returns what must be fetched again."""
    there = {path.name: install.sha256(path) for path in wheels_in(wheels)}
    broken = [name for name, wanted in hashes.items() if there.get(name) != wanted]
    for name in broken:
        (wheels / name).unlink(missing_ok=True)
    return broken


def resolve(gpu: bool) -> dict[str, str]:
    """What to pack: name==version, in the lock's versions -> the index that uv found it in."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        builders = tomllib.load(file)["build-system"]["requires"]
    asked = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate"]
    asked += ["--python", sys.executable, "--constraint", "requirements.lock", "--extra", "course"]
    asked += ["--emit-index-annotation", "pyproject.toml", "-"]  # hatchling asks for editables by itself
    builders = "\n".join([*builders, "editables", install.UV])
    choices = [[]] if gpu or not sys.platform.startswith("linux") else [["--torch-backend", "cpu"], []]
    for choice in choices:
        answer = subprocess.run(asked + choice, input=builders, cwd=ROOT, capture_output=True, text=True)
        if answer.returncode == 0:
            if choice != choices[0]:
                print("PyTorch's CPU build cannot be had here: the pack takes the usual one, with CUDA.")
            return dict(re.findall(r"^(\S+==\S+)\n +# from (.*)$", answer.stdout, re.MULTILINE))
    raise install.Failure(
        f"uv finds no versions that fit requirements.lock:\n{answer.stderr.strip()}\n"
        "Without a network this cannot be done; after a change of pyproject.toml, run `make lock` first."
    )


def locked_hashes() -> dict[str, list[str]]:
    """name==version -> the hashes that requirements.lock allows it."""
    hashes, pin = {}, ""
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if re.match(r"\w", line):
            pin = line.split()[0]
            hashes[pin] = []
        elif found := re.search(r"--hash=\S+", line):
            hashes[pin].append(found[0])
    return hashes


def wheels_in(folder: Path) -> dict[Path, str]:
    """The wheels of a folder and their name==version."""
    found = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(path.name)
        found[path] = f"{canonicalize_name(name)}=={version}"
    return found


def download(pins: dict[str, str], wheels: Path) -> None:
    """Fetch what is not there yet with pip; only a whole download gets into the folder."""
    missing = sorted(set(pins) - set(wheels_in(wheels).values()))
    hashes = locked_hashes()
    locked = [" ".join([pin, *hashes[pin]]) for pin in missing if pin in hashes]
    with tempfile.TemporaryDirectory(dir=wheels.parent) as fresh:
        if locked:
            print(f"Downloading {len(locked)} wheels of requirements.lock ...", flush=True)
            with ThreadPoolExecutor(FETCHERS) as fetchers:  # one pip alone waits more than it reads
                shares = [locked[first::FETCHERS] for first in range(min(FETCHERS, len(locked)))]
                list(fetchers.map(lambda share: fetch(["--require-hashes"], share, fresh), shares))
        cpu = [pin for pin in missing if pin not in hashes and "+" in pin]
        for pin in cpu:
            print(f"Downloading {pin} ...", flush=True)
            fetch(["-i", pins[pin]], [pin], fresh)
        builders = [pin for pin in missing if pin not in hashes and pin not in cpu]
        if builders:
            print(f"Downloading {', '.join(builders)} ...", flush=True)
            fetch([], builders, fresh)
        for path in Path(fresh).glob("*.whl"):
            path.replace(wheels / path.name)
    missing = sorted(set(pins) - set(wheels_in(wheels).values()))
    if missing:
        raise install.Failure(f"These were not downloaded as wheels: {', '.join(missing)}.")


def fetch(options: list[str], lines: list[str], folder: str) -> None:
    listed = Path(folder) / f"{hashlib.sha256(lines[0].encode()).hexdigest()}.txt"
    listed.write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-qq", "--no-deps"]
    pip += ["--only-binary", ":all:", "--dest", folder, "-r", str(listed), *options]
    install.run(pip, "downloading the wheels")


def oldest_glibc(names: list[str]) -> list[int] | None:
    """The glibc that all the wheels can live with, by their manylinux tags; None if none has such a tag."""
    older = {"manylinux1": [2, 5], "manylinux2010": [2, 12], "manylinux2014": [2, 17]}
    needed = []
    for name in names:
        tags = re.findall(r"manylinux(?:_\d+_\d+|1|2010|2014)(?=_)", name)
        tags = [older.get(tag) or [int(part) for part in tag.split("_")[1:]] for tag in tags]
        needed += [min(tags)] if tags else []
    return max(needed, default=None)


# The archive ------------------------------------------------------------------------------------


def write_archive(target: Path, files: dict[str, Path], top: str) -> None:
    """One uncompressed file, since wheels are compressed; written beside, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    free, needed = shutil.disk_usage(target.parent).free, sum(sizes.values())
    if free < 1.05 * needed:
        raise install.Failure(
            f"{megabytes(free)} are free in {target.parent}; the archive takes {megabytes(needed)}.\n"
            "Free some space, then run this again."
        )
    beside = target.with_name(target.name + ".new")
    try:
        if target.suffix == ".zip":
            with zipfile.ZipFile(beside, "w") as archive:
                for name, path in sorted(files.items()):
                    archive.write(path, f"{top}/{name}")
        else:
            with tarfile.open(beside, "w") as archive:
                for name, path in sorted(files.items()):
                    archive.add(path, f"{top}/{name}", filter=nameless)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    print(f"{target}: {megabytes(target.stat().st_size)}")
    print_parts(sizes)


def print_parts(sizes: dict[str, int]) -> None:
    parts = {}
    for name, size in sizes.items():
        part = "wheels/nvidia-*" if name.startswith("wheels/nvidia_") else name.split("-")[0]
        part = part if name.startswith("wheels/") else name.split("/")[0]
        parts[part] = parts.get(part, 0) + size
    for part in sorted(parts, key=parts.get, reverse=True)[:8]:
        print(f"    {part:24} {megabytes(parts[part]):>10}")


def nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the packer's name; whoever unpacks it owns it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run this again to go on: what was downloaded is kept.")
