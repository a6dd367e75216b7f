"""The reader's own photograph of lesson 06: a hole anywhere on it, of any size, and several fillings.

A model of lesson 06 knows one hole only, the middle 32x32 of 64x64. Every other becomes that one:

    cut      the window, twice as wide as the hole and around it    window(photograph, top, left, side)
    resize   it to 64x64, and mark what lies beyond the photograph
    fill     the middle 32x32                                       board.fillings(photograph, hole, seed)
    paste    it back, resized to the hole                           filled(photograph, filling, top, left)

The page does all of it itself (static/holes.js), so the reader's photograph stays in the browser; here it is
for the still picture and the tests. Nothing of the hole's content reaches what the model looks at, also where
the filter that resizes would smear it over the rim, or where the hole touches the edge that is repeated.
"""

import copy
import math
import re
from dataclasses import dataclass, replace

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

from course_utils.data import Images
from course_utils.holes import SIDE, pasted, with_hole
from course_utils.models.common import centre
from course_utils.models.inpainting_vae import repeated
from course_utils.widgets.layers import LayerRow, code
from course_utils.widgets.shared import (
    described,
    pack_small,
    page,
    page_layers,
    page_location,
    page_walk,
    rounded,
    still,
)

OWN = "your photograph"
LEAST = 16  # pixels of the photograph: the side of the smallest hole

# Geometry ---------------------------------------------------------------------------------------


def window(photograph: Tensor, top: int, left: int, side: int) -> tuple[Tensor, Tensor]:
    """What the model may look at, and where it is a photograph: (3, H, W) uint8 -> x, known.

    x (1, 3, 64, 64) in [0, 1] is the square of twice the hole's side around it, resized. What lies beyond the
    photograph repeats its edge, and known (1, 1, 64, 64) is 0 there. A hole of 32 pixels is cut out as it is.
    Raises ValueError for a hole that does not lie within the photograph, or is wider than half of it.
    """
    height, width = photograph.shape[1:]
    most = min(height, width) // 2
    if not (0 <= top <= height - side and 0 <= left <= width - side and 1 <= side <= most):
        raise ValueError(
            f"a photograph of {width}x{height} has no hole of {side} pixels at row {top}, column {left}: "
            f"keep it within, and at most {most} pixels wide"
        )
    content = resized_window(photograph, top, left, side)
    x = pasted(resized_window(bridged(photograph, top, left, side), top, left, side), centre(content))
    at = (
        torch.arange(SIDE) + 0.5
    ) * 2 * side / SIDE - side / 2  # the middle of each pixel, from the hole's corner
    rows, columns = (((at + first >= 0) & (at + first < n)) for first, n in ((top, height), (left, width)))
    return x, (rows[:, None] & columns).float()[None, None]


def resized_window(photograph: Tensor, top: int, left: int, side: int) -> Tensor:
    """The window as a model's picture, edges repeated: (3, H, W) -> (1, 3, 64, 64) in [0, 1]."""
    height, width = photograph.shape[1:]
    margin = (side + 1) // 2
    rows = torch.arange(top - margin, top + side + margin).clamp(0, height - 1)
    columns = torch.arange(left - margin, left + side + margin).clamp(0, width - 1)
    first = margin - side / 2  # half a pixel if the side is odd
    box = (first, first, first + 2 * side, first + 2 * side)
    return resized(photograph[:, rows][:, :, columns], SIDE, box)[None] / 255


