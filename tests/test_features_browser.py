"""The feature maps in a browser: the page alone, with a stand-in for the kernel."""

import numpy as np
import pytest
from board_page import all_drawn, count_draws, must_read_alike, show, wait_for_save, wait_for_state
from test_features import N_CHANNELS, small_model, some_images, stages_of

from course_utils.widgets import FeatureViewer
from course_utils.widgets.features import unpacked

pytestmark = pytest.mark.browser

RESIDUAL = "7×7, after the residual block"


def a_board() -> FeatureViewer:
    model = small_model()
    return FeatureViewer(model, some_images(), stages_of(model), start="7×7 · channel 7 · digit 3")


@pytest.fixture(scope="module")
def board() -> FeatureViewer:
    return a_board()


@pytest.fixture
def features(page, board):
    """A page with a board of a small random model, and after the test no error and no request."""
    show(page, board)
    yield page
    assert page.problems == []


def test_the_maps_are_the_bytes_that_were_sent(page, board):
    show(page, board, script="features.js")  # the files as they are, importing each other
    _, maps, _ = unpacked(board)
    for index, name in enumerate(N_CHANNELS):
        for channel, digit in [(0, 0), (5, 9)]:
            page.evaluate(
                "chosen => model.set('chosen', chosen)", [name, channel, digit]
            )  # as the kernel would
            wait_for_state(page, f"{name} · channel {channel} · digit {digit}")
            live = [i for i, flat in enumerate(board.stages[index]["flat"]) if not flat]
            assert (all_drawn(page, ".fm-map canvas")[live] == maps[index][digit][live]).all()
            assert (all_drawn(page, ".vae-picture")[0] == maps[index][digit, channel]).all()
            assert maps[index][digit][live].std() > 10, "there is something to see"
    assert page.problems == []


def test_the_images_and_their_boxes(features, board):
    pictures, _, tops = unpacked(board)
    for index, name in enumerate(N_CHANNELS):
        features.evaluate("chosen => model.set('chosen', chosen)", [name, 4, 3])
        wait_for_state(features, f"{name} · channel 4 · digit 3")
        assert (all_drawn(features, ".fm-top canvas") == 255 * pictures[tops[index][4][:, 0]]).all()
        stage, boxes = board.stages[index], features.locator(".fm-top rect")
        for rank, (_, row, column) in enumerate(tops[index][4]):
            rect = boxes.nth(rank)
            sees = [int(v) for v in rect.get_attribute("data-sees").split(",")]
            assert sees == [*stage["rows"][row], *stage["columns"][column]]
            thick = float(rect.get_attribute("stroke-width"))
            x, y, width, height = (float(rect.get_attribute(a)) for a in ("x", "y", "width", "height"))
            outer = [y - thick / 2, y + height + thick / 2, x - thick / 2, x + width + thick / 2]
            assert outer == pytest.approx(sees), "the frame runs just inside of its box"
        counts = np.frombuffer(board.counts, "u1").reshape(-1, 10)[sum([6, 10, 10][:index]) + 4]
        shown = features.locator(".fm-classes b").all_text_contents()
        assert [int(text or 0) for text in shown] == counts.tolist()
    assert (all_drawn(features, ".fm-digit canvas") == 255 * pictures[[p for _, p in board.examples]]).all()


def test_keys_choose_channel_digit_and_stage(features):
    features.focus(".fm-map[tabindex='0']")
    for key, text in {
        "ArrowRight": "7×7 · channel 8 · digit 3",
        "ArrowUp": "7×7 · channel 0 · digit 3",
        "ArrowLeft": "7×7 · channel 0 · digit 3",
        "End": "7×7 · channel 9 · digit 3",
        "5": "7×7 · channel 9 · digit 5",
        "PageUp": "14×14 · channel 5 · digit 5",
        "Home": "14×14 · channel 0 · digit 5",
        "ArrowDown": "14×14 · channel 0 · digit 5",  # six channels have no second row
        "PageDown": "7×7 · channel 0 · digit 5",
        "Shift+ArrowDown": "7×7 · channel 8 · digit 5",
    }.items():
        features.keyboard.press(key)
        wait_for_state(features, text)
        focused = features.evaluate("document.activeElement.ariaLabel")
        assert focused.split(",")[0] == text.split(" · ")[1], "the focus goes with the choice"
    features.keyboard.press("PageDown")
    wait_for_state(features, f"{RESIDUAL} · channel 8 · digit 5")
    features.keyboard.press("PageDown")
    wait_for_state(features, f"{RESIDUAL} · channel 8 · digit 5")
    assert features.get_attribute(".fm-map[tabindex='0']", "data-lm-suppress-shortcuts") == "true"
    spoken = "document.querySelector('[aria-live]').textContent"
    features.wait_for_function(f"{spoken}.startsWith('{RESIDUAL} · channel 8 · digit 5. What excites')")
    wait_for_save(features, {"chosen": [RESIDUAL, 8, 5]})

    features.focus(".fm-digit[tabindex='0']")
    for key, digit in {"ArrowDown": 7, "ArrowLeft": 6, "Home": 0, "2": 2}.items():
        features.keyboard.press(key)
        wait_for_state(features, f"{RESIDUAL} · channel 8 · digit {digit}")
        assert features.evaluate("document.activeElement.ariaLabel") == f"digit {digit}"


def test_tab_reaches_the_chosen_ones_only(features):
    features.evaluate("document.body.insertAdjacentHTML('afterbegin', '<button id=before>before</button>')")
    features.focus("#before")
    names = []
    for _ in range(9):
        features.keyboard.press("Tab")
        names.append(
            features.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent")
        )
    assert names[:5] == ["digit 3", *N_CHANNELS, "channel 7"]
    assert names[6:] == ["Copy", "Reset", "Large"]


