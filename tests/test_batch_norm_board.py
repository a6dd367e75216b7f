"""The batch-norm board without a browser: its state, its table, and what is left where it cannot be shown."""

import base64
import copy
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from course_utils.data import Images, as_grey
from course_utils.distributions import Bernoulli, GaussianPerPixel, normal_kl
from course_utils.models.vae import VAE
from course_utils.widgets import BatchNormBoard, NormState
from course_utils.widgets.batch_norm import SIZES, THIS_BATCH, Choices, digit_names, span

CHOICES = Choices(
    ("3", "8"), ("running averages", "prior samples"), ("random A", "only 1s", "its own copies")
)
STATE = NormState(CHOICES, 0, THIS_BATCH, 20, "only 1s")


# The state --------------------------------------------------------------------------------------


def test_a_choice_returns_a_new_state():
    state = STATE.holding(1).under("prior samples").among(1000).beside("random A")
    assert state == NormState(CHOICES, 1, "prior samples", 1000, "random A")
    assert STATE.text() == "digit 3 · this batch · 20 images · only 1s"
    assert STATE.under("prior samples").under(THIS_BATCH) == STATE, "fixed statistics keep the batch"


def test_fixed_statistics_have_one_row_and_each_batch_its_own():
    fixed = STATE.under("prior samples")
    assert {fixed.among(n).beside(m).row for n in SIZES for m in CHOICES.mates} == {1}
    rows = [STATE.among(n).beside(m).row for n in SIZES for m in CHOICES.mates]
    assert rows == list(range(2, 2 + len(SIZES) * 3))


def test_the_text_of_a_state_is_all_of_it():
    for state in (STATE, STATE.holding(1).under("prior samples").among(1000).beside("its own copies")):
        assert STATE.parse(state.text()) == state


@pytest.mark.parametrize(
    "text",
    [
        "digit 8 · this batch · 5 images · random A",
        "8, this batch, 5, random A",
        " 8·THIS  batch · 5 · random a ",
    ],
)
def test_a_state_is_read_from_what_people_write(text):
    assert STATE.parse(text) == NormState(CHOICES, 1, THIS_BATCH, 5, "random A")


BAD = ["", "banana", "3, this batch, 20", "4, this batch, 20, only 1s", "3, this batch, 1, only 1s"]
BAD += ["3, prior, 20, only 1s", "3, this batch, 20, only 1s, more"]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_says_what_to_write(text):
    with pytest.raises(ValueError) as error:
        STATE.parse(text)
    assert str(error.value) == (
        f"“{text}” is not a state of this board. Write a digit (3, 8), its statistics "
        "(this batch, running averages, prior samples), the images in the batch (2, 5, 20, 100, 1000) "
        "and its mates (random A, only 1s, its own copies), "
        "such as digit 3 · this batch · 2 images · random A"
    )


@pytest.mark.parametrize(
    "wrong", [{"digit": 2}, {"digit": -1}, {"statistics": "mine"}, {"size": 1}, {"mates": "only 7s"}]
)
def test_there_is_no_state_that_the_board_does_not_have(wrong):
    with pytest.raises(ValueError, match="is not a state of this board"):
        replace(STATE, **wrong)


def test_digits_of_one_class_have_names_of_their_own():
    assert digit_names([3, 8, 3, 3]) == ("3", "8", "3b", "3c")


def test_a_digit_that_is_far_off_does_not_squeeze_the_axis():
    worst, best = span([-100.0, -110.0, -120.0, -115.0, -900.0])
    assert -122 < worst < -120 and -100 < best < -99
    worst, best = span([-100.0] * 5)
    assert best - worst > 10


# The table --------------------------------------------------------------------------------------


