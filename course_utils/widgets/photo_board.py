"""The photo board of lesson 06: what could be in the hole, and which layer of the hierarchy decides it."""

import copy
import re
from collections.abc import Sequence
from typing import NamedTuple

import anywidget
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.evaluate import bound, evaluating, in_chunks
from course_utils.holes import pasted, with_hole
from course_utils.models.inpainting_vae import moved, repeated
from course_utils.objectives import Elbo, hole_bound
from course_utils.widgets.layers import LayersState, code, described_layer, directions
from course_utils.widgets.shared import described, pack, page, page_walk, still

N_PHOTOGRAPHS = 500  # for means and directions


class Filled(NamedTuple):
    """The codes of the fillings, bottom layer first; and the photograph with each of them in its hole."""

    z: list[Tensor]
    pictures: Tensor  # (n, 3, 64, 64) in [0, 1]; n = 1 if all are equal


class PhotoBoard(anywidget.AnyWidget):
    """A row for each layer of an InpaintingVAE: sample it, take its mean, hold its code, or push it along.

    `images` are held-out photographs: means and directions are over all of them, 500 at most, and the board
    starts from the first n, called `names`, by default "1", "2", and so on. A code that is held is the mean
    of q(z|x), which has been told what was in the hole. `board.state` is where the reader is, as a
    LayersState; it can be set. The weights are those of the moment of construction, and the page decodes
    itself. Raises ValueError if there are no images, or for names that it cannot tell apart.
    """

    _esm = page("decoder.js", "draws.js", "board.js", "layers.js", "photo_board.js")
    _css = page("board.css", "layers.css", "photo_board.css")

    n_pictures = traitlets.Int().tag(sync=True)
    n_images = traitlets.Int().tag(sync=True)  # that means and directions are over
    networks = traitlets.List().tag(sync=True)  # operations, as `page_walk` orders them
    weights = traitlets.Bytes().tag(sync=True)  # theirs; here and below 16-bit floats
    names = traitlets.List().tag(sync=True)  # of the images to start from
    pixels = traitlets.Bytes().tag(sync=True)  # of these, a byte each
    context = traitlets.Bytes().tag(sync=True)  # of each the guess as a location, what each layer is told
    codes = traitlets.Bytes().tag(sync=True)  # of each its posterior means (n, all layers)
    levels = traitlets.List().tag(sync=True)  # bottom first: what `described_layer` says, and told, a size
    vectors = traitlets.Bytes().tag(sync=True)  # for each layer (directions, D)
    line = traitlets.Unicode().tag(sync=True)  # the text of the state
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        n: int = 10,
        n_pictures: int = 8,
        names: Sequence[str] | None = None,
        large: bool = False,
    ):
        images = images.subset(slice(N_PHOTOGRAPHS))
        pixels = images.pixels[: max(0, n)].cpu()
        if not len(pixels) or n_pictures < 1:
            raise ValueError("the board fills holes of photographs: give it one of each at least")
        names = known(names, len(pixels))
        mu, kl = hole_means(model, images), bound(model, images, chunk=100, objective=photograph_bound).kl
        self._directions = [directions(values) for values in mu]
        self._model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        self._x = as_grey(pixels)
        with torch.inference_mode():
            guess, told = self._model.context(with_hole(self._x))
        self._guess, self._told, self._codes = guess, told, [values[: len(pixels)] for values in mu]
        location = self._model.likelihood.from_mean(guess)
        networks, weights = page_walk(self._model)
        ways = tuple(tuple(way.name for way in ways) for ways in self._directions)
        self._first = LayersState.first(names, ways, in_hole=True)
        chosen, each = list(range(len(pixels))), zip(mu, self._directions, kl.T, told, strict=True)
        super().__init__(
            n_pictures=n_pictures,
            n_images=len(images.pixels),
            networks=networks,
            weights=pack(weights),
            names=list(names),
            pixels=pixels.numpy().tobytes(),
            context=pack([torch.cat([t.flatten(1) for t in (location, *told)], dim=1)]),
            codes=pack([torch.cat([values.flatten(1) for values in self._codes], dim=1)]),
            levels=[described_layer(*of, chosen) | {"told": told[0].numel()} for *of, told in each],
            vectors=pack([way.vector for ways in self._directions for way in ways]),
            line=self._first.text(),
            large=large,
        )

    @property
    def state(self) -> LayersState:
        return self._first.parse(self.line)

    @state.setter
    def state(self, state: LayersState):
        self.line = state.text()

    @traitlets.validate("line")
    def _on_board(self, proposal) -> str:
        return self._first.parse(proposal.value).text()

    @torch.inference_mode()
    def draw(self, state: LayersState) -> Filled:
        """What the board shows in this state; the page computes the same."""
        nth = self.names.index(state.start.removeprefix("image "))
        one, n = slice(nth, nth + 1), self.n_pictures if state.varies(skip=True) else 1
        guess, *told = repeated([self._guess[one], *(t[one] for t in self._told)], n)

        def one_layer(level: int, prior: tuple[Tensor, Tensor], h: Tensor) -> Tensor:
            held = self._codes[level][one]
            return code(state.rows[level], level + 1, prior, held, self._directions[level])

        z, _, px = self._model.descend(guess, told, one_layer)
        return Filled(z, pasted(self._x[one].expand(n, -1, -1, -1), self._model.likelihood.mean(px)))

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        alt = (
            "At the left a picture whose middle, a square of half its width, is missing. Beside it the same "
            "picture several times, its hole filled by the model as it could be. The board is at "
            f"{self.state.text()}."
        )
        board = f"PhotoBoard {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), fillings_png(self), board, alt)


