"""The class board of lesson 05: read a digit as any class, and write its style as any other."""

import copy
import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.evaluate import in_chunks
from course_utils.models.common import N_CLASSES
from course_utils.widgets.shared import described, page, page_decoder, pick, still

MEAN_START = "class mean"
N_STYLES = 4
WIDEST = 3.0  # the largest shift, in standard deviations
N_IMAGES = 2_000  # for the style directions


# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassState:
    """A start, the class it is read as, the class it is written as, and a shift along each style, from 1.

    `images` are the names of the images to start from, `cheapest` the class that each is read as at first.
    Each method returns a new state. static/class_board.js has the same rule, and
    tests/test_class_board_browser.py holds the two together.
    """

    images: tuple[str, ...]
    cheapest: tuple[int, ...]
    start: str  # "image 3b", "class mean"
    read_as: int | None  # None of a class mean: it belongs to no image
    write: int
    shifts: tuple[float, ...]

    @classmethod
    def first(
        cls, images: tuple[str, ...], cheapest: tuple[int, ...], n_styles: int = N_STYLES
    ) -> "ClassState":
        """An image, a 3 if there is one, read as its cheapest class and written as another: 8, or 3."""
        state = cls(images, cheapest, MEAN_START, None, 8, (0.0,) * n_styles)
        state = state.from_image("3" if "3" in images else images[0])
        return state.writing(3) if state.read_as == 8 else state

    def reset(self) -> "ClassState":
        """Back at the first."""
        return self.first(self.images, self.cheapest, len(self.shifts))

    def from_image(self, name: str) -> "ClassState":
        """Start from this image, read as its cheapest class. Raises ValueError if it is not there."""
        if name not in self.images:
            raise ValueError(f"no image {name}: there are {', '.join(self.images)}")
        return replace(self, start=f"image {name}", read_as=self.cheapest[self.images.index(name)])

    def from_mean(self) -> "ClassState":
        """Start from the middle of each class, a style of 0."""
        return replace(self, start=MEAN_START, read_as=None)

    def reading(self, label: int) -> "ClassState":
        """The image is read as this class, which gives it another style."""
        if self.read_as is None:
            raise ValueError("a class mean is not read: start from an image, such as from_image('3')")
        return replace(self, read_as=known(label))

    def writing(self, label: int) -> "ClassState":
        """The style is written as this class."""
        return replace(self, write=known(label))

    def shifted(self, style: int, shift: float) -> "ClassState":
        """The style is moved by `shift` deviations, -3 to 3, along a direction; these count from 1."""
        if not 1 <= style <= len(self.shifts):
            raise ValueError(f"no style {style}: they are 1 to {len(self.shifts)}")
        shift = math.floor(100 * min(WIDEST, max(-WIDEST, float(shift))) + 0.5) / 100
        return replace(self, shifts=(*self.shifts[: style - 1], shift, *self.shifts[style:]))

    def unshifted(self) -> "ClassState":
        """The style as it was read."""
        return replace(self, shifts=(0.0,) * len(self.shifts))

    def text(self) -> str:
        """One line, shifts of 0 left out: "image 3 · read as 3 · written as 8 · +1.00 along style 1"."""
        read = [] if self.read_as is None else [f"read as {self.read_as}"]
        moved = [f"{shift:+.2f} along style {i}" for i, shift in enumerate(self.shifts, start=1) if shift]
        return " · ".join([self.start, *read, f"written as {self.write}", *moved])

    def parse(self, text: str) -> "ClassState":
        """The state that `text` speaks of. Raises ValueError if the board does not have it."""
        plain = re.sub(r"\s+", " ", text.strip().lower().replace("−", "-"))
        start, *parts = re.split(r" ?[·,;] ?", plain)
        found = dict(filter(None, map(self._read, parts)))
        is_image = start in {f"image {name}" for name in self.images}
        wanted = {"read", "written"} if is_image else {"written"}
        words = {key for key in found if isinstance(key, str)}
        if len(found) != len(parts) or words != wanted or not (is_image or start == MEAN_START):
            raise ValueError(self._complaint(text))
        state = replace(self, start=start, read_as=found.get("read"), write=found["written"]).unshifted()
        for style in found.keys() - words:
            state = state.shifted(style, found[style])
        return state

    def _read(self, part: str) -> tuple[str | int, float] | None:
        """What a part of a text sets, "read", "written" or a style's number, and to what; or None."""
        if found := re.fullmatch(r"(read|written) as ([0-9])", part):
            return found[1], int(found[2])
        number = r"([0-9]{1,4}\.?[0-9]*|\.[0-9]+)"
        found = re.fullmatch(rf"([+-]?) ?{number} along style ([0-9]{{1,2}})", part)
        if not found or float(found[2]) > WIDEST or not 1 <= int(found[3]) <= len(self.shifts):
            return None
        return int(found[3]), float(found[1] + found[2])

    def _complaint(self, text: str) -> str:
        return (
            f"“{text}” is not on this board. Write a start, image {', '.join(self.images)} or {MEAN_START}; "
            "of an image then the class it is read as; and the class it is written as: "
            f"{self.reset().text()}. There may follow +1.00 along style 1 (-3 to 3, style 1 to "
            f"{len(self.shifts)})"
        )


