"""Lessons in Notebook 7: a slider and a board answer to keys, and Notebook keeps none of these for itself.

The other boards are tried in JupyterLab (test_browser.py); what a page does with a key is the same for all.
"""

import numpy as np
import pytest
from board_page import all_drawn
from jupyter_server_page import find, of_boards, open_boards, open_part, push, serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def notebook7(tmp_path_factory):
    """A Notebook 7 with settings of its own."""
    with serve("notebook", tmp_path_factory.mktemp("notebook7")) as server:
        yield server


def test_the_slider_of_lesson_00_moves_its_bar(page, notebook7):
    """By mouse, and by keys in the number beside it: on its handle Notebook 7 keeps the arrows for itself."""
    open_part(page, notebook7, "00_start_here.ipynb", r"doctor\.live_slider\(")
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.wait_for(timeout=60_000)
    handle.scroll_into_view_if_needed()
    width = "document.querySelector('.progress-bar').style.width"
    before = page.evaluate(width)
    handle.hover()
    page.mouse.down()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{width} !== '{before}'")
    number = page.locator(".widget-slider .widget-readout").first
    number.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("77")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{width} === '77%'")
    assert [problem for problem in page.problems if "/static/notebook/" not in problem] == []


def test_the_layer_board_of_lesson_04(page, notebook7):
    open_boards(page, notebook7, "04_hierarchical_vae.ipynb", weights="topdown")
    board = find(page, "layer-board")
    page.wait_for_selector(".layer-board[data-shows]")
    start = board.locator(".vae-state").input_value()
    before = all_drawn(board, ".vae-picture").astype(int)
    push(page, board, "Layer 2: shift", start.replace("2 sample", "2 sample +1.00 along direction 1"))
    assert np.abs(all_drawn(board, ".vae-picture") - before).sum() > 1000
    assert of_boards(page.problems) == []
