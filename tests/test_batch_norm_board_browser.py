"""The batch-norm board in a browser: its page alone, with a stand-in for the kernel."""

import numpy as np
import pytest
import torch
from board_page import drawn, must_read_alike, show, wait_for_save, wait_for_state

from course_utils.data import Images
from course_utils.models.vae import VAE
from course_utils.widgets import BatchNormBoard
from course_utils.widgets.batch_norm import SIZES

pytestmark = pytest.mark.browser


def images(n: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 10, {})


def a_board() -> BatchNormBoard:
    torch.manual_seed(0)
    model = VAE(latent_dim=4, hidden=(16,), batch_norm=True)
    other = VAE(latent_dim=4, hidden=(16,), batch_norm=True)
    with torch.no_grad():  # the weights of a new model are small: without this all its pictures are grey
        for weights in (model.decoder[-1].weight, other.decoder[-1].weight):
            weights *= 8
    mates = {"random A": images(999, 1), "only 1s": images(1200, 2), "its own copies": None}
    return BatchNormBoard({"running averages": model, "prior samples": other}, images(3, 0), mates)


@pytest.fixture(scope="module")
def board() -> BatchNormBoard:
    return a_board()


@pytest.fixture
def shown(page, board):
    """A page with the board, and after the test no error and no request."""
    show(page, board)
    yield page
    assert page.problems == []


