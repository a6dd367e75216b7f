"""Is this machine ready for the course? One finding a line, each with its fix.

    report(examine())       what lesson 00 shows
    live_slider()           does a slider move, also while no kernel listens?

Nothing is downloaded, and nothing is imported before it is examined: a broken package is a finding here,
not an ImportError.
"""

import html
import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

OLDEST, NEWEST = (3, 11), (3, 13)  # requires-python in pyproject.toml
WIDGET_PACKAGES = ("ipywidgets", "anywidget", "jupyterlab_widgets", "widgetsnbextension")
LAB_EXTENSIONS = {"anywidget": "anywidget", "@jupyter-widgets/jupyterlab-manager": "jupyterlab_widgets"}
GIGABYTE = 1e9
MEMORY_NEEDED, DISK_NEEDED = 2, 1  # GB, of the quick profile
INSTALL = "Run `make lab` (or `python tools/install.py`) in the course's folder and restart the kernel."


class Finding(NamedTuple):
    """What was looked at, whether it is well (None: nothing to compare, or your choice), and what to do."""

    name: str
    ok: bool | None
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which they depend on each other; an examination that fails is one."""
    return [attempt(name, look) for name, look in EXAMINATIONS.items()]


def attempt(name: str, look: Callable[[], tuple]) -> Finding:
    """The finding of one examination, whatever happens in it."""
    try:
        ok, found, *fix = look()
        return Finding(name, ok, found if ok is False else shorten(found), *fix)
    except ImportError as error:
        return Finding(name, False, f"could not be examined ({error})", INSTALL)
    except Exception as error:
        return Finding(name, None, f"could not be examined ({type(error).__name__}: {error})")


def shorten(text: str) -> str:
    """Paths as seen from the course's folder or from home: shorter, and nobody's own in a stored notebook."""
    course, home = Path(__file__).resolve().parent.parent, Path.home()
    for folder, name in ((course, "."), (home, "~"), (course.parent, "..")):
        if folder != Path(folder.anchor):
            text = re.sub(re.escape(str(folder)) + r"(?=[/\\\s,;]|$)", name, text)
    return text


def try_import(name: str) -> str:
    """Why the module cannot be imported, "" if it can. A library of the wrong build raises OSError."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return f"{name} cannot be imported ({type(error).__name__}: {error})"
    return ""


# Python and the package --------------------------------------------------------------------------


def look_at_python() -> tuple:
    found = f"{platform.python_version()} in {sys.prefix}"
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return True, found
    return False, found, f"The course runs on Python 3.{OLDEST[1]} to 3.{NEWEST[1]}: install one. {INSTALL}"


def look_at_course() -> tuple:
    """The package must come from the checkout that this notebook lies in, or edits have no effect."""
    package, here = Path(__file__).resolve().parent, Path.cwd().resolve()
    for folder in (here, *here.parents):
        beside = folder / "course_utils"
        if (beside / "__init__.py").is_file() and beside != package:
            fix = f"Run `{sys.executable} -m pip install --no-deps -e {folder}` and restart the kernel."
            return False, f"this notebook lies in {folder}, but course_utils comes from {package}", fix
    return True, str(package)


# Torch and the machine ---------------------------------------------------------------------------


def look_at_torch() -> tuple:
    for name in ("torch", "torchvision"):
        if trouble := try_import(name):
            return False, trouble, INSTALL
    import torch

    x = torch.full((8, 8), 2.0, requires_grad=True)
    (x @ x).sum().backward()
    if x.grad is None or not torch.equal(x.grad, torch.full((8, 8), 32.0)):
        return False, f"{torch.__version__} computes wrong gradients", INSTALL
    return True, torch.__version__


def look_at_device() -> tuple:
    import torch

    from course_utils.train import choose_device

    try:
        device = choose_device()
        torch.ones(8, 8, device=device).sum().item()
    except (RuntimeError, AssertionError) as error:
        wish = os.environ.get("COURSE_DEVICE") or "auto"
        reason = str(error).splitlines()[0]
        return (
            False,
            f"COURSE_DEVICE={wish} cannot be used: {reason}",
            "Set `COURSE_DEVICE=cpu` and restart the kernel.",
        )
    return True, torch.cuda.get_device_name() if device.type == "cuda" else device.type


