"""Boards without a browser: the state, the packed decoder, and what is left where no board can be shown."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_utils import distributions
from course_utils.models.vae import VAE
from course_utils.widgets import LatentPlane, PlaneState
from course_utils.widgets.latent_plane import CLASS_COLOURS
from course_utils.widgets.shared import page, page_decoder

LIKELIHOODS = [
    distributions.Bernoulli,
    distributions.GaussianShared,
    distributions.GaussianPerPixel,
    distributions.DiscretisedLogistic,
]


def small_vae(likelihood=distributions.Bernoulli) -> VAE:
    torch.manual_seed(0)
    return VAE(latent_dim=2, hidden=(64,), likelihood=likelihood())


@pytest.fixture
def board() -> LatentPlane:
    torch.manual_seed(1)
    return LatentPlane(small_vae(), torch.randn(2000, 2), torch.arange(2000) % 10)


# The state --------------------------------------------------------------------------------------


def test_a_point_moves_stays_inside_and_comes_back():
    state = PlaneState(z=(0.5, -1.25), start=(0.5, -1.25), extent=3.0)
    assert state.moved(0.1, -0.1).z == (0.6, -1.35)
    assert state.moved(99, -99).z == (3.0, -3.0)
    assert state.moved(1, 1).reset() == state
    assert state.z == (0.5, -1.25), "a move returns a new state"
    assert PlaneState().moved(-0.001, 0).text() == "z = 0.00, 0.00", "no minus zero"


def test_the_text_of_a_state_is_all_of_it():
    state = PlaneState(extent=3.0).at(1 / 3, -math.pi / 2)
    assert state.text() == "z = 0.33, -1.57"
    assert PlaneState(extent=3.0).parse(state.text()) == state


@pytest.mark.parametrize("text", ["z = 1, -2", "1 -2", "(1.0, -2.0)", " [1; -2.] ", "z=1.00,−2.00"])
def test_a_state_is_read_from_what_people_write(text):
    assert PlaneState().parse(text).z == (1.0, -2.0)


@pytest.mark.parametrize("text", ["", "banana", "z = 1", "1, 2, 3", "nan, 0", "z = 9, 0", "1e400, 0"])
def test_a_bad_text_says_what_to_write(text):
    with pytest.raises(ValueError, match=r"Write two numbers from −4 to 4, such as z = 0\.50, -1\.25"):
        PlaneState().parse(text)


# The decoder ------------------------------------------------------------------------------------

OPERATIONS = {
    "silu": lambda x, _: x / (1 + np.exp(-x)),
    "sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "shift": lambda x, layer: x + layer["by"],
    "clamp": lambda x, _: x.clip(0, 1),
}


def decode_as_the_page_does(layers: list[dict], weights: bytes, z: np.ndarray) -> np.ndarray:
    x, floats = z, np.frombuffer(weights, "<f2").astype(np.float32)
    for layer in layers:
        if layer["op"] == "linear":
            n_in, n_out = layer["n_in"], layer["n_out"]
            weight, bias, floats = np.split(floats, [n_in * n_out, (n_in + 1) * n_out])
            x = x @ weight.reshape(n_out, n_in).T + bias
        else:
            x = OPERATIONS[layer["op"]](x, layer)
    assert len(floats) == 0, "the layers use all weights"
    return x


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.inference_mode()
def test_the_packed_decoder_is_the_decoder(likelihood):
    model = small_vae(likelihood)
    z = 2 * torch.randn(50, 2)
    layers, weights = page_decoder(model)
    expected = model.likelihood.mean(model.decode(z)).flatten(1).numpy()
    assert np.abs(decode_as_the_page_does(layers, weights, z.numpy()) - expected).max() < 1 / 255


def test_an_unknown_layer_is_named_with_what_to_do():
    model = small_vae()
    model.decoder.insert(1, nn.Softplus())
    with pytest.raises(TypeError, match=r"layer 1 of the decoder, a Softplus: .* static/decoder.js"):
        page_decoder(model)


def test_an_unknown_likelihood_is_named_with_what_to_do():
    model = small_vae()
    model.likelihood = nn.Identity()
    with pytest.raises(TypeError, match=r"mean of a Identity: add it to widgets.shared.MEAN"):
        page_decoder(model)


def test_weights_that_diverged_are_refused():
    model = small_vae()
    nn.init.constant_(model.decoder[0].bias, math.nan)
    with pytest.raises(ValueError, match="the training has diverged"):
        page_decoder(model)


# The view ---------------------------------------------------------------------------------------


def test_the_board_holds_the_state(board):
    board.state = board.state.moved(0.5, -1.0)
    assert board.z == (0.5, -1.0)
    board.z = (99, 0)
    assert board.state.z == (board.extent, 0.0)


def test_the_board_shows_a_sample_of_the_codes_always_the_same(board):
    assert 500 < len(board.codes) <= 600
    assert {label for _, _, label in board.codes} == set(range(10))
    assert max(max(abs(z1), abs(z2)) for z1, z2, _ in board.codes) < board.extent
    torch.manual_seed(1)
    again = LatentPlane(small_vae(), torch.randn(2000, 2), torch.arange(2000) % 10)
    assert again.codes == board.codes


def test_a_board_needs_two_dimensions():
    with pytest.raises(ValueError, match=r"latent_dim=2 .* not latent_dim=40"):
        LatentPlane(VAE(hidden=(8,)), torch.zeros(5, 2), torch.zeros(5))
    with pytest.raises(ValueError, match=r"codes \(5, 3\) and 5 labels"):
        LatentPlane(small_vae(), torch.zeros(5, 3), torch.zeros(5))


def test_training_on_does_not_change_the_board(board):
    model = small_vae()
    board = LatentPlane(model, torch.randn(10, 2), torch.arange(10))
    before = board.weights
    nn.init.zeros_(model.decoder[0].weight)
    assert board.weights == before


def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(board):
    board.z = (0.5, -1.25)
    data, metadata = board._repr_mimebundle_()
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert picture.width > 700 and len(data["image/png"]) < 200_000
    assert "z = 0.50, -1.25" in metadata["image/png"]["alt"]
    assert "z = 0.50, -1.25" in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_page_is_one_module_without_imports_or_network():
    script = page("decoder.js", "board.js", "latent_plane.js")
    assert "import " not in script and "export default" in script
    assert "http" not in script.replace("https has no clipboard", "")


def test_the_classes_stay_apart_for_colour_blind_eyes():
    """Distances in OKLab (Ottosson 2020), seen with and without red or green cones (Machado et al. 2009)."""
    srgb = torch.tensor(
        [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in [*CLASS_COLOURS, "#d55e00"]]
    )
    light = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    no_red = [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]
    no_green = [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ]
    cones = [[0.412221, 0.536333, 0.051446], [0.211903, 0.6807, 0.107397], [0.088302, 0.281719, 0.629979]]
    lab = [[0.210454, 0.793618, -0.004072], [1.977998, -2.428592, 0.450594], [0.025904, 0.782772, -0.808676]]
    for eye in (torch.eye(3), torch.tensor(no_red), torch.tensor(no_green)):
        seen = (light @ eye.T).clamp(0, 1)
        oklab = (seen @ torch.tensor(cones).T) ** (1 / 3) @ torch.tensor(lab).T
        assert torch.pdist(oklab).min() > 0.06  # 0.02 is a difference that one can just see
    luminance = light[:10] @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (1.05 / (luminance + 0.05)).min() > 3, "contrast on white"
