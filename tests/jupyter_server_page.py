"""What the tests of lessons in JupyterLab and in Notebook 7 share: a server, and a page with a lesson."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from board_page import wait_for_state, watch
from playwright.sync_api import Locator, Page

from course_utils.recipes import checkpoint_path

LESSONS = Path(__file__).parent.parent / "notebooks"

# Where an app shows a notebook. Each in a workspace of its own, or Lab brings the lesson before back to the
# front and runs that.
PLACES = {"jupyterlab": "lab/workspaces/{lesson}/tree/{notebook}", "notebook": "notebooks/{notebook}"}

# What the cells of the lesson in front have raised.
RAISED = """[...jupyterapp.shell.currentWidget.content.model.cells]
  .flatMap((cell) => (cell.type === "code" ? cell.outputs.toJSON() : []))
  .filter((output) => output.output_type === "error")
  .map((output) => `${output.ename}: ${output.evalue}`)"""


class Server(NamedTuple):
    """One of the two apps at work."""

    address: str
    folder: Path  # that it shows
    app: str


@contextmanager
def serve(app: str, home: Path) -> Iterator[Server]:
    """`python -m app` with settings of its own, as long as the block lasts; `home` is an empty folder."""
    folder = home / "notebooks"
    folder.mkdir()
    places = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR JUPYTERLAB_SETTINGS_DIR"
    places = {name: str(home / name) for name in f"{places} JUPYTERLAB_WORKSPACES_DIR IPYTHONDIR".split()}
    news = home / "JUPYTERLAB_SETTINGS_DIR/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = "--no-browser --allow-root --ip=127.0.0.1 --ServerApp.port_retries=0 --IdentityProvider.token= "
    options += "--ServerApp.disable_check_xsrf=True --expose-app-in-browser "
    options += f"--port={port} --ServerApp.root_dir={folder}"
    course = {"COURSE_PROFILE": "smoke", "COURSE_DATA_KIND": "embedded", "COURSE_THREADS": "1"}
    course |= {"OMP_NUM_THREADS": "1", "COURSE_LEDGER": str(home / "ledger.csv")}
    server = subprocess.Popen(
        [sys.executable, "-m", app, *options.split()],
        env={**os.environ, **places, **course},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    log = []
    for line in server.stderr:
        log.append(line)
        if "is running at" in line:
            break
    else:
        pytest.fail(f"{app} did not start:\n" + "".join(log[-20:]))
    threading.Thread(target=server.stderr.read, daemon=True).start()  # nobody reads on; keep the pipe empty
    try:
        yield Server(f"http://127.0.0.1:{port}", folder, app)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


def open_and_run(page: Page, server: Server, notebook: str) -> None:
    """Open a lesson that lies in the server's folder and run its cells; `page.problems` gathers errors."""
    watch(page)
    place = PLACES[server.app].format(lesson=notebook[:2], notebook=notebook)
    page.goto(f"{server.address}/{place}")
    shown = "window.jupyterapp?.shell.currentWidget"
    is_open = f"{shown}?.context?.path === '{notebook}'"
    is_idle = f"{shown}?.sessionContext?.session?.kernel?.status === 'idle'"
    page.wait_for_function(f"{is_open} && {is_idle}", timeout=60_000)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    raised = page.evaluate(RAISED)
    assert not raised, raised


def open_part(page: Page, server: Server, notebook: str, needed: str) -> None:
    """Open a copy of a lesson that has its set-up and only the other cells with this pattern, and run it."""
    lesson = nbformat.read(LESSONS / notebook, as_version=4)
    code = [cell for cell in lesson.cells if cell.cell_type == "code"]
    first = [cell for cell in code if cell.id in ("parameters", "set-up")]
    lesson.cells = first + [cell for cell in code if re.search(needed, cell.source)]
    nbformat.write(lesson, server.folder / notebook)
    open_and_run(page, server, notebook)


def open_boards(page: Page, server: Server, notebook: str, weights: str) -> None:
    """The part of a lesson that has its boards and what they need."""
    if not checkpoint_path(weights, "embedded").exists():
        pytest.skip(f"the weights of {weights} are not there yet: python -m course_utils.recipes {weights}")
    open_part(page, server, notebook, r"load_digits\(|load_photographs\(|load_shipped\(.hier.|widgets\.")


def find(page: Page, board: str) -> Locator:
    """The board of this class, once it is there, in view."""
    found = page.locator(f".vae-board.{board}")
    found.wait_for(state="attached", timeout=60_000)
    found.scroll_into_view_if_needed()
    return found


def focused(page: Page) -> str:
    return page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.className")


def of_boards(problems: list[str]) -> list[str]:
    """Those of our modules: anywidget imports them from blobs. The app's own are not ours to judge."""
    return [problem for problem in problems if "blob:" in problem]


def push(page: Page, board: Locator, slider: str, state: str) -> None:
    """Twenty steps of this slider to the right, +1.00, after which the board is in this state."""
    board.get_by_role("slider", name=slider).focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    wait_for_state(page, state)
    assert focused(page) == slider, "the app leaves the arrows alone"
