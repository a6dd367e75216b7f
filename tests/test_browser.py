"""Boards in a browser: first their page alone, with a stand-in for the kernel; then one notebook in Lab.

conftest.py finds Chromium. The second part opens any notebook of the course: add its name to NOTEBOOKS.
"""

import base64
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from course_utils import distributions
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.vae import VAE
from course_utils.widgets import LatentPlane, PlaneState
from course_utils.widgets.shared import STATIC

pytestmark = pytest.mark.browser

LESSONS = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = ["01_basic_vae.ipynb"]  # whose first board starts at z = (0.5, -1.25)


# The page alone ---------------------------------------------------------------------------------

SITE = "http://localhost/"  # answered by the test itself; everything else is refused

PIXELS = """
window.pixels = (selector = ".vae-picture", left = 0, top = 0) =>
  [...document.querySelector(selector).getContext("2d").getImageData(left, top, 28, 28).data];
"""

# What anywidget hands to `render`, without a kernel behind it: a Backbone model as far as a board needs one.
MODEL = """
window.start = async ({ script, state, weights }) => {
  const bytes = Uint8Array.from(atob(weights), (c) => c.charCodeAt(0));
  const values = { ...state, weights: new DataView(bytes.buffer) };
  const listeners = [];
  window.saves = [];
  window.model = {
    get: (name) => values[name],
    set: (name, value) => {
      if (JSON.stringify(values[name]) === JSON.stringify(value)) return;
      values[name] = value;
      for (const [event, act] of [...listeners]) if (event === `change:${name}`) act();
    },
    save_changes: () => saves.push(JSON.stringify(values.z)),
    on: (event, act) => listeners.push([event, act]),
    off: (event, act) => listeners.splice(listeners.findIndex((l) => l[0] === event && l[1] === act), 1),
    listeners,
  };
  window.board = await import(script);
  window.leave = board.default.render({ model, el: document.body });
};
"""


def a_board(likelihood=distributions.Bernoulli) -> tuple[VAE, LatentPlane]:
    torch.manual_seed(0)
    model = VAE(latent_dim=2, hidden=(64,), likelihood=likelihood())
    with torch.no_grad():  # the weights of a new model are small: without this all its pictures are grey
        model.decoder[0].weight *= 4
        model.decoder[-1].weight *= 3
    return model, LatentPlane(model, torch.randn(500, 2), torch.arange(500) % 10, start=(0.5, -1.25))


def show(page, board: LatentPlane, script: str = "board.mjs", **state) -> None:
    """The board on a blank page, drawn; `page.problems` gathers what goes wrong."""
    files = {"board.mjs": board._esm, **{path.name: path.read_text() for path in STATIC.glob("*.js")}}

    def answer(route):
        name = route.request.url.removeprefix(SITE)
        if name == "":
            route.fulfill(body=f"<!doctype html><style>{board._css}</style><body>", content_type="text/html")
        elif name in files:
            route.fulfill(body=files[name], content_type="text/javascript")
        elif name != "favicon.ico":
            page.problems.append(f"asked the network for {route.request.url}")
            route.abort()

    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type == "error" and page.problems.append(message.text))
    page.route("**/*", answer)
    page.goto(SITE)
    page.add_script_tag(content=PIXELS + MODEL)
    names = [name for name in board.trait_names(sync=True) if not name.startswith("_")]
    values = {name: getattr(board, name) for name in names if name not in ("layout", "tabbable", "tooltip")}
    weights = base64.b64encode(values.pop("weights")).decode()
    page.evaluate("start", {"script": SITE + script, "state": {**values, **state}, "weights": weights})
    wait_for_state(page, board.state.text())


def wait_for_state(page, text: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('.vae-picture').ariaLabel?.startsWith(`Decoded at ${text}.`)",
        arg=text,
    )
    assert page.input_value(".vae-state") == text


def drawn(page, *where) -> np.ndarray:
    """The grey levels of the decoded picture, or of one picture elsewhere: (28, 28)."""
    rgba = np.array(page.evaluate("where => pixels(...where)", where)).reshape(28, 28, 4)
    assert (rgba[..., :3] == rgba[..., :1]).all()
    return rgba[..., 0]


@torch.inference_mode()
def decoded(model: VAE, z: tuple[float, float]) -> np.ndarray:
    return (255 * model.likelihood.mean(model.decode(torch.tensor([z])))[0, 0]).round().numpy()


