"""The latent walk without a browser: its rule, its geometry, and what is left where no board can be shown."""

import base64
import io
import math

import pytest
import torch
from PIL import Image
from torch import nn

from course_utils.data import Images
from course_utils.evaluate import posterior_means
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.vae import VAE
from course_utils.widgets import LatentWalk, WalkState
from course_utils.widgets.latent_walk import along, pick

STATE = WalkState(names=("0", "3", "3b", "8"), start=("3", "8"), ends=("3", "8"))


def some_images(n: int = 12) -> Images:
    pixels = (torch.rand(n, 1, 28, 28) > 0.7).to(torch.uint8) * 255
    return Images(pixels, torch.arange(n) % 10, {})


def small_model() -> ConvVAE:
    torch.manual_seed(0)
    return ConvVAE((4, 6), hidden=16, latent_dim=5).eval()


@pytest.fixture
def board() -> LatentWalk:
    return LatentWalk(small_model(), some_images())


# The state --------------------------------------------------------------------------------------


def test_a_walk_moves_between_its_ends_and_comes_back():
    assert STATE.t == 0.5
    assert [STATE.at(t).t for t in (-1, 0.123, 0.005, 0.015, 7)] == [0, 0.12, 0.01, 0.02, 1]
    moved = STATE.at(0.4).between("0", "3b")
    assert moved.ends == ("0", "3b") and moved.t == 0.4
    assert moved.reset() == STATE
    assert STATE.ends == ("3", "8"), "a move returns a new state"
    with pytest.raises(ValueError, match="no walk from 3 to 4: the pictures are 0, 3, 3b, 8"):
        STATE.between("3", "4")


def test_the_text_of_a_state_is_all_of_it():
    assert STATE.at(0.4).text() == "from 3 to 8 · straight · t = 0.40"
    for state in (STATE.at(1 / 3), STATE.parse("3b to 0 on the sphere 0.25"), STATE.between("8", "8")):
        assert STATE.parse(state.text()) == state


@pytest.mark.parametrize(
    "text",
    [
        "from 3b to 0 · on the sphere · t = 0.25",
        "3B to 0, on the sphere, .25",
        "  From 3b to 0 On The Sphere 0.250 ",
        "from 3b to 0 · on the sphere · t=0.25",
    ],
)
def test_a_state_is_read_from_what_people_write(text):
    state = STATE.parse(text)
    assert (state.ends, state.sphere, state.t) == (("3b", "0"), True, 0.25)


@pytest.mark.parametrize(
    "text",
    ["", "banana", "from 3 to 8", "3 to 4 straight 0", "3 to 8 straight 1.01", "3 to 8 round 0", "t = 0.5"],
)
def test_a_bad_text_says_what_to_write(text):
    expected = r"Write two of 0, 3, 3b, 8, .* such as from 3 to 8 · straight · t = 0\.40"
    with pytest.raises(ValueError, match=expected):
        STATE.parse(text)


# The way ----------------------------------------------------------------------------------------


def test_on_the_sphere_the_angle_and_the_length_go_evenly():
    a, b = 3 * torch.randn(2, 40, dtype=torch.float64)

    def angle(z):
        return math.acos((z @ a / (z.norm() * a.norm())).clamp(-1, 1))

    for t in (0.0, 0.25, 0.5, 1.0):
        z = along(a, b, t, sphere=True)
        assert angle(z) == pytest.approx(t * angle(b), abs=1e-6)
        assert z.norm().item() == pytest.approx(((1 - t) * a.norm() + t * b.norm()).item())
        assert torch.linalg.matrix_rank(torch.stack([a, b, z])) == 2, "in the plane of a and b"
    assert torch.equal(along(a, b, 0.25, sphere=False), 0.75 * a + 0.25 * b)


def test_where_no_arc_leads_the_walk_is_straight():
    a = torch.randn(40, dtype=torch.float64)
    for b in (a, 2 * a, -a, torch.zeros_like(a)):
        z = along(a, b, 0.5, sphere=True)
        assert torch.isfinite(z).all()
    torch.testing.assert_close(along(a, 2 * a, 0.5, sphere=True), 1.5 * a)


# The view ---------------------------------------------------------------------------------------


def test_the_first_of_each_class_comes_before_the_second_of_any():
    labels = torch.tensor([7, 7, 2, 1, 2, 7])
    assert pick(labels, 10) == ([3, 2, 0, 4, 1, 5], ["1", "2", "7", "2b", "7b", "7c"])
    assert pick(labels, 4) == ([3, 2, 0, 4], ["1", "2", "7", "2b"])


def test_the_ends_are_posterior_means():
    model, images = small_model().train(), some_images()
    board = LatentWalk(model, images, n=10)
    assert model.training, "and the model is left as it was"
    expected = posterior_means(model, images.subset(slice(10)))
    torch.testing.assert_close(torch.tensor(board.codes), expected, atol=1e-4, rtol=0)
    assert board.pixels == images.pixels[:10].numpy().tobytes()


def test_the_board_holds_the_state(board):
    board.state = board.state.between("0", "9").at(0.4)
    assert (board.ends, board.t) == (["0", "9"], 0.4)
    board.t = 7
    assert board.state.t == 1.0
    with pytest.raises(ValueError, match="no walk from 0 to 11"):
        board.ends = ["0", "11"]
    assert LatentWalk(small_model(), some_images(), n=12, start=("1b", 2)).ends == ["1b", "2"]


def test_a_board_needs_two_images_and_a_start_among_them():
    with pytest.raises(ValueError, match=r"a walk joins two images, here there are 1"):
        LatentWalk(small_model(), some_images(), n=1)
    with pytest.raises(ValueError, match=r"no walk from 3 to 8: the pictures are 0, 1, 2, 3, 4"):
        LatentWalk(small_model(), some_images(), n=5)


def test_training_on_does_not_change_the_board():
    model = small_model()
    board = LatentWalk(model, some_images())
    weights, png = board.weights, board._png()
    nn.init.zeros_(model.decoder[0][0].weight)
    assert board.weights == weights and board._png() == png


@pytest.mark.parametrize("model", [VAE(hidden=(16,), batch_norm=True), VAE((1, 14, 14), (16,), 3)])
def test_other_models_and_sizes_walk_too(model):
    height = model.image_shape[1]
    images = Images(some_images().pixels[..., :height, :height], torch.arange(12) % 10, {})
    board = LatentWalk(model, images)
    data, _ = board._repr_mimebundle_()
    assert board.image_shape == list(model.image_shape) and "image/png" in data


def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(board):
    board.state = board.state.parse("from 0 to 5 · on the sphere · t = 0.30")
    data, metadata = board._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 60_000
    assert "from 0 to 5 · on the sphere · t = 0.30" in metadata["image/png"]["alt"]
    assert "from 0 to 5 · on the sphere · t = 0.30" in data["text/plain"]
    assert "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
