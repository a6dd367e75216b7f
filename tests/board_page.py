"""What the browser tests of all boards share: a page with the board alone, and a stand-in for the kernel."""

import base64
import importlib.metadata
from pathlib import Path

import anywidget
import numpy as np
from playwright.sync_api import Locator, Page

from course_utils.widgets.shared import STATIC

SITE = "http://localhost/"  # answered by the test itself; everything else is refused

# What anywidget hands to `render`, without a kernel behind it: a Backbone model as far as a board needs one.
# `saves` gathers what Python would hear.
MODEL = """
window.start = async ({ script, state, bytes }) => {
  const unpack = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const values = { ...state };
  for (const [name, text] of Object.entries(bytes)) values[name] = unpack(text);
  const listeners = [];
  window.saves = [];
  window.model = {
    get: (name) => values[name],
    set: (name, value) => {
      if (JSON.stringify(values[name]) === JSON.stringify(value)) return;
      values[name] = value;
      for (const [event, act] of [...listeners]) if (event === `change:${name}`) act();
    },
    save_changes: () => saves.push({ ...values }),
    send: (content) => window.kernel(content), // a test with a kernel brings it
    on: (event, act) => listeners.push([event, act]),
    off: (event, act) => listeners.splice(listeners.findIndex((l) => l[0] === event && l[1] === act), 1),
    listeners,
  };
  window.board = await import(script);
  window.leave = board.default.render({ model, el: document.body });
};
"""

# How each board says which state it has drawn.
DRAWN = (
    '.latent-plane .vae-picture[aria-label^="Decoded at {}."]',
    '.latent-walk .vae-picture[aria-label^="Decoded {}."]',
    '.batch-norm .bn-back[aria-label^="Comes back at {}."]',
    '.feature-maps[data-shows="{}"]',
    '.layer-board[data-shows="{}"]',
    '.class-board[data-shows="{}"]',
    '.photo-board[data-shows="{}"]',
    '.own-photograph[data-shows="{}"]',
)

LEVELS = """(canvases, part) => canvases.map((canvas) => {
  const [left, top, width, height] = part ?? [0, 0, canvas.width, canvas.height];
  return [height, width, [...canvas.getContext("2d").getImageData(left, top, width, height).data]];
})"""

SLIDE = """async ([selector, n, milliseconds]) => {
  const slider = document.querySelector(selector);
  const from = performance.now();
  for (let i = 1; i <= n; i++) {
    slider.value = (((37 * i) % 121) - 60) / 20;
    slider.dispatchEvent(new InputEvent("input", { bubbles: true }));
    const wait = from + (milliseconds * i) / n - performance.now();
    if (wait > 0) await new Promise((go) => setTimeout(go, wait));
  }
}"""

DRAWS = """() => {
  window.draws = 0;
  const put = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function (...all) { draws++; put.apply(this, all); };
}"""

# What a board shows, and whether that is another picture than before.
PICTURES = "(board) => [...board.querySelectorAll('canvas')].map((canvas) => canvas.toDataURL()).join()"
CHANGED = f"([board, before]) => ({PICTURES})(board) !== before"

DELAYS = """() => {
  window.delays = [];
  const picture = () => document.querySelector(".vae-picture").toDataURL();
  let since, before;
  const probe = () => {
    if (picture() === before) return requestAnimationFrame(probe);
    delays.push(performance.now() - since);
  };
  document.addEventListener("keydown", (event) => {
    [since, before] = [event.timeStamp, picture()];
    requestAnimationFrame(probe);
  }, true);
}"""


def show(page: Page, board: anywidget.AnyWidget, script: str = "board.mjs", body: str = "<body>") -> None:
    """The board on a blank page, drawn; `page.problems` gathers what goes wrong."""
    files = {"board.mjs": board._esm, **{path.name: path.read_text() for path in STATIC.glob("*.js")}}

    def answer(route):
        name = route.request.url.removeprefix(SITE)
        if name == "":
            route.fulfill(body=f"<!doctype html><style>{board._css}</style>{body}", content_type="text/html")
        elif name in files:
            route.fulfill(body=files[name], content_type="text/javascript")
        elif name != "favicon.ico":
            page.problems.append(f"asked the network for {route.request.url}")
            route.abort()

    watch(page)
    page.route("**/*", answer)
    page.goto(SITE)
    page.add_script_tag(content=MODEL)
    names = [name for name in board.trait_names(sync=True) if not name.startswith("_")]
    values = {name: getattr(board, name) for name in names if name not in ("layout", "tabbable", "tooltip")}
    packed = {name: base64.b64encode(v).decode() for name, v in values.items() if isinstance(v, bytes)}
    state = {name: value for name, value in values.items() if name not in packed}
    page.evaluate("start", {"script": SITE + script, "state": state, "bytes": packed})
    wait_for_state(page, board.state.text())