@pytest.fixture
def plane(page):
    """A page with a board of a small random model, and after the test no error and no request."""
    model, board = a_board()
    show(page, board)
    page.vae = model
    yield page
    assert page.problems == []


def small_models() -> dict[str, nn.Module]:
    """One of each kind with two latents, and batch norms that have seen something."""
    torch.manual_seed(0)
    models = {
        name: a_board(getattr(distributions, name))[0]
        for name in ("Bernoulli", "GaussianShared", "GaussianPerPixel", "DiscretisedLogistic")
    }
    models["batch norm"] = VAE(latent_dim=2, hidden=(64, 32), batch_norm=True)
    models["convolutions"] = ConvVAE((6, 10), hidden=64, latent_dim=2)
    likelihood = distributions.DiscretisedLogistic()
    models["convolutions, logistic"] = ConvVAE((6, 10), hidden=64, latent_dim=2, likelihood=likelihood)
    for layer in [layer for model in models.values() for layer in model.modules()]:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.2, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 2.0)
            nn.init.normal_(layer.bias)
    for name in ("GaussianShared", "GaussianPerPixel", "DiscretisedLogistic"):
        with (
            torch.no_grad()
        ):  # no sigmoid flattens these: with weights so large 16 bits would be 2 levels off
            models[name].decoder[-1].weight /= 3
    return {name: model.eval() for name, model in models.items()}


@pytest.mark.parametrize("name", small_models())
def test_the_page_draws_what_torch_decodes(page, name):
    model = small_models()[name]
    board = LatentPlane(model, torch.randn(500, 2), torch.arange(500) % 10, start=(0.5, -1.25))
    show(page, board, script="latent_plane.js")  # the files as they are, importing each other
    state, worst = board.state, 0
    for z in 1.2 * torch.randn(12, 2):
        state = state.at(*z.tolist())
        page.evaluate("z => model.set('z', z)", state.z)  # as the kernel would
        wait_for_state(page, state.text())
        picture = drawn(page)
        assert picture.std() > 10, "there is something to see"
        worst = max(worst, np.abs(picture - decoded(model, state.z)).max())
    print(f"\n{name}: page and torch differ by at most {worst:.0f} grey levels")
    assert worst <= 1
    assert page.problems == []


def test_keys_move_the_point(plane):
    plane.focus(".lp-plane")
    for key, text in {
        "ArrowRight": "z = 0.60, -1.25",
        "ArrowUp": "z = 0.60, -1.15",
        "Shift+ArrowLeft": "z = 0.10, -1.15",
        "Shift+ArrowDown": "z = 0.10, -1.65",
        "Home": "z = 0.50, -1.25",
        "ArrowLeft": "z = 0.40, -1.25",
        "r": "z = 0.50, -1.25",
    }.items():
        plane.keyboard.press(key)
        wait_for_state(plane, text)
    assert plane.get_attribute(".lp-plane", "data-lm-suppress-shortcuts") == "true"
    plane.wait_for_function("document.querySelector('[aria-live]').textContent.includes('z = 0.50, -1.25')")
    plane.wait_for_function("saves.at(-1) === '[0.5,-1.25]'")  # Python hears of it, once the keys rest


def at_fraction(page, right: float, down: float) -> tuple[float, float]:
    box = page.locator(".lp-plane").bounding_box()
    return box["x"] + right * box["width"], box["y"] + down * box["height"]


def test_a_mouse_drags_the_point(plane):
    extent = plane.evaluate("model.get('extent')")
    plane.mouse.move(*at_fraction(plane, 0.5, 0.5))
    plane.mouse.down()
    wait_for_state(plane, "z = 0.00, 0.00")
    plane.mouse.move(*at_fraction(plane, 0.75, 0.25), steps=5)
    wait_for_state(plane, PlaneState(extent=extent).at(extent / 2, extent / 2).text())
    plane.mouse.move(*at_fraction(plane, 1.2, 0.5), steps=5)  # held, also outside the plane
    wait_for_state(plane, PlaneState(extent=extent).at(extent, 0).text())
    plane.mouse.up()
    assert plane.evaluate("saves.length") >= 1, "Python hears of it when the point is let go"
    plane.mouse.move(*at_fraction(plane, 0.1, 0.1))
    assert plane.evaluate("document.activeElement.className") == "lp-plane", "and the keys go on from here"
    wait_for_state(plane, PlaneState(extent=extent).at(extent, 0).text())