def images(n: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    binary = torch.randint(0, 2, (n, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Images(255 * binary, torch.arange(n) % 10, {})


def small_vae(seed: int, likelihood: nn.Module | None = None) -> VAE:
    """Batch norms that have seen other batches than those of the board."""
    torch.manual_seed(seed)
    model = VAE(latent_dim=4, hidden=(16,), batch_norm=True, likelihood=likelihood or Bernoulli())
    for _ in range(3):
        model(torch.rand(50, 1, 28, 28) ** 2)
    return model.eval()


MODELS = {"running averages": small_vae(0), "prior samples": small_vae(1)}
HELD = images(3, seed=10)
MATES = {"random A": images(999, seed=11), "only 1s": images(1200, seed=12), "its own copies": None}


@pytest.fixture(scope="module")
def board() -> BatchNormBoard:
    return BatchNormBoard(MODELS, HELD, MATES, seed=7)


def entry(board: BatchNormBoard, state: NormState) -> tuple[float, float, np.ndarray]:
    bound, kl = board.table[state.digit][state.row]
    pictures = np.frombuffer(board.pictures, np.uint8).reshape(len(HELD.labels), -1, 28, 28)
    return bound, kl, pictures[state.digit, state.row]


@torch.no_grad()
def worth(model: nn.Module, pixels: torch.Tensor, training: bool) -> tuple[float, float, np.ndarray]:
    """The first image in plain torch, in the mode of training or of evaluation."""
    model = copy.deepcopy(model).train(training)
    x = as_grey(pixels)
    eps = torch.randn(1000, 4, generator=torch.Generator().manual_seed(7))[: len(x)]
    mu, log_var = model.encoder(x.flatten(1)).chunk(2, dim=1)
    logits = model.decoder(mu + torch.exp(log_var / 2) * eps)
    p = torch.sigmoid(logits[0].double())
    log_px = torch.distributions.Bernoulli(logits=logits[0].double()).log_prob(x[0].flatten().double()).sum()
    q = torch.distributions.Normal(mu[0], torch.exp(log_var[0] / 2))
    kl = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()
    return (log_px - kl).item(), kl.item(), (255 * p).round().numpy().reshape(28, 28)


def same(found: tuple, expected: tuple) -> bool:
    bounds = abs(found[0] - expected[0]) < 0.02 and abs(found[1] - expected[1]) < 0.02
    return bounds and np.abs(found[2] - expected[2]).max() <= 1


@pytest.mark.parametrize("digit", [0, 2])
@pytest.mark.parametrize("name", MODELS)
def test_fixed_statistics_are_those_of_the_evaluated_model(board, digit, name):
    expected = worth(MODELS[name], HELD.pixels[digit : digit + 1], training=False)
    assert same(entry(board, board.state.holding(digit).under(name)), expected)


@pytest.mark.parametrize("mates", MATES)
@pytest.mark.parametrize("size", [2, 20, 1000])
def test_a_batch_is_what_the_model_sees_in_training(board, size, mates):
    digit = HELD.pixels[1:2]
    others = digit.repeat(size - 1, 1, 1, 1) if MATES[mates] is None else MATES[mates].pixels[: size - 1]
    expected = worth(MODELS["running averages"], torch.cat([digit, others]), training=True)
    state = board.state.holding(1).under(THIS_BATCH).among(size).beside(mates)
    assert same(entry(board, state), expected)


def test_the_batch_matters_and_the_more_images_the_less(board):
    def spread(size: int) -> float:
        bounds = [entry(board, board.state.among(size).beside(m))[0] for m in ("random A", "only 1s")]
        return max(bounds) - min(bounds)

    assert spread(2) > 1 > spread(1000)


def test_the_models_are_left_as_they_are():
    model = small_vae(3).train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    BatchNormBoard({"running averages": model}, HELD, MATES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and torch.equal(random, torch.get_rng_state())


def test_a_likelihood_that_draws_noise_draws_it_alike_in_every_batch():
    model = small_vae(4, GaussianPerPixel())
    twice = [BatchNormBoard({"running averages": model}, HELD, MATES, seed=5).table for _ in range(2)]
    assert twice[0] == twice[1]
    mu, log_var = model.encode(as_grey(HELD.pixels[:1]))
    kl = normal_kl(mu, log_var, torch.zeros_like(mu), torch.zeros_like(mu)).sum().item()
    assert twice[0][0][0][1] == pytest.approx(kl, abs=0.006)


# The view ---------------------------------------------------------------------------------------


def test_the_board_holds_the_state(board):
    start = board.state
    assert start.text() == "digit 0 · this batch · 2 images · random A"
    board.state = start.holding(2).among(100)
    assert board.chosen == (2, THIS_BATCH, 100, "random A")
    with pytest.raises(ValueError, match="is not a state of this board"):
        board.chosen = (2, THIS_BATCH, 3, "random A")
    board.state = start


def test_a_board_starts_where_its_text_says():
    board = BatchNormBoard(MODELS, HELD, MATES, start="2, prior samples, 20, only 1s")
    assert board.start == board.chosen == (2, "prior samples", 20, "only 1s")
    with pytest.raises(ValueError, match="is not a state of this board"):
        BatchNormBoard(MODELS, HELD, MATES, start="9, prior samples, 20, only 1s")


def test_what_travels_to_the_page_is_small(board):
    n_rows = len(MODELS) + len(SIZES) * len(MATES)
    assert len(board.pictures) == 3 * n_rows * 784
    assert len(board.beside) == 2 * 19 * 784, "of copies nothing is sent"
    assert {len(rows) for rows in board.table} == {n_rows}


FEW = {"few": images(998, seed=0)}
SMALL = {"small": Images(torch.zeros(999, 1, 8, 8, dtype=torch.uint8), torch.zeros(999), {})}
FLOATS = Images(HELD.pixels / 255, HELD.labels, {})
DIVERGED = small_vae(5)
nn.init.constant_(DIVERGED.decoder[-1].bias, float("nan"))


@pytest.mark.parametrize(
    "models, held, mates, message",
    [
        ({}, HELD, MATES, "at least one model, one held digit and one set of mates"),
        (MODELS, HELD, {}, "at least one model, one held digit and one set of mates"),
        (MODELS, HELD.subset(slice(0)), MATES, "at least one model, one held digit and one set of mates"),
        ({"plain": VAE(hidden=(8,))}, HELD, MATES, "the model 'plain' has no batch norm: .*batch_norm=True"),
        (MODELS, HELD, FEW, "the mates 'few' are 998 images: a batch of 1000 needs 999"),
        (MODELS, HELD, SMALL, r"the images 'small' are torch.uint8 \(1, 8, 8\), but the models see"),
        (MODELS, FLOATS, MATES, "the images 'held' are torch.float32"),
        ({THIS_BATCH: small_vae(0)}, HELD, MATES, "these names cannot be told apart"),
        (MODELS, HELD, {"1s, 8s": None}, "these names cannot be told apart"),
        (MODELS, HELD, {"Only 1s": None, "only 1s": None}, "these names cannot be told apart"),
        ({"diverged": DIVERGED}, HELD, MATES, "the training has diverged"),
    ],
)
def test_what_a_board_cannot_show_is_named(models, held, mates, message):
    with pytest.raises(ValueError, match=message):
        BatchNormBoard(models, held, mates)


@pytest.mark.parametrize("statistics", [THIS_BATCH, "prior samples"])
def test_where_no_board_can_be_shown_there_is_a_picture_and_a_line(statistics):
    board = BatchNormBoard(MODELS, HELD, MATES, start=f"1, {statistics}, 20, only 1s")
    text = board.state.text()
    data, metadata = board._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width > 700 and len(png) < 60_000
    assert text in metadata["image/png"]["alt"] and "one bound" in metadata["image/png"]["alt"]
    assert text in data["text/plain"] and "run this cell" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
