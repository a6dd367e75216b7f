"""What holds for every board in a browser: whatever can be pressed, typed in or looked at has a name."""

import re

import pytest
import test_batch_norm_board_browser
import test_class_board_browser
import test_features_browser
import test_latent_plane_browser
import test_latent_walk_browser
import test_layer_board_browser
import test_own_photograph_browser
import test_photo_board_browser
from board_page import show

pytestmark = pytest.mark.browser

BOARDS = {
    "LatentPlane": lambda: test_latent_plane_browser.a_board()[1],
    "LatentWalk": lambda: test_latent_walk_browser.a_board()[1],
    "BatchNormBoard": test_batch_norm_board_browser.a_board,
    "FeatureViewer": test_features_browser.a_board,
    "LayerBoard": test_layer_board_browser.a_board,
    "ClassBoard": test_class_board_browser.a_board,
    "PhotoBoard": test_photo_board_browser.a_board,
    "OwnPhotograph": test_own_photograph_browser.a_board,
}

TO_USE = "a, button, input, select, textarea, [tabindex]"
TO_READ = "canvas[role], svg[role], [role=img], [role=group], [role=radiogroup], fieldset"


@pytest.mark.parametrize("name", BOARDS)
def test_everything_has_a_name_for_a_screen_reader(page, name):
    """A snapshot says what a screen reader hears: a role, then the name in double quotes."""
    show(page, BOARDS[name]())
    heard = {}
    for part in (TO_USE, TO_READ):
        heard[part] = [
            found.aria_snapshot().split("\n")[0]
            for found in page.locator(".vae-board").locator(part).all()
            if found.is_visible()
        ]
        assert [line for line in heard[part] if not re.match(r"- '?\w+ \"", line)] == []
    assert len(heard[TO_USE]) >= 10 and any(line.startswith("- textbox") for line in heard[TO_USE])
    assert page.problems == []
