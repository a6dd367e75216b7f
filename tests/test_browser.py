"""Lessons in JupyterLab: their boards answer to keys, and Lab keeps none of these for itself.

conftest.py finds Chromium. What a board does on a page of its own is in the tests of that board.
"""

import shutil

import numpy as np
import pytest
from board_page import all_coloured, all_drawn, drawn, wait_for_state
from jupyter_server_page import LESSONS, find, focused, of_boards, open_and_run, open_boards, push, serve
from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab with settings of its own."""
    with serve("jupyterlab", tmp_path_factory.mktemp("lab")) as server:
        yield server


def test_the_slider_of_lesson_00_moves_its_bar(page, lab):
    name = "00_start_here.ipynb"
    shutil.copy(LESSONS / name, lab.folder / name)  # Lab saves what it opens
    open_and_run(page, lab, name)
    slider = page.locator(".widget-slider .noUi-handle").first
    slider.wait_for(timeout=120_000)
    slider.scroll_into_view_if_needed()
    width = "document.querySelector('.progress-bar').style.width"
    before = page.evaluate(width)
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(f"{width} !== '{before}'")


def test_the_latent_plane_of_lesson_01(page, lab):
    open_boards(page, lab, "01_basic_vae.ipynb", weights="plane")
    plane = find(page, "latent-plane")
    wait_for_state(page, "z = 0.50, -1.25")
    before = drawn(plane)
    plane.locator(".lp-plane").focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    wait_for_state(page, "z = 1.00, -1.25")
    assert focused(page).startswith("Latent plane"), "Lab leaves the arrows alone"
    assert np.abs(drawn(plane) - before).sum() > 1000
    page.keyboard.press("r")
    wait_for_state(page, "z = 0.50, -1.25")
    assert of_boards(page.problems) == []


# Each change of the plane keeps the kernel busy for longer than the next one takes to come.
SLOW = """
import time
from ipywidgets.widgets.widget import _instances
*_, plane = [its for its in _instances.values() if type(its).__name__ == "LatentPlane"]
plane.observe(lambda change: time.sleep(0.3), "z")"""
IN_KERNEL = """async (code) => {
  const { kernel } = jupyterapp.shell.currentWidget.sessionContext.session;
  return (await kernel.requestExecute({ code }).done).content.status === "ok";
}"""
# Notes in `seen` what every frame shows.
WATCH = """() => {
  window.seen = [];
  const look = () => seen.push(document.querySelector(".vae-state").value) && requestAnimationFrame(look);
  look();
}"""


def test_a_slow_kernel_undoes_no_change(page, lab):
    """It answers each change with what it heard: the hand is further on by then, and so is the board."""
    open_boards(page, lab, "01_basic_vae.ipynb", weights="plane")
    plane = find(page, "latent-plane")
    wait_for_state(page, "z = 0.50, -1.25")
    assert page.evaluate(IN_KERNEL, SLOW)
    plane.locator(".lp-plane").focus()
    page.evaluate(WATCH)
    for _ in range(12):
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(230)
    page.wait_for_function(IN_KERNEL, arg="assert plane.z == (1.7, -1.25)")  # in the end Python heard it all
    seen = [float(line.split()[2].strip(",")) for line in page.evaluate("seen")]
    assert seen == sorted(seen) and (seen[0], seen[-1]) == (0.5, 1.7)


def wait_for_another(page: Page, board: Locator, before: np.ndarray) -> None:
    """Wait, two seconds at most, for another picture: Lab may take a board out and put it back meanwhile."""
    for _ in range(20):
        if (drawn(board, ".bn-back") != before).any():
            return
        page.wait_for_timeout(100)


def test_the_batch_norm_board_of_lesson_02(page, lab):
    open_boards(page, lab, "02_batch_norm_vae.ipynb", weights="mlp_bn")
    norm = find(page, "batch-norm")
    wait_for_state(page, "digit 3 · this batch · 20 images · only 1s")
    shown = [(drawn(norm, ".bn-back"), norm.locator(".bn-number").text_content())]
    norm.get_by_role("group", name="Images in the batch").get_by_role("radio", checked=True).focus()
    for key, text in {
        "ArrowRight": "digit 3 · this batch · 100 images · only 1s",
        "Shift+Tab": "digit 3 · this batch · 100 images · only 1s",
        "ArrowDown": "digit 3 · running averages · 100 images · only 1s",
    }.items():
        page.keyboard.press(key)
        wait_for_state(page, text)
        if key != "Shift+Tab":
            wait_for_another(page, norm, shown[-1][0])
        shown.append((drawn(norm, ".bn-back"), norm.locator(".bn-number").text_content()))
    assert focused(page) == "running averages", "Lab leaves the arrows alone"
    start, larger, same, fixed = shown
    assert (same[0] == larger[0]).all() and same[1] == larger[1], "Tab leads on and changes nothing"
    for one, other in [(start, larger), (larger, fixed)]:
        assert np.abs(one[0] - other[0]).sum() > 100 and one[1] != other[1]
    assert of_boards(page.problems) == []


def test_the_boards_of_lesson_03(page, lab):
    open_boards(page, lab, "03_conv_vae.ipynb", weights="conv_bn")
    walk = find(page, "latent-walk")
    wait_for_state(page, "from 3 to 8 · straight · t = 0.50")
    before = drawn(walk)
    walk.locator(".lw-slider").focus()
    for key, t in {"PageUp": "0.60", "ArrowRight": "0.61", "End": "1.00"}.items():
        page.keyboard.press(key)
        wait_for_state(page, f"from 3 to 8 · straight · t = {t}")
    assert focused(page).startswith("t, how far"), "Lab leaves the arrows alone"
    assert np.abs(drawn(walk) - before).sum() > 100

    maps = find(page, "feature-maps")
    page.wait_for_selector(".feature-maps[data-shows]")
    before, start = all_drawn(maps, ".vae-picture"), maps.locator(".vae-state").input_value()
    assert " · channel 0 · " in start
    maps.locator(".fm-map[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    wait_for_state(page, start.replace("channel 0", "channel 1"))
    assert focused(page) == "channel 1", "Lab leaves the arrows alone"
    assert maps.get_by_text("What excites channel 1 most").is_visible()
    assert (all_drawn(maps, ".vae-picture") != before).any()
    assert of_boards(page.problems) == []


def test_the_layer_board_of_lesson_04(page, lab):
    open_boards(page, lab, "04_hierarchical_vae.ipynb", weights="topdown")
    board = find(page, "layer-board")
    page.wait_for_selector(".layer-board[data-shows]")
    start = board.locator(".vae-state").input_value()
    assert start.endswith(" · 3 hold · 2 sample · 1 mean")
    codes = "board => board.codes().map((z) => z.map((one) => [...one]))"  # the bottom layer first
    below, sampled, held = board.evaluate(codes)
    before = all_drawn(board, ".vae-picture").astype(int)
    push(page, board, "Layer 2: shift", start.replace("2 sample", "2 sample +1.00 along direction 1"))
    assert np.abs(all_drawn(board, ".vae-picture") - before).sum() > 1000
    now_below, now_sampled, now_held = board.evaluate(codes)
    assert now_held == held, "to the last bit"
    assert now_sampled != sampled and now_below != below, "below a change the means are computed anew"
    assert of_boards(page.problems) == []


def test_the_class_board_of_lesson_05(page, lab):
    open_boards(page, lab, "05_semi_supervised_vae.ipynb", weights="mixture_prior")
    board = find(page, "class-board")
    page.wait_for_selector(".class-board[data-shows]")
    image, read_as, written = board.locator(".vae-state").input_value().split(" · ")
    before = drawn(board).astype(int)
    moved = "+1.00 along style 1"
    push(page, board, "style 1", f"{image} · {read_as} · {written} · {moved}")
    assert np.abs(drawn(board) - before).sum() > 300
    classes = board.get_by_role("radiogroup", name="Write it as")
    classes.get_by_role("radio", checked=True).focus()
    page.keyboard.press("ArrowRight")
    other = f"written as {(int(written[-1]) + 1) % 10}"
    wait_for_state(page, f"{image} · {read_as} · {other} · {moved}")
    assert of_boards(page.problems) == []


def test_the_boards_of_lesson_06(page, lab):
    open_boards(page, lab, "06_coco_inpainting.ipynb", weights="hier")
    board = find(page, "photo-board")
    page.wait_for_selector(".photo-board[data-shows]")
    start = board.locator(".vae-state").input_value()
    before = all_coloured(board, ".vae-picture").astype(int)
    push(page, board, "Layer 3: shift", start.replace("3 sample", "3 sample +1.00 along direction 1"))
    assert np.abs(all_coloured(board, ".vae-picture") - before).sum() > 1000
    photograph = find(page, "own-photograph")
    page.wait_for_selector(".own-photograph[data-shows]")
    assert np.ptp(all_coloured(photograph, ".vae-picture")) > 50, "landscapes, before there is a photograph"
    assert of_boards(page.problems) == []
