"""The latent walk in a browser: its page alone, with a stand-in for the kernel."""

import statistics

import numpy as np
import pytest
import torch
from board_page import count_draws, drawn, key_to_pixel, must_read_alike, show, wait_for_save, wait_for_state
from torch import nn

from course_utils.data import Images
from course_utils.evaluate import posterior_means
from course_utils.models.conv_vae import ConvVAE
from course_utils.widgets import LatentWalk
from course_utils.widgets.latent_walk import along

pytestmark = pytest.mark.browser


def a_board() -> tuple[ConvVAE, LatentWalk]:
    """A small random model whose batch norms have seen something, and twelve images of ten classes."""
    torch.manual_seed(0)
    model = ConvVAE((6, 10), hidden=32, latent_dim=8)
    for layer in [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]:
        nn.init.normal_(layer.running_mean)
        nn.init.uniform_(layer.running_var, 0.2, 2.0)
        nn.init.uniform_(layer.weight, 0.5, 2.0)
    with torch.no_grad():  # the weights of a new model are small: without this all its pictures are alike
        model.decoder[0][0].weight *= 8
        model.decoder[-2].weight *= 3
    blobs = nn.functional.interpolate(torch.rand(12, 1, 7, 7), scale_factor=4) > 0.6
    images = Images(blobs.to(torch.uint8) * 255, torch.arange(12) % 10, {})
    last = model.eval().encoder[-1]
    with torch.no_grad():  # codes of a new model all point the same way: let theirs lie around 0
        mu = posterior_means(model, images)
        last.bias[:8] -= mu.mean(dim=0)
        for weights in (last.weight, last.bias):
            weights /= (mu - mu.mean(dim=0)).std()
    return model, LatentWalk(model, images, n=12)


def wait_for_strip(page) -> None:
    page.wait_for_function("document.querySelector('.lw-decoded').dataset.pictures === '11'")


@torch.inference_mode()
def decoded(page, state) -> np.ndarray:
    a, b = (page.walk.codes[page.walk.names.index(name)] for name in state.ends)
    z = along(torch.tensor(a), torch.tensor(b), state.t, state.sphere)
    return (255 * page.vae.likelihood.mean(page.vae.decode(z[None]))[0, 0]).round().numpy()


@pytest.fixture
def walk(page):
    """A page with a board of a small random model, and after the test no error and no request."""
    page.vae, page.walk = a_board()
    show(page, page.walk)
    yield page
    assert page.problems == []


def test_the_page_draws_what_torch_decodes_along_both_ways(page):
    page.vae, page.walk = a_board()
    show(page, page.walk, script="latent_walk.js")  # the files as they are, importing each other
    worst, between = 0, {}
    for sphere in (False, True):
        page.click("text=On the sphere" if sphere else "text=Straight")
        page.walk.sphere = sphere
        for t in (0.0, 0.13, 0.5, 0.86, 1.0):
            state = page.walk.state.at(t)
            page.evaluate("t => model.set('t', t)", t)  # as the kernel would
            wait_for_state(page, state.text())
            assert drawn(page).std() > 10, "there is something to see"
            worst = max(worst, np.abs(drawn(page) - decoded(page, state)).max())
            between[sphere, t] = drawn(page)
    print(f"\npage and torch differ by at most {worst:.0f} grey levels")
    assert worst <= 1
    assert np.abs(between[True, 0.5] - between[False, 0.5]).max() > 3, "the two ways differ half-way"
    assert np.abs(between[True, 0.0] - between[False, 0.0]).max() <= 1, "and not at an end"
    assert page.problems == []


