"""The board for the reader's own photograph without a browser: geometry, files, states, fillings."""

import base64
import threading

import numpy as np
import pytest
import torch
from drawn_photographs import encoded, quarters
from PIL import ExifTags, Image
from torch import Tensor, nn

from course_utils.data import Images
from course_utils.developing import Refused
from course_utils.distributions import normal_sample
from course_utils.holes import pasted, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import InpaintingVAE
from course_utils.models.unet import UNet
from course_utils.scenes import draw_scenes
from course_utils.widgets.own_photograph import (
    LONGEST,
    MAX_BYTES,
    OWN,
    HoleState,
    OwnPhotograph,
    bridged,
    filled,
    opened,
    window,
)


class Guess(nn.Module):
    """Fills a hole smoothly, a little lighter or darker with each draw; counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(0.15))
        self.asked = []

    def complete(self, x: Tensor, n_draws: int = 1, vary=None) -> Tensor:
        assert not self.training
        self.asked.append(torch.get_num_threads())
        smooth = centre(x[:, 3:6]).repeat(n_draws, 1, 1, 1)
        tint = torch.zeros_like(smooth[..., :1, :1])
        return smooth + self.spread * normal_sample(tint, tint)


def some_scenes(n: int = 3) -> Images:
    return Images(*draw_scenes(n, seed=2))


def a_board(model: nn.Module | None = None, **options) -> OwnPhotograph:
    return OwnPhotograph(model or Guess(), some_scenes(), **options)


def landscape(width: int, height: int) -> Tensor:
    """A painted scene of any size: uint8 (3, height, width)."""
    scene = Image.fromarray(draw_scenes(1, seed=5).pixels[0].permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(scene.resize((width, height)))).permute(2, 0, 1).contiguous()


def jpeg_of(photograph: Tensor, turned: int = 1) -> bytes:
    """As a camera that was held so would write it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    return encoded(Image.fromarray(photograph.permute(1, 2, 0).numpy()), "JPEG", quality=92, exif=exif)


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


# Files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_photograph_is_turned_upright(kind, turned):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = turned
    image = quarters(120, 80)
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # to how it lies in the file: Transpose, by number
    lying = image.transpose(Image.Transpose(back[turned])) if turned > 1 else image
    photograph = opened(encoded(lying, kind, exif=exif))
    assert photograph.shape == (3, 80, 120)
    assert (photograph.float() - torch.from_numpy(np.array(image)).permute(2, 0, 1)).abs().mean() < 6


KINDS = [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("GIF", "P")]


@pytest.mark.parametrize("kind, mode", KINDS)
def test_a_photograph_of_any_kind_becomes_rgb(kind, mode):
    photograph = opened(encoded(quarters(90, 70).convert(mode), kind))
    assert photograph.shape == (3, 70, 90) and photograph.dtype == torch.uint8


