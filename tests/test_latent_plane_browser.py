"""The latent plane in a browser: its page alone, with a stand-in for the kernel."""

import statistics

import numpy as np
import pytest
import torch
from board_page import count_draws, drawn, key_to_pixel, must_read_alike, show, wait_for_save, wait_for_state
from torch import nn

from course_utils import distributions
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.vae import VAE
from course_utils.widgets import LatentPlane, PlaneState

pytestmark = pytest.mark.browser


def a_board(likelihood=distributions.Bernoulli) -> tuple[VAE, LatentPlane]:
    torch.manual_seed(0)
    model = VAE(latent_dim=2, hidden=(64,), likelihood=likelihood())
    with torch.no_grad():  # the weights of a new model are small: without this all its pictures are grey
        model.decoder[0].weight *= 4
        model.decoder[-1].weight *= 3
    return model, LatentPlane(model, torch.randn(500, 2), torch.arange(500) % 10, start=(0.5, -1.25))


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
    wait_for_save(plane, {"z": [0.5, -1.25]})  # Python hears of it, once the keys rest


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
    count_draws(plane)
    plane.evaluate("""() => {
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
    plane.focus(".lp-plane")
    delays = key_to_pixel(plane, ["ArrowRight", "ArrowUp"])
    median, slow = statistics.median(delays), delays[23]
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
    read = "board.write(board.read(text, model.get('extent')))"
    must_read_alike(plane, PlaneState(extent=extent), texts, read)


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
    assert plane.evaluate("saves.at(-1).z") == [0.6, -1.25]
    assert plane.evaluate("model.listeners.length") == 0