def watch(page: Page) -> None:
    """From now on `page.problems` gathers the errors of its scripts, each with where it comes from."""
    page.problems = []
    page.on("pageerror", lambda error: page.problems.append(error.stack or str(error)))
    page.on("console", lambda m: m.type == "error" and page.problems.append(f"{m.text} {m.location['url']}"))


def stay_within(page: Page, folder: Path) -> None:
    """From now on the page opens files of this folder only; whatever else it asks for is a problem."""

    def answer(route):
        if route.request.url.startswith(folder.as_uri()):
            return route.continue_()
        page.problems.append(f"asked for {route.request.url}")
        route.abort()

    page.route(lambda url: not url.startswith(("blob:", "data:")), answer)


def load_axe(page: Page) -> None:
    """axe-core as `axe` of the page, from the package that brings it."""
    files = importlib.metadata.files("axe-playwright-python")
    (axe,) = [path.locate() for path in files if path.name == "axe.min.js"]
    page.evaluate(axe.read_text())


def wait_for_state(page: Page, text: str) -> None:
    """Wait until a board has drawn the state that `text` speaks of, and check the line below the picture."""
    picture = ", ".join(DRAWN).replace("{}", text)
    # In one look: JupyterLab takes a board out of the page and puts it back while it scrolls.
    field = "document.querySelector(picture)?.closest('.vae-board').querySelector('.vae-state').value"
    page.wait_for_function(f"([picture, text]) => {field} === text", arg=[picture, text])


def must_read_alike(page: Page, state, texts: list[str], read: str) -> None:
    """The page's `read`, JavaScript that reads and writes `text`, does what `parse` does, errors too."""
    both = f"(text) => {{ try {{ return {read} }} catch (error) {{ return error.message }} }}"
    for text in texts:
        try:
            expected = state.parse(text).text()
        except ValueError as error:
            expected = str(error)
        assert page.evaluate(both, text) == expected


def slide(page: Page, slider: str, n: int, milliseconds: int = 0) -> None:
    """n events of a slider from -3 to 3, all over it, spread over so much time."""
    page.evaluate(SLIDE, [slider, n, milliseconds])


def wait_for_save(page: Page, values: dict) -> None:
    """Wait until Python has heard of these values of the board."""
    heard = "([name, value]) => JSON.stringify(saves.at(-1)?.[name]) === JSON.stringify(value)"
    page.wait_for_function(f"values => Object.entries(values).every({heard})", arg=values)


def all_coloured(page: Page | Locator, selector: str, part: list[int] | None = None) -> np.ndarray:
    """These canvases, (n, height, width, 4), the last of each four 0 where nothing is drawn.

    `part` is [left, top, width, height] of each.
    """
    found = page.locator(selector).evaluate_all(LEVELS, part)
    return np.stack([np.array(values).reshape(height, width, 4) for height, width, values in found])


def all_drawn(page: Page | Locator, selector: str, part: list[int] | None = None) -> np.ndarray:
    """The grey levels of these canvases: (n, height, width); `part` is [left, top, width, height] of each."""
    rgba = all_coloured(page, selector, part)
    assert (rgba[..., :3] == rgba[..., :1]).all()
    return rgba[..., 0]


def drawn(page: Page | Locator, selector: str = ".vae-picture", left: int = 0, top: int = 0) -> np.ndarray:
    """The grey levels of the first of these canvases, 28 x 28 pixels of it: (28, 28)."""
    return all_drawn(page, f"{selector} >> nth=0", [left, top, 28, 28])[0]


def count_draws(page: Page) -> None:
    """From now on `draws` of the page counts the pictures that are put on a canvas."""
    page.evaluate(DRAWS)


def key_to_pixel(page: Page, keys: list[str], times: int = 25) -> list[float]:
    """Milliseconds from a key's own time stamp to the first frame with another picture, shortest first."""
    page.evaluate(DELAYS)
    for n in range(times):
        page.keyboard.press(keys[n % len(keys)])
        page.wait_for_function("n => delays.length > n", arg=n)
    return sorted(page.evaluate("delays"))