def test_a_click_chooses(features):
    features.click("[aria-label='channel 4']")
    wait_for_state(features, "7×7 · channel 4 · digit 3")
    assert features.get_attribute("[aria-label='channel 4']", "aria-pressed") == "true"
    assert features.locator(".fm-map[aria-pressed='true']").count() == 1
    features.click("[aria-label='digit 8']")
    wait_for_state(features, "7×7 · channel 4 · digit 8")
    features.click(f"text={RESIDUAL}")
    wait_for_state(features, f"{RESIDUAL} · channel 4 · digit 8")
    features.click("text=Reset")
    wait_for_state(features, "7×7 · channel 7 · digit 3")


def test_a_dead_channel_is_shown_as_such(features, board):
    features.evaluate("model.set('chosen', ['14×14', 2, 3])")
    wait_for_state(features, "14×14 · channel 2 · digit 3")
    assert features.is_visible("text=Channel 2 is never excited")
    assert features.is_visible(".fm-picture >> text=never excited")
    assert features.get_attribute(".fm-map.fm-flat", "aria-label") == "channel 2, never excited"
    assert features.locator(".fm-map.fm-flat").count() == 1
    assert "in all 300 test images" in features.text_content(".fm-caption")
    for hidden in (
        ".fm-top canvas",
        ".fm-picture canvas",
        ".fm-map.fm-flat canvas",
        ".fm-box",
        ".fm-classes",
    ):
        assert not features.locator(hidden).first.is_visible()
    features.click("[aria-label='channel 4']")
    wait_for_state(features, "14×14 · channel 4 · digit 3")
    assert features.locator(".fm-top canvas").first.is_visible()
    assert not features.is_visible(".fm-never")


def test_a_state_is_copied_and_pasted(features):
    features.context.grant_permissions(["clipboard-read", "clipboard-write"])
    features.click("text=Copy")
    features.wait_for_selector("text=Copied")
    assert features.evaluate("navigator.clipboard.readText()") == "7×7 · channel 7 · digit 3"

    features.evaluate("navigator.clipboard.writeText('14x14, channel 5, digit 0')")
    features.focus(".vae-state")
    features.keyboard.press("ControlOrMeta+v")
    wait_for_state(features, "14×14 · channel 5 · digit 0")

    features.fill(".vae-state", "banana")
    features.keyboard.press("Enter")
    features.wait_for_selector("text=is not on this board")
    assert features.evaluate("model.get('chosen')") == ["14×14", 5, 0]
    assert features.get_attribute(".vae-state", "aria-invalid") == "true"
    features.keyboard.press("Escape")
    assert features.input_value(".vae-state") == "14×14 · channel 5 · digit 0"


def test_the_page_and_python_read_the_same_states(features, board):
    texts = ["7x7, channel 7, digit 3", " 7X7 · Channel 07 ·  digit 3 ", "7×7 channel 7 digit 3"]
    texts += [f"{RESIDUAL} · channel 9 · digit 9", f"{RESIDUAL.upper()};channel 0;digit 0", "7×7 · channel 7"]
    texts += [
        "",
        "banana",
        "9×9 · channel 7 · digit 3",
        "14×14 · channel 6 · digit 3",
        "7×7 · channel 7 · digit 10",
    ]
    texts += ["7×7 · channel -1 · digit 3", "7×7 · channel 7.5 · digit 3", "7×7 · channel 99999 · digit 3"]
    digits = "model.get('examples').map(([label]) => label)"
    read = f"board.write(board.read(text, model.get('stages'), {digits}, model.get('start')))"
    must_read_alike(features, board.state, texts, read)
    for chosen in (["14×14", 99, 0], ["7×7", -5, 9], [RESIDUAL, 9, 3]):
        held = features.evaluate("chosen => board.write(board.at(chosen, model.get('stages')))", chosen)
        assert held == board.state.at(*chosen).text()


def test_size(features):
    def width():
        return features.locator(".fm-tops").bounding_box()["width"]

    features.set_viewport_size({"width": 1600, "height": 900})
    normal = width()
    features.click("text=Large")
    assert width() > 1.4 * normal
    assert features.evaluate("model.get('large')") is True
    assert features.get_attribute("text=Large", "aria-pressed") == "true"
    features.click("text=Large")
    assert width() == normal


@pytest.mark.parametrize("width", [360, 480, 1100])
def test_nothing_sticks_out(features, width):
    features.set_viewport_size({"width": width, "height": 900})
    assert features.evaluate("document.documentElement.scrollWidth") <= width
    look, digits = (features.locator(part).bounding_box() for part in (".fm-picture", ".fm-digits"))
    assert look["height"] == pytest.approx(digits["height"], abs=2)


def test_a_thousand_moves_leave_the_last_one_drawn(features, board):
    count_draws(features)
    features.evaluate("""() => {
      for (let i = 0; i < 1000; i++) model.set("chosen", ["7×7", i % 10, i % 7]);
    }""")
    wait_for_state(features, "7×7 · channel 9 · digit 5")
    assert features.evaluate("draws") <= 1 + 10 + 12  # one frame: the large map, the small ones, the images
    assert (all_drawn(features, ".vae-picture")[0] == unpacked(board)[1][1][5, 9]).all()


def test_a_board_that_is_closed_lets_go(features):
    features.focus(".fm-map[tabindex='0']")
    features.keyboard.press("ArrowRight")
    features.evaluate("leave()")
    assert features.evaluate("saves.at(-1).chosen") == ["7×7", 8, 3]
    assert features.evaluate("model.listeners.length") == 0