def look_at_threads() -> tuple:
    """Threads that outnumber the free cores wait for each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wish = os.environ.get("COURSE_THREADS") or str(cores)
    if not wish.isdigit() or int(wish) < 1:
        return False, f"COURSE_THREADS={wish} is no number of threads", "Set `COURSE_THREADS=1`, or unset it."
    found = f"{wish} of {cores} cores"
    if not hasattr(os, "getloadavg"):
        return True, found
    load = os.getloadavg()[0]
    found += f", load {load:.1f} in the last minute"
    if load > 0.75 * cores and int(wish) > 1:
        fix = "The machine is busy: close what else runs, or set `COURSE_THREADS=1` and restart the kernel."
        return False, found, fix
    return True, found


def look_at_memory() -> tuple:
    import psutil  # comes with ipykernel

    free = psutil.virtual_memory().available / GIGABYTE
    found = f"{free:.1f} GB free, {MEMORY_NEEDED} GB needed"
    if free >= MEMORY_NEEDED:
        return True, found
    return False, found, "Shut down other kernels (Kernel, Shut Down All Kernels) or close other programs."


def look_at_disk() -> tuple:
    from course_utils.data import project_root

    free = shutil.disk_usage(project_root()).free / GIGABYTE
    found = f"{free:.1f} GB free in {project_root()}, {DISK_NEEDED} GB needed"
    return (True, found) if free >= DISK_NEEDED else (False, found, "Free some space on this disk.")


# Widgets -----------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    """The versions that the course holds fast, by name of the package; empty if it is not installed."""
    try:
        wanted = importlib.metadata.requires("course-utils") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    pairs = (re.fullmatch(r"([\w-]+)==([\w.]+)", line.split(";")[0].strip()) for line in wanted)
    return {match[1].replace("-", "_"): match[2] for match in pairs if match}


def look_at_kernel_widgets() -> tuple:
    """The Python half of a widget lives in the kernel's environment."""
    for name in ("ipywidgets", "anywidget"):
        if trouble := try_import(name):
            return (
                False,
                trouble,
                f"Run `{sys.executable} -m pip install {pinned(name)}` and restart the kernel.",
            )
    versions = {name: importlib.metadata.version(name) for name in WIDGET_PACKAGES}
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    wrong = [name for name, version in versions.items() if pins().get(name, version) != version]
    if not wrong:
        return True, found
    if "google.colab" in sys.modules:
        return None, f"{found}; Colab brings its own"
    packages = " ".join(pinned(name) for name in wrong)
    return False, found, f"Run `{sys.executable} -m pip install {packages}` and restart the kernel."


def pinned(name: str) -> str:
    """What to tell pip to install."""
    return f"{name}=={pins()[name]}" if name in pins() else name


def look_at_server_widgets() -> tuple:
    """The JavaScript half lives in the environment of the JupyterLab that shows this notebook."""
    try:
        server = find_server()
    except ImportError:  # neither VS Code nor Colab needs a Jupyter server in this environment
        server = None
    if server is None:
        found = (
            "no JupyterLab started this kernel: nothing to compare (VS Code, Colab and papermill need none)"
        )
        return None, found
    prefix = find_prefix(server)
    if prefix is None:
        return None, f"JupyterLab runs as process {server.pid}, in an environment that cannot be found"
    folders = [prefix / "share" / "jupyter", *shared_folders()]
    missing = [
        package
        for extension, package in LAB_EXTENSIONS.items()
        if not any((folder / "labextensions" / extension / "package.json").is_file() for folder in folders)
    ]
    if not missing:
        return True, f"JupyterLab in {prefix} has both extensions"
    packages = " ".join(pinned(name) for name in missing)
    fix = f"Run `{interpreter(server)} -m pip install {packages}`, restart JupyterLab and reload the page."
    return False, f"JupyterLab in {prefix} lacks {' and '.join(missing)}", fix


def find_server():
    """The process of the Jupyter server that started this kernel, or None."""
    import psutil
    from jupyter_server.serverapp import list_running_servers

    servers = {info["pid"] for info in list_running_servers()}
    return next((process for process in psutil.Process().parents() if process.pid in servers), None)


def interpreter(process) -> Path:
    """The Python of a process as it was called: in a virtual environment, exe() is the one outside it."""
    environment = process.environ()
    called = environment.get("__PYVENV_LAUNCHER__") or process.cmdline()[0]  # macOS hides it from cmdline
    if not os.path.dirname(called):
        called = shutil.which(called, path=environment.get("PATH")) or process.exe()
    return Path(process.cwd(), called)


def find_prefix(process) -> Path | None:
    """The environment that the process runs in, or None if it may not be looked at."""
    import psutil

    for look in (lambda: interpreter(process), lambda: Path(process.cwd(), process.cmdline()[1])):
        try:
            path = look()
        except (psutil.Error, OSError, IndexError):  # no permission, or it is gone
            continue
        for folder in (path.parent.parent, path.parent):  # the second one for conda on Windows
            if (folder / "share" / "jupyter").is_dir():
                return folder
    return None


def shared_folders() -> list[Path]:
    """Where JupyterLab looks for extensions whatever its environment."""
    from jupyter_core.paths import SYSTEM_JUPYTER_PATH, jupyter_data_dir

    return [Path(folder) for folder in (jupyter_data_dir(), *SYSTEM_JUPYTER_PATH)]


# Data and weights --------------------------------------------------------------------------------


