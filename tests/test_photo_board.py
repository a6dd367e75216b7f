"""The photo board without a browser: its state, what it draws and packs, and what is left without a page."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from course_utils.data import Images
from course_utils.distributions import TruncatedGaussian
from course_utils.evaluate import bound
from course_utils.holes import holes_of
from course_utils.models import inpainting_vae
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import SIDES, InpaintingVAE
from course_utils.models.unet import UNet
from course_utils.scenes import draw_scenes
from course_utils.widgets import LayersState, PhotoBoard
from course_utils.widgets.layers import noise
from course_utils.widgets.photo_board import photograph_bound
from course_utils.widgets.shared import page_layers

WAYS = (("direction 1", "z 1"), ("direction 1", "z 4"), ("direction 1", "z 2"))
STATE = LayersState.first(("1", "2", "3"), WAYS, in_hole=True)
SMALL = ((16, 2), (16, 3), (4, 4))  # two layers of one side, and a side that is skipped


def some_scenes(n: int = 24) -> Images:
    return Images(*draw_scenes(n, seed=5))


def filler(likelihood: nn.Module | None = None) -> InpaintingVAE:
    """A small untrained model."""
    torch.manual_seed(0)
    unet = UNet(down=(4, 6, 6, 6, 6), up=(8, 8, 6, 6, 6))
    widths = [8, 8, 6, 6, 6][: len(SIDES)]
    sizes = {"layers": SMALL, "widths": widths, "evidence": [6] * len(SIDES)}
    return awakened(InpaintingVAE(unet, likelihood=likelihood, **sizes))


def awakened(model: InpaintingVAE) -> InpaintingVAE:
    """The model, but its heads, which start at 0, say something; of a log_var some that has to be bounded."""
    for head in model.modules():
        if isinstance(head, nn.Conv2d) and not head.weight.any():
            nn.init.normal_(head.weight, std=0.5 / head.in_channels**0.5)
            nn.init.normal_(head.bias, std=0.1)
    for prior in model.prior:
        nn.init.uniform_(prior[-1].bias, -3, 1.5)
    return model


@pytest.fixture(scope="module")
def board() -> PhotoBoard:
    return PhotoBoard(filler(), some_scenes(), n=4)


def modes(state: LayersState) -> list[str]:
    return [row.mode for row in state.rows]


# The state --------------------------------------------------------------------------------------


def test_at_first_all_layers_sample():
    assert STATE.text() == "image 1 · 3 sample · 2 sample · 1 sample"
    assert STATE.from_image("3").only(2).reset() == STATE


def test_if_only_one_layer_samples_the_others_are_means():
    for layer in (1, 2, 3):
        expected = ["sample" if i + 1 == layer else "mean" for i in range(3)]
        assert modes(STATE.shifted(2, 1).only(layer)) == expected, "a code that is held would give it away"


def test_a_hole_has_no_draw_to_start_from():
    with pytest.raises(ValueError, match=r"no prior draw 3: there are image 1, 2, 3$"):
        STATE.from_draw(3)
    with pytest.raises(ValueError, match="Write a start, image 1, 2, 3, then each layer from 3 to 1"):
        STATE.parse("prior draw 3 · 3 sample · 2 sample · 1 sample")
    changed = STATE.from_image("2").in_mode(3, "hold").at_temperature(2, 0.5).shifted(1, -1.5, "z 1")
    assert STATE.parse(changed.text()) == changed


# What it draws ----------------------------------------------------------------------------------


def test_all_at_their_mean_is_what_the_model_completes_without_varying(board):
    model, x = filler(), holes_of(some_scenes(4))
    pictures = board.draw(board.state.from_image("3").all("mean")).pictures
    assert pictures.shape == (1, 3, 64, 64)
    torch.testing.assert_close(centre(pictures), model.complete(x[2:3], vary=()))


@torch.no_grad()
def by_hand(model: InpaintingVAE, x: Tensor, rows: dict[int, tuple[int, float]], n: int = 8) -> Tensor:
    """Fillings of which the layers in `rows` sample, each with a (seed, temperature)."""
    guess, told = model.context(x)

    def draw(level, prior, h):
        mu, log_var = prior
        if level + 1 not in rows:
            return mu
        seed, temperature = rows[level + 1]
        eps = np.stack([noise(seed, level + 1, picture, mu[0].numel()) for picture in range(1, n + 1)])
        return mu + temperature * torch.exp(0.5 * log_var) * torch.from_numpy(eps).view_as(mu)

    told = [t.expand(n, -1, -1, -1) for t in told]
    return model.likelihood.mean(model.descend(guess.expand(n, -1, -1, -1), told, draw)[2])


def test_what_samples_is_drawn_from_its_prior(board):
    model, x, state = filler(), holes_of(some_scenes(4))[1:2], board.state.from_image("2")
    cases = [
        (state, {1: (1, 1), 2: (1, 1), 3: (1, 1)}),
        (state.only(3), {3: (1, 1)}),
        (state.only(1).resampled(1), {1: (2, 1)}),
        (state.in_mode(2, "mean").at_temperature(3, 0.4), {1: (1, 1), 3: (1, 0.4)}),
    ]
    for wanted, rows in cases:
        pictures = board.draw(wanted).pictures
        assert len(pictures) == 8 and pictures.std(dim=0).max() > 0.01
        torch.testing.assert_close(centre(pictures), by_hand(model, x, rows))


@torch.no_grad()
def test_what_is_held_was_told_what_was_there(board, monkeypatch):
    monkeypatch.setattr(inpainting_vae, "normal_sample", lambda mu, log_var: mu)
    model, x = filler(), holes_of(some_scenes(4))
    out = model(x[:1])
    drawn = board.draw(board.state.all("hold"))
    for z, expected in zip(drawn.z, out.z, strict=True):
        torch.testing.assert_close(z, expected)
    torch.testing.assert_close(centre(drawn.pictures), model.likelihood.mean(out.px))
    held = board.draw(board.state.in_mode(2, "hold"))
    torch.testing.assert_close(held.z[1], out.z[1].expand(8, -1, -1, -1))
    assert held.pictures.std(dim=0).max() > 0.01, "the layers around it go on sampling"


def test_the_photograph_around_the_hole_stays(board):
    around = torch.ones(64, 64, dtype=torch.bool)
    around[16:48, 16:48] = False
    pictures = board.draw(board.state.from_image("4")).pictures
    assert (pictures[:, :, around] == some_scenes(4).pixels[3].float()[:, around] / 255).all()


def test_a_shift_moves_a_code_and_the_means_below(board):
    state = board.state.all("mean")
    plain, shifted = board.draw(state), board.draw(state.shifted(2, -1.5))
    vector = board._directions[1][0].vector.view_as(plain.z[1])
    torch.testing.assert_close(shifted.z[1] - plain.z[1], -1.5 * vector)
    assert (shifted.z[2] == plain.z[2]).all() and (shifted.z[0] != plain.z[0]).any()


# What the page is given --------------------------------------------------------------------------


def halves(packed: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(packed, "<f2").astype(np.float32))


@torch.no_grad()
def test_context_and_codes_come_out_as_they_went_in(board):
    model, x = filler(), holes_of(some_scenes(4))
    guess, told = model.context(x)
    sizes = [3 * 32 * 32, *(level["told"] for level in board.levels)]
    assert sizes[1:] == [t[0].numel() for t in told]
    parts = halves(board.context).view(4, -1).split(sizes, dim=1)
    for part, expected in zip(parts, [guess, *told], strict=True):
        torch.testing.assert_close(part, expected.flatten(1), rtol=1e-3, atol=1e-4)
    sizes = [int(np.prod(level["shape"])) for level in board.levels]
    codes = halves(board.codes).view(4, -1).split(sizes, dim=1)
    for part, z in zip(codes, board.draw(board.state.from_image("2").all("hold")).z, strict=True):
        torch.testing.assert_close(part[1:2], z.flatten(1), rtol=1e-3, atol=1e-4)
    ways = [way.vector for ways in board._directions for way in ways]
    torch.testing.assert_close(halves(board.vectors), torch.cat(ways), rtol=1e-3, atol=1e-4)
    assert (np.frombuffer(board.pixels, "u1") == some_scenes(4).pixels.flatten().numpy()).all()


def test_networks_and_weights_are_those_of_the_walk_down(board):
    model = filler()
    assert len(board.networks) == 2 * len(SMALL) - 1 + 2
    assert board.networks[-1] == [{"op": "clamp"}] and board.networks[0][-1]["op"] == "bounded"
    used = [*model.prior, *model.down, model.decoder]
    n = sum(p.numel() for module in used for p in module.parameters())
    *_, last = (layer for layer in model.decoder.modules() if isinstance(layer, nn.Conv2d))
    left_out = (1 - 1 / model.likelihood.n_params) * (last.weight.numel() + last.bias.numel())
    assert len(board.weights) == 2 * (n - round(left_out)), "of the last layer the location alone"


def test_a_layer_that_stands_twice_is_run_twice():
    twice = nn.Sequential(*[nn.Upsample(scale_factor=2)] * 2)
    operations, _, shape = page_layers(twice, (3, 2, 2))
    assert len(operations) == 2 and shape == (3, 8, 8)


def test_the_board_is_told_the_kl(board):
    kl = bound(filler(), some_scenes(), chunk=100, objective=photograph_bound).kl
    for level, its in enumerate(board.levels):
        assert its["kl"] == pytest.approx(kl[:, level].mean().item(), abs=0.006)
        assert its["own_kl"] == pytest.approx(kl[:4, level].tolist(), abs=0.006)
    assert board.n_images == 24


# The view ---------------------------------------------------------------------------------------


def test_the_board_holds_the_state():
    board = PhotoBoard(filler(), some_scenes(6), n=2, names=["a lake", "winter"])
    assert board.line == "image a lake · 3 sample · 2 sample · 1 sample"
    board.state = board.state.from_image("winter").only(1)
    assert board.line == "image winter · 3 mean · 2 mean · 1 sample"
    board.line = "Image A  lake, 1 hold, 2 hold, 3 mean"
    assert board.line == "image a lake · 3 mean · 2 hold · 1 hold", "as the board writes it"
    with pytest.raises(ValueError, match="is not on this board"):
        board.line = "image 1 · 3 mean · 2 hold · 1 hold"


def test_training_on_does_not_change_the_board():
    model = filler().train()
    board = PhotoBoard(model, some_scenes(4), n=2)
    assert model.training, "and the model is left as it was"
    weights, pictures = board.weights, board.draw(board.state).pictures
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert board.weights == weights and (board.draw(board.state).pictures == pictures).all()


def test_a_board_needs_a_photograph_and_names_that_differ():
    few = some_scenes(3)
    assert PhotoBoard(filler(), few, n=10).names == ["1", "2", "3"]
    for n, images in ((0, few), (-1, few), (10, few.subset(slice(0)))):
        with pytest.raises(ValueError, match="give it one of each at least"):
            PhotoBoard(filler(), images, n=n)
    for names in (["a", "a"], ["a"], ["A", "b"], ["a·b", "c"], ["", "b"]):
        with pytest.raises(ValueError, match="give 2 different names, of small letters, digits"):
            PhotoBoard(filler(), few, n=2, names=names)


def test_a_likelihood_whose_mean_the_page_does_not_know_is_refused():
    with pytest.raises(TypeError, match="does not know the mean of a TruncatedGaussian"):
        PhotoBoard(filler(likelihood=TruncatedGaussian()), some_scenes(3))


@pytest.mark.parametrize("n_pictures", [8, 3])
def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(n_pictures):
    board = PhotoBoard(filler(), some_scenes(6), n=2, n_pictures=n_pictures)
    data, metadata = board._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 100_000
    assert "whose middle, a square of half its width, is missing" in metadata["image/png"]["alt"]
    assert "PhotoBoard image 1 · 3 sample" in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
