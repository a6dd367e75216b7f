"""The class board in a browser: its page alone, with a stand-in for the kernel."""

import math
import statistics

import numpy as np
import pytest
import torch
from board_page import (
    all_drawn,
    count_draws,
    drawn,
    key_to_pixel,
    must_read_alike,
    show,
    slide,
    wait_for_save,
    wait_for_state,
)
from test_class_board import BAD, GOOD, mixture, some_images

from course_utils.models.semi_supervised_vae import MixtureVAE
from course_utils.models.vae import VAE
from course_utils.widgets import ClassBoard

pytestmark = pytest.mark.browser

ITS = "{ names: model.get('names'), cheapest: model.get('cheapest'), n_styles: 4 }"
CLASHES = """() => {
  const box = (node) => node.getBoundingClientRect();
  const board = document.querySelector(".class-board");
  const all = [...board.querySelectorAll("button, input, output, canvas, p:not(.vae-spoken), span, b, i")];
  const seen = all.filter((node) => box(node).width);
  const out = seen.filter((node) => box(node).right > box(board).right - 10);
  const found = out.map((node) => `${node.outerHTML} sticks out`);
  const parts = [...board.querySelectorAll(
    ".cb-price > :not(input), .cb-price [data-name=nats], .cb-style > *, " +
    ".cb-written label, .cb-picks label, .cb-title > *, .cb-cost, .cb-length > *, button",
  )].filter((node) => box(node).width && getComputedStyle(node).visibility === "visible");
  for (const one of parts) for (const other of parts) {
    if (one === other || one.contains(other) || other.contains(one)) continue;
    const [a, b] = [box(one), box(other)];
    const beside = a.left > b.right - 1 || b.left > a.right - 1;
    const under = a.top > b.bottom - 2 || b.top > a.bottom - 2;
    if (!beside && !under) found.push(`${one.outerHTML} overlaps ${other.outerHTML}`);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page scrolls sideways");
  return found;
}"""


def a_board(model: MixtureVAE | None = None) -> ClassBoard:
    """A small random model, and twelve images of ten classes to start from."""
    torch.manual_seed(0)
    return ClassBoard(model or mixture(), some_images())


def go_to(page, state) -> None:
    """As the kernel would."""
    page.evaluate("line => model.set('line', line)", state.text())
    wait_for_state(page, state.text())


def expected(board, state) -> np.ndarray:
    return (255 * board.draw(state)[:, 0]).round().numpy()


def must_show(page, state) -> float:
    """Each picture is that of torch, the large one the chosen class. Returns the largest difference."""
    wanted = expected(page.board, state)
    found = all_drawn(page, ".cb-written canvas")
    assert found.shape == wanted.shape and found.std() > 10, "there is something to see"
    assert (drawn(page) == found[state.write]).all()
    worst = np.abs(found - wanted).max()
    assert worst <= 1
    return worst


@pytest.fixture
def classes(page):
    """A page with a board of a small random model, and after the test no error and no request."""
    page.board = a_board()
    show(page, page.board)
    yield page
    assert page.problems == []


def states_of(board) -> list:
    """Every kind of start, readings that are cheap and dear, shifts alone and together."""
    state = board.state
    dear = state.from_image("0b").reading((board.state.from_image("0b").read_as + 1) % 10)
    found = [state, state.writing(1), state.reading(0), dear, state.from_mean(), state.from_mean().writing(0)]
    found += [state.shifted(1, 3), state.shifted(2, -1.5).shifted(4, 0.05), state.from_mean().shifted(3, -3)]
    return [*found, dear.shifted(1, 0.5).shifted(2, 1).shifted(3, -1).shifted(4, 2.95).writing(9)]


# What it draws ----------------------------------------------------------------------------------


def test_the_page_draws_what_torch_draws(page):
    page.board = a_board()
    show(page, page.board, script="class_board.js")  # the files as they are, importing each other
    worst = 0
    for state in states_of(page.board):
        go_to(page, state)
        worst = max(worst, must_show(page, state))
        if state.read_as is not None:
            own = page.board._pixels[page.board.names.index(state.start.split()[1]), 0].numpy()
            assert (all_drawn(page, ".cb-own")[0] == own).all()
    print(f"\npage and torch differ by at most {worst:.0f} grey levels")
    assert page.problems == []


def test_the_prices_are_those_of_the_model_and_softmax_to_q(classes):
    board = classes.board
    prices = np.frombuffer(board.prices, "<f4").reshape(12, 10)
    for name in ("3", "7", "1b"):
        nth = board.names.index(name)
        go_to(classes, board.state.from_image(name))
        nats = [float(text) for text in classes.locator(".cb-price [data-name=nats]").all_text_contents()]
        np.testing.assert_allclose(nats, prices[nth], atol=0.051)
        found = classes.evaluate("prices => board.shares(prices)", prices[nth].tolist())
        wanted = torch.softmax(-torch.tensor(prices[nth], dtype=torch.float64), dim=0)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        marks = classes.locator(".cb-price [data-name=best]").all_text_contents()
        assert [i for i, text in enumerate(marks) if text == "cheapest"] == [board.cheapest[nth]]
        assert classes.locator(".cb-label input").get_attribute("value") == str(board.labels[nth])
        checked = classes.get_by_role("radiogroup", name="Read it as").get_by_role("radio", checked=True)
        assert checked.get_attribute("value") == str(board.cheapest[nth])