def test_the_strips_hold_each_step_and_the_mixed_pixels(walk):
    wait_for_strip(walk)
    state = walk.walk.state
    first, last = (walk.walk._pixels[walk.walk.names.index(name), 0].numpy() for name in state.ends)
    for nth in range(11):
        t = nth / 10
        assert np.abs(drawn(walk, ".lw-decoded", 28 * nth) - decoded(walk, state.at(t))).max() <= 1
        assert np.abs(drawn(walk, ".lw-mixed", 28 * nth) - ((1 - t) * first + t * last)).max() <= 1
    assert drawn(walk, ".lw-decoded", 28 * 10).tolist() != drawn(walk, ".lw-decoded", 0).tolist()


def test_keys_move_along_and_the_marks_go_with_them(walk):
    walk.focus(".lw-slider")
    for key, t in {
        "ArrowRight": "0.51",
        "ArrowUp": "0.52",
        "ArrowLeft": "0.51",
        "PageUp": "0.61",
        "PageDown": "0.51",
        "End": "1.00",
        "Home": "0.00",
    }.items():
        walk.keyboard.press(key)
        wait_for_state(walk, f"from 3 to 8 · straight · t = {t}")
    assert walk.get_attribute(".lw-slider", "data-lm-suppress-shortcuts") == "true"
    assert walk.get_attribute(".lw-slider", "aria-valuetext") == "t = 0.00"
    walk.wait_for_function("document.querySelector('[aria-live]').textContent.includes('t = 0.00')")
    wait_for_save(walk, {"ends": ["3", "8"], "sphere": False, "t": 0})  # Python hears of it
    walk.keyboard.press("End")
    wait_for_state(walk, "from 3 to 8 · straight · t = 1.00")
    strip = walk.locator(".lw-strip").first.bounding_box()
    for gate in walk.locator(".lw-gate").all():
        box = gate.bounding_box()
        assert abs(box["x"] + box["width"] - strip["x"] - strip["width"]) < 1.5, "over the last picture"
        assert abs(box["width"] - strip["width"] / 11) < 1


def test_another_end_is_chosen_by_mouse_and_by_keys(walk):
    wait_for_strip(walk)
    walk.click("[aria-label=To] label[title='5']")
    wait_for_state(walk, "from 3 to 5 · straight · t = 0.50")
    walk.focus("[aria-label=From] :checked")
    walk.keyboard.press("ArrowRight")
    wait_for_state(walk, "from 4 to 5 · straight · t = 0.50")
    assert walk.evaluate("document.activeElement.value") == "4", "the arrows go on from here"
    walk.evaluate("model.set('ends', ['0b', '7'])")  # as the kernel would
    wait_for_state(walk, "from 0b to 7 · straight · t = 0.50")
    checked = walk.evaluate("[...document.querySelectorAll(':checked')].map((button) => button.value)")
    assert checked == ["0b", "7"]
    wait_for_strip(walk)
    walk.walk.ends = ["0b", "7"]
    for nth in (0, 4, 10):
        expected = decoded(walk, walk.walk.state.at(nth / 10))
        assert np.abs(drawn(walk, ".lw-decoded", 28 * nth) - expected).max() <= 1


def test_a_strip_can_be_dragged(walk):
    walk.locator(".lw-strip").last.scroll_into_view_if_needed()
    box = walk.locator(".lw-strip").last.bounding_box()

    def over(nth):
        return box["x"] + box["width"] * (nth + 0.5) / 11, box["y"] + box["height"] / 2

    walk.mouse.move(*over(2))
    walk.mouse.down()
    wait_for_state(walk, "from 3 to 8 · straight · t = 0.20")
    walk.mouse.move(*over(7), steps=4)
    wait_for_state(walk, "from 3 to 8 · straight · t = 0.70")
    walk.mouse.move(*over(99), steps=4)
    wait_for_state(walk, "from 3 to 8 · straight · t = 1.00")
    walk.mouse.up()
    assert walk.evaluate("saves.at(-1).t") == 1, "Python hears of it at once"
    walk.mouse.move(*over(1))
    wait_for_state(walk, "from 3 to 8 · straight · t = 1.00")