def known(names: Sequence[str] | None, n: int) -> tuple[str, ...]:
    """The names of n images, those that a reader can write. Raises ValueError for others."""
    names = tuple(str(i + 1) for i in range(n)) if names is None else tuple(names)
    plain = all(re.fullmatch(r"[a-z0-9]+( [a-z0-9]+)*", name) for name in names)
    if len(set(names)) != n or len(names) != n or not plain:
        raise ValueError(
            f"give {n} different names, of small letters, digits and single spaces, not {', '.join(names)}"
        )
    return names


def photograph_bound(model: nn.Module, x: Tensor) -> Elbo:
    """The bound of what is in the middle of photographs (B, 3, 64, 64), given all that is around it."""
    return hole_bound(model, with_hole(x))


def hole_means(model: nn.Module, images: Images) -> list[Tensor]:
    """The mean of q of each layer, those above at theirs, bottom first: (N, C, side, side), on the CPU."""
    with evaluating(model):
        batches = map(with_hole, in_chunks(model, images, chunk=100))
        chunks = [[z.cpu() for z in q_means(model, x)] for x in batches]
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def q_means(model: nn.Module, x: Tensor) -> list[Tensor]:
    """The walk down in which each layer is the mean of its q: x (B, 7, 64, 64) -> one tensor a layer."""
    guess, told = model.context(x)
    evidence = model.evidence(x, guess)

    def mean(level: int, prior: tuple[Tensor, Tensor], h: Tensor) -> Tensor:
        heads = model.posterior[level](torch.cat([h, evidence[level]], dim=1)).float()
        return moved(prior, *heads.chunk(2, dim=1))[0]

    return model.descend(guess, told, mean)[0]


def fillings_png(board: PhotoBoard) -> bytes:
    """The board as a still picture: the photograph with its hole, and the fillings."""
    pictures = board.draw(board.state).pictures[:8]
    own = board._x[board.names.index(board.state.start.removeprefix("image "))]
    own = pasted(own[None], torch.full((1, 3, 32, 32), 0.93))[0]  # paper, where nothing is known
    figure = Figure(figsize=(8.4, 2.95), dpi=96, layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 2])
    rows = right.subplots(2, 4).flat if len(pictures) > 4 else right.subplots(1, 4).flat
    parts = [left.subplots(), *rows]
    for axes, picture in zip(parts, [own, *pictures], strict=False):
        axes.imshow(picture.permute(1, 2, 0).numpy(), interpolation="bilinear")
    for axes in parts:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    left.suptitle(board.state.start, x=0.04, ha="left", size=10, color="#1b2433")
    right.suptitle("What could be in its hole", x=0.02, ha="left", size=10, color="#1b2433")
    return still(figure)
