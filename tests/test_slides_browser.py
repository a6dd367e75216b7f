"""The slides as a teacher has them: opened from disk with the network off, by keyboard and by mouse."""

import base64
import io
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from board_page import CHANGED, PICTURES, load_axe, stay_within, watch
from ipywidgets.embed import embed_data
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import expect
from test_latent_plane_browser import a_board as a_plane
from test_latent_walk_browser import a_board as a_walk

from course_utils import plots

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
RAN = [ROOT / "build" / "test" / "series", ROOT / "build" / "book" / "series"]  # where lessons may have run
STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
# All that does not fit a slide, or is too small on it to be read from the back.
MISFITS = """() => {
  const slide = Reveal.getCurrentSlide(), found = [];
  const { scrollWidth, scrollHeight } = slide, body = slide.querySelector(":scope > :not(h1, h2, h3, aside)");
  if (scrollHeight > 720 || scrollWidth > 1280) found.push(`${scrollWidth} x ${scrollHeight}`);
  if (!body?.getBoundingClientRect().height) found.push("empty");
  for (const it of slide.querySelectorAll(".picture img, mjx-container[display] > svg, table, pre")) {
    const { left, right, top, bottom } = it.getBoundingClientRect();
    const out = left < 0 || right > 1280 || top < 0 || bottom > 700;
    if (out) found.push(`${it.tagName} to ${right}, ${bottom}`);
    if (it.matches("img") && bottom - top < 130) found.push(`a picture ${bottom - top} high`);
  }
  const board = slide.querySelector(".vae-board")?.getBoundingClientRect();
  const out = board && (board.left < 300 || board.right > 1280 || board.bottom > 700);
  if (out) found.push(`a board to ${board.bottom}`);
  if (board && board.height < 450) found.push(`a board ${board.height} high`);
  if (slide.querySelector("mjx-merror")) found.push("a formula that cannot be set");
  return found;
}"""

pytestmark = pytest.mark.browser


def a_lesson():
    """A lesson as it ran: text, a formula, a figure, and two boards."""
    walk, plane = a_walk()[1], a_plane()[1]
    figure = plots.plot_images(torch.rand(24, 1, 28, 28), "Noise", n_columns=12)
    boards = [
        new_output("display_data", {VIEW: {"model_id": board.model_id}, "image/png": figure_png(figure)})
        for board in (walk, plane)
    ]
    alt = {"image/png": {"alt": "Grey noise."}}
    picture = new_output("display_data", {"image/png": figure_png(figure)}, metadata=alt)
    text = r"""## 1 · Idea

Something short. **Is all of it bold?** The rest is for the notes, with $\sigma$.

$$\int_0^1 x\,dx = \tfrac12$$"""
    cells = [
        (new_markdown_cell, "# 00 · A lesson\n\n*Its lead.*", ["slide"], []),
        (new_markdown_cell, text, ["slide"], []),
        (new_code_cell, "plots.show(figure)", ["slide-more"], [picture]),
        (new_markdown_cell, "## 2 · Play\n\n**Try:** walk.", ["slide"], []),
        (new_code_cell, "widgets.LatentWalk(model)", ["slide-more"], boards[:1]),
        (new_code_cell, "widgets.LatentPlane(model)", ["slide"], boards[1:]),
        (new_markdown_cell, "## 3 · What to keep\n\n1. This.\n2. That.", ["slide"], []),
    ]
    state = embed_data([walk, plane], drop_defaults=False)["manager_state"]
    notebook = new_notebook(metadata={"widgets": {STATE: state}})
    for new, source, tags, outputs in cells:
        more = {"outputs": outputs} if outputs else {}
        notebook.cells.append(new(source, metadata={"tags": tags}, **more))
    return nbformat.from_dict(notebook)