def known(label: int) -> int:
    if label not in range(N_CLASSES):
        raise ValueError(f"no class {label}: they are 0 to {N_CLASSES - 1}")
    return int(label)


# Styles -----------------------------------------------------------------------------------------


class Styles(NamedTuple):
    """Ways in which styles differ, the largest first."""

    vectors: Tensor  # (S, D) of length 1, at right angles to each other
    deviations: Tensor  # (S,) of the styles along them


def principal_styles(eps: Tensor, n: int = N_STYLES) -> Styles:
    """The first n principal directions of the styles of many images: (N, D) -> Styles."""
    centred = eps.double() - eps.double().mean(dim=0)
    _, length, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:n]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    deviations = length[:n] / max(1, len(eps) - 1) ** 0.5
    return Styles((axes * largest.sign()).float(), deviations.float())  # the largest number is positive


# The view ---------------------------------------------------------------------------------------


class ClassBoard(anywidget.AnyWidget):
    """Read an image as one class, keep what is left of its code as its style, and write that as all ten.

    `model` is a MixtureVAE, `images` are held-out images, black and white for a Bernoulli: the style
    directions are over all of them, 2,000 at most, and the board starts from n of them, the first of each
    class before the second of any. `board.state` is where the reader is, as a ClassState; it can be set.
    The weights are those of the moment of construction. Raises ValueError if there are no images.
    """

    _esm = page("decoder.js", "board.js", "class_board.js")
    _css = page("board.css", "class_board.css")

    layers = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    image_shape = traitlets.List().tag(sync=True)
    names = traitlets.List().tag(sync=True)  # of the images to start from
    labels = traitlets.List().tag(sync=True)  # theirs, as the data have them
    cheapest = traitlets.List().tag(sync=True)  # the class in which each costs least
    pixels = traitlets.Bytes().tag(sync=True)  # theirs, a byte each
    codes = traitlets.Bytes().tag(sync=True)  # their means of q(z|x), 32-bit floats (n, D)
    prices = traitlets.Bytes().tag(sync=True)  # so, KL( q(z|x) || p(z|y) ) in nats (n, 10)
    prior = traitlets.Bytes().tag(sync=True)  # so, means, then deviations of p(z|y) (20, D)
    moves = traitlets.Bytes().tag(sync=True)  # so, style directions, as long as a deviation (S, D)
    line = traitlets.Unicode().tag(sync=True)  # the text of the state
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(self, model: nn.Module, images: Images, n: int = 12, large: bool = False):
        images = images.subset(slice(N_IMAGES))
        chosen, names = pick(images.labels.cpu(), n)
        if not chosen:
            raise ValueError("the board starts from images: give it one at least")
        self._model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        mu, prices = read_images(self._model, images)
        cheapest = prices.argmin(dim=1)
        deviation = torch.exp(0.5 * self._model.log_var)
        self.styles = principal_styles((mu - self._model.mu[cheapest]) / deviation[cheapest])
        self._prior = torch.cat([self._model.mu, deviation])
        self._pixels = images.pixels[chosen].cpu()
        self._codes = mu[chosen]
        best = cheapest[chosen].tolist()
        self._first = ClassState.first(tuple(names), tuple(best), len(self.styles.vectors))
        layers, weights = page_decoder(self._model.vae)
        super().__init__(
            layers=layers,
            weights=weights,
            image_shape=list(self._pixels.shape[1:]),
            names=names,
            labels=images.labels[chosen].tolist(),
            cheapest=best,
            pixels=self._pixels.numpy().tobytes(),
            codes=floats(self._codes),
            prices=floats(prices[chosen]),
            prior=floats(self._prior),
            moves=floats(self.styles.vectors * self.styles.deviations[:, None]),
            line=self._first.text(),
            large=large,
        )

    @property
    def state(self) -> ClassState:
        return self._first.parse(self.line)

    @state.setter
    def state(self, state: ClassState):
        self.line = state.text()

    @traitlets.validate("line")
    def _on_board(self, proposal) -> str:
        return self._first.parse(proposal.value).text()

    def style(self, state: ClassState) -> Tensor:
        """The style of this state, the shifts in it: (D,). A draw of p(z|y) has one of N(0, I)."""
        mu, deviation = self._prior.chunk(2)
        eps = torch.tensor(state.shifts) * self.styles.deviations @ self.styles.vectors
        if state.read_as is None:
            return eps
        code = self._codes[self.names.index(state.start.removeprefix("image "))]
        return eps + (code - mu[state.read_as]) / deviation[state.read_as]

    @torch.inference_mode()
    def draw(self, state: ClassState) -> Tensor:
        """The style written as each class: (10, C, H, W) in [0, 1]; the page computes the same."""
        mu, deviation = self._prior.chunk(2)
        return self._model.likelihood.mean(self._model.decode(mu + deviation * self.style(state)))

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        alt = (
            "A table of digits. Each row has an image at its left and, beside it, what the decoder draws "
            "when the style of that image is written as each class from 0 to 9. The first row is "
            f"{self.state.text()}."
        )
        board = f"ClassBoard {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), table_png(self), board, alt)


