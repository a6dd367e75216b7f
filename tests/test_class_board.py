"""The class board without a browser: its rule, styles and prices, and what is left without a page."""

import base64
import io

import pytest
import torch
from PIL import Image
from torch import nn

from course_utils.data import Images
from course_utils.evaluate import posterior_means
from course_utils.models.semi_supervised_vae import MixtureVAE
from course_utils.models.vae import VAE
from course_utils.widgets import ClassBoard, ClassState
from course_utils.widgets.class_board import principal_styles

STATE = ClassState.first(("0", "3", "3b"), (0, 3, 5))


def some_images(n: int = 24) -> Images:
    blobs = nn.functional.interpolate(torch.rand(n, 1, 7, 7), scale_factor=4) > 0.6
    return Images(blobs.to(torch.uint8) * 255, torch.arange(n) % 10, {})


def mixture(latent_dim: int = 6) -> MixtureVAE:
    """A small random model whose batch norms have seen images, and whose classes differ in their spread."""
    torch.manual_seed(0)
    model = MixtureVAE(VAE(hidden=(24, 20), latent_dim=latent_dim, batch_norm=True)).train()
    nn.init.uniform_(model.log_var, -0.8, 0.5)
    with torch.no_grad():
        model.vae.encoder[-1].weight *= 3  # untrained, it leaves all codes alike, and next to no contrast
        model.vae.decoder[-1].weight *= 3
        for _ in range(5):
            model((torch.rand(50, 1, 28, 28) > 0.6).float())
    return model.eval()


@pytest.fixture
def board() -> ClassBoard:
    return ClassBoard(mixture(), some_images())


# The state --------------------------------------------------------------------------------------


def test_at_first_a_digit_is_written_as_another():
    assert STATE.text() == "image 3 · read as 3 · written as 8"
    assert ClassState.first(("0", "8"), (0, 8)).text() == "image 0 · read as 0 · written as 8"
    assert ClassState.first(("8",), (8,)).text() == "image 8 · read as 8 · written as 3"
    assert ClassState.first(("3",), (8,)).text() == "image 3 · read as 8 · written as 3"


def test_each_part_changes_alone():
    changed = STATE.reading(8).writing(1).shifted(1, 1).shifted(4, -0.504)
    assert changed.text() == "image 3 · read as 8 · written as 1 · +1.00 along style 1 · -0.50 along style 4"
    assert STATE.read_as == 3, "a change returns a new state"
    assert changed.unshifted() == STATE.reading(8).writing(1)
    assert changed.reset() == STATE
    other = changed.from_image("3b")
    assert (other.read_as, other.write, other.shifts) == (5, 1, changed.shifts), "read as its own cheapest"
    assert [STATE.shifted(2, s).shifts[1] for s in (-9, -0.004, 0.125, 9)] == [-3, 0, 0.13, 3]


def test_a_class_mean_is_not_read():
    mean = STATE.reading(8).from_mean().shifted(2, 0.5)
    assert mean.text() == "class mean · written as 8 · +0.50 along style 2"
    assert mean.from_image("0").text() == "image 0 · read as 0 · written as 8 · +0.50 along style 2"
    with pytest.raises(ValueError, match="a class mean is not read: start from an image"):
        mean.reading(3)


def test_the_text_of_a_state_is_all_of_it():
    states = [STATE, STATE.from_image("3b"), STATE.reading(0).writing(0), STATE.from_mean().shifted(4, -3)]
    for state in [*states, STATE.shifted(3, 0.05).shifted(2, 2.95)]:
        assert STATE.parse(state.text()) == state