def test_a_finger_drags_the_point(plane):
    extent = plane.evaluate("model.get('extent')")
    finger = plane.context.new_cdp_session(plane)

    def touch(kind, *where):
        points = [dict(zip("xy", at_fraction(plane, *where), strict=True))] if where else []
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.5, 0.5)
    touch("touchMove", 0.5, 0.6)
    touch("touchMove", 0.5, 0.75)
    touch("touchEnd")
    wait_for_state(plane, PlaneState(extent=extent).at(0, -extent / 2).text())


def test_a_thousand_moves_leave_the_last_one_drawn(plane):
    plane.evaluate("""() => {
      window.draws = 0;
      const put = CanvasRenderingContext2D.prototype.putImageData;
      CanvasRenderingContext2D.prototype.putImageData = function (...all) { draws++; put.apply(this, all); };
      const it = document.querySelector(".lp-plane");
      it.addEventListener("pointerdown", (event) => (window.pointerId = event.pointerId));
    }""")
    plane.mouse.move(*at_fraction(plane, 0.5, 0.5))
    plane.mouse.down()
    wait_for_state(plane, "z = 0.00, 0.00")
    plane.evaluate("""() => {
      const it = document.querySelector(".lp-plane");
      const { left, top, width, height } = it.getBoundingClientRect();
      draws = 0;
      for (let i = 1; i <= 1000; i++) {
        const [clientX, clientY] = [left + (width * i) / 1000, top + height / 2];
        it.dispatchEvent(new PointerEvent("pointermove", { pointerId, clientX, clientY, bubbles: true }));
      }
    }""")
    last = PlaneState(extent=plane.evaluate("model.get('extent')")).at(99, 0)
    wait_for_state(plane, last.text())
    assert plane.evaluate("draws") == 1
    assert np.abs(drawn(plane) - decoded(plane.vae, last.z)).max() <= 1


def test_a_key_is_answered_at_once(plane, record_property):
    """From the key's own time stamp to the first frame that finds other pixels."""
    plane.evaluate("""() => {
      window.delays = [];
      let since, before;
      const probe = () => {
        if (String(pixels()) === before) return requestAnimationFrame(probe);
        delays.push(performance.now() - since);
      };
      document.addEventListener("keydown", (event) => {
        [since, before] = [event.timeStamp, String(pixels())];
        requestAnimationFrame(probe);
      }, true);
    }""")
    plane.focus(".lp-plane")
    for n in range(25):
        plane.keyboard.press(["ArrowRight", "ArrowUp"][n % 2])
        plane.wait_for_function("n => delays.length > n", arg=n)
    delays = plane.evaluate("delays")
    median, slow = statistics.median(delays), sorted(delays)[23]
    record_property("key_to_pixel_ms", median)
    print(f"\nkey to pixel: median {median:.0f} ms, p95 {slow:.0f} ms")
    assert median < 500


def test_reset_and_size(plane):
    plane.focus(".lp-plane")
    plane.keyboard.press("Shift+ArrowUp")
    wait_for_state(plane, "z = 0.50, -0.75")
    plane.click("text=Reset")
    wait_for_state(plane, "z = 0.50, -1.25")

    def width():
        return plane.locator(".vae-picture").bounding_box()["width"]

    normal = width()
    plane.click("text=Large")
    assert width() > 1.4 * normal
    assert plane.evaluate("model.get('large')") is True
    plane.click("text=Large")
    assert width() == normal


def test_a_state_is_copied_and_pasted(plane):
    plane.context.grant_permissions(["clipboard-read", "clipboard-write"])
    plane.click("text=Copy")
    plane.wait_for_selector("text=Copied")
    assert plane.evaluate("navigator.clipboard.readText()") == "z = 0.50, -1.25"

    plane.evaluate("navigator.clipboard.writeText('(-0.75, 1)')")
    plane.focus(".vae-state")
    plane.keyboard.press("ControlOrMeta+v")
    wait_for_state(plane, "z = -0.75, 1.00")

    plane.fill(".vae-state", "z = 9, banana")
    plane.keyboard.press("Enter")
    plane.wait_for_selector("text=is not a point of this plane")
    assert plane.evaluate("model.get('z')") == [-0.75, 1]
    assert plane.get_attribute(".vae-state", "aria-invalid") == "true"
    plane.keyboard.press("Escape")
    assert plane.input_value(".vae-state") == "z = -0.75, 1.00"
    assert plane.text_content(".vae-message") == ""


