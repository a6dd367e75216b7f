"""The board for the reader's own photograph without a browser: geometry, states, fillings."""

import base64

import numpy as np
import pytest
import torch
from PIL import Image
from test_photo_board import filler
from torch import Tensor, nn

from course_utils.data import Images
from course_utils.distributions import Bernoulli
from course_utils.holes import pasted, with_hole
from course_utils.models.common import centre
from course_utils.recipes import load_shipped
from course_utils.scenes import draw_scenes
from course_utils.widgets.own_photograph import OWN, HoleState, OwnPhotograph, bridged, filled, window


def some_scenes(n: int = 3) -> Images:
    return Images(*draw_scenes(n, seed=2))


def a_board(model: nn.Module | None = None, **options) -> OwnPhotograph:
    return OwnPhotograph(model or filler(), some_scenes(), **options)


def landscape(width: int, height: int) -> Tensor:
    """A painted scene of any size: uint8 (3, height, width)."""
    scene = Image.fromarray(draw_scenes(1, seed=5).pixels[0].permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(scene.resize((width, height)))).permute(2, 0, 1).contiguous()


# Geometry ---------------------------------------------------------------------------------------


def test_the_hole_of_the_lesson_is_cut_out_as_it_is():
    scene = some_scenes(1).pixels[0]
    x, known = window(scene, 16, 16, 32)
    assert (with_hole(x, known) == with_hole(scene[None] / 255)).all()
    assert (known == 1).all()


def test_a_hole_anywhere_in_a_large_photograph_is_that_of_its_window():
    photograph = landscape(200, 150)
    x, known = window(photograph, 40, 70, 32)
    assert (255 * x[0]).round().equal(photograph[:, 24:88, 54:118].float()) and known.all()
    x, _ = window(photograph, 40, 70, 64)  # rows 8 to 135, columns 38 to 165
    halves = (
        photograph[:, 8:136, 38:166].float().unflatten(1, (64, 2)).unflatten(3, (64, 2)).mean((2, 4)) / 255
    )
    assert (x[0] - halves).abs().mean() < 0.01, "shrunk to a half"