@pytest.mark.parametrize(
    "width, height, expected",
    [(1024, 300, (1024, 300)), (2049, 1025, (1024, 512)), (4000, 3000, (1024, 768)), (70, 1100, (65, 1024))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_long_photograph_is_shrunk(kind, width, height, expected):
    whole = quarters(width, height)
    photograph = opened(encoded(whole, kind))
    assert photograph.shape == (3, *expected[::-1]) and max(expected) <= LONGEST
    wanted = torch.from_numpy(np.array(whole.resize(expected))).permute(2, 0, 1)
    assert (photograph.float() - wanted).abs().mean() < 4


BIG = encoded(quarters(400, 300), "JPEG")
REFUSED = {
    "notes.txt": (b"no picture at all", "not a photograph"),
    "empty.jpg": (b"", "no image, in spite of its name"),
    "half.jpg": (BIG[: len(BIG) // 2], "truncated"),
    "huge.jpg": (bytes(MAX_BYTES + 10**6), "21.0 MB, more than 20"),
    "small.png": (encoded(quarters(200, 63)), "200x63 pixels, smaller than 64x64"),
    "long.png": (encoded(Image.new("RGB", (1100, 66))), "more than 16 times as long as wide"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_photograph_is_refused_and_changes_nothing(name):
    content, reason = REFUSED[name]
    board = a_board(start="picture 2 · hole 20×20 of 64×64 at row 3, column 44 · seed 5")
    before = board.get_state()
    with pytest.raises(Refused, match=reason):
        board.take(content, name)
    assert board.get_state() == before
    (about, _) = upload(board, content, name)[-1]
    assert about["kind"] == "refused" and about["message"].startswith(f"“{name}” was not taken: {reason}")
    assert "\n" not in about["message"] and "Choose a JPEG" in about["message"]
    assert board.get_state() == before


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


def sent(board: OwnPhotograph, content: dict, *buffers: bytes) -> list[tuple[dict, list[bytes]]]:
    """What the page hears when it says this."""
    heard = []
    board.send = lambda about, buffers=(): heard.append((about, list(buffers)))
    board._handle_custom_msg(content, list(map(memoryview, buffers)))
    return heard


def upload(board, content: bytes, name: str, number: int = 1, part: int = 1 << 20) -> list[tuple]:
    """As the page sends a file: part by part, and of one that is too large only how large."""
    about = {"kind": "upload", "number": number, "name": name, "size": len(content)}
    parts = [content[i : i + part] for i in range(0, len(content), part)] if len(content) <= MAX_BYTES else []
    heard = []
    for i, piece in enumerate(parts or [b""]):
        heard += sent(board, {**about, "first": i == 0}, piece)
    return heard


def test_the_same_seed_draws_the_same_and_disturbs_nobody():
    board = a_board(InpaintingVAE(UNet()))
    with torch.no_grad():  # a new model's layers say nothing
        for values in board._model.parameters():
            if not values.any():
                values.normal_(std=0.2)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other = (board.fillings(state) for state in [board.state] * 2 + [board.state.again()])
    assert one.equal(again) and not one.equal(other)
    assert one.shape == (6, 3, 32, 32) and (one[0] != one[1]).any()
    assert torch.get_rng_state().equal(before)


def test_a_thread_beside_it_draws_as_if_alone():
    """Of another thread's numbers none is ours, as JupyterLab answers a board beside the cell that runs."""
    began, go_on, drawn = threading.Event(), threading.Event(), []

    class Slow(Guess):
        def complete(self, x, n_draws=1, vary=None):
            began.set()
            go_on.wait(10)
            return super().complete(x, n_draws, vary)

    board = a_board()
    alone = board.fillings()
    board._model = Slow().eval().requires_grad_(False)
    thread = threading.Thread(target=lambda: drawn.append(board.fillings()))
    torch.manual_seed(1)
    expected = torch.randn_like(torch.zeros(5))
    torch.manual_seed(1)
    thread.start()
    assert began.wait(10)
    assert torch.randn_like(torch.zeros(5)).equal(expected)
    go_on.set()
    thread.join()
    assert drawn[0].equal(alone)


def test_the_readers_model_stays_as_it_was():
    model = Guess().train()
    board = a_board(model)
    board.fillings()
    assert model.training and model.spread.requires_grad and model.asked == []
    assert len(board._model.asked) == 1


def test_a_callback_has_one_thread_and_gives_the_others_back():
    board = a_board()
    torch.set_num_threads(2)
    try:
        sent(board, {"kind": "fill", "line": board.line, "upload": 0})
        assert board._model.asked == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_page_asks_for_fillings():
    board = a_board(n_fillings=4)
    state = board.state.at(3, 20, 24).again()
    ((about, (content,)),) = sent(board, {"kind": "fill", "line": state.text(), "upload": 0})
    assert about == {"kind": "filled", "line": state.text(), "upload": 0}
    drawn = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(4, 3, 32, 32)
    assert drawn.equal((255 * board.fillings(state)).round().to(torch.uint8))
    pictures = board.filled(state)
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures[2].equal(filled(some_scenes().pixels[0], board.fillings(state)[2], *state.hole))


def test_a_photograph_is_taken_and_another_replaces_it():
    board = a_board()
    photograph = landscape(300, 200)
    assert upload(board, jpeg_of(photograph), "me.jpg", part=700)[-1][0] == {"kind": "taken", "number": 1}
    assert board.line == "your photograph · hole 66×66 of 300×200 at row 67, column 117 · seed 1"
    assert board.photographs[-1] == [OWN, 200, 300] and board.n_uploads == 1
    assert board.filled().shape == (6, 3, 200, 300)
    ((about, (content,)),) = sent(board, {"kind": "photograph"})
    assert about == {"kind": "photograph", "upload": 1}
    assert (opened(content).float() - photograph).abs().mean() < 4
    board.state = board.state.on("picture 2")
    board.take(jpeg_of(landscape(100, 130)))
    assert [name for name, *_ in board.photographs] == ["picture 1", "picture 2", "picture 3", OWN]
    assert board.state.size == (130, 100) and board.n_uploads == 2


def test_of_two_uploads_the_later_is_taken():
    board = a_board()
    one, other = jpeg_of(landscape(300, 200)), jpeg_of(landscape(100, 130))
    about = {"kind": "upload", "name": "one.jpg", "size": len(one), "number": 1}
    assert sent(board, {**about, "first": True}, one[:500]) == []
    assert upload(board, other, "other.jpg", number=2)[-1][0] == {"kind": "taken", "number": 2}
    assert sent(board, {**about, "first": False}, one[500:]) == []
    assert board.state.size == (130, 100)


def test_a_model_that_fails_says_so():
    class Broken(Guess):
        def complete(self, x, n_draws=1, vary=None):
            raise RuntimeError("no such layer")

    board, heard = a_board(Broken()), []
    board.send = lambda about, buffers=(): heard.append(about)
    with pytest.raises(RuntimeError):
        board._answer(board, {"kind": "fill", "line": board.line, "upload": 0}, [])
    assert heard[0]["kind"] == "failed" and heard[0]["message"] == "RuntimeError: no such layer"


def test_where_no_board_can_be_shown_there_is_a_picture():
    board = a_board()
    board.take(jpeg_of(landscape(300, 200)))
    data, metadata = board._repr_mimebundle_()
    assert "It needs a running kernel" in data["text/plain"] and "open the notebook" in data["text/plain"]
    assert "picture 1" in metadata["image/png"]["alt"], "an upload is never written into the notebook"
    png = base64.b64decode(data["image/png"])
    assert png[:4] == b"\x89PNG" and len(png) < 200_000


def test_an_upload_is_in_no_trait():
    """What is in traits can be saved with the notebook."""
    board = a_board()
    size = len(str(board.get_state()))
    board.take(jpeg_of(landscape(300, 200)))
    assert len(str(board.get_state())) < size + 200


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 1, 64, 64), torch.zeros(2, 3, 32, 64), torch.zeros(0, 3, 64, 64)]
)
def test_other_images_are_refused(pixels):
    with pytest.raises(ValueError, match=r"give the board photographs \(N, 3, 64, 64\)"):
        OwnPhotograph(Guess(), Images(pixels.to(torch.uint8), torch.zeros(len(pixels)), {}))