@torch.inference_mode()
def read_images(model: nn.Module, images: Images) -> tuple[Tensor, Tensor]:
    """(mean of q(z|x) (N, D), price in nats as each class (N, 10)) of each image."""
    q = [model.encode(x) for x in in_chunks(model, images)]
    mu, log_var = (torch.cat(part) for part in zip(*q, strict=True))
    return mu, model.prices(mu, log_var)


def floats(values: Tensor) -> bytes:
    return values.detach().numpy().astype("<f4").tobytes()


def table_png(board: ClassBoard) -> bytes:
    """The board as a still picture: its state, and up to three other images, written as each class."""
    others = [name for name in board.names if f"image {name}" != board.state.start][:3]
    states = [board.state, *(board.state.unshifted().from_image(name) for name in others)]
    figure = Figure(figsize=(8.4, 1.05 * len(states)), dpi=96, layout="constrained", facecolor="white")
    rows = figure.subplots(len(states), 2, squeeze=False, width_ratios=[1, 10])
    for row, state in zip(rows, states, strict=True):
        pictures = board.draw(state)
        own = torch.ones_like(pictures[:1])
        if state.read_as is not None:
            own = as_grey(board._pixels[[board.names.index(state.start.removeprefix("image "))]])
        row[0].set_title(state.start, loc="left", size=10, color="#1b2433")
        read = "its style is 0" if state.read_as is None else f"read as {state.read_as}"
        row[1].set_title(f"{read}, written as 0 to 9", loc="left", size=10, color="#1b2433")
        for axes, cells in zip(row, (own, pictures), strict=True):
            strip = np.concatenate(cells.permute(0, 2, 3, 1).numpy(), axis=1)  # (n, C, H, W) -> (H, n W, C)
            axes.imshow(strip, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[], anchor="W")
            axes.spines[:].set_visible(False)
    return still(figure)