def resized(pixels: Tensor, side: int, box: tuple[float, ...] | None = None) -> Tensor:
    """uint8 (3, h, w) -> uint8 (3, side, side), what lies in `box` (left, top, right, bottom) of it."""
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image = image.resize((side, side), Image.Resampling.LANCZOS, box=box)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def bridged(photograph: Tensor, top: int, left: int, side: int) -> Tensor:
    """The photograph with its hole painted over from the rim: (3, H, W) uint8 -> the same.

    Each pixel is the mean of the rim's pixels that face it, the nearer the heavier. There are four of them,
    or two in a corner of the photograph.
    """
    height, width = photograph.shape[1:]
    rows, columns = slice(top, top + side), slice(left, left + side)
    far = torch.arange(1, side + 1).float()
    facing = [
        (top > 0, photograph[:, top - 1, None, columns], far[:, None]),
        (top + side < height, photograph[:, (top + side) % height, None, columns], far.flip(0)[:, None]),
        (left > 0, photograph[:, rows, left - 1, None], far),
        (left + side < width, photograph[:, rows, (left + side) % width, None], far.flip(0)),
    ]
    weight = sum(is_there / distance for is_there, _, distance in facing)  # (side, side)
    total = sum(is_there * rim / distance for is_there, rim, distance in facing)  # (3, side, side)
    photograph = photograph.clone()
    photograph[:, rows, columns] = (total / weight).round().to(torch.uint8)
    return photograph


def filled(photograph: Tensor, filling: Tensor, top: int, left: int, side: int) -> Tensor:
    """A copy of the photograph with this in its hole: uint8 (3, H, W), (3, 32, 32) in [0, 1] -> (3, H, W)."""
    photograph = photograph.clone()
    photograph[:, top : top + side, left : left + side] = resized(levels(filling), side)
    return photograph


def levels(pixels: Tensor) -> Tensor:
    """[0, 1] -> uint8."""
    return (255 * pixels.clamp(0, 1)).round().to(torch.uint8)


# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HoleState:
    """A photograph, the hole in it, and the seed of its fillings.

    `photographs` holds the name, height and width of each, `hole` its top row, left column and side. Each
    method returns a new state. static/own_photograph.js has the same rule, and
    tests/test_own_photograph_browser.py holds the two together.
    """

    photographs: tuple[tuple[str, int, int], ...]
    name: str
    hole: tuple[int, int, int]
    seed: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the photograph."""
        return next((height, width) for name, height, width in self.photographs if name == self.name)

    def at(self, top: float, left: float, side: float) -> "HoleState":
        """The hole there, or the nearest that lies within and is neither too small nor too large."""
        height, width = self.size
        side = clamped(side, LEAST, min(height, width) // 2)
        return replace(self, hole=(clamped(top, 0, height - side), clamped(left, 0, width - side), side))

    def moved(self, down: float, right: float) -> "HoleState":
        """The hole so many pixels further, as far as the edge."""
        top, left, side = self.hole
        return self.at(top + down, left + right, side)

    def grown(self, by: float) -> "HoleState":
        """The hole so many pixels wider, about its middle."""
        top, left, side = self.hole
        now = self.at(top, left, side + by).hole[2]
        return self.at(top + (side - now) / 2, left + (side - now) / 2, now)

    def again(self) -> "HoleState":
        """The next seed."""
        return replace(self, seed=self.seed % 9999 + 1)

    def on(self, name: str) -> "HoleState":
        """Another photograph, its hole in the middle: a third of the shorter side, 32 pixels at least."""
        height, width = replace(self, name=name).size
        side = max(SIDE // 2, min(height, width) // 3)
        return replace(self, name=name, seed=1).at((height - side) / 2, (width - side) / 2, side)

    def reset(self) -> "HoleState":
        """The hole in the middle of this photograph, the first seed."""
        return self.on(self.name)

    def text(self) -> str:
        """One line, such as "picture 1 · hole 32×32 of 64×48 at row 8, column 16 · seed 1"; 64 is wide."""
        (height, width), (top, left, side) = self.size, self.hole
        where = f"hole {side}×{side} of {width}×{height} at row {top}, column {left}"
        return f"{self.name} · {where} · seed {self.seed}"

    def parse(self, text: str) -> "HoleState":
        """The state that `text` speaks of. Raises ValueError if the board does not have it."""
        number = "([0-9]{1,5})"
        line = rf"(.*[^\s·,;])[\s·,;]+hole {number} ?x ?\2 of {number} ?x ?{number} at row {number}[\s,;]+"
        found = re.fullmatch(rf"{line}column {number}[\s·,;]+seed {number}", plain(text))
        if found:
            side, width, height, top, left, seed = map(int, found.groups()[1:])
            if (found[1], height, width) in self.photographs and 1 <= seed <= 9999:
                there = replace(self, name=found[1], hole=(top, left, side), seed=seed)
                if there.at(top, left, side) == there:
                    return there
        raise ValueError(self.complaint(text))

    def complaint(self, text: str) -> str:
        there = ", ".join(f"{name} of {width}×{height}" for name, height, width in self.photographs)
        example = self.on(self.photographs[0][0]).text()
        return (
            f"“{text}” is not on this board. Write a line such as {example}. The board has {there}; a hole "
            f"lies within and is {LEAST} pixels to half the shorter side wide; seeds are 1 to 9999"
        )


def clamped(value: float, low: int, high: int) -> int:
    """The nearest whole number from low to high, halves up, as the page does it too."""
    return min(high, max(low, math.floor(value + 0.5)))


def plain(text: str) -> str:
    """As people type it: in small letters, x for ×, one space for many."""
    return re.sub(r"\s+", " ", text.strip().lower().replace("×", "x"))


# The view ---------------------------------------------------------------------------------------


class OwnPhotograph(anywidget.AnyWidget):
    """The reader chooses a photograph and drags a hole over it; the page fills it, several times.

    `model` is an InpaintingVAE. Its weights are those of the moment of construction, rounded to 8 bits so
    that all of it fits the page; that moves a filling by a quarter of a grey level. The first n of `images`,
    64x64 or larger, are there from the start. `board.state` is where the reader is, as a HoleState; it can be
    set. A photograph that the reader chooses stays in the page: Python hears its size, nobody its content.
    Raises ValueError for images in other shapes.
    """

    _esm = page("decoder.js", "draws.js", "holes.js", "board.js", "own_photograph.js")
    _css = page("board.css", "own_photograph.css")

    photographs = traitlets.List().tag(sync=True)  # [name, height, width] each; the reader's own is the last
    pixels = traitlets.Bytes().tag(sync=True)  # of those that were given, a byte each
    networks = traitlets.List().tag(sync=True)  # operations, as `page_unet` and `page_walk` order them
    stages = traitlets.List().tag(sync=True)  # the scale of the U-Net that each layer is told of
    weights = traitlets.Bytes().tag(sync=True)  # theirs, in 9 bits each
    n_fillings = traitlets.Int().tag(sync=True)
    line = traitlets.Unicode().tag(sync=True)  # the text of the state
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(
        self, model: nn.Module, images: Images, n: int = 6, n_fillings: int = 6, start: str = "", large=False
    ):
        pixels = images.pixels[:n].cpu()
        if pixels.ndim != 4 or pixels.shape[1] != 3 or not len(pixels) or min(pixels.shape[2:]) < SIDE:
            raise ValueError(
                f"give the board photographs (N, 3, {SIDE}, {SIDE}) or larger, one at least, "
                f"not {tuple(pixels.shape)}; data.load_photographs() has some"
            )
        self._model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        for values in self._model.parameters():
            values.copy_(rounded(values))
        unet, walk = page_unet(self._model), page_walk(self._model)
        names = [f"picture {i}" for i in range(1, len(pixels) + 1)]
        self._photographs = dict(zip(names, pixels, strict=True))
        state = first_state([[name, *pixels.shape[2:]] for name in names])
        super().__init__(
            photographs=state.photographs,
            pixels=pixels.numpy().tobytes(),
            networks=unet[0] + walk[0],
            stages=self._model.stages,
            weights=pack_small(unet[1] + walk[1]),
            n_fillings=n_fillings,
            line=(state.parse(start) if start else state).text(),
            large=large,
        )

    @property
    def state(self) -> HoleState:
        return first_state(self.photographs).parse(self.line)

    @state.setter
    def state(self, state: HoleState):
        self.line = state.text()

    @traitlets.validate("line")
    def _on_board(self, proposal) -> str:
        return first_state(self.photographs).parse(proposal.value).text()

    @torch.inference_mode()
    def fillings(self, photograph: Tensor, hole: tuple[int, int, int], seed: int = 1) -> Tensor:
        """What the page draws in this hole: uint8 (3, H, W) -> (n_fillings, 3, 32, 32) in [0, 1]."""
        guess, told = self._model.context(with_hole(*window(photograph, *hole)))

        def draw(level: int, prior: tuple[Tensor, Tensor], h: Tensor) -> Tensor:
            return code(LayerRow("", "sample", seed=seed), level + 1, prior, prior[0][:1], [])

        guess, *told = repeated([guess, *told], self.n_fillings)
        return self._model.likelihood.mean(self._model.descend(guess, told, draw)[2])

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture of those given, and a line of text."""
        state = self.state if self.state.name != OWN else first_state(self.photographs)
        alt = (
            f"A photograph with a square hole, and beside it {self.n_fillings} ways in which the model fills "
            f"it: {state.text()}."
        )
        board = f"OwnPhotograph, {state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), own_png(self, state), board, alt)