def pictures(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(-1, 28, 28)


def choose(page, group: str, name: str) -> None:
    page.get_by_role("group", name=group, exact=True).get_by_role("radio", name=name, exact=True).click()


def test_the_page_shows_the_row_of_every_state(page, board):
    show(page, board, script="batch_norm.js")  # the files as they are, importing each other
    state = board.state
    states = [state, state.among(20), state.holding(2).among(1000).beside("only 1s")]
    states += [state.holding(1).beside("its own copies"), state.holding(1).under("prior samples").among(5)]
    for state in states:
        page.evaluate("chosen => model.set('chosen', chosen)", [state.digit, *list_of(state)])
        wait_for_state(page, state.text())
        bound, kl = board.table[state.digit][state.row]
        back = pictures(board.pictures)[state.digit * len(board.table[0]) + state.row]
        assert (drawn(page, ".bn-back") == back).all()
        assert (drawn(page, ".bn-held") == pictures(board.digits)[state.digit]).all()
        assert page.text_content(".bn-number") == f"{bound:.1f}".replace("-", "−")
        terms = [float(text.replace("−", "-")) for text in page.locator(".bn-terms b").all_text_contents()]
        assert terms[0] + terms[1] == pytest.approx(bound, abs=0.011) and terms[1] == pytest.approx(-kl)
    assert page.problems == []


def list_of(state) -> list:
    return [state.statistics, state.size, state.mates]


def test_the_choices_are_radio_buttons_for_hand_and_keys(shown, board):
    choose(shown, "Its mates", "only 1s")
    wait_for_state(shown, "digit 0 · this batch · 2 images · only 1s")
    shown.keyboard.press("ArrowRight")
    wait_for_state(shown, "digit 0 · this batch · 2 images · its own copies")
    for key, text in {
        "Shift+Tab": "digit 0 · this batch · 2 images · its own copies",
        "ArrowRight": "digit 0 · this batch · 5 images · its own copies",
        "ArrowLeft": "digit 0 · this batch · 2 images · its own copies",
    }.items():
        shown.keyboard.press(key)
        wait_for_state(shown, text)
    choose(shown, "Digit", "2")
    choose(shown, "Statistics", "prior samples")
    wait_for_state(shown, "digit 2 · prior samples · 2 images · its own copies")
    assert shown.locator("input:checked").count() == 4
    assert shown.get_attribute("input[type=radio]", "data-lm-suppress-shortcuts") == "true"
    spoken = "document.querySelector('[aria-live]').textContent.includes('digit 2 · prior samples')"
    shown.wait_for_function(spoken)
    wait_for_save(shown, {"chosen": [2, "prior samples", 2, "its own copies"]})


def test_under_fixed_statistics_the_batch_changes_nothing(shown):
    choose(shown, "Statistics", "running averages")
    wait_for_state(shown, "digit 0 · running averages · 2 images · random A")
    before, bound = drawn(shown, ".bn-back"), shown.text_content(".bn-number")
    choose(shown, "Images in the batch", "1000")
    choose(shown, "Its mates", "only 1s")
    wait_for_state(shown, "digit 0 · running averages · 1000 images · only 1s")
    assert (drawn(shown, ".bn-back") == before).all() and shown.text_content(".bn-number") == bound
    assert shown.get_by_text("the same in every batch").is_visible()


def test_a_dot_of_the_strip_chooses_its_state(shown, board):
    for state in (board.state.among(100).beside("only 1s"), board.state.among(5).under("prior samples")):
        mark = shown.locator(f".bn-strip [data-row='{state.row}']")
        box = shown.locator(".bn-strip").bounding_box()
        where = mark.evaluate("mark => [mark.dataset.x, mark.dataset.y].map(Number)")
        scale = box["width"] / 400
        shown.mouse.click(box["x"] + scale * where[0], box["y"] + scale * where[1])
        shown.wait_for_function(
            "row => document.querySelector('.bn-now')?.dataset.row === row", arg=str(state.row)
        )
    wait_for_state(shown, "digit 0 · prior samples · 100 images · only 1s")


def test_the_strip_places_each_bound(shown, board):
    """Marks inside the span lie on one line of nats; those outside wait at its left end."""
    bounds, (worst, _) = [bound for bound, _ in board.table[0]], board.spans[0]
    find = "marks => marks.map((mark) => [mark.dataset.row, mark.dataset.x].map(Number))"
    where = dict(shown.locator("[data-row]").evaluate_all(find))
    assert sorted(where) == list(range(len(bounds)))
    inside = [row for row, bound in enumerate(bounds) if bound >= worst]
    slope, middle = np.polyfit([bounds[row] for row in inside], [where[row] for row in inside], 1)
    assert slope > 0
    assert max(abs(slope * bounds[row] + middle - where[row]) for row in inside) < 1e-6
    assert all(where[row] < min(where[row] for row in inside) for row in set(where) - set(inside))


def test_the_batch_is_the_digit_and_its_mates(shown, board):
    choose(shown, "Images in the batch", "20")
    choose(shown, "Its mates", "only 1s")
    wait_for_state(shown, "digit 0 · this batch · 20 images · only 1s")
    held, mates = pictures(board.digits), pictures(board.beside)
    thumb = ".bn-batch canvas:nth-child({})".format
    assert (drawn(shown, thumb(1)) == held[0]).all()
    assert (drawn(shown, thumb(2)) == mates[19]).all() and (drawn(shown, thumb(20)) == mates[37]).all()
    choose(shown, "Its mates", "its own copies")
    choose(shown, "Images in the batch", "5")
    wait_for_state(shown, "digit 0 · this batch · 5 images · its own copies")
    assert (drawn(shown, thumb(5)) == held[0]).all()
    assert shown.locator(".bn-batch canvas:not([hidden])").count() == 5


def test_a_state_is_copied_and_pasted(shown):
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.click("text=Copy")
    shown.wait_for_selector("text=Copied")
    line = "digit 0 · this batch · 2 images · random A"
    assert shown.evaluate("navigator.clipboard.readText()") == line

    shown.evaluate("navigator.clipboard.writeText('1, prior samples, 100, only 1s')")
    shown.focus(".vae-state")
    shown.keyboard.press("ControlOrMeta+v")
    wait_for_state(shown, "digit 1 · prior samples · 100 images · only 1s")

    shown.fill(".vae-state", "banana")
    shown.keyboard.press("Enter")
    shown.wait_for_selector("text=is not a state of this board")
    shown.keyboard.press("Escape")
    assert shown.text_content(".vae-message") == ""
    shown.click("text=Reset")
    wait_for_state(shown, line)


def test_the_page_and_python_have_the_same_rule(shown, board):
    state = board.state
    texts = [
        state.holding(1).text(),
        "2, this batch, 20, ONLY  1s",
        " 1·prior samples·5 images·its own copies ",
    ]
    texts += ["", "banana", "1, this batch, 20", "9, this batch, 2, only 1s", "1, this batch, 3, only 1s"]
    texts += ["digit 1, this batch, 20 images, only 1s, more", "1, mine, 2, only 1s", "digit digit 1,,,"]
    read = "board.write(board.read(text, model.get('choices')), model.get('choices'))"
    must_read_alike(shown, state, texts, read)

    row_of = "chosen => board.rowOf(chosen, model.get('choices'))"
    state_of = "([row, chosen]) => board.stateOf(row, chosen, model.get('choices'))"
    for statistics in board.choices["statistics"]:
        for size in SIZES:
            for mates in board.choices["mates"]:
                it = state.under(statistics).among(size).beside(mates)
                chosen = [it.digit, *list_of(it)]
                assert shown.evaluate(row_of, chosen) == it.row
                assert shown.evaluate(state_of, [it.row, chosen]) == chosen


@pytest.mark.parametrize("width", [360, 480, 700, 1100])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_board_fits_its_page(page, board, width, theme):
    page.set_viewport_size({"width": width, "height": 700})
    show(page, board, body=f"<body data-theme='{theme}'>")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wider = "[...document.querySelectorAll('.vae-board *')].filter((n) => n.scrollWidth > n.clientWidth + 1"
    wider += " && n.clientWidth > 1 && getComputedStyle(n).display !== 'inline').map((n) => n.outerHTML)"
    assert page.evaluate(wider) == []
    assert page.problems == []


def test_size_and_closing(shown):
    normal = shown.locator(".bn-strip").bounding_box()["width"]
    shown.click("text=Large")
    shown.wait_for_function("document.querySelector('.vae-large')")
    assert shown.locator(".bn-strip").bounding_box()["width"] > normal
    choose(shown, "Digit", "1")
    shown.evaluate("leave()")
    assert shown.evaluate("saves.at(-1).chosen") == [1, "this batch", 2, "random A"]
    assert shown.evaluate("model.listeners.length") == 0


def test_two_views_of_one_board_do_not_take_each_others_choice(shown):
    shown.evaluate("board.default.render({ model, el: document.body }), 0")
    shown.wait_for_function("document.querySelectorAll('input:checked').length === 8")
    shown.locator("fieldset").nth(2).get_by_role("radio", name="20").click()
    shown.wait_for_function("""[...document.querySelectorAll('.vae-state')].every((field) =>
      field.value === 'digit 0 · this batch · 20 images · random A')""")
    assert shown.locator("input:checked").count() == 8