def test_300_moves_of_the_slider_leave_the_last_one_drawn(walk):
    wait_for_strip(walk)
    count_draws(walk)
    walk.evaluate("""() => {
      const slider = document.querySelector(".lw-slider");
      for (let i = 1; i <= 300; i++) {
        slider.value = ((37 * i) % 101) / 100;
        slider.dispatchEvent(new InputEvent("input", { bubbles: true }));
      }
    }""")
    state = walk.walk.state.at(37 * 300 % 101 / 100)
    wait_for_state(walk, state.text())
    assert walk.evaluate("draws") == 1, "and the strips are left alone"
    assert np.abs(drawn(walk) - decoded(walk, state)).max() <= 1


def test_a_key_is_answered_at_once(walk, record_property):
    wait_for_strip(walk)
    walk.focus(".lw-slider")
    delays = key_to_pixel(walk, ["PageUp", "PageDown"])
    median, slow = statistics.median(delays), delays[23]
    record_property("key_to_pixel_ms", median)
    print(f"\nkey to pixel: median {median:.0f} ms, p95 {slow:.0f} ms")
    assert median < 500


def test_reset_and_size(walk):
    walk.click("text=On the sphere")
    walk.click("[aria-label=To] label[title='1']")
    wait_for_state(walk, "from 3 to 1 · on the sphere · t = 0.50")
    walk.click("text=Reset")
    wait_for_state(walk, "from 3 to 8 · straight · t = 0.50")

    def width():
        return walk.locator(".vae-picture").bounding_box()["width"]

    normal = width()
    walk.click("text=Large")
    assert width() > 1.4 * normal
    assert walk.evaluate("model.get('large')") is True


def test_the_page_says_how_long_z_is_on_its_way(walk):
    a, b = (torch.tensor(walk.walk.codes[walk.walk.names.index(name)]) for name in ("3", "8"))
    for sphere in (False, True):
        walk.click("text=On the sphere" if sphere else "text=Straight")
        walk.walk.sphere = sphere
        wait_for_state(walk, walk.walk.state.text())
        length = along(a, b, 0.5, sphere).norm().item()
        assert float(walk.text_content("[data-name=size_of_z]")) == pytest.approx(length, abs=0.006)
    assert f"goes evenly from {a.norm():.1f} to {b.norm():.1f}" in walk.text_content(".lw-why")


def test_the_page_and_python_read_the_same_states(walk):
    texts = [
        "from 3 to 8 · straight · t = 0.40",
        "From 0B to 7 · On The Sphere · t=1",
        "3 to 8, straight, .5",
    ]
    texts += ["3 to 8 straight 0.015", " 1 to 1 on the sphere; t = 0.005 ", "3 to 8 · straight · t = 1."]
    texts += [
        "",
        "banana",
        "from 3 to 8",
        "from 3 to 8 · straight · t = 1.01",
        "from 3 to 2c · straight · t = 0",
    ]
    texts += ["from 3 to 8 · round · t = 0", "from 3 to 8 · straight · t = -0.1", "3 8 straight 0", "t = 0.5"]
    read = "board.write(board.read(text, model.get('names'), model.get('start')))"
    must_read_alike(walk, walk.walk.state, texts, read)
    walk.fill(".vae-state", "from 9 to 0b, on the sphere, 0.25")
    walk.keyboard.press("Enter")
    wait_for_state(walk, "from 9 to 0b · on the sphere · t = 0.25")
    walk.fill(".vae-state", "banana")
    walk.keyboard.press("Enter")
    walk.wait_for_selector("text=is not a walk on this board")


def test_a_board_that_is_closed_lets_go(walk):
    walk.focus(".lw-slider")
    walk.keyboard.press("ArrowRight")
    walk.evaluate("leave()")
    assert walk.evaluate("board.write(saves.at(-1))") == "from 3 to 8 · straight · t = 0.51"
    assert walk.evaluate("model.listeners.length") == 0
