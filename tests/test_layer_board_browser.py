"""The layer board in a browser: its page alone, with a stand-in for the kernel."""

import base64
import statistics

import numpy as np
import pytest
import torch
from board_page import (
    all_drawn,
    drawn,
    key_to_pixel,
    must_read_alike,
    show,
    slide,
    wait_for_save,
    wait_for_state,
)
from test_layer_board import BAD, conv, mlp

from course_utils.data import Images
from course_utils.models.hierarchical_vae import HierarchicalVAE
from course_utils.widgets import LayerBoard
from course_utils.widgets.layers import noise

pytestmark = pytest.mark.browser

CODES = "() => document.querySelector('.layer-board').codes().map((z) => z.map((picture) => [...picture]))"
SHIFT = ".lb-row [data-name=shift]"
CLASHES = """() => {
  const box = (node) => node.getBoundingClientRect();
  const board = document.querySelector(".vae-board");
  const all = [...board.querySelectorAll("button, select, input, output, canvas, p:not(.vae-spoken), span")];
  const out = all.filter((node) => box(node).right > box(board).right);
  const found = out.map((node) => `${node.outerHTML} sticks out`);
  for (const row of document.querySelectorAll(".lb-row")) {
    const things = "button, select, output, .lb-pill, .lb-kl, .lb-name, [type=range]";
    const parts = [...row.querySelectorAll(things)];
    for (const one of parts) for (const other of parts) {
      const [a, b] = [box(one), box(other)];
      const beside = a.left > b.right - 2 || b.left > a.right - 2;
      const under = a.top > b.bottom - 2 || b.top > a.bottom - 2;
      if (one !== other && !beside && !under) found.push(`${one.outerHTML} overlaps ${other.outerHTML}`);
    }
    for (const node of row.querySelectorAll("button, .lb-pill, .lb-name span")) {
      if (node.scrollWidth > node.clientWidth + 1) found.push(`${node.outerHTML} is cut`);
    }
  }
  return found;
}"""
KERNEL = """window.kernel = async ({ line }) => {
  asked.push(line);
  const text = await answer(line);
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const buffers = [new DataView(bytes.buffer)];
  for (const [event, act] of [...model.listeners]) if (event === "msg:custom") act({ line }, buffers);
};
window.asked = [];"""


def some_blobs(n: int = 24) -> Images:
    blobs = torch.nn.functional.interpolate(torch.rand(n, 1, 7, 7), scale_factor=4) > 0.6
    return Images(blobs.to(torch.uint8) * 255, torch.arange(n) % 10, {})


def a_board(model: HierarchicalVAE | None = None, in_page: bool | None = None) -> LayerBoard:
    """A small random model whose batch norms have seen something, and ten images to start from."""
    torch.manual_seed(0)
    return LayerBoard(model or mlp(), some_blobs(), in_page=in_page)


def go_to(page, state) -> None:
    """As the kernel would."""
    page.evaluate("line => model.set('line', line)", state.text())
    wait_for_state(page, state.text())