def test_a_wrong_reading_says_what_it_costs(classes):
    board = classes.board
    nth, best = board.names.index("3"), board.state.read_as
    prices = np.frombuffer(board.prices, "<f4").reshape(12, 10)[nth]
    cost = classes.locator(".cb-cost")
    assert cost.text_content().startswith(
        f"Read as {best} the code costs {prices[best]:.1f} nats: no class is cheaper."
    )
    assert ("would misread it" in cost.text_content()) == (best != 3)
    dearest = int(prices.argmax())
    classes.click(f".cb-prices label:nth-child({dearest + 1})")
    wait_for_state(classes, board.state.reading(dearest).text())
    more = float(prices[dearest] - prices[best])
    assert cost.text_content().startswith(
        f"Read as {dearest} the code costs {prices[dearest]:.1f} nats instead of {prices[best]:.1f}: to the "
        f"model, class {best} is e{more:.1f}, about "
    )
    must_show(classes, board.state.reading(dearest))


def test_it_says_how_long_the_style_is(classes):
    board = classes.board
    for state in states_of(board):
        go_to(classes, state)
        size = board.style(state).norm().item()
        assert float(classes.text_content("[data-name=length]")) == pytest.approx(size, abs=0.051)
        low, high = (math.sqrt(5.5) + sign * 1.96 / math.sqrt(2) for sign in (-1, 1))
        word = "hardly ever drawn" if size > high else "short" if size < low else "usual"
        assert classes.text_content("[data-name=verdict]") == f", {word}"
    assert "√6 = 2.4 is typical; 95 in 100 draws of p(z|y) lie from 1.0 to 3.7" in classes.text_content(
        "[data-name=typical]"
    )


def test_a_class_mean_has_no_image_and_no_prices(classes):
    classes.click("[value='class mean']")
    state = classes.board.state.from_mean()
    wait_for_state(classes, state.text())
    must_show(classes, state)
    assert classes.locator("text=there is nothing to read, and no price").is_visible()
    assert (
        not classes.locator(".cb-own").is_visible() and not classes.locator(".cb-price b").first.is_visible()
    )
    assert classes.locator(".cb-prices input:enabled").count() == 0
    classes.click("label[title='5']:has([value='image 5'])")
    wait_for_state(classes, classes.board.state.from_image("5").text())
    assert classes.locator(".cb-own").is_visible() and classes.locator(".cb-price b").first.is_visible()
    assert classes.locator(".cb-prices input:enabled").count() == 10


# Hands ------------------------------------------------------------------------------------------


def test_a_class_is_chosen_by_mouse_and_by_keys(classes):
    state, before = classes.board.state, drawn(classes)
    classes.click(".cb-written label[title='1']")
    wait_for_state(classes, state.writing(1).text())
    assert np.abs(drawn(classes) - before).max() > 10
    classes.keyboard.press("ArrowRight")
    wait_for_state(classes, state.writing(2).text())
    classes.keyboard.press("ArrowLeft")
    classes.keyboard.press("ArrowLeft")
    classes.keyboard.press("ArrowLeft")
    wait_for_state(classes, state.writing(9).text())  # round the end
    must_show(classes, state.writing(9))
    assert classes.evaluate("document.activeElement.getAttribute('aria-label')") == "written as 9"


def test_keys_do_it_all(classes):
    """From the first image to the last slider by Tab and arrows, nothing else."""
    state = classes.board.state.from_image("4")
    classes.keyboard.press("Tab")
    classes.keyboard.press("ArrowRight")
    wait_for_state(classes, state.text())
    classes.keyboard.press("Tab")
    classes.keyboard.press("ArrowDown")
    state = state.reading((state.read_as + 1) % 10)
    wait_for_state(classes, state.text())
    classes.keyboard.press("Tab")
    classes.keyboard.press("ArrowRight")
    state = state.writing(9)
    wait_for_state(classes, state.text())
    assert classes.get_by_role("button", name="Styles to 0").is_disabled()
    for style, (key, shift) in enumerate(
        [("ArrowRight", 0.05), ("ArrowLeft", -0.05), ("End", 3), ("Home", -3)]
    ):
        classes.keyboard.press("Tab")
        classes.keyboard.press(key)
        state = state.shifted(style + 1, shift)
        wait_for_state(classes, state.text())
    must_show(classes, state)
    wait_for_save(classes, {"line": state.text()})  # Python hears of it
    assert classes.board.state.parse(state.text()) == state
    spoken = f"Drawn: {state.text()}. The length of the style is {classes.board.style(state).norm():.1f}."
    classes.wait_for_function(
        "text => document.querySelector('[aria-live]').textContent === text", arg=spoken
    )
    classes.get_by_role("button", name="Styles to 0").press("Enter")
    wait_for_state(classes, state.unshifted().text())
    for node in classes.locator(".vae-board :is(button, input)").all():
        assert node.get_attribute("data-lm-suppress-shortcuts") == "true"