@pytest.mark.parametrize("width, height", [(64, 64), (97, 75), (75, 97), (640, 131)])
@pytest.mark.parametrize("side", [16, 17, 31, 32])
def test_beyond_the_edge_nothing_is_known(width, height, side):
    photograph = landscape(width, height)
    for top, left in [(0, 0), (height - side, width - side), (0, width - side), (height // 3, 0)]:
        x, known = window(photograph, top, left, side)
        assert x.shape == (1, 3, 64, 64) and known.shape == (1, 1, 64, 64) and 0 <= x.min() <= x.max() <= 1
        at = (np.arange(64) + 0.5) * side / 32 - side / 2
        rows, columns = (top + at >= 0) & (top + at < height), (left + at >= 0) & (left + at < width)
        assert (known[0, 0].numpy() == rows[:, None] * columns).all()
        assert centre(known).all(), "a hole lies within"
        assert x[0][:, 32, ~torch.from_numpy(columns)].std() < 0.2


def test_the_edge_is_repeated():
    photograph = landscape(100, 100)
    x, known = window(photograph, 50, 0, 32)  # the window begins 16 columns before the photograph
    assert not known[..., :16].any() and known[..., 16:].all()
    edge = photograph[:, 34:98, 0].float() / 255
    assert torch.allclose(x[0, :, :15, :16], edge[:, :15, None].expand(3, 15, 16), atol=1 / 512)


@pytest.mark.parametrize("side", [16, 17, 32, 45, 50])
@pytest.mark.parametrize("corner", ["corner", "edge", "middle"])
def test_nothing_that_is_in_the_hole_reaches_what_the_model_looks_at(side, corner):
    """Neither through the filter that resizes, nor through an edge that is repeated."""
    photograph = landscape(120, 101)
    top, left = {"corner": (101 - side, 120 - side), "edge": (0, 30), "middle": (25, 37)}[corner]
    other = photograph.clone()
    other[:, top : top + side, left : left + side] = torch.randint(256, (3, side, side), dtype=torch.uint8)
    (x, known), (other_x, other_known) = window(photograph, top, left, side), window(other, top, left, side)
    empty = torch.zeros(1, 3, 32, 32)
    assert not centre(x).equal(centre(other_x)) and known.equal(other_known)
    assert pasted(x, empty).equal(pasted(other_x, empty))
    assert with_hole(x, known)[:, 3:].equal(with_hole(other_x, other_known)[:, 3:])


def test_a_hole_is_bridged_between_what_faces_it():
    photograph = torch.zeros(3, 64, 64, dtype=torch.uint8)
    photograph[0] = 200
    assert bridged(photograph, 0, 0, 30).equal(photograph), "one colour stays one colour, in a corner too"
    photograph[0, :, 40:] = 0
    row = bridged(photograph, 20, 24, 32)[0, 35, 24:56].int()
    assert (row.diff() <= 0).all() and row[0] > 180 and row[-1] < 20


@pytest.mark.parametrize("width, height, side", [(64, 64, 32), (90, 70, 16), (70, 90, 35), (300, 200, 97)])
def test_a_filling_is_pasted_into_the_hole_and_nowhere_else(width, height, side):
    photograph, filling = landscape(width, height), torch.rand(3, 32, 32)
    for top, left in [(0, 0), (height - side, width - side), (5, 9)]:
        picture = filled(photograph, filling, top, left, side)
        outside = torch.ones(height, width, dtype=torch.bool)
        outside[top : top + side, left : left + side] = False
        assert picture[:, outside].equal(photograph[:, outside])
        inside = picture[:, top : top + side, left : left + side]
        if side == 32:
            assert inside.equal((255 * filling).round().to(torch.uint8))
        assert (inside.float().mean((1, 2)) / 255 - filling.mean((1, 2))).abs().max() < 0.02
    assert photograph.equal(landscape(width, height)), "the photograph itself stays"


@pytest.mark.parametrize("top, left, side", [(-1, 0, 16), (0, 49, 16), (0, 0, 33), (0, 0, 0), (40, 0, 32)])
def test_a_hole_that_is_not_within_is_refused(top, left, side):
    with pytest.raises(ValueError, match=r"keep it within, and at most 32 pixels wide"):
        window(landscape(64, 64), top, left, side)


# The state --------------------------------------------------------------------------------------

PHOTOGRAPHS = (("picture 1", 64, 64), ("picture 2", 64, 64), (OWN, 480, 640))


@pytest.fixture
def state() -> HoleState:
    return HoleState(PHOTOGRAPHS, OWN, (120, 200, 160), 3)


def test_the_hole_of_a_lesson_is_in_the_middle_of_its_pictures(state):
    assert state.on("picture 2").text() == "picture 2 · hole 32×32 of 64×64 at row 16, column 16 · seed 1"
    assert state.reset().text() == "your photograph · hole 160×160 of 640×480 at row 160, column 240 · seed 1"


def test_a_hole_moves_and_grows_as_far_as_it_may(state):
    assert state.moved(-5, 7).hole == (115, 207, 160)
    assert state.moved(-999, 999).hole == (0, 480, 160)
    assert state.grown(20).hole == (110, 190, 180) and state.grown(-21).hole == (131, 211, 139)
    assert state.grown(999).hole == (80, 160, 240) and state.grown(-999).hole == (192, 272, 16)
    assert state.moved(-999, -999).grown(80).hole == (0, 0, 240)
    assert state.again().seed == 4 and HoleState(PHOTOGRAPHS, OWN, (0, 0, 16), 9999).again().seed == 1
    assert state.hole == (120, 200, 160), "a move returns a new state"


GOOD = {
    "your photograph · hole 160×160 of 640×480 at row 120, column 200 · seed 3": None,
    " Your Photograph, hole 160x160 of 640x480 at row 120 column 200, seed 3 ": None,
    "picture 1; hole 16 x 16 of 64 x 64 at row 48, column 0; seed 9999": "picture 1 · hole 16×16 of 64×64 at "
    "row 48, column 0 · seed 9999",
}
BAD = ["", "banana", "your photograph"]
BAD += [f"picture 1 · hole {hole} · seed 1" for hole in ("15×15 of 64×64 at row 0, column 0",)]
BAD += ["picture 1 · hole 33×33 of 64×64 at row 0, column 0 · seed 1"]
BAD += ["picture 1 · hole 32×31 of 64×64 at row 0, column 0 · seed 1"]
BAD += ["picture 1 · hole 32×32 of 64×64 at row 33, column 0 · seed 1"]
BAD += ["picture 1 · hole 32×32 of 64×64 at row 0, column 0 · seed 0"]
BAD += ["picture 1 · hole 32×32 of 64×64 at row 0, column 0 · seed 10000"]
BAD += ["picture 3 · hole 32×32 of 64×64 at row 0, column 0 · seed 1"]
BAD += ["your photograph · hole 160×160 of 480×640 at row 120, column 200 · seed 3"]
BAD += ["your photograph · hole 160×160 of 640×480 at row -1, column 200 · seed 3"]


def test_the_text_of_a_state_is_all_of_it(state):
    assert state.on("picture 1").parse(state.text()) == state
    for text, expected in GOOD.items():
        assert state.parse(text).text() == (expected or state.text())


@pytest.mark.parametrize("text", BAD)
def test_a_bad_text_says_what_to_write(state, text):
    with pytest.raises(
        ValueError, match=r"Write a line such as picture 1 · hole 32×32 of 64×64 at row 16"
    ) as e:
        state.parse(text)
    assert f"“{text}” is not on this board" in str(e.value) and "your photograph of 640×480" in str(e.value)


# The board --------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_and_disturbs_nobody():
    board, photograph = a_board(n_fillings=4), landscape(100, 80)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other = (board.fillings(photograph, (3, 20, 24), seed) for seed in (1, 1, 2))
    assert one.equal(again) and not one.equal(other)
    assert one.shape == (4, 3, 32, 32) and (one[0] != one[1]).any() and 0 <= one.min() <= one.max() <= 1
    assert torch.get_rng_state().equal(before)


@torch.no_grad()
def test_fillings_vary_about_what_the_model_completes():
    """The draws are those of the page, not torch's; their mean and spread are those of the model."""
    model = load_shipped("hier", "embedded")[0]
    photograph, hole = some_scenes(1).pixels[0], (16, 16, 32)
    drawn = OwnPhotograph(model, some_scenes(), n_fillings=200).fillings(photograph, hole)
    wanted = model.complete(with_hole(photograph[None] / 255), 200)
    assert (drawn.mean(0) - wanted.mean(0)).abs().mean() < 1 / 255
    assert drawn.std(0).mean().item() == pytest.approx(wanted.std(0).mean().item(), rel=0.05)


@pytest.mark.parametrize("data", ["embedded", "real"])
@torch.no_grad()
def test_eight_bits_move_no_filling_by_much(data):
    model, scenes = load_shipped("hier", data)[0], some_scenes(8)
    rounded = OwnPhotograph(model, scenes)._model
    x, fillings = with_hole(scenes.pixels / 255), []
    for its in (model, rounded):
        torch.manual_seed(1)
        fillings.append(255 * its.complete(x))
    off = (fillings[1] - fillings[0]).abs()
    print(f"\n{data}: {off.square().mean().sqrt():.2f} grey levels, at most {off.max():.2f}")
    assert off.square().mean().sqrt() < 0.5 and off.max() < 4


def test_training_on_does_not_change_the_board():
    model = filler().train()
    before = [values.clone() for values in model.parameters()]
    board = a_board(model)
    weights, fillings = board.weights, board.fillings(landscape(64, 64), (16, 16, 32))
    assert model.training and all(map(torch.equal, before, model.parameters())), "left as it was"
    with torch.no_grad():
        for values in model.parameters():
            values.zero_()
    assert board.weights == weights
    assert board.fillings(landscape(64, 64), (16, 16, 32)).equal(fillings)


def test_the_page_can_hold_it():
    """With all else on it the lesson's page in the book stays below 5 MB."""
    board = OwnPhotograph(load_shipped("hier", "embedded")[0], some_scenes(6))
    state = board.get_state()
    size = sum(len(base64.b64encode(v)) if isinstance(v, bytes) else len(str(v)) for v in state.values())
    assert size < 2_300_000


def test_the_board_holds_the_state():
    board = a_board(start="picture 2 · hole 20×20 of 64×64 at row 3, column 44 · seed 5")
    assert board.state.hole == (3, 44, 20)
    board.state = board.state.moved(1, -4).again()
    assert board.line == "picture 2 · hole 20×20 of 64×64 at row 4, column 40 · seed 6"
    with pytest.raises(ValueError, match="is not on this board"):
        board.line = "your photograph · hole 160×160 of 640×480 at row 120, column 200 · seed 3"
    own = "your photograph · hole 66×66 of 300×200 at row 67, column 117 · seed 1"
    board.set_state({"line": own, "photographs": [*board.photographs, [OWN, 200, 300]]})  # as the page does
    assert board.state.text() == own
    board.state = board.state.on("picture 3")
    assert board.line.startswith("picture 3 · hole 32×32")


def test_where_no_board_can_be_shown_there_is_a_picture():
    board = a_board()
    board.photographs = [*board.photographs, [OWN, 200, 300]]
    board.state = board.state.on(OWN)
    data, metadata = board._repr_mimebundle_()
    assert (
        "OwnPhotograph, picture 1 · hole 32×32" in data["text/plain"]
        and "run this cell" in data["text/plain"]
    )
    assert "picture 1" in metadata["image/png"]["alt"], "Python does not have the reader's photograph"
    png = base64.b64decode(data["image/png"])
    assert png[:4] == b"\x89PNG" and len(png) < 200_000


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 1, 64, 64), torch.zeros(2, 3, 32, 64), torch.zeros(0, 3, 64, 64)]
)
def test_other_images_are_refused(pixels):
    with pytest.raises(ValueError, match=r"give the board photographs \(N, 3, 64, 64\)"):
        OwnPhotograph(filler(), Images(pixels.to(torch.uint8), torch.zeros(len(pixels)), {}))


def test_a_likelihood_that_the_page_cannot_undo_is_refused():
    with pytest.raises(TypeError, match="cannot undo a sigmoid"):
        a_board(filler(Bernoulli()))