GOOD = [
    "image 3b · read as 7 · written as 1 · +1.50 along style 2 · -0.25 along style 1",
    "IMAGE 3B, −.25 along style 1; written as 1, 1.5 along style 2, read as 7",
    "  image 3b ·written  as 1 ·read as 7· + 1.50 along style 02· - .25 Along Style 1·0 along style 3",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_state_is_read_from_what_people_write(text):
    expected = STATE.from_image("3b").reading(7).writing(1).shifted(2, 1.5).shifted(1, -0.25)
    assert STATE.shifted(4, 2).parse(text) == expected


BAD = [
    "",
    "banana",
    "image 3",
    "image 3 · written as 8",
    "image 3 · read as 3",
    "image 4 · read as 3 · written as 8",
    "image 3 · read as 3 · written as 10",
    "image 3 · read as 3 · read as 3 · written as 8",
    "image 3 · read as 3 · written as 8 · ",
    "image 3 · read as 3 · written as 8 · +1 along style 5",
    "image 3 · read as 3 · written as 8 · +1 along style 0",
    "image 3 · read as 3 · written as 8 · +3.5 along style 1",
    "image 3 · read as 3 · written as 8 · +1 along style 1 · +1 along style 1",
    "class mean",
    "class mean · read as 3 · written as 8",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_says_what_to_write(text):
    expected = (
        "is not on this board. Write a start, image 0, 3, 3b or class mean; of an image then the class it is "
        "read as; and the class it is written as: image 3 · read as 3 · written as 8. There may follow "
        r"\+1.00 along style 1 \(-3 to 3, style 1 to 4\)"
    )
    with pytest.raises(ValueError, match=expected):
        STATE.parse(text)


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no image 8: there are 0, 3, 3b"):
        STATE.from_image("8")
    with pytest.raises(ValueError, match="no class 10: they are 0 to 9"):
        STATE.writing(10)
    with pytest.raises(ValueError, match="no class -1"):
        STATE.reading(-1)
    with pytest.raises(ValueError, match="no style 5: they are 1 to 4"):
        STATE.shifted(5, 1)


# Styles and prices ------------------------------------------------------------------------------


def test_styles_are_the_principal_directions():
    turned, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    spread = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    found = principal_styles((5 + torch.randn(4000, 6, dtype=torch.float64) * spread) @ turned.T)
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.deviations.double(), spread[:4], rtol=0.05, atol=0)
    assert ((found.vectors.double() @ turned).diagonal().abs() > 0.98).all()
    largest = found.vectors.abs().argmax(dim=1, keepdim=True)
    assert (found.vectors.gather(1, largest) > 0).all(), "their sign is fixed"


def test_there_are_no_more_styles_than_there_can_be():
    assert principal_styles(torch.randn(9, 3)).vectors.shape == (3, 3)
    only = principal_styles(torch.randn(1, 6))
    assert torch.isfinite(only.vectors).all() and only.deviations.tolist() == [0]
    board = ClassBoard(mixture(2), some_images())
    assert len(board.state.shifts) == 2
    with pytest.raises(ValueError, match=r"style 1 to 2\)"):
        board.state.parse("class mean · written as 3 · +1 along style 3")


@torch.no_grad()
def test_the_board_is_told_the_prices_of_the_model():
    model, images = mixture(), some_images()
    board = ClassBoard(model, images)
    chosen = [*range(10), 10, 11]
    expected = model.prices(*model.encode(images.pixels[chosen].float() / 255))
    found = torch.frombuffer(bytearray(board.prices), dtype=torch.float32).view(12, 10)
    torch.testing.assert_close(found, expected)
    assert board.cheapest == expected.argmin(dim=1).tolist()
    assert board.names[-2:] == ["0b", "1b"] and board.labels == images.labels[chosen].tolist()


@torch.no_grad()
def test_the_styles_are_those_of_all_images_in_their_likeliest_class():
    model, images = mixture(), some_images()
    mu = posterior_means(model, images)
    likeliest = model.classify(images.pixels.float() / 255).argmax(dim=1)
    eps = (mu - model.mu[likeliest]) / torch.exp(0.5 * model.log_var[likeliest])
    found = ClassBoard(model, images).styles
    along = (eps - eps.mean(dim=0)) @ found.vectors.T
    torch.testing.assert_close(along.std(dim=0), found.deviations, rtol=1e-4, atol=1e-5)
    between = along.T.corrcoef() - torch.eye(4)
    assert between.abs().max() < 1e-3 and (found.deviations.diff() <= 0).all()


# What it draws ----------------------------------------------------------------------------------


@torch.no_grad()
def test_written_as_it_was_read_it_is_the_reconstruction_whatever_the_class():
    model, images = mixture(), some_images()
    board = ClassBoard(model, images)
    expected = model.likelihood.mean(model.decode(posterior_means(model, images)[3:4]))[0]
    for label in range(10):
        picture = board.draw(board.state.from_image("3").reading(label))[label]
        torch.testing.assert_close(picture, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_class_mean_is_decoded_from_the_means_of_the_prior(board):
    model = mixture()
    assert board.style(board.state.from_mean()).tolist() == [0] * 6
    expected = model.likelihood.mean(model.decode(model.mu))
    torch.testing.assert_close(board.draw(board.state.from_mean()), expected, rtol=0, atol=1e-5)


def test_a_shift_moves_the_style_by_deviations(board):
    state = board.state
    change = board.style(state.shifted(2, -1.5).shifted(4, 0.5)) - board.style(state)
    vectors, deviations = board.styles
    torch.testing.assert_close(change, -1.5 * deviations[1] * vectors[1] + 0.5 * deviations[3] * vectors[3])
    assert (board.draw(state) != board.draw(state.shifted(1, 2))).any()


# The view ---------------------------------------------------------------------------------------


def test_the_board_holds_the_state(board):
    assert board.line == board.state.text() == board.state.reset().text()
    board.state = board.state.from_mean().writing(2)
    assert board.line == "class mean · written as 2"
    board.line = "image 0, written as 4, read as 3"
    assert board.line == "image 0 · read as 3 · written as 4", "as the board writes it"
    with pytest.raises(ValueError, match="is not on this board"):
        board.line = "image 0"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was_and_the_board_too(training):
    model = mixture().train(training)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    board = ClassBoard(model, some_images())
    assert model.training == model.vae.training == training
    assert all((before[name] == values).all() for name, values in model.state_dict().items())
    assert all(values.requires_grad for values in model.parameters())
    weights, pictures = board.weights, board.draw(board.state)
    nn.init.zeros_(model.vae.decoder[-1].weight)
    nn.init.zeros_(model.mu)
    assert board.weights == weights and (board.draw(board.state) == pictures).all()


def test_a_board_needs_an_image():
    with pytest.raises(ValueError, match="give it one at least"):
        ClassBoard(mixture(), some_images(), n=0)
    assert ClassBoard(mixture(), some_images(1)).names == ["0"]


@pytest.mark.parametrize("change", ["image", "class mean", "one image"])
def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(change):
    board = ClassBoard(mixture(), some_images(1 if change == "one image" else 24))
    if change == "class mean":
        board.state = board.state.from_mean()
    data, metadata = board._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 60_000
    assert "written as each class from 0 to 9" in metadata["image/png"]["alt"]
    assert board.state.text() in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