def test_a_slider_can_be_dragged(classes):
    slider = classes.get_by_role("slider", name="style 2")
    slider.scroll_into_view_if_needed()
    box, before = slider.bounding_box(), all_drawn(classes, ".cb-written canvas")
    height = box["y"] + box["height"] / 2
    classes.mouse.move(box["x"] + box["width"] / 2, height)
    classes.mouse.down()
    classes.mouse.move(box["x"] + 0.8 * box["width"], height, steps=5)
    classes.mouse.move(box["x"] + 2 * box["width"], height, steps=5)
    state = classes.board.state.shifted(2, 3)
    wait_for_state(classes, state.text())
    classes.mouse.up()
    assert classes.evaluate("saves.at(-1).line") == state.text(), "Python hears of it at once"
    must_show(classes, state)
    changes = np.abs(all_drawn(classes, ".cb-written canvas") - before).max(axis=(1, 2))
    assert (changes > 3).all(), "all ten change"


def test_reset_and_size(classes):
    go_to(classes, states_of(classes.board)[-1])
    classes.click("text=Reset")
    wait_for_state(classes, classes.board.state.text())
    classes.set_viewport_size({"width": 1500, "height": 900})
    normal = classes.locator(".vae-picture").bounding_box()["width"]
    classes.click("text=Large")
    assert classes.locator(".vae-picture").bounding_box()["width"] > 1.2 * normal
    assert classes.evaluate("model.get('large')") is True
    assert classes.get_attribute("text=Large", "aria-pressed") == "true"


@pytest.mark.parametrize("large", [False, True])
def test_it_fits_in_every_width(classes, large):
    classes.evaluate("large => model.set('large', large)", large)
    for width in (*(() if large else (400, 500, 600)), 700, 800, 900, 1000, 1100, 1400):
        classes.set_viewport_size({"width": width, "height": 900})
        for state in (classes.board.state, states_of(classes.board)[-1], classes.board.state.from_mean()):
            go_to(classes, state)
            assert classes.evaluate(CLASHES) == [], f"{width} pixels, {state.text()}"


def test_the_page_and_python_follow_the_same_rule(classes):
    state = classes.board.state
    texts = [text.replace("3b", "3") for text in GOOD] + [other.text() for other in states_of(classes.board)]
    texts += [*BAD, "class mean · written as 0 · +.125 along style 4 · −1 along style 2"]
    must_read_alike(classes, state, texts, f"board.write(board.read(text, {ITS}))")
    page_says = f"""(line) => {{
      const its = {ITS}, state = board.read(line, its);
      return [board.first(its), board.fromMean(state), board.fromImage(state, "1b", its),
        board.unshifted(state), board.shifted(state, 1, -9), board.shifted(state, 3, 0.125)].map(board.write);
    }}"""
    for other in states_of(classes.board):
        wanted = [other.reset(), other.from_mean(), other.from_image("1b"), other.unshifted()]
        wanted += [other.shifted(2, -9), other.shifted(4, 0.125)]
        assert classes.evaluate(page_says, other.text()) == [after.text() for after in wanted]
    classes.fill(".vae-state", "image 0, written as 2, read as 4")
    classes.keyboard.press("Enter")
    wait_for_state(classes, "image 0 · read as 4 · written as 2")
    classes.fill(".vae-state", "banana")
    classes.keyboard.press("Enter")
    classes.wait_for_selector("text=is not on this board")


# At length --------------------------------------------------------------------------------------


def test_300_moves_of_a_slider_leave_the_last_one_drawn(classes):
    count_draws(classes)
    slide(classes, ".cb-style [type=range]", 300)
    state = classes.board.state.shifted(1, (37 * 300 % 121 - 60) / 20)
    wait_for_state(classes, state.text())
    assert classes.evaluate("draws") == 11, "ten pictures and the large one, once; the image is left alone"
    must_show(classes, state)
    wait_for_save(classes, {"line": state.text()})


def test_a_key_is_answered_at_once(page, record_property):
    model = MixtureVAE(VAE(hidden=(400, 400), latent_dim=16, batch_norm=True))  # as in the lesson
    torch.nn.init.normal_(model.vae.decoder[-1].weight)
    page.board = a_board(model)
    show(page, page.board)
    page.get_by_role("slider", name="style 1").press("End")
    delays = key_to_pixel(page, ["PageDown", "PageUp"])
    median, slow = statistics.median(delays), delays[23]
    record_property("key_to_pixel_ms", median)
    print(f"\nkey to pixel: median {median:.0f} ms, p95 {slow:.0f} ms")
    assert median < 250
    assert page.problems == []


def test_a_board_that_is_closed_lets_go(classes):
    classes.get_by_role("slider", name="style 3").press("ArrowRight")
    classes.evaluate("leave()")
    assert classes.evaluate("saves.at(-1).line") == classes.board.state.shifted(3, 0.05).text()
    assert classes.evaluate("model.listeners.length") == 0