def look_at_digits() -> tuple:
    """Only looks: whether a mirror answers shows when the first lesson asks it."""
    from course_utils.data import MNIST_FILES, data_root, has_checksum

    root, chosen = data_root(), os.environ.get("COURSE_DATA")
    if chosen and not root.is_dir():
        fix = "Correct COURSE_DATA, or unset it and restart the kernel."
        return False, f"COURSE_DATA is {root}, which does not exist: embedded digits only", fix
    folder = root / "MNIST" / "raw"
    lacking = [name for name, md5 in MNIST_FILES.items() if not has_checksum(folder / name, md5)]
    if not lacking:
        return True, f"real MNIST in {folder}"
    existing = next(place for place in (folder, *folder.parents) if place.is_dir())
    damaged = [name for name in lacking if (folder / name).exists()]
    state = f"damaged in {folder} ({', '.join(damaged)})" if damaged else f"not in {folder}"
    if os.access(existing, os.W_OK):
        return (
            None,
            f"real MNIST is {state}; the first lesson downloads it (12 MB) or takes the embedded digits",
        )
    fix = "Put the four .gz files of MNIST there, or set COURSE_DATA to a folder that has or may have them."
    return False, f"real MNIST is {state}, which cannot be written: embedded digits only", fix


def look_at_checkpoints() -> tuple:
    """Reads the header of every file that ships; a truncated one fails there."""
    from safetensors import SafetensorError, safe_open

    from course_utils.data import project_root

    folders = (project_root() / "data" / "checkpoints", Path(__file__).parent / "shipped" / "checkpoints")
    files = next((found for folder in folders if (found := sorted(folder.glob("*.safetensors")))), [])
    fix = f"Run `git -C {project_root()} checkout -- data/checkpoints`."
    if not files:
        return False, f"none in {folders[0]}", fix
    damaged = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                file.metadata()
        except (SafetensorError, OSError):
            damaged.append(path.name)
    if damaged:
        return False, f"damaged: {', '.join(damaged)}", fix
    return True, f"{len(files)} in {files[0].parent}"


EXAMINATIONS = {
    "Python": look_at_python,
    "Course": look_at_course,
    "PyTorch": look_at_torch,
    "Device": look_at_device,
    "Threads": look_at_threads,
    "Memory": look_at_memory,
    "Disk": look_at_disk,
    "Widgets, kernel": look_at_kernel_widgets,
    "Widgets, JupyterLab": look_at_server_widgets,
    "Real digits": look_at_digits,
    "Trained weights": look_at_checkpoints,
}


# What the reader sees ----------------------------------------------------------------------------

SYMBOLS = {
    True: ("✓", "#1a7f37", "well"),
    False: ("✗", "#cf222e", "to mend"),
    None: ("–", "#6e7781", "for your information"),
}


class Report:
    """Findings as a table in a notebook and as lines of text elsewhere."""

    def __init__(self, findings: list[Finding]):
        self.findings = findings

    def summary(self) -> str:
        n_wrong = sum(finding.ok is False for finding in self.findings)
        if not n_wrong:
            return "All is well."
        return "One thing to mend:" if n_wrong == 1 else f"{n_wrong} things to mend:"

    def __repr__(self) -> str:
        width = max(len(finding.name) for finding in self.findings)
        lines = [self.summary()]
        for name, ok, found, fix in self.findings:
            lines.append(f"{SYMBOLS[ok][0]} {name:{width}}  {found}")
            if fix:
                lines.append(f"  {'':{width}}  → {fix}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = []
        for name, ok, found, fix in self.findings:
            symbol, colour, meaning = SYMBOLS[ok]
            command = re.sub(r"`(.+?)`", r"<code>\1</code>", html.escape(fix))
            advice = f'<div style="margin-top:2px"><b>→ {command}</b></div>' if fix else ""
            cell = '<td style="text-align:left;vertical-align:top;padding:4px 10px'
            rows.append(
                f'<tr>{cell};color:{colour};font-weight:bold" role="img" aria-label="{meaning}">{symbol}</td>'
                f'{cell};white-space:nowrap">{html.escape(name)}</td>'
                f'{cell};overflow-wrap:anywhere">{html.escape(found)}{advice}</td></tr>'
            )
        caption = (
            f'<caption style="text-align:left;font-weight:bold;padding:4px 10px">{self.summary()}</caption>'
        )
        style = "font-size:1em;max-width:60em;margin-left:0"
        return f'<table style="{style}">{caption}<tbody>{"".join(rows)}</tbody></table>'


def report(findings: list[Finding]) -> None:
    """Show the findings: a table in a notebook, text elsewhere."""
    try:
        from IPython.display import display
    except ImportError:
        display = print
    display(Report(findings))


NO_SLIDER = (
    "If you read this and see no slider, the page cannot show widgets. Look at the two lines on widgets "
    "above, restart JupyterLab, reload the page, and run this cell again."
)


def live_slider():
    """A slider and a bar that follows it in the page, without the kernel; words where widgets do not show."""
    if trouble := try_import("ipywidgets"):
        return Report([Finding("Slider", False, trouble, INSTALL)])
    import ipywidgets

    slider = ipywidgets.IntSlider(value=30, description="Move me:")
    bar = ipywidgets.IntProgress(value=30, bar_style="info")
    ipywidgets.jslink((slider, "value"), (bar, "value"))
    note = ipywidgets.HTML(
        "The bar follows the slider. If it does not, reload the page and run this cell again."
    )
    box = ipywidgets.VBox([ipywidgets.HBox([slider, bar]), note])
    view = box._repr_mimebundle_
    box._repr_mimebundle_ = lambda **choices: view(**choices) | {"text/plain": NO_SLIDER}
    return box