def test_the_page_and_python_read_the_same_states(plane):
    texts = ["z = 1, -2", "1 -2", "(1.005, -2.0)", " [1; -2.] ", "z=1.00,−2.00", "z=+.5,0", "-.004 -0"]
    texts += ["", "banana", "z = 1", "1, 2, 3", "nan, 0", "z = 9, 0", "1e400, 0", "0x1, 2", "1,,2", "z 1 2"]
    extent = plane.evaluate("model.get('extent')")
    for text in texts:
        try:
            expected = PlaneState(extent=extent).parse(text).text()
        except ValueError as error:
            expected = str(error)
        read = "try { return board.write(board.read(text, extent)) } catch (error) { return error.message }"
        assert plane.evaluate(f"([text, extent]) => {{ {read} }}", [text, extent]) == expected


def test_the_map_shows_the_decoder_all_over_the_plane(plane):
    plane.click("text=Pictures")
    plane.wait_for_function("document.querySelector('.lp-map').dataset.tiles === '225'")
    assert np.abs(drawn(plane, ".lp-map", 7 * 28, 7 * 28) - decoded(plane.vae, (0.0, 0.0))).max() <= 1
    plane.click(".lp-chips >> text=7")
    plane.wait_for_selector(".lp-chosen text")
    assert set(plane.locator(".lp-chosen text").all_text_contents()) == {"7"}


def test_a_board_that_is_closed_lets_go(plane):
    plane.focus(".lp-plane")
    plane.keyboard.press("ArrowRight")
    plane.evaluate("leave()")
    assert plane.evaluate("saves.at(-1)") == "[0.6,-1.25]"
    assert plane.evaluate("model.listeners.length") == 0


# One notebook in JupyterLab ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab with settings of its own: (its address, the folder that it shows)."""
    home = tmp_path_factory.mktemp("lab")
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
    options += "--ServerApp.disable_check_xsrf=True --LabApp.expose_app_in_browser=True "
    options += f"--port={port} --ServerApp.root_dir={folder}"
    course = {"COURSE_PROFILE": "smoke", "COURSE_DATA_KIND": "embedded", "COURSE_THREADS": "1"}
    course |= {"OMP_NUM_THREADS": "1", "COURSE_LEDGER": str(home / "ledger.csv")}
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options.split()],
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
        pytest.fail("JupyterLab did not start:\n" + "".join(log[-20:]))
    threading.Thread(target=server.stderr.read, daemon=True).start()  # nobody reads on; keep the pipe empty
    yield f"http://127.0.0.1:{port}", folder
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(timeout=20)


def open_and_run(page, lab, notebook: str) -> None:
    """Open a copy of a lesson, since Lab saves what it opens, and run all of its cells."""
    address, folder = lab
    shutil.copy(LESSONS / notebook, folder / notebook)
    # A workspace of its own, or Lab brings the lesson before back to the front and runs that.
    page.goto(f"{address}/lab/workspaces/{notebook[:2]}/tree/{notebook}")
    shown = "window.jupyterapp?.shell.currentWidget"
    is_open = f"{shown}?.context?.path === '{notebook}'"
    is_idle = f"{shown}?.sessionContext?.session?.kernel?.status === 'idle'"
    page.wait_for_function(f"{is_open} && {is_idle}", timeout=60_000)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")


def test_the_slider_of_lesson_00_moves_its_bar(page, lab):
    open_and_run(page, lab, "00_start_here.ipynb")
    slider = page.locator(".widget-slider .noUi-handle").first
    slider.wait_for(timeout=120_000)
    slider.scroll_into_view_if_needed()
    width = "document.querySelector('.progress-bar').style.width"
    before = page.evaluate(width)
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{width} !== '{before}'")


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_board_answers_in_jupyterlab(page, lab, notebook):
    problems = []  # of our modules: anywidget imports them from blobs
    page.on("pageerror", lambda error: problems.append(error.stack or str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(f"{m.text} {m.location['url']}"))
    open_and_run(page, lab, notebook)
    board = page.locator(".vae-board").first
    board.wait_for(timeout=240_000)
    plane = board.locator(".lp-plane")
    plane.scroll_into_view_if_needed()

    wait_for_state(page, "z = 0.50, -1.25")
    page.add_script_tag(content=PIXELS)
    before = drawn(page)
    plane.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for_state(page, "z = 1.00, -1.25")
    assert page.evaluate("document.activeElement.className") == "lp-plane", "Lab leaves the arrows alone"
    assert np.abs(drawn(page) - before).sum() > 1000
    page.keyboard.press("r")
    wait_for_state(page, "z = 0.50, -1.25")
    assert [problem for problem in problems if "blob:" in problem] == []
