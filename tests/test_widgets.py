"""Boards without a browser: the state, the packed decoder, and what is left where no board can be shown."""

import base64
import copy
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_utils import distributions
from course_utils.models.conv_vae import ConvVAE
from course_utils.models.vae import VAE
from course_utils.widgets import LatentPlane, PlaneState
from course_utils.widgets.latent_plane import CLASS_COLOURS
from course_utils.widgets.shared import pack, pack_small, page, page_decoder, page_layers, rounded

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
    "upsample": lambda x, _: x.repeat(2, axis=2).repeat(2, axis=3),
    "blend": lambda x, _: blended(blended(x, axis=2), axis=3),
    "silu": lambda x, _: x / (1 + np.exp(-x)),
    "sigmoid": lambda x, _: 1 / (1 + np.exp(-x)),
    "shift": lambda x, layer: x + layer["by"],
    "clamp": lambda x, _: x.clip(0, 1),
}


def blended(x: np.ndarray, axis: int) -> np.ndarray:
    """Twice as long: at quarters between the old places, along the line between them."""
    n = x.shape[axis]
    places = (np.arange(2 * n) - 0.5) / 2
    return np.apply_along_axis(lambda values: np.interp(places, np.arange(n), values), axis, x)


def shuffle(x: np.ndarray) -> np.ndarray:
    """(B, 4 C, H, W) -> (B, C, 2 H, 2 W)"""
    n, n_channels, height, width = x.shape
    cells = x.reshape(n, n_channels // 4, 2, 2, height, width).transpose(0, 1, 4, 2, 5, 3)
    return cells.reshape(n, n_channels // 4, 2 * height, 2 * width)


def decode_as_the_page_does(layers: list[dict], weights: bytes, z: np.ndarray) -> np.ndarray:
    floats = np.frombuffer(weights, "<f2").astype(np.float32)

    def take(*shape):
        nonlocal floats
        taken, floats = np.split(floats, [math.prod(shape)])
        return taken.reshape(shape)

    def run(layers, x):
        for layer in layers:
            x = x.reshape(len(x), *layer["shape"]) if "shape" in layer else x
            match layer["op"]:
                case "linear":
                    x = x.reshape(len(x), -1) @ take(layer["n_out"], layer["n_in"]).T + take(layer["n_out"])
                case "conv":
                    edge = [(0, 0), (0, 0), *((p, p) for p in layer["padding"])]
                    patches = np.lib.stride_tricks.sliding_window_view(
                        np.pad(x, edge), layer["kernel"], axis=(2, 3)
                    )  # (B, C, H, W, *kernel)
                    patches = patches[:, :, :: layer["stride"][0], :: layer["stride"][1]]
                    weight = take(layer["n_out"], x.shape[1], *layer["kernel"])
                    x = np.einsum("bchwyx,ocyx->bohw", patches, weight)
                    x = x + take(layer["n_out"], 1, 1)
                case "shuffle":
                    x = shuffle(x)
                case "residual":
                    x = x + run(layer["layers"], x).reshape(x.shape)
                case name:
                    x = OPERATIONS[name](x, layer)
        return x

    decoded = run(layers, z)
    assert len(floats) == 0, "the layers use all weights"
    return decoded.reshape(len(z), -1)


def with_history(model: nn.Module) -> nn.Module:
    """The model with batch norms as after a training: nothing in them is 0 or 1."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            for values, low, high in [
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.2, 2.0),
                (layer.weight, 0.5, 2.0),
                (layer.bias, -0.5, 0.5),
            ]:
                nn.init.uniform_(values, low, high)
    return model.eval()


def louder(model: nn.Module) -> nn.Module:
    """The model with larger weights in its full layers: untrained, they leave next to no contrast."""
    for layer in model.decoder.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data *= 2
    return model


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@torch.inference_mode()
def test_the_packed_decoder_is_the_decoder(likelihood):
    for model in (
        small_vae(likelihood),
        with_history(VAE(latent_dim=3, hidden=(64, 32), likelihood=likelihood(), batch_norm=True)),
        louder(with_history(ConvVAE((6, 10), hidden=24, latent_dim=5, likelihood=likelihood()))),
    ):
        z = 2 * torch.randn(50, model.latent_dim)
        layers, weights = page_decoder(model)
        expected = model.likelihood.mean(model.decode(z)).flatten(1).numpy()
        assert expected.std() > 0.03, "there is something to see"
        assert np.abs(decode_as_the_page_does(layers, weights, z.numpy()) - expected).max() < 1 / 255


@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("kernel, padding", [(1, 0), (3, 0), (3, 2), (5, 1), ((1, 4), (0, 3))])
@torch.inference_mode()
def test_a_convolution_of_any_kernel_is_packed_with_its_shapes(kernel, padding, stride):
    conv = nn.Conv2d(3, 6, kernel, stride, padding).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 7, 5)
    layers, weights, shape = page_layers(nn.Sequential(conv), (3, 7, 5))
    assert shape == conv(x).shape[1:]
    page = decode_as_the_page_does(layers, pack(weights), x.numpy())
    assert np.abs(page - conv(x).flatten(1).numpy()).max() < 5e-3


def test_packing_leaves_the_model_as_it_was():
    model = ConvVAE((6, 10), hidden=24, latent_dim=5).train()
    before = copy.deepcopy(model.state_dict())
    page_decoder(model)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_unknown_layer_is_named_with_what_to_do():
    model = small_vae()
    model.decoder.insert(1, nn.Softplus())
    with pytest.raises(TypeError, match=r"layer 1 of the decoder, a Softplus: .* static/decoder.js"):
        page_decoder(model)
    model = ConvVAE((6, 10), hidden=24, latent_dim=5)
    model.decoder[4].block[1].dilation = (2, 2)
    with pytest.raises(TypeError, match=r"layer 4\.block\.1 of the decoder, a Conv2d: .*no dilation"):
        page_decoder(model)
    model.decoder = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 784))
    with pytest.raises(TypeError, match=r"layer 0 of the decoder, a BatchNorm1d: .*after one of these"):
        page_decoder(model)


def test_a_decoder_that_ends_with_something_else_than_the_mean_is_refused():
    model = ConvVAE((6, 10), hidden=24, latent_dim=5, likelihood=distributions.GaussianPerPixel())
    model.decoder[-1] = nn.Upsample(scale_factor=2)
    with pytest.raises(TypeError, match=r"ends with \(4, 28, 28\) numbers, the image is \(1, 28, 28\)"):
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
    with pytest.raises(ValueError, match="the training has diverged"):
        pack_small([model.decoder[0].bias])


def test_small_weights_are_near_their_own():
    for values in (torch.randn(7, 3, 3), 1e-4 * torch.randn(16), torch.zeros(5), torch.randn(33)):
        there = rounded(values)
        assert there.shape == values.shape
        assert (there - values).abs().max() <= values.abs().max() / 200 + 1e-5
        assert rounded(there).equal(there), "a second time it changes nothing"
        assert len(pack_small([values])) == values.numel() + 2 * -(-values.numel() // 16)


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
