"""The layer board of lesson 04: hold some layers of a hierarchy, sample others, and see what each is for."""

import copy
from typing import NamedTuple

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.evaluate import bound, layer_means
from course_utils.widgets.layers import LayersState, code, described_layer, directions, noise
from course_utils.widgets.shared import (
    described,
    floats,
    pack,
    page,
    page_layers,
    page_pixels,
    pick,
    still,
    strip,
)

N_IMAGES = 2_000  # for means and directions
IN_PAGE = 4 * 2**20  # bytes of weights that the page is given


class Drawn(NamedTuple):
    """The codes of the pictures, bottom layer first; the pictures; and the one that they start from."""

    z: list[Tensor]
    pictures: Tensor  # (n, C, H, W) in [0, 1]; n = 1 if all are equal
    own: Tensor  # (C, H, W)


class LayerBoard(anywidget.AnyWidget):
    """A row for each layer of a HierarchicalVAE: hold its code, take its mean, sample it, or push it along.

    `images` are held-out images, black and white for a Bernoulli; means and directions are over all of them,
    2,000 at most, and the board starts from n of them, the first of each class before the second of any.
    `board.state` is where the reader is, as a LayersState; it can be set. The weights are those of the moment
    of construction. The page decodes itself, unless they are more than 4 MB or `in_page` is False: then it
    asks the kernel. Raises ValueError if there are no images.
    """

    _esm = page("decoder.js", "draws.js", "board.js", "layers.js", "layer_board.js")
    _css = page("board.css", "layers.css", "layer_board.css")

    image_shape = traitlets.List().tag(sync=True)
    n_pictures = traitlets.Int().tag(sync=True)
    n_images = traitlets.Int().tag(sync=True)  # that means and directions are over
    skip = traitlets.Bool().tag(sync=True)
    in_page = traitlets.Bool().tag(sync=True)
    networks = traitlets.List().tag(sync=True)  # operations: down and prior from the top, then the decoder
    weights = traitlets.Bytes().tag(sync=True)
    names = traitlets.List().tag(sync=True)  # of the images to start from
    pixels = traitlets.Bytes().tag(sync=True)  # of these, a byte each
    levels = traitlets.List().tag(sync=True)  # bottom first: shape, directions as [name, label], kl, own_kl
    codes = traitlets.Bytes().tag(sync=True)  # 32-bit floats (n, all layers)
    vectors = traitlets.Bytes().tag(sync=True)  # so, for each layer (directions, D)
    top = traitlets.Bytes().tag(sync=True)  # so, mu and log_var of p(z_L)
    line = traitlets.Unicode().tag(sync=True)  # the text of the state
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        n: int = 10,
        n_pictures: int = 12,
        large: bool = False,
        in_page: bool | None = None,
    ):
        images = images.subset(slice(N_IMAGES))
        chosen, names = pick(images.labels.cpu(), n)
        if not chosen or n_pictures < 1:
            raise ValueError("the board starts from images and draws pictures: give it one of each at least")
        mu = layer_means(model, images)
        kl = bound(model, images).kl
        self._directions = [directions(values) for values in mu]
        self._model = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
        self._pixels = images.pixels[chosen].cpu()
        self._codes = [values[chosen] for values in mu]
        networks, weights = ([], b"") if in_page is False else page_hierarchy(self._model)
        in_page = len(weights) <= IN_PAGE if in_page is None else in_page
        known = tuple(tuple(way.name for way in ways) for ways in self._directions)
        self._first = LayersState.first(tuple(names), known)
        super().__init__(
            image_shape=list(model.image_shape),
            n_pictures=n_pictures,
            n_images=len(images.pixels),
            skip=model.skip,
            in_page=in_page,
            networks=networks if in_page else [],
            weights=weights if in_page else b"",
            names=names,
            pixels=self._pixels.numpy().tobytes(),
            levels=[described_layer(*of, chosen) for of in zip(mu, self._directions, kl.T, strict=True)],
            codes=floats(torch.cat([values.flatten(1) for values in self._codes], dim=1)),
            vectors=floats(torch.cat([way.vector for ways in self._directions for way in ways])),
            top=floats(self._model.top),
            line=self._first.text(),
            large=large,
        )
        self.on_msg(self._answer)

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
    def draw(self, state: LayersState) -> Drawn:
        """What the board shows in this state; the page computes the same."""
        z_start = self._reference(state.start)
        n = self.n_pictures if state.varies(self.skip) else 1

        def one_layer(level: int, prior: tuple[Tensor, Tensor]) -> Tensor:
            return code(state.rows[level], level + 1, prior, z_start[level], self._directions[level])

        z, _, px = self._model.descend(one_layer, n)
        return Drawn(z, self._model.likelihood.mean(px), self._own(state.start, z_start))

    def _reference(self, start: str) -> list[Tensor]:
        """The codes that a layer can hold, bottom first: (1, ...) each."""
        kind, _, name = start.rpartition(" ")
        if kind == "image":
            nth = self.names.index(name)
            return [values[nth : nth + 1] for values in self._codes]

        def ancestral(level: int, prior: tuple[Tensor, Tensor]) -> Tensor:
            mu, log_var = prior
            eps = torch.from_numpy(noise(int(name), level + 1, 0, mu.numel()))
            return mu + torch.exp(0.5 * log_var) * eps.view_as(mu)

        return self._model.descend(ancestral, 1)[0]

    def _own(self, start: str, z_start: list[Tensor]) -> Tensor:
        """The picture that the board starts from: an image, or what is decoded from a draw."""
        kind, _, name = start.rpartition(" ")
        if kind == "image":
            return as_grey(self._pixels[self.names.index(name)])
        px = self._model.descend(lambda level, prior: z_start[level], 1)[2]
        return self._model.likelihood.mean(px)[0]

    def _answer(self, _board, content: dict, _buffers: list) -> None:
        """The page asks for a line; it gets grey levels of the picture it starts from, and of the others."""
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # a training may be under way beside this
        try:
            drawn = self.draw(self._first.parse(content["line"]))
        finally:
            torch.set_num_threads(n_threads)
        levels = (255 * torch.cat([drawn.own[None], drawn.pictures])).round().to(torch.uint8)
        self.send({"line": content["line"]}, [levels.numpy().tobytes()])

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        rows = "; ".join(f"layer {layer}, KL {level['kl']:.1f} nats" for layer, level in self._from_the_top())
        alt = (
            f"A row of pictures for each layer, the top one first ({rows}). In its row only that layer is "
            f"sampled, starting from {self.state.start}, which is on the left: what changes from picture to "
            "picture is what the layer holds."
        )
        board = f"LayerBoard {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), layers_png(self), board, alt)

    def _from_the_top(self) -> list[tuple[int, dict]]:
        return list(enumerate(self.levels, start=1))[::-1]