def figure_png(figure) -> str:
    """As a notebook stores it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    import slides

    out = tmp_path_factory.mktemp("slides") / "out"
    slides.write({"00_lesson": a_lesson()}, out)
    return out


@pytest.fixture
def opened(page):
    """opened(path) is a page on which everything lives; afterwards no error and no request that left."""

    def open_page(path: Path):
        stay_within(page, path.parent)
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-ready]")
        return page

    watch(page)
    page.set_viewport_size({"width": 1280, "height": 720})
    yield open_page
    assert page.problems == []


@pytest.fixture
def deck(opened, built):
    return opened(built / "00_lesson.html")


def at(page) -> int:
    return page.evaluate("Reveal.getIndices().h")


def test_keys_turn_the_slides_and_all_is_there(deck):
    assert deck.evaluate("Reveal.getTotalSlides()") == 5
    for number in range(5):
        assert at(deck) == number and deck.evaluate(MISFITS) == []
        assert deck.locator(".slide-number").inner_text().split() == [str(number + 1), "/", "5"]
        if number == 1:  # the question stands alone, then comes the answer
            expect(deck.locator("section img")).not_to_be_visible()
            deck.keyboard.press("ArrowRight")
            expect(deck.locator("section img")).to_be_visible()
            assert at(deck) == 1
        deck.keyboard.press("ArrowRight")
    assert deck.locator(".slides > section:nth-of-type(2) > div > mjx-container[display] > svg").count() == 1
    assert deck.locator(".live-board[data-live]").count() == 2
    assert "The rest is for the notes" in deck.locator("aside.notes").nth(1).text_content()
    assert deck.locator("section > p", has_text="The rest").count() == 0
    assert deck.locator("section img").get_attribute("alt") == "Grey noise."


@pytest.mark.parametrize("size", [(1280, 720), (1024, 768), (1920, 1080)])
def test_a_slider_follows_the_mouse_and_keeps_its_keys(deck, size):
    deck.set_viewport_size({"width": size[0], "height": size[1]})
    deck.evaluate("Reveal.slide(2)")
    board, slider = deck.locator(".present .live-board"), deck.locator(".present .lw-slider")
    before = board.evaluate(PICTURES)
    slider.wait_for()
    box = slider.bounding_box()
    deck.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + box["height"] / 2)
    deck.mouse.down()
    deck.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + box["height"] / 2, steps=5)
    deck.mouse.up()
    assert float(slider.input_value()) == pytest.approx(0.8, abs=0.03)
    deck.wait_for_function(CHANGED, arg=[board.element_handle(), before])
    value, before = float(slider.input_value()), board.evaluate(PICTURES)
    for _ in range(5):
        deck.keyboard.press("ArrowLeft")
    assert float(slider.input_value()) < value and at(deck) == 2
    deck.wait_for_function(CHANGED, arg=[board.element_handle(), before])
    deck.keyboard.press("Escape")  # leaves the board
    deck.keyboard.press("ArrowRight")
    assert at(deck) == 3


def test_a_point_lies_where_the_mouse_is(deck):
    deck.evaluate("Reveal.slide(3)")
    box = deck.locator(".present .lp-plane").bounding_box()
    deck.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    deck.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    point = deck.locator(".present .lp-point").bounding_box()
    assert point["x"] + point["width"] / 2 == pytest.approx(box["x"] + 0.75 * box["width"], abs=3)
    assert point["y"] + point["height"] / 2 == pytest.approx(box["y"] + 0.25 * box["height"], abs=3)
    deck.keyboard.press("ArrowLeft")
    assert at(deck) == 3


def test_a_presenters_buttons_turn_always_and_a_boards_button_is_pressed(deck):
    deck.evaluate("Reveal.slide(2)")
    slider = deck.locator(".lw-slider")
    slider.focus()
    value = slider.input_value()
    deck.keyboard.press("PageDown")
    assert at(deck) == 3 and slider.input_value() == value
    button = deck.get_by_role("button", name="Pictures")
    button.focus()
    deck.keyboard.press("Space")
    assert at(deck) == 3 and button.get_attribute("aria-pressed") == "true"
    deck.keyboard.press("ArrowRight")
    assert at(deck) == 4


def test_a_board_made_large_still_fits(deck):
    deck.evaluate("Reveal.slide(2)")
    deck.locator(".present").get_by_role("button", name="Large").click()
    deck.wait_for_function(f"({MISFITS})().length === 0")


def test_notes_open_beside(deck):
    deck.evaluate("Reveal.slide(1)")
    with deck.expect_popup() as opening:
        deck.keyboard.press("s")
    notes = opening.value.locator(".speaker-controls-notes")
    notes.get_by_text("The rest is for the notes").wait_for()
    assert notes.locator("mjx-container svg").count() == 2
    assert not notes.locator("mjx-assistive-mml").first.is_visible()


def test_the_list_of_decks_leads_there(opened, built):
    page = opened(built / "00_lesson.html")
    page.goto((built / "index.html").as_uri())
    page.get_by_role("link", name="00 · A lesson").click()
    page.wait_for_selector("body[data-ready]")


def test_no_barrier(deck):
    """axe-core finds nothing serious on any slide."""
    load_axe(deck)
    for number in range(5):
        deck.evaluate(f"Reveal.slide({number})")
        found = deck.evaluate("axe.run(document, { preload: false })")["violations"]
        assert [v for v in found if v["impact"] in ("serious", "critical")] == []


# The lessons, where somebody has run them -----------------------------------------------------------


@pytest.fixture(scope="module")
def decks(tmp_path_factory) -> Path:
    import slides
    from series import has_run

    sources = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    there = [folder for folder in RAN if all(has_run(folder / path.name) for path in sources)]
    if not there:
        pytest.skip("the lessons have not been run: make smoke")
    out = tmp_path_factory.mktemp("decks") / "out"
    read = {path: [nbformat.read(p, as_version=4) for p in (there[0] / path.name, path)] for path in sources}
    slides.write({path.stem: slides.tagged(*both) for path, both in read.items()}, out)
    return out


@pytest.mark.parametrize("number", range(7))
def test_every_slide_of_a_lesson_fits(opened, decks, number):
    (path,) = decks.glob(f"{number:02d}_*.html")
    page = opened(path)
    for slide in range(page.evaluate("Reveal.getTotalSlides()")):
        page.evaluate(f"Reveal.slide({slide})")
        page.wait_for_timeout(100)  # a board is fitted in the next frame
        assert page.evaluate(MISFITS) == [], f"slide {slide + 1}"
