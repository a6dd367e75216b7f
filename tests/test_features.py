"""The feature maps without a browser: state, receptive fields, what excites a channel, the packed bytes."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_utils.data import Images
from course_utils.models.conv_vae import ConvVAE
from course_utils.widgets import FeatureState, FeatureViewer
from course_utils.widgets.features import fields, listen, responses, unpacked

N_CHANNELS = {"14×14": 6, "7×7": 10, "7×7, after the residual block": 10}


def small_model() -> ConvVAE:
    """Its batch norms have seen something, so its channels differ; channel 2 of the first stage is dead."""
    torch.manual_seed(0)
    model = ConvVAE((6, 10), hidden=16, latent_dim=2).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.2, 1.0)
            nn.init.normal_(layer.bias, std=0.5)
    with torch.no_grad():
        model.encoder[1][1].weight[2] = 0
    return model


def stages_of(model: ConvVAE) -> dict[str, nn.Module]:
    return dict(zip(N_CHANNELS, model.encoder[1:4], strict=True))


def some_images(n: int = 300) -> Images:
    """Blobs of 0 and 255 with classes in no order."""
    generator = torch.Generator().manual_seed(0)
    blobs = nn.functional.avg_pool2d(torch.rand(n, 1, 28, 28, generator=generator), 5, 1, 2) > 0.5
    return Images(255 * blobs.byte(), torch.randint(10, (n,), generator=generator), {})


@pytest.fixture(scope="module")
def model() -> ConvVAE:
    return small_model()


@pytest.fixture
def board(model) -> FeatureViewer:
    return FeatureViewer(model, some_images(), stages_of(model), start="7×7 · channel 7 · digit 3")


# The state --------------------------------------------------------------------------------------

START = ("7×7", 7, 3)
STATE = FeatureState(
    (("14×14", 16), ("7×7", 32), ("7×7, after the block", 32)), tuple(range(10)), START, START
)


def test_a_channel_is_chosen_and_kept_inside_its_stage():
    assert STATE.moved(8).chosen == ("7×7", 15, 3)
    assert STATE.moved(99).chosen == ("7×7", 31, 3)
    assert STATE.moved(-99).chosen == ("7×7", 0, 3)
    assert STATE.moved(20).at("14×14", 27, 3).chosen == ("14×14", 15, 3)
    assert STATE.moved(1).reset() == STATE
    assert STATE.chosen == START, "a move returns a new state"


def test_the_text_of_a_state_is_all_of_it():
    for state in (STATE, STATE.at("14×14", 0, 0), STATE.at("7×7, after the block", 31, 9)):
        assert STATE.parse(state.text()) == state
    assert STATE.text() == "7×7 · channel 7 · digit 3"


@pytest.mark.parametrize(
    "text",
    [
        "7x7, channel 7, digit 3",
        " 7X7 · Channel 07 ·  digit 3 ",
        "7×7 channel 7 digit 3",
        "7×7;channel 7;digit 3",
    ],
)
def test_a_state_is_read_from_what_people_write(text):
    assert STATE.at("14×14", 0, 0).parse(text).chosen == START


@pytest.mark.parametrize(
    "text",
    ["", "banana", "7×7", "channel 7 · digit 3", "9×9 · channel 7 · digit 3", "14×14 · channel 16 · digit 3"]
    + ["7×7 · channel -1 · digit 3", "7×7 · channel 7 · digit 10", "7×7 · channel 7.5 · digit 3"],
)
def test_a_bad_text_says_what_to_write(text):
    with pytest.raises(
        ValueError, match=r"is not on this board. Write a line such as 7×7 · channel 7 · digit 3"
    ):
        STATE.parse(text)


# What a unit sees -------------------------------------------------------------------------------


def test_the_fields_of_the_model_are_those_of_its_kernels(model):
    """Unit i at stride s sees the pixels from s * i - before to s * i + after, as far as there are."""
    found = fields(model, torch.zeros(1, 1, 28, 28), stages_of(model))
    strides = {"14×14": (2, 2, 4), "7×7": (4, 4, 6), "7×7, after the residual block": (4, 12, 14)}
    for name, (stride, before, after) in strides.items():
        n = 28 // stride
        expected = [[max(0, stride * i - before), min(28, stride * i + after)] for i in range(n)]
        assert found[name] == (expected, expected)


@pytest.mark.parametrize("name", N_CHANNELS)
@torch.no_grad()
def test_a_unit_sees_its_box_and_nothing_else(model, name):
    """By brute force: each pixel is changed in turn."""
    stages = {name: stages_of(model)[name]}
    rows, columns = fields(model, torch.zeros(1, 1, 28, 28), stages)[name]
    x = torch.rand(1, 1, 28, 28)
    changed = x.repeat(784, 1, 1, 1)
    changed.view(784, 784).fill_diagonal_(2.0)
    before, after = (listen(model, images, stages)[name] for images in (x, changed))
    n = before.shape[2]
    for row, column in [(0, 0), (n // 2, n // 2), (1, n - 1), (n - 1, 2)]:
        felt = ((after - before)[:, :, row, column].abs().amax(1) > 1e-6).reshape(28, 28)
        (top, bottom), (left, right) = rows[row], columns[column]
        inside = torch.zeros(28, 28, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        assert not felt[~inside].any(), "a pixel outside of the box matters"
        where = felt.nonzero()
        box = [where[:, 0].min(), where[:, 0].max() + 1, where[:, 1].min(), where[:, 1].max() + 1]
        assert [int(v) for v in box] == [top, bottom, left, right], "the box is no larger than it has to be"


def test_asking_what_a_unit_sees_leaves_no_trace(model):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():  # as a lesson may have it
        FeatureViewer(model, some_images(40), stages_of(model))
    assert all((before[name] == weight).all() for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


# What excites a channel -------------------------------------------------------------------------


@torch.no_grad()
def stage_by_hand(model: ConvVAE, images: Images, index: int) -> np.ndarray:
    """The outputs of a stage without hooks: the encoder, cut off after it."""
    return model.encoder[: index + 1](images.pixels.float() / 255).numpy()


def test_the_images_that_excite_a_channel_most(model, board):
    images = some_images()
    pictures, _, tops = unpacked(board)
    n_compared = 0
    for index, (stage, its_tops) in enumerate(zip(board.stages, tops, strict=True), start=1):
        h = stage_by_hand(model, images, index)
        for channel in range(stage["shape"][0]):
            if stage["flat"][channel]:
                continue
            maxima = h[:, channel].max((1, 2))
            order = np.argsort(-maxima, kind="stable")
            for rank, (picture, row, column) in enumerate(its_tops[channel]):
                its = order[rank]
                if min(abs(np.delete(maxima, its) - maxima[its])) < 1e-3:
                    continue  # two images as strong as each other
                n_compared += 1
                assert (pictures[picture] * 255 == images.pixels[its, 0].numpy()).all()
                assert board.labels[picture] == images.labels[its]
                assert abs(h[its, channel, row, column] - maxima[its]) < 1e-4
            assert stage["high"][channel] == pytest.approx(maxima.max(), abs=1e-4)
            assert stage["least"][channel] == pytest.approx(maxima[order[11]], abs=1e-4)
    assert n_compared > 100


def test_the_classes_of_the_fifty_strongest(model, board):
    images, first = some_images(), 0
    counts = np.frombuffer(board.counts, "u1").reshape(-1, 10)
    assert (counts.sum(1) == 50).all() and board.n_counted == 50
    for index, stage in enumerate(board.stages, start=1):
        h = stage_by_hand(model, images, index).max((2, 3)).round(4)
        for channel in range(stage["shape"][0]):
            ranked = np.sort(h[:, channel])[::-1]
            if ranked[49] - ranked[50] > 1e-3:  # no doubt who is among them
                strongest = images.labels.numpy()[h[:, channel] >= ranked[49]]
                assert (counts[first + channel] == np.bincount(strongest, minlength=10)).all()
        first += stage["shape"][0]


def test_the_maps_are_those_of_the_first_image_of_each_class(model, board):
    images = some_images()
    pictures, maps, _ = unpacked(board)
    examples = [int(np.flatnonzero(images.labels.numpy() == label)[0]) for label in range(10)]
    assert [label for label, _ in board.examples] == list(range(10))
    assert (pictures[[p for _, p in board.examples]] * 255 == images.pixels[examples, 0].numpy()).all()
    for index, (stage, its) in enumerate(zip(board.stages, maps, strict=True), start=1):
        h = stage_by_hand(model, images, index)[examples]
        low, high = h.min((0, 2, 3), keepdims=True), h.max((0, 2, 3), keepdims=True)
        moves = (high - low)[0, :, 0, 0] > 0.01
        expected = 255 * (h - low) / (high - low).clip(0.01)
        assert np.abs(its - expected)[:, moves].max() < 1.5
        assert its[:, moves].min() == 0 and its[:, moves].max() == 255
        assert np.abs(np.array(stage["white"]) - high[0, :, 0, 0]).max() < 1e-3
        assert np.abs(np.array(stage["black"]) - low[0, :, 0, 0]).max() < 1e-3


def test_a_dead_channel_is_no_noise(board):
    flat = board.stages[0]["flat"]
    assert flat == [False, False, True, False, False, False]
    assert (unpacked(board)[1][0][:, 2] == 0).all()
    board.state = board.state.at("14×14", 2, 0)
    assert "image/png" in board._repr_mimebundle_()[0]


def test_images_that_share_a_maximum_are_counted(model):
    one = some_images(1)
    twenty = Images(one.pixels.repeat(20, 1, 1, 1), torch.arange(20) % 2, {})
    board = FeatureViewer(model, twenty, stages_of(model))
    assert all(set(stage["ties"]) == {20} for stage in board.stages)
    assert board.n_counted == 20 and len(board.examples) == 2
    _, _, tops = unpacked(board)
    assert [board.labels[i] for i in tops[0][0, :, 0]] == [0, 1] * 6, "the first of them, in order"


# The view ---------------------------------------------------------------------------------------


def test_the_board_holds_the_state(board):
    assert board.state.text() == "7×7 · channel 7 · digit 3"
    board.state = board.state.moved(1)
    assert board.chosen == ("7×7", 8, 3)
    board.chosen = ("14×14", 99, 0)
    assert board.state.chosen == ("14×14", 5, 0)
    assert board.state.reset().text() == "7×7 · channel 7 · digit 3"
    with pytest.raises(ValueError, match=r"is not on this board"):
        board.chosen = ("9×9", 0, 0)


def test_what_a_board_cannot_show_is_refused(model):
    images, stages = some_images(20), stages_of(model)
    with pytest.raises(ValueError, match=r"training mode .* call model.eval\(\)"):
        FeatureViewer(small_model().train(), images, stages)
    with pytest.raises(ValueError, match=r"give it data.fixed_binary\(images\)"):
        FeatureViewer(model, images._replace(pixels=images.pixels // 2), stages)
    with pytest.raises(ValueError, match=r"stage “hidden” gave out \[\(20, 16\)\]"):
        FeatureViewer(model, images, {"hidden": model.encoder[5]})
    with pytest.raises(ValueError, match=r"stage “out” gave out nothing"):
        FeatureViewer(model, images, {"out": model.decoder[3]})
    with pytest.raises(ValueError, match=r"is not on this board"):
        FeatureViewer(model, images, stages, start="9×9 · channel 0 · digit 0")
    assert not any(module._forward_hooks for module in model.modules()), "the hooks go, whatever happens"


def test_training_on_does_not_change_the_board():
    model = small_model()
    board = FeatureViewer(model, some_images(40), stages_of(model))
    before = board.maps
    nn.init.zeros_(model.encoder[1][0].weight)
    assert board.maps == before


def test_many_images_are_answered_as_few(model):
    """A batch of 250 at a time: no image is lost, and none changes places."""
    x, stages = some_images(510).pixels / 255, stages_of(model)
    whole, last = responses(model, x, stages), responses(model, x[500:], stages)
    for name in stages:
        assert len(whole[name]) == 510
        assert (whole[name][500:] - last[name]).abs().max() < 1e-3


def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(board):
    data, metadata = board._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 60_000
    assert "channel 7" in metadata["image/png"]["alt"] and "for a 3" in metadata["image/png"]["alt"]
    assert "7×7 · channel 7 · digit 3" in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_the_board_is_small():
    """As lesson 03 has it."""
    model = ConvVAE((16, 32)).eval()
    board = FeatureViewer(model, some_images(1000), stages_of(model))
    n_bytes = sum(map(len, (board.pictures, board.maps, board.tops, board.counts)))
    print(f"\n{n_bytes / 1024:.0f} KB")
    assert n_bytes < 180_000
