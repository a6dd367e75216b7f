"""Install the course into `.venv`, once.

    python3 tools/install.py        the versions of requirements.lock, every file checked by its hash
    python3 tools/install.py --cpu  the same versions with PyTorch's CPU-only build: 1 GB instead of 6
                                    on Linux. Hashes are not checked: the lock has only the usual build's.
    py tools/install.py             on Windows

In an unpacked class pack (tools/classpack.py) everything comes from its folder wheels/: no network is needed.
A second run sees the stamp that the first one left and returns at once; a changed lock installs again.
Only the standard library, and only what Python 3.6 can parse, so that an old Python can say so.
"""

import hashlib
import json
import os
import platform
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST, NEWEST = (3, 11), (3, 13)  # requires-python of pyproject.toml
UV = "uv>=0.9,<1"


class Failure(Exception):
    """What went wrong, and what to do next."""


def main(arguments):
    if set(arguments) - {"--cpu"}:
        raise Failure("The only option is --cpu; this was given: " + " ".join(arguments))
    venv = os.path.join(ROOT, ".venv")
    cpu = "--cpu" in arguments or os.path.exists(os.path.join(venv, ".cpu"))  # once chosen, kept
    pack = read_pack(ROOT)
    if pack:
        cpu = pack["cpu"]
    if is_installed(venv, fingerprint(ROOT, cpu)):
        return
    if pack:
        check_machine(pack)
    if not suits(sys.version_info, pack):
        other = find_python(pack)
        if other is None:
            raise Failure(python_message(sys.version_info, pack))
        sys.exit(subprocess.call(other + [os.path.abspath(__file__)] + arguments))
    if pack:
        check_wheels(ROOT, pack)
    install(ROOT, venv, cpu, pack)
    print("The course is installed in .venv.", flush=True)


# Is there anything to do? -----------------------------------------------------------------------


