"""The layer board without a browser: its rule, its draws and directions, and what is left without a page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from test_widgets import with_history
from torch import nn

from course_utils.data import Images
from course_utils.distributions import DiscretisedLogistic
from course_utils.evaluate import bound
from course_utils.models.hierarchical_vae import HierarchicalVAE
from course_utils.models.layers import conv_layers, mlp_layers
from course_utils.widgets import LayerBoard, LayersState
from course_utils.widgets.layer_board import page_hierarchy
from course_utils.widgets.layers import directions, noise

WAYS = (("direction 1", "z 1", "z 4"), ("direction 1", "direction 2"), ("direction 1", "z 2"))
STATE = LayersState.first(("0", "3", "3b"), WAYS)


def some_images(n: int = 24) -> Images:
    pixels = (torch.rand(n, 1, 28, 28) > 0.7).to(torch.uint8) * 255
    return Images(pixels, torch.arange(n) % 10, {})


def with_moved_top(model: HierarchicalVAE) -> HierarchicalVAE:
    """As after a training, and p(z_L) has moved too."""
    with_history(model)
    nn.init.uniform_(model.top, -0.5, 0.5)
    return model


def mlp(skip: bool = False, sizes=((7, 5, 3), (24, 20, 16))) -> HierarchicalVAE:
    torch.manual_seed(0)
    networks = mlp_layers(*sizes, skip=skip)
    model = with_moved_top(HierarchicalVAE(*networks, skip=skip))
    model.decoder[-2].weight.data *= 3  # untrained, it leaves next to no contrast
    return model


def conv(skip: bool = False, likelihood: nn.Module | None = None) -> HierarchicalVAE:
    torch.manual_seed(0)
    n_params = likelihood.n_params if likelihood else 1
    networks = conv_layers((14, 7), (2, 3), width=6, skip=skip, n_params=n_params)
    return with_moved_top(HierarchicalVAE(*networks, skip=skip, likelihood=likelihood))


@pytest.fixture
def board() -> LayerBoard:
    return LayerBoard(mlp(), some_images())


def modes(state: LayersState) -> list[str]:
    return [row.mode for row in state.rows]


# The state --------------------------------------------------------------------------------------


def test_at_first_the_middle_layer_samples():
    assert STATE.text() == "image 3 · 3 hold · 2 sample · 1 mean"
    assert LayersState.first(("0", "8"), WAYS[:1]).text() == "image 0 · 1 sample"


def test_a_layer_changes_alone():
    changed = STATE.in_mode(3, "sample").at_temperature(3, 0.501).resampled(3).shifted(3, -1.504, "z 2")
    assert changed.rows[:2] == STATE.rows[:2]
    assert changed.text() == "image 3 · 3 sample T=0.50 seed 2 -1.50 along z 2 · 2 sample · 1 mean"
    assert changed.reset() == STATE
    assert STATE.rows[2].mode == "hold", "a change returns a new state"
    assert changed.shifted(3, 1).rows[2].along == "z 2", "the direction stays"
    assert [STATE.at_temperature(1, t).rows[0].temperature for t in (-1, 0.005, 7)] == [0, 0.01, 2]
    assert [STATE.shifted(1, s).rows[0].shift for s in (-9, -0.004, 0.125, 9)] == [-3, 0, 0.13, 3]
    assert STATE.parse("image 3 · 3 hold · 2 hold · 1 hold seed 9999").resampled(1).rows[0].seed == 1


def test_only_one_layer_samples():
    pushed = STATE.shifted(1, 2).at_temperature(2, 0.5)
    assert modes(pushed.only(2)) == ["mean", "sample", "hold"], "an image's code is held above"
    assert modes(pushed.only(3)) == ["mean", "mean", "sample"]
    assert modes(pushed.from_draw(4).only(2)) == ["mean", "sample", "mean"]
    assert pushed.only(2).rows[0].shift == 0 and pushed.only(2).rows[1].temperature == 0.5
    for mode in ("hold", "mean", "sample"):
        assert modes(pushed.all(mode)) == 3 * [mode] and pushed.all(mode).rows[0].shift == 0


def test_what_reaches_the_pixels():
    state = STATE.all("sample").in_mode(2, "hold")
    assert [state.is_reached(layer, skip=False) for layer in (1, 2, 3)] == [True, True, False]
    assert [state.is_reached(layer, skip=True) for layer in (1, 2, 3)] == [True, True, True]
    assert state.varies(skip=False)
    cold = state.at_temperature(1, 0)
    assert not cold.varies(skip=False) and cold.varies(skip=True)
    assert not STATE.all("hold").varies(True) and not STATE.all("mean").varies(True)
    assert not STATE.all("sample").in_mode(1, "hold").varies(skip=False)


def test_the_text_of_a_state_is_all_of_it():
    states = [STATE, STATE.from_draw(9999), STATE.from_image("3b").all("sample")]
    states += [
        STATE.at_temperature(3, 0.05),
        STATE.shifted(1, 0, "z 4"),
        STATE.shifted(2, -2.95).resampled(1),
    ]
    for state in states:
        assert STATE.parse(state.text()) == state


@pytest.mark.parametrize(
    "text",
    [
        "image 3b · 3 hold · 2 sample T=0.50 seed 4 · 1 mean +1.50 along z 4",
        "IMAGE 3B, 2 sample t=.5 seed 4; 1 mean 1.5 along z 4, 3 hold seed 1",
        "  image 3b ·3  hold T=1 ·2 sample T = 0.5 seed 04· 1 mean + 1.50 along Z 4 ",
    ],
)
def test_a_state_is_read_from_what_people_write(text):
    expected = STATE.from_image("3b").at_temperature(2, 0.5).shifted(1, 1.5, "z 4")
    for _ in range(3):
        expected = expected.resampled(2)
    assert STATE.parse(text) == expected
    assert STATE.parse("image 0 · 3 hold −1 along z 2 · 2 hold · 1 hold").rows[2].shift == -1


BAD = [
    "",
    "banana",
    "image 3",
    "image 4 · 3 hold · 2 sample · 1 mean",
    "prior draw 0 · 3 hold · 2 hold · 1 hold",
    "image 3 · 3 hold · 2 sample",
    "image 3 · 3 hold · 2 hold · 1 hold · 1 hold",
    "image 3 · 3 hold · 3 hold · 1 hold",
    "image 3 · 4 hold · 2 hold · 1 hold",
    "image 3 · 0 hold · 2 hold · 1 hold",
    "image 3 · 3 hold · 2 draw · 1 hold",
    "image 3 · 3 hold T=2.01 · 2 hold · 1 hold",
    "image 3 · 3 hold seed 0 · 2 hold · 1 hold",
    "image 3 · 3 hold +3.5 along z 2 · 2 hold · 1 hold",
    "image 3 · 3 hold +1 along z 9 · 2 hold · 1 hold",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_says_what_to_write(text):
    expected = (
        "Write a start, image 0, 3, 3b or prior draw 1 to 9999, then each layer from 3 to 1 with hold, mean "
        r"or sample: image 3 · 3 hold · 2 sample · 1 mean\. A layer may add T=0\.50 \(0 to 2\), seed 4, "
    )
    with pytest.raises(ValueError, match=expected):
        STATE.parse(text)


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no image 8: there are image 0, 3, 3b and prior draw 1 to 9999"):
        STATE.from_image("8")
    with pytest.raises(ValueError, match="no prior draw 0"):
        STATE.from_draw(0)
    with pytest.raises(ValueError, match="no layer 4: 1 is next to the pixels, 3 the top"):
        STATE.only(4)
    with pytest.raises(ValueError, match="a layer is in mode hold, mean, sample, not draw"):
        STATE.all("draw")
    with pytest.raises(ValueError, match="layer 2 has no “z 4”: its directions are direction 1, direction 2"):
        STATE.shifted(2, 1, "z 4")


# The draws and the directions -------------------------------------------------------------------


def test_the_noise_is_normal_and_belongs_to_its_address():
    eps = np.stack([noise(seed, 2, picture, 100) for seed in range(1, 41) for picture in range(25)])
    assert abs(eps.mean()) < 0.02 and abs(eps.std() - 1) < 0.02
    assert abs((eps**4).mean() - 3) < 0.1 and abs((np.abs(eps) > 1.96).mean() - 0.05) < 0.005
    between = np.corrcoef(eps.T) - np.eye(100)
    assert np.abs(between).max() < 0.16, "coordinates are independent"
    assert np.abs(np.corrcoef(eps)[np.triu_indices(200, 1)]).max() < 0.55, "and so are pictures and seeds"
    addresses = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 0)]
    assert len({noise(*address, 3).tobytes() for address in addresses}) == 5
    assert (noise(1, 2, 3, 5) == noise(1, 2, 3, 9)[:5]).all()


def test_directions_are_the_principal_ones_then_the_coordinates():
    turned, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    spread = torch.tensor([4.0, 3.0, 1.0, 0.5, 0.1], dtype=torch.float64)
    mu = (torch.randn(4000, 5, dtype=torch.float64) * spread) @ turned.T
    found = directions(mu)
    names = [way.name for way in found]
    assert names == [f"direction {i}" for i in range(1, 6)] + [f"z {i}" for i in range(1, 6)]
    assert found[0].vector.norm().item() == pytest.approx(4, rel=0.05)
    assert abs(found[0].vector.double() @ turned[:, 0]).item() == pytest.approx(4, rel=0.05)
    assert found[0].vector[found[0].vector.abs().argmax()] > 0, "its sign is fixed"
    assert found[0].label in (f"direction 1 ({n} %)" for n in (60, 61, 62))
    assert found[7].vector.nonzero().tolist() == [[2]]
    assert found[7].vector[2].item() == pytest.approx(mu[:, 2].std().item(), rel=1e-4)


def test_of_many_coordinates_those_that_vary_most_are_offered():
    mu = torch.randn(300, 2, 7, 7) * 0.1
    mu[:, 1, 0, 0] *= 20
    found = directions(mu)
    assert len(found) == 6 + 16 and found[6].name == "z 50"
    assert all(torch.isfinite(way.vector).all() for way in directions(torch.zeros(3, 4)))


# What it draws ----------------------------------------------------------------------------------


@torch.no_grad()
def test_of_an_image_all_held_is_the_reconstruction_at_the_means():
    model, images = mlp(), some_images()
    board = LayerBoard(model, images)
    x = images.pixels[3:4].float() / 255
    q = model.encode(x)
    drawn = board.draw(board.state.all("hold"))
    for z, (mu, _) in zip(drawn.z, q, strict=True):
        torch.testing.assert_close(z, mu)
    torch.testing.assert_close(drawn.own, x[0])
    torch.testing.assert_close(drawn.pictures, model.likelihood.mean(model.decoder(q[0][0])))


def test_what_is_held_stays_and_what_is_above_a_change_does_not_move(board):
    first = board.draw(board.state.all("sample").in_mode(2, "hold"))
    assert all((z == z[:1]).all() for z in first.z[1:2]), "all pictures hold the same code"
    changed = board.draw(board.state.all("sample").in_mode(2, "hold").resampled(1))
    assert all((a == b).all() for a, b in zip(first.z[1:], changed.z[1:], strict=True))
    assert (first.z[0] != changed.z[0]).all()
    above = board.draw(board.state.all("sample").in_mode(2, "hold").resampled(3))
    assert (above.z[1] == first.z[1]).all() and (above.pictures == first.pictures).all()


def test_a_mean_follows_the_layers_above(board):
    state = board.state.all("mean")
    plain, moved = board.draw(state), board.draw(state.shifted(3, 2))
    assert all((a != b).any() for a, b in zip(plain.z, moved.z, strict=True))
    vector = board._directions[1][0].vector
    shifted = board.draw(state.shifted(2, -1.5))
    torch.testing.assert_close(shifted.z[1] - plain.z[1], -1.5 * vector[None])
    torch.testing.assert_close(shifted.z[2], plain.z[2], rtol=0, atol=0)


def test_skip_paths_reach_past_a_held_layer():
    for skip in (False, True):
        board = LayerBoard(mlp(skip), some_images())
        state = board.state.all("hold").in_mode(3, "sample")
        drawn = board.draw(state)
        assert len(drawn.pictures) == (12 if skip else 1) and state.varies(skip) == skip
        if skip:
            assert drawn.pictures.std(dim=0).max() > 0 and (drawn.z[0] == drawn.z[0][:1]).all()


def test_a_draw_of_the_prior_is_held_as_it_was_drawn(board):
    drawn = board.draw(board.state.from_draw(7).all("hold"))
    torch.testing.assert_close(drawn.pictures[0], drawn.own, rtol=0, atol=0)
    other = board.draw(board.state.from_draw(8).all("hold"))
    assert all((a != b).any() for a, b in zip(drawn.z, other.z, strict=True))
    mu, log_var = board._model.top[:, None]
    expected = mu + torch.exp(0.5 * log_var) * torch.from_numpy(noise(7, 3, 0, 3))
    torch.testing.assert_close(drawn.z[2], expected)


def test_the_temperature_scales_the_deviation(board):
    state = board.state.all("mean").in_mode(3, "sample")
    mean = board.draw(state.at_temperature(3, 0)).z[2]
    one, two = (board.draw(state.at_temperature(3, t)).z[2] - mean for t in (1, 2))
    torch.testing.assert_close(2 * one, two)


# The view ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [False, True])
def test_each_network_is_packed(skip):
    for model in (mlp(skip), conv(skip), conv(skip, DiscretisedLogistic())):
        lists, weights = page_hierarchy(model)
        used = [model.layers[level].down for level in range(len(model.layers) - 1)]
        used += [model.layers[level].prior for level in range(len(model.layers) - 1)]
        assert len(lists) == 2 * (len(model.layers) - 1) + 1
        assert len(weights) < 2 * sum(p.numel() for m in [*used, model.decoder] for p in m.parameters())


def test_the_board_is_told_the_kl():
    images = some_images()
    board = LayerBoard(mlp(), images, n=4)
    kl = bound(mlp(), images).kl
    for level, its in enumerate(board.levels):
        assert its["kl"] == pytest.approx(kl[:, level].mean().item(), abs=0.006)
        assert its["own_kl"] == pytest.approx(kl[:4, level].tolist(), abs=0.006)


def test_the_board_holds_the_state(board):
    assert board.line == "image 3 · 3 hold · 2 sample · 1 mean"
    board.state = board.state.from_draw(2).only(1)
    assert board.line == "prior draw 2 · 3 mean · 2 mean · 1 sample"
    board.line = "image 3, 1 hold, 2 hold, 3 hold"
    assert board.line == "image 3 · 3 hold · 2 hold · 1 hold", "as the board writes it"
    with pytest.raises(ValueError, match="is not on this board"):
        board.line = "image 3"


def test_training_on_does_not_change_the_board():
    model = mlp().train()
    board = LayerBoard(model, some_images())
    assert model.training, "and the model is left as it was"
    weights, pictures = board.weights, board.draw(board.state).pictures
    nn.init.zeros_(model.decoder[-2].weight)
    assert board.weights == weights and (board.draw(board.state).pictures == pictures).all()


def test_a_board_that_asks_the_kernel_has_no_weights_and_gets_pixels():
    board = LayerBoard(mlp(), some_images(), in_page=False)
    assert board.weights == b"" and not board.in_page and LayerBoard(mlp(), some_images()).in_page
    sent = []
    board.send = lambda content, buffers: sent.append((content, buffers))
    n_threads = torch.get_num_threads()
    line = board.state.from_draw(3).all("sample").text()
    board._handle_custom_msg({"line": line}, [])
    ((content, (pixels,)),) = sent
    assert content == {"line": line} and torch.get_num_threads() == n_threads
    drawn = board.draw(board.state.parse(line))
    levels = np.frombuffer(pixels, "u1").reshape(13, 1, 28, 28)
    assert np.abs(levels[0] - 255 * drawn.own.numpy()).max() <= 0.51
    assert np.abs(levels[1:] - 255 * drawn.pictures.numpy()).max() <= 0.51


def test_large_weights_stay_in_the_kernel(monkeypatch):
    monkeypatch.setattr("course_utils.widgets.layer_board.IN_PAGE", 1000)
    board = LayerBoard(mlp(), some_images())
    assert not board.in_page and board.weights == b""
    assert LayerBoard(mlp(), some_images(), in_page=True).in_page


def test_a_board_needs_an_image():
    with pytest.raises(ValueError, match="give it one of each at least"):
        LayerBoard(mlp(), some_images(), n=0)
    assert len(LayerBoard(mlp(), some_images(1), n_pictures=1).names) == 1


@pytest.mark.parametrize("model", [mlp(), conv(skip=True, likelihood=DiscretisedLogistic())])
def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(model):
    data, metadata = LayerBoard(model, some_images())._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 60_000
    assert "In its row only that layer is sampled" in metadata["image/png"]["alt"]
    assert "image 3 · " in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