def first_state(photographs: list[list]) -> HoleState:
    """The first photograph, its hole in the middle."""
    known = tuple((name, height, width) for name, height, width in photographs)
    return HoleState(known, known[0][0], (0, 0, 0)).on(known[0][0])


def page_unet(model: nn.Module) -> tuple[list[list[dict]], list[Tensor]]:
    """The context of an InpaintingVAE: the operations of each network, and the weights of all.

    Down and across of each scale, the finest first; up and refine of each, the coarsest first; the correction
    of the smooth fill; the guess as a location; and what each layer is told, the bottom layer first.
    """
    unet, lists, weights = model.unet, [], []

    def add(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
        layers, more, shape = page_layers(nn.Sequential(layer), shape)
        lists.append(layers)
        weights.extend(more)
        return shape

    shape, features = (16, SIDE // 2, SIDE // 2), []
    for down, across in zip(unet.down, unet.across, strict=True):
        shape = add(down, shape)
        features.append(add(across, (shape[0], *(max(1, n // 2) for n in shape[1:]))))
    above = features[-1]
    for level in reversed(range(len(unet.up))):
        above = add(unet.refine[level], add(unet.up[level], above))
    add(unet.pixels, above)
    lists.append(page_location(model.likelihood))
    for told, stage in zip(model.told, model.stages, strict=True):
        add(told, features[stage])
    return lists, weights


# The still picture ------------------------------------------------------------------------------


def own_png(board: OwnPhotograph, state: HoleState) -> bytes:
    """The board as a still picture: the hole in the photograph, and the window with each filling."""
    figure = Figure(figsize=(8.4, 3.5), dpi=96, layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.2])
    axes = left.subplots()
    (top, first, side), photograph = state.hole, board._photographs[state.name]
    fillings = board.fillings(photograph, state.hole, state.seed)
    pictures = [filled(photograph, filling, *state.hole).permute(1, 2, 0) for filling in fillings]
    picture = pictures[0].clone()
    picture[top : top + side, first : first + side] = 160
    axes.imshow(picture.numpy())
    axes.set_title(f"The hole in {state.name}", size=11, color="#1b2433")
    around = (first - side / 2 - 0.5, top - side / 2 - 0.5)
    frames = [((first - 0.5, top - 0.5), side, "#d55e00", "-"), (around, 2 * side, "white", ":")]
    for corner, width, colour, style in frames:
        axes.add_patch(
            Rectangle(corner, width, width, fill=False, edgecolor=colour, linestyle=style, linewidth=2)
        )
    right.suptitle("Several fillings", size=11, color="#1b2433")
    tiles = np.atleast_1d(right.subplots(math.ceil(len(pictures) / 3), min(3, len(pictures)))).flat
    for tile, picture in zip(tiles, pictures, strict=False):
        tile.imshow(picture.numpy())
        tile.set(xlim=(around[0], around[0] + 2 * side), ylim=(around[1] + 2 * side, around[1]))
    for axes in figure.axes:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_visible(bool(axes.images))
    return still(figure)