def page_hierarchy(model: nn.Module) -> tuple[list[list[dict]], bytes]:
    """The operations of each network, down and prior from the top layer, then the decoder; all weights."""
    lists, weights, told = [], [], tuple(model.top.shape[1:])
    for level in reversed(range(len(model.layers) - 1)):
        layer = model.layers[level]
        down, its, h = page_layers(layer.down, told, within=f"layers.{level}.down.")
        prior, more, both = page_layers(nn.Sequential(layer.prior), h, within=f"layers.{level}.prior.")
        lists += [down, prior]
        weights += its + more
        told = (both[0] // 2 + h[0] * model.skip, *both[1:])
    pixels, its = page_pixels(model, told)
    return [*lists, pixels], pack(weights + its)


def layers_png(board: LayerBoard) -> bytes:
    """The board as a still picture: for each layer, the top one first, pictures in which only it samples."""
    n_rows = len(board.levels)
    figure = Figure(figsize=(8.4, 0.3 + 0.95 * n_rows), dpi=96, layout="constrained", facecolor="white")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 5.2])
    parts = [left.subplots(), *np.atleast_1d(right.subplots(n_rows, 1))]
    parts[0].imshow(strip(board.draw(board.state).own[None]), cmap="gray", vmin=0, vmax=1)
    parts[0].set_title(board.state.start, loc="left", size=10, color="#1b2433")
    for axes, (layer, level) in zip(parts[1:], board._from_the_top(), strict=True):
        axes.imshow(strip(board.draw(board.state.only(layer)).pictures[:12]), cmap="gray", vmin=0, vmax=1)
        place = " (the top)" if layer == n_rows else " (next to the pixels)" if layer == 1 else ""
        title = f"Only layer {layer}{place} samples: its KL is {level['kl']:.1f} nats"
        axes.set_title(title, loc="left", size=10, color="#1b2433")
    for axes in parts:
        axes.set(xticks=[], yticks=[], anchor="W")
        axes.spines[:].set_visible(False)
    return still(figure)
