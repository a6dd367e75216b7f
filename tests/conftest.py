"""What every test has: one torch thread, a seed, none of the caller's settings; real data, Chromium."""

import importlib.util
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Before any module of the course reads them. COURSE_DATA stays: it says where the real data are.
for name in ("PROFILE", "DEVICE", "THREADS", "DATA_KIND", "LEDGER"):
    os.environ.pop(f"COURSE_{name}", None)
os.environ["MPLBACKEND"] = "Agg"
pytest.register_assert_rewrite("board_page")  # its asserts say as much as those of a test
torch.set_num_threads(1)  # tests run side by side, one process a core


@pytest.fixture(autouse=True)
def seed():
    """Each test draws the same numbers, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The root of real data; skips the test where MNIST is not there."""
    root = Path(os.environ.get("COURSE_DATA") or ROOT / "data").expanduser().resolve()
    if not (root / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"no real MNIST in {root}; set COURSE_DATA to the folder that holds MNIST/raw")
    return root


@pytest.fixture
def load_tool():
    """load_tool("install") is the module tools/install.py."""

    def load(name: str):
        if str(ROOT / "tools") not in sys.path:
            sys.path.insert(0, str(ROOT / "tools"))  # the tools import one another
        spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


# The browser ------------------------------------------------------------------------------------


def find_chromium() -> str | None:
    """A Chromium on the PATH, or the one that `playwright install chromium` fetched."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"):
        if found := shutil.which(name):
            return found
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:  # the conda environment comes without it
        return None
    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def pytest_collection_modifyitems(items):
    """Browser tests that take longest begin first; where there is no Chromium, they say so, or they fail.

    Files run side by side: one that starts a Jupyter server or builds the book must not be the last to begin.
    """
    items.sort(key=lambda item: not {"lab", "notebook7", "site"} & set(item.fixturenames))
    marked = [item for item in items if item.get_closest_marker("browser")]
    if not marked or os.environ.get("COURSE_REQUIRE_BROWSER") == "1" or find_chromium():
        return
    for item in marked:
        item.add_marker(pytest.mark.skip(reason="no Chromium here; CI has one (COURSE_REQUIRE_BROWSER=1)"))


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium; a test that asks for it is marked `browser`."""
    path = find_chromium()
    if path is None:
        pytest.fail("COURSE_REQUIRE_BROWSER=1, but there is no Chromium: apt install chromium")
    return path


@pytest.fixture(scope="session")
def browser_type_launch_args(chromium):
    """pytest-playwright's own fixture, made to use that Chromium, also as root and in a container."""
    return {"executable_path": chromium, "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