def fingerprint(root, cpu):
    """Everything that the environment depends on, as one line of text."""
    digest = hashlib.sha256(b"cpu" if cpu else b"lock")
    digest.update(root.encode())  # the scripts in .venv hold this path: a moved folder installs again
    for name in ("requirements.lock", "pyproject.toml"):
        with open(os.path.join(root, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_installed(venv, wanted):
    """Whether an earlier run came to its end with these files, and its Python is still there."""
    try:
        with open(os.path.join(venv, ".installed")) as file:
            return file.read() == wanted and os.path.exists(venv_python(venv))
    except OSError:
        return False


def venv_python(venv):
    return os.path.join(venv, *(["Scripts", "python.exe"] if os.name == "nt" else ["bin", "python"]))


# Can it be done here? ---------------------------------------------------------------------------


def versions(pack=None):
    """The oldest and the newest Python that will do. The wheels of a class pack are for one alone."""
    return (tuple(pack["python"]), tuple(pack["python"])) if pack else (OLDEST, NEWEST)


def suits(version, pack=None):
    oldest, newest = versions(pack)
    return oldest <= tuple(version[:2]) <= newest


def python_message(version, pack=None):
    if pack:
        wanted, here = "{}.{}".format(*pack["python"]), f"{version[0]}.{version[1]}"
        return (
            f"This is Python {here}. This pack is for Python {wanted}, which is not on the PATH.\n"
            f"Install Python {wanted}, then run this again, or ask for the pack for Python {here}."
        )
    return (
        f"This is Python {version[0]}.{version[1]}. The course runs on Python 3.{OLDEST[1]} "
        f"to 3.{NEWEST[1]}, and none of them is on the PATH.\n"
        "Install one (python.org, `brew install python@3.13`, `apt install python3 python3-venv`), "
        "then run this again."
    )


def find_python(pack=None):
    """The command of a Python that suits, or None. Each is asked: a pyenv shim may lead nowhere."""
    oldest, newest = versions(pack)
    minors = range(newest[1], oldest[1] - 1, -1)
    commands = [[f"python3.{minor}"] for minor in minors] + [["python3"], ["python"]]
    if os.name == "nt":
        commands = [["py", f"-3.{minor}"] for minor in minors] + commands
    for command in commands:
        question = command + ["-c", "import sys; print(*sys.version_info[:2])"]
        try:
            answer = subprocess.check_output(question, stderr=subprocess.DEVNULL).split()
        except (OSError, subprocess.CalledProcessError):
            continue
        if len(answer) == 2 and suits([int(part) for part in answer], pack):
            return command
    return None


def check_disk(place, cpu, free=None):
    """Stop before the download, not in the middle of it. Only Linux gets CUDA's libraries with torch."""
    import shutil

    free = shutil.disk_usage(place).free if free is None else free
    needed, why, instead = 3, "", ""
    if sys.platform.startswith("linux") and not cpu:
        needed, why = 8, " (torch with CUDA alone takes 5 to 6)"
        if not read_pack(place):
            instead = ", or take the CPU-only build, which needs 3 GB (README, CPU-only install)"
    if free < needed * 1e9:
        raise Failure(
            f"{free / 1e9:.1f} GB are free in {place}; the installation needs {needed} GB{why}.\n"
            f"Free some space{instead}, then run this again."
        )


def check_ensurepip():
    """Debian and Ubuntu ship Python without the part that puts pip into a new environment."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise Failure(
            "This Python cannot make virtual environments: its module ensurepip is missing.\n"
            "On Debian and Ubuntu: sudo apt install python3-venv. Then run this again."
        ) from None


# The class pack: everything lies in wheels/ ----------------------------------------------------


def read_pack(root):
    """What wheels/manifest.json says; None in an ordinary checkout, which has no such file."""
    try:
        with open(os.path.join(root, "wheels", "manifest.json")) as file:
            return json.load(file)
    except OSError:
        return None
    except ValueError:
        raise Failure(
            "wheels/manifest.json cannot be read: it was not copied whole.\n"
            "Unpack the archive again, or copy it again, then run this again."
        ) from None


def platform_name():
    """linux-x86_64, darwin-arm64, win32-amd64: what the wheels of a class pack are for."""
    return f"{sys.platform}-{platform.machine().lower()}"


def check_machine(pack):
    """Stop if the wheels of the pack cannot run here."""
    if platform_name() != pack["platform"]:
        raise Failure(
            f"This pack is for {pack['platform']}; this machine is {platform_name()}.\n"
            "Ask for the pack for it: `make classpack` on such a machine, with a network, makes one."
        )
    name, version = platform.libc_ver()
    if pack["glibc"] and not (name == "glibc" and numbers(version) >= pack["glibc"]):
        wanted = ".".join(map(str, pack["glibc"]))
        raise Failure(
            f"This pack needs a Linux with glibc {wanted} or later; this one has {name} {version}.\n"
            "Take a newer Linux, or install the course with a network: make lab."
        )


def numbers(version):
    return [int(part) for part in version.split(".")]


def check_wheels(root, pack):
    """Every wheel is there, and is the one that was packed."""
    print("Checking {} wheels ...".format(len(pack["wheels"])), flush=True)
    for name, wanted in sorted(pack["wheels"].items()):
        try:
            found = sha256(os.path.join(root, "wheels", name))
        except OSError:
            found = None
        if found != wanted:
            raise Failure(
                f"wheels/{name} {'is not the file that was packed' if found else 'is missing'}.\n"
                "Unpack the archive again, or copy it again, then run this again."
            )


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


# Do it ------------------------------------------------------------------------------------------


def install(root, venv, cpu, pack=None):
    """Fill the environment. The stamp goes first and comes back last, so half an install never counts."""
    import shutil

    stamp, python = os.path.join(venv, ".installed"), venv_python(venv)
    if os.path.exists(stamp):
        os.remove(stamp)
    if not shutil.which("torchrun", path=os.path.dirname(python)):
        check_disk(root, cpu)
    chosen_before = os.path.exists(os.path.join(venv, ".cpu"))
    if not is_usable(python, pack) or (cpu and not chosen_before):  # uv would leave a CUDA build where it is
        check_ensurepip()
        print("Making .venv with Python {}.{} ...".format(*sys.version_info[:2]), flush=True)
        run([sys.executable, "-m", "venv", "--clear", venv], "making the environment .venv")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    uv = [python, "-m", "uv", "pip", "install", "--python", python]
    cache = os.path.join(venv, ".cache")  # of a pack alone: on the same disk, so that files are not copied
    if pack:
        shutil.rmtree(cache, ignore_errors=True)  # whoever was interrupted in removing it left half of it
        wheels = ["--no-index", "-f", os.path.join(root, "wheels")]
        pip += wheels
        uv += wheels + ["--offline", "--no-config", "--cache-dir", cache]
        packages = pack["packages"]
    else:
        packages = cpu_packages(root, venv) if cpu else locked_packages(root)
    print("Installing the packages; the first time this takes some minutes ...", flush=True)
    run(pip + [UV], "installing uv, the installer of everything else")
    # Compiled once, here: where Python may keep no bytecode, each kernel would compile PyTorch anew, for 2 s.
    run(uv + ["--compile-bytecode"] + packages, "installing the packages")
    run(uv + ["--quiet", "--no-deps", "-e", root], "installing course_utils")
    shutil.rmtree(cache, ignore_errors=True)
    if cpu:
        write(os.path.join(venv, ".cpu"), "")
    write(stamp, fingerprint(root, cpu))


def locked_packages(root):
    return ["--require-hashes", "-r", os.path.join(root, "requirements.lock")]


def cpu_packages(root, venv):
    """The lock's versions as constraints, without its hashes; uv knows where PyTorch keeps its CPU build."""
    constraints = os.path.join(venv, "constraints.txt")
    with open(os.path.join(root, "requirements.lock")) as file:
        pins = [line.rstrip("\\\n ") for line in file if line[0] not in " #\n"]
    write(constraints, "\n".join(pins) + "\n")
    project = ["-r", os.path.join(root, "pyproject.toml"), "--extra", "course", "--extra", "test"]
    return project + ["--torch-backend", "cpu", "--constraint", constraints]


def is_usable(python, pack=None):
    """Whether the environment has a Python that suits, and pip. An interrupted first run leaves neither."""
    oldest, newest = versions(pack)
    test = f"import pip, sys; sys.exit(not {oldest} <= sys.version_info[:2] <= {newest})"
    try:
        return subprocess.call([python, "-c", test], stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def run(command, what):
    """Run one step, showing what it prints."""
    offline = "--no-index" in command
    misleading = ("PYTHONPATH", "PYTHONHOME", "PIP_USER") + (("PIP_", "UV_") if offline else ())
    environment = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    status = subprocess.call(command, cwd=ROOT, env=environment)
    network = "" if offline else "the network or a proxy is in the way (set HTTPS_PROXY), or "
    if status:
        raise Failure(
            f"Failed at {what} (exit status {status}; the lines above say why).\n"
            f"Most often {network}the disk is full. "
            f"When that is mended, run this again: what was {'done' if offline else 'downloaded'} is kept."
        )


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        sys.exit("\n" + str(failure))
    except KeyboardInterrupt:
        sys.exit("\nStopped. Run this again to go on: what was downloaded is kept.")