def pictures_on(page, n: int = 12) -> np.ndarray:
    """The grey levels of the pictures: (n, 28, 28)."""
    if n == 1:
        return all_drawn(page, ".vae-picture")
    return np.stack([drawn(page, left=30 * (i % 6), top=30 * (i // 6)) for i in range(n)])


def expected(board, state) -> np.ndarray:
    return 255 * board.draw(state).pictures[:, 0].numpy()


@pytest.fixture
def layers(page):
    """A page with a board of a small random model, and after the test no error and no request."""
    page.board = a_board()
    show(page, page.board)
    yield page
    assert page.problems == []


# What it draws ----------------------------------------------------------------------------------


def states_of(board) -> list:
    """Every mode and start, shifts, temperatures, and layers held between others that sample."""
    state, n = board.state, len(board.levels)
    found = [state, state.all("hold"), state.all("mean"), state.all("sample"), state.from_draw(7).all("hold")]
    found += [state.only(layer) for layer in range(1, n + 1)]
    found += [state.from_draw(12).only(n), state.from_image("5").all("sample").in_mode(n - 1, "hold")]
    found += [state.all("sample").in_mode(1, "hold"), state.all("hold").in_mode(n, "sample").shifted(1, 2.5)]
    warm = state.all("sample").at_temperature(n, 1.6).at_temperature(1, 0.4).resampled(n)
    return [*found, warm.shifted(n, -1.5, board._directions[n - 1][-1].name).shifted(1, 0.75)]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("model", [mlp, conv])
def test_the_page_draws_what_torch_draws(page, model, skip):
    board = a_board(model(skip))
    show(page, board, script="layer_board.js")  # the files as they are, importing each other
    worst = 0
    for state in states_of(board):
        go_to(page, state)
        wanted = expected(board, state)
        found = pictures_on(page, len(wanted))
        assert found.shape == wanted.shape and found.std() > 3, "there is something to see"
        own = 255 * board.draw(state).own[0].numpy()
        worst = max(worst, np.abs(found - wanted).max(), np.abs(all_drawn(page, ".lb-own")[0] - own).max())
    print(f"\npage and torch differ by at most {worst:.2f} grey levels")
    assert worst <= 1.5, "one grey level, after rounding"
    assert page.problems == []


def test_page_and_python_draw_the_same_noise(layers):
    for address in ((1, 1, 1, 70), (9999, 5, 0, 5), (3, 2, 12, 3)):
        found = layers.evaluate("all => [...board.noise(...all)]", list(address))
        np.testing.assert_allclose(np.array(found), noise(*address), rtol=1e-6, atol=1e-7)


def test_codes_that_are_held_or_above_a_change_keep_their_bits(layers):
    state = layers.board.state.all("sample").in_mode(2, "hold")
    go_to(layers, state)
    first = layers.evaluate(CODES)
    for change in (state.shifted(1, 0.5), state.resampled(1), state.in_mode(1, "mean")):
        go_to(layers, change)
        codes = layers.evaluate(CODES)
        assert codes[1:] == first[1:] and codes[0] != first[0]
    before = layers.evaluate("document.querySelector('.vae-picture').toDataURL()")
    go_to(layers, state.in_mode(1, "mean").resampled(3))
    assert layers.evaluate(CODES)[1] == first[1], "what is held does not follow the layer above"
    assert layers.evaluate("document.querySelector('.vae-picture').toDataURL()") == before
    go_to(layers, layers.board.state.all("mean"))
    plain = layers.evaluate(CODES)
    go_to(layers, layers.board.state.all("mean").shifted(3, 2))
    assert all(a != b for a, b in zip(plain, layers.evaluate(CODES), strict=True)), "means below do"
    z = layers.board.draw(layers.board.state.all("mean").shifted(3, 2)).z
    for found, wanted in zip(layers.evaluate(CODES), z, strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_it_says_where_a_held_layer_cuts(layers):
    go_to(layers, layers.board.state.all("sample").in_mode(1, "hold"))
    assert layers.text_content("[data-name=note]") == "Layer 1 is held: nothing above it reaches the pixels."
    assert layers.locator("text=does not reach the pixels").locator("visible=true").count() == 2
    assert layers.locator(".lb-aside").is_visible(), "one picture, and why"
    go_to(layers, layers.board.state)
    assert layers.text_content("[data-name=note]") == "Only layer 2 samples: 12 pictures."
    spread = expected(layers.board, layers.board.state).std(axis=0)
    assert f"spread {np.sqrt((spread**2).mean()):.0f} grey" in layers.text_content("[data-name=spread]")
    go_to(layers, layers.board.state.all("hold"))
    assert layers.text_content("[data-name=note]") == "All layers are held: the reconstruction."


def test_with_skip_paths_nothing_is_cut(page):
    board = a_board(mlp(skip=True))
    show(page, board)
    go_to(page, board.state.all("sample").in_mode(1, "hold"))
    assert page.text_content("[data-name=note]") == "Layers 3 and 2 sample: 12 pictures."
    assert page.locator("text=does not reach the pixels").locator("visible=true").count() == 0


# Hands ------------------------------------------------------------------------------------------


def row_of(page, layer: int):
    return page.get_by_role("group", name=f"Layer {layer}", exact=True)


def test_keys_do_it_all(layers):
    top = row_of(layers, 3)
    top.get_by_role("radio", name="Hold").focus()
    layers.keyboard.press("ArrowRight")
    wait_for_state(layers, "image 3 · 3 mean · 2 sample · 1 mean")
    layers.keyboard.press("ArrowRight")
    wait_for_state(layers, "image 3 · 3 sample · 2 sample · 1 mean")
    top.get_by_role("slider", name="temperature").focus()
    layers.keyboard.press("ArrowLeft")
    wait_for_state(layers, "image 3 · 3 sample T=0.95 · 2 sample · 1 mean")
    top.get_by_role("button", name="resample").press("Enter")
    wait_for_state(layers, "image 3 · 3 sample T=0.95 seed 2 · 2 sample · 1 mean")
    top.get_by_role("combobox").select_option("z 2")
    wait_for_state(layers, "image 3 · 3 sample T=0.95 seed 2 +0.00 along z 2 · 2 sample · 1 mean")
    top.get_by_role("slider", name="shift").press("End")
    last = "image 3 · 3 sample T=0.95 seed 2 +3.00 along z 2 · 2 sample · 1 mean"
    wait_for_state(layers, last)
    wait_for_save(layers, {"line": last})  # Python hears of it
    assert layers.board.state.parse(last).text() == last
    assert np.abs(pictures_on(layers) - expected(layers.board, layers.board.state.parse(last))).max() <= 1.5
    top.get_by_role("button", name="no shift").press("Enter")
    wait_for_state(layers, "image 3 · 3 sample T=0.95 seed 2 +0.00 along z 2 · 2 sample · 1 mean")
    row_of(layers, 1).get_by_role("button", name="only this one").press("Space")
    wait_for_state(layers, "image 3 · 3 hold T=0.95 seed 2 +0.00 along z 2 · 2 hold · 1 sample")
    assert top.get_by_role("slider", name="temperature").is_disabled()
    for node in layers.locator(".vae-board :is(button, input, select)").all():
        assert node.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_a_start_is_chosen_by_mouse_and_by_keys(layers):
    layers.click("label[title='5']")
    wait_for_state(layers, "image 5 · 3 hold · 2 sample · 1 mean")
    layers.focus("[value='image 5']")
    layers.keyboard.press("ArrowRight")
    wait_for_state(layers, "image 6 · 3 hold · 2 sample · 1 mean")
    assert "this image" in row_of(layers, 1).text_content()
    layers.click("text=Another draw")
    wait_for_state(layers, "prior draw 1 · 3 hold · 2 sample · 1 mean")
    layers.click("text=Another draw")
    wait_for_state(layers, "prior draw 2 · 3 hold · 2 sample · 1 mean")
    assert not layers.locator("text=this image ").locator("visible=true").count()
    layers.fill("[type=number]", "41")
    layers.keyboard.press("Enter")
    wait_for_state(layers, "prior draw 41 · 3 hold · 2 sample · 1 mean")
    own = 255 * layers.board.draw(layers.board.state.from_draw(41)).own[0].numpy()
    assert np.abs(all_drawn(layers, ".lb-own")[0] - own).max() <= 1.5


def test_presets_reset_and_size(layers):
    presets = {"All from the prior": "sample", "All held": "hold", "All at their mean": "mean"}
    for name, mode in presets.items():
        layers.click(f"text={name}")
        wait_for_state(layers, f"image 3 · 3 {mode} · 2 {mode} · 1 {mode}")
    layers.click("text=Reset")
    wait_for_state(layers, "image 3 · 3 hold · 2 sample · 1 mean")
    layers.set_viewport_size({"width": 1500, "height": 900})
    normal = layers.locator(".vae-picture").bounding_box()["width"]
    layers.click("text=Large")
    assert layers.locator(".vae-picture").bounding_box()["width"] > 1.2 * normal
    assert layers.evaluate("model.get('large')") is True


def test_it_fits_in_every_width(layers):
    for width in (400, 480, 600, 700, 800, 900, 1000, 1100):
        layers.set_viewport_size({"width": width, "height": 900})
        assert layers.evaluate(CLASHES) == [], f"at {width} pixels something sticks out or overlaps"


def test_the_page_and_python_follow_the_same_rule(layers):
    its = "{ names: model.get('names'), levels: model.get('levels') }"
    contents = {"names": layers.board.names, "levels": layers.board.levels}
    texts = [state.text() for state in states_of(layers.board)]
    texts += ["IMAGE 3, 2 sample t=.5 seed 4; 1 mean 1.5 along z 4, 3 hold seed 1", *BAD]
    texts += ["image 1 · 3 hold −1 along z 2 · 2 hold T=0.005 · 1 hold +.125 along direction 6"]
    must_read_alike(layers, layers.board.state, texts, f"board.write(board.read(text, {its}), {its})")
    page_says = """([line, its, layer]) => {
      const state = board.read(line, its);
      const line_of = (state) => board.write(state, its);
      const states = [board.only(state, layer, its), board.all(state, "mean"), board.first(its)];
      return [...states.map(line_of),
        ...[false, true].flatMap((skip) => [board.varies(state, skip), board.isReached(state, layer, skip)])];
    }"""
    for state in states_of(layers.board):
        for layer in (1, 2, 3):
            wanted = [state.only(layer).text(), state.all("mean").text(), state.reset().text()]
            for skip in (False, True):
                wanted += [state.varies(skip), state.is_reached(layer, skip)]
            assert layers.evaluate(page_says, [state.text(), contents, layer]) == wanted
    layers.fill(".vae-state", "prior draw 3, 1 hold, 2 hold, 3 hold")
    layers.keyboard.press("Enter")
    wait_for_state(layers, "prior draw 3 · 3 hold · 2 hold · 1 hold")
    layers.fill(".vae-state", "banana")
    layers.keyboard.press("Enter")
    layers.wait_for_selector("text=is not on this board")


# At length --------------------------------------------------------------------------------------


def test_a_thousand_moves_leave_the_last_one_drawn_and_nothing_else(layers):
    inspector = layers.context.new_cdp_session(layers)

    def memory() -> tuple[float, int, int]:
        inspector.send("HeapProfiler.collectGarbage")
        counted = inspector.send("Memory.getDOMCounters")
        return (
            inspector.send("Runtime.getHeapUsage")["usedSize"] / 2**20,
            counted["nodes"],
            counted["jsEventListeners"],
        )

    slide(layers, SHIFT, 50, 500)
    heap, nodes, listeners = memory()
    slide(layers, SHIFT, 1000, 5000)
    state = layers.board.state.shifted(3, (37 * 1000 % 121 - 60) / 20)
    wait_for_state(layers, state.text())
    assert np.abs(pictures_on(layers) - expected(layers.board, state)).max() <= 1.5
    wait_for_save(layers, {"line": state.text()})
    layers.evaluate("saves.length = 0")
    after = memory()
    assert after[0] - heap < 4 and after[1] - nodes < 100 and after[2] == listeners, (heap, nodes, after)


@pytest.mark.parametrize("layer", [3, 2, 1])
def test_a_key_is_answered_at_once(page, record_property, layer):
    board = a_board(mlp(sizes=((64, 32, 16), (512, 256, 128))))  # as in the lesson
    show(page, board)
    go_to(page, board.state.all("sample"))
    row_of(page, layer).get_by_role("slider", name="shift").press("End")
    delays = key_to_pixel(page, ["PageDown", "PageUp"])
    median, slow = statistics.median(delays), delays[23]
    record_property("key_to_pixel_ms", median)
    print(f"\nlayer {layer}, key to pixel: median {median:.0f} ms, p95 {slow:.0f} ms")
    assert median < 250
    assert page.problems == []


def test_a_board_that_is_closed_lets_go(layers):
    row_of(layers, 2).get_by_role("slider", name="shift").press("ArrowRight")
    layers.evaluate("leave()")
    last = "image 3 · 3 hold · 2 sample +0.05 along direction 1 · 1 mean"
    assert layers.evaluate("saves.at(-1).line") == last
    assert layers.evaluate("model.listeners.length") == 0


# The kernel decodes -----------------------------------------------------------------------------


def test_the_kernel_is_asked_one_at_a_time_and_last_for_the_latest(page):
    board = a_board(conv(), in_page=False)

    def answer(line: str) -> str:
        replies = []
        board.send = lambda content, buffers: replies.append(buffers[0])
        board._handle_custom_msg({"line": line}, [])
        return base64.b64encode(replies[0]).decode()

    page.add_init_script(KERNEL)
    page.expose_function("answer", answer)
    show(page, board)
    start = board.state
    for state in (start.from_draw(3), start.all("hold"), start.from_image("4").all("sample")):
        go_to(page, state)
        wanted = expected(board, state)
        assert np.abs(pictures_on(page, len(wanted)) - wanted).max() <= 0.51
        own = 255 * board.draw(state).own[0].numpy()
        assert np.abs(all_drawn(page, ".lb-own")[0] - own).max() <= 0.51
    page.evaluate("asked.length = 0")
    slide(page, SHIFT, 200, 400)
    last = page.evaluate("model.get('line')")
    wait_for_state(page, last)
    asked = page.evaluate("asked")
    assert asked[-1] == last and len(asked) < 100, "what was overtaken is never asked"
    assert np.abs(pictures_on(page) - expected(board, board.state.parse(last))).max() <= 0.51
    page.evaluate("leave()")
    assert page.evaluate("model.listeners.length") == 0
    assert page.problems == []
