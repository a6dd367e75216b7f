"""The layer board of lesson 04: hold some layers of a hierarchy, sample others, and see what each is for."""

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
from course_utils.evaluate import bound, layer_means
from course_utils.widgets.shared import described, pack, page, page_layers, page_pixels, pick, still

MODES = ("hold", "mean", "sample")
LAST_SEED = 9999
WIDEST = 3.0  # the largest shift, in standard deviations
HOTTEST = 2.0
N_DIRECTIONS = 6  # principal ones of each layer
N_LISTED, N_CHOSEN = 64, 16  # of a layer with more coordinates than N_LISTED, those that vary most
N_IMAGES = 2_000  # for means and directions
IN_PAGE = 4 * 2**20  # bytes of weights that the page is given


# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerRow:
    """What the reader asks of one layer. `along` is a direction, `shift` how many of its deviations to go."""

    along: str
    mode: str = "hold"
    temperature: float = 1.0
    seed: int = 1
    shift: float = 0.0


@dataclass(frozen=True)
class LayersState:
    """Where the codes start, and a row for each layer, `rows[0]` next to the pixels; its layers count from 1.

    `images` are the names of the images to start from, `directions` those of each layer's directions.
    Each method returns a new state. static/layer_board.js has the same rule, and
    tests/test_layer_board_browser.py holds the two together.
    """

    images: tuple[str, ...]
    directions: tuple[tuple[str, ...], ...]
    start: str  # "image 3", "prior draw 7"
    rows: tuple[LayerRow, ...]

    @classmethod
    def first(cls, images: tuple[str, ...], directions: tuple[tuple[str, ...], ...]) -> "LayersState":
        """An image, a 3 if there is one, of which only the middle layer samples."""
        rows = tuple(LayerRow(names[0]) for names in directions)
        state = cls(images, directions, f"image {'3' if '3' in images else images[0]}", rows)
        return state.only(len(rows) // 2 + 1)

    def reset(self) -> "LayersState":
        """Back at the first."""
        return self.first(self.images, self.directions)

    def from_image(self, name: str) -> "LayersState":
        """The reference codes are the posterior means of this image. Raises ValueError if it is not there."""
        return self._from(f"image {name}")

    def from_draw(self, seed: int) -> "LayersState":
        """The reference codes are a draw of the prior."""
        return self._from(f"prior draw {seed}")

    def in_mode(self, layer: int, mode: str) -> "LayersState":
        """One layer holds its reference code, takes the prior's mean, or samples the prior."""
        return self._put(layer, replace(self._at(layer), mode=mode))

    def at_temperature(self, layer: int, temperature: float) -> "LayersState":
        """When it samples, one layer's deviations are multiplied by this: 0 to 2, to two decimals."""
        temperature = to_cents(min(HOTTEST, max(0.0, temperature)))
        return self._put(layer, replace(self._at(layer), temperature=temperature))

    def resampled(self, layer: int) -> "LayersState":
        """Other draws for one layer: its next seed."""
        row = self._at(layer)
        return self._put(layer, replace(row, seed=row.seed % LAST_SEED + 1))

    def shifted(self, layer: int, shift: float, along: str = "") -> "LayersState":
        """One layer's code, whatever its mode, is moved by `shift` deviations, -3 to 3, along a direction."""
        row, shift = self._at(layer), to_cents(min(WIDEST, max(-WIDEST, shift)))
        return self._put(layer, replace(row, shift=shift, along=along or row.along))

    def only(self, layer: int) -> "LayersState":
        """One layer samples; above it an image's code is held, all others are means. None is shifted."""
        self._at(layer)
        above = "hold" if self.start.startswith("image") else "mean"
        n_above = len(self.rows) - layer
        return self._in_modes(["mean"] * (layer - 1) + ["sample"] + [above] * n_above)

    def all(self, mode: str) -> "LayersState":
        """All layers in one mode, and none shifted."""
        return self._in_modes([mode] * len(self.rows))

    def is_reached(self, layer: int, skip: bool) -> bool:
        """Whether a layer reaches the pixels: without skip paths, nothing passes a held layer below it."""
        return skip or all(row.mode != "hold" for row in self.rows[: layer - 1])

    def varies(self, skip: bool) -> bool:
        """Whether the pictures differ: some layer that reaches the pixels samples, and not at T = 0."""
        return any(
            row.mode == "sample" and row.temperature > 0 and self.is_reached(layer, skip)
            for layer, row in enumerate(self.rows, start=1)
        )

    def text(self) -> str:
        """One line, the top layer first: "image 3 · 2 sample T=0.50 seed 4 · 1 mean +1.50 along z 4".

        What is as at the start is left out: T=1.00, seed 1, a shift of 0 along the first direction.
        """
        parts = [self.start]
        for layer in range(len(self.rows), 0, -1):
            row, first = self.rows[layer - 1], self.directions[layer - 1][0]
            words = [
                f"{layer} {row.mode}",
                f"T={row.temperature:.2f}" if row.temperature != 1 else "",
                f"seed {row.seed}" if row.seed != 1 else "",
                f"{row.shift:+.2f} along {row.along}" if row.shift or row.along != first else "",
            ]
            parts.append(" ".join(word for word in words if word))
        return " · ".join(parts)

    def parse(self, text: str) -> "LayersState":
        """The state that `text` speaks of. Raises ValueError if the board does not have it."""
        plain = re.sub(r"\s+", " ", text.strip().lower().replace("−", "-"))
        start, *lines = re.split(r" ?[·,;] ?", plain)
        found = [self._read(line) for line in lines]
        rows = {layer: row for layer, row in filter(None, found)}
        if len(found) != len(self.rows) or len(rows) != len(self.rows) or not self._has(start):
            raise ValueError(self._complaint(text))
        return replace(self, start=start, rows=tuple(rows[layer] for layer in sorted(rows)))

    def _read(self, line: str) -> tuple[int, LayerRow] | None:
        """The layer and row that a part of a text speaks of, None if it speaks of none that is here."""
        number = r"([0-9]{1,4}\.?[0-9]*|\.[0-9]+)"
        pattern = (
            rf"([0-9]{{1,2}}) (hold|mean|sample)(?: t ?= ?{number})?(?: seed ([0-9]{{1,4}}))?"
            rf"(?: ([+-]?) ?{number} along ([a-z]+ [0-9]+))?"
        )
        found = re.fullmatch(pattern, line)
        if not found or not 1 <= int(found[1]) <= len(self.rows):
            return None
        layer, mode, temperature, seed, sign, shift, along = found.groups()
        temperature, seed, shift = float(temperature or 1), int(seed or 1), float(shift or 0)
        names = self.directions[int(layer) - 1]
        along = along or names[0]
        if temperature > HOTTEST or not seed or shift > WIDEST or along not in names:
            return None
        shift = to_cents(-shift if sign == "-" else shift)
        return int(layer), LayerRow(along, mode, to_cents(temperature), seed, shift)

    def _complaint(self, text: str) -> str:
        return (
            f"“{text}” is not on this board. Write a start, image {', '.join(self.images)} or prior draw "
            f"1 to {LAST_SEED}, then each layer from {len(self.rows)} to 1 with hold, mean or sample: "
            f"{self.reset().text()}. A layer may add T=0.50 (0 to 2), seed 4, "
            f"+1.50 along {self.directions[0][0]} (-3 to 3)"
        )

    def _has(self, start: str) -> bool:
        return start in {f"image {name}" for name in self.images} or bool(
            re.fullmatch(r"prior draw [1-9][0-9]{0,3}", start)
        )

    def _from(self, start: str) -> "LayersState":
        if not self._has(start):
            names = ", ".join(self.images)
            raise ValueError(f"no {start}: there are image {names} and prior draw 1 to {LAST_SEED}")
        return replace(self, start=start)

    def _at(self, layer: int) -> LayerRow:
        if not 1 <= layer <= len(self.rows):
            raise ValueError(f"no layer {layer}: 1 is next to the pixels, {len(self.rows)} the top")
        return self.rows[layer - 1]

    def _put(self, layer: int, row: LayerRow) -> "LayersState":
        if row.mode not in MODES:
            raise ValueError(f"a layer is in mode {', '.join(MODES)}, not {row.mode}")
        names = self.directions[layer - 1]
        if row.along not in names:
            raise ValueError(f"layer {layer} has no “{row.along}”: its directions are {', '.join(names)}")
        return replace(self, rows=(*self.rows[: layer - 1], row, *self.rows[layer:]))

    def _in_modes(self, modes: list[str]) -> "LayersState":
        state = self
        for layer, mode in enumerate(modes, start=1):
            state = state.in_mode(layer, mode).shifted(layer, 0)
        return state


def to_cents(value: float) -> float:
    """To two decimals, halves up, as the page does it too."""
    return math.floor(100 * float(value) + 0.5) / 100


# The draws ---------------------------------------------------------------------------------------
#
# Each number has its own address and no other state, so page and Python draw the same, in any order.


def mix(h: np.ndarray) -> np.ndarray:
    """Each of these 32-bit numbers as another, one to one; neighbours end far apart (Wellons, triple32)."""
    for shift, factor in ((17, 0xED5AD4BB), (11, 0xAC4C1B51), (15, 0x31848BAB)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    return h ^ (h >> np.uint32(14))


def noise(seed: int, layer: int, picture: int, n: int) -> np.ndarray:
    """n draws of N(0, 1) that belong to this address, by Box and Muller: (n,) float32."""
    stream = np.zeros(1, np.uint32)
    for part in (seed, layer, picture):
        stream = mix(stream ^ np.uint32(part)) + np.uint32(0x9E3779B9)
    first = mix(stream + np.arange(n, dtype=np.uint32))
    second = mix(first ^ np.uint32(0x85EBCA6B))
    radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32))
    return (radius * np.cos(2 * np.pi * second / 2**32)).astype(np.float32)


# What the reader can move along ------------------------------------------------------------------


class Direction(NamedTuple):
    """A way to move one layer's codes, its length one standard deviation of theirs."""

    name: str
    label: str
    vector: Tensor  # (D,)


def directions(mu: Tensor) -> list[Direction]:
    """The first principal directions of the codes of many images (N, ...), then single coordinates.

    Of more than 64 coordinates only the 16 that vary most are there, in that order.
    """
    codes = mu.flatten(start_dim=1).double()
    codes = codes - codes.mean(dim=0)
    n = max(1, len(codes) - 1)
    _, length, axes = torch.linalg.svd(codes, full_matrices=False)
    share = length**2 / (length**2).sum().clamp(min=1e-30)
    found = []
    for i, axis in enumerate(axes[:N_DIRECTIONS]):
        axis = axis * torch.sign(axis[axis.abs().argmax()])  # its largest number is positive
        name = f"direction {i + 1}"
        label = f"{name} ({100 * share[i]:.0f} %)"
        found.append(Direction(name, label, (axis * length[i] / n**0.5).float()))
    spread = codes.square().sum(dim=0).div(n).sqrt()
    listed = range(len(spread))
    if len(spread) > N_LISTED:
        listed = spread.argsort(descending=True, stable=True)[:N_CHOSEN].tolist()
    for i in listed:
        vector = torch.zeros(len(spread))
        vector[i] = spread[i]
        found.append(Direction(f"z {i + 1}", f"z {i + 1} (sd {spread[i]:.2f})", vector))
    return found


# The view ----------------------------------------------------------------------------------------


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

    _esm = page("decoder.js", "board.js", "layer_board.js")
    _css = page("board.css", "layer_board.css")

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
            levels=[describe(*level, chosen) for level in zip(mu, self._directions, kl.T, strict=True)],
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
            row, (mu, log_var), (start,) = state.rows[level], prior, z_start[level].split(1)
            z = start.expand_as(mu) if row.mode == "hold" else mu
            if row.mode == "sample":
                eps = np.stack([noise(row.seed, level + 1, i + 1, start.numel()) for i in range(n)])
                z = mu + row.temperature * torch.exp(0.5 * log_var) * torch.from_numpy(eps).view_as(mu)
            ways = {way.name: way.vector for way in self._directions[level]}
            return z + row.shift * ways[row.along].view_as(start) if row.shift else z

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


def describe(mu: Tensor, ways: list[Direction], kl: Tensor, chosen: list[int]) -> dict:
    """What the page is told of one layer."""
    return {
        "shape": list(mu.shape[1:]),
        "directions": [[way.name, way.label] for way in ways],
        "kl": round(kl.mean().item(), 2),
        "own_kl": [round(v, 2) for v in kl[chosen].tolist()],
    }


def floats(values: Tensor) -> bytes:
    return values.detach().numpy().astype("<f4").tobytes()


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


def strip(pictures: Tensor) -> np.ndarray:
    """Pictures side by side: (n, C, H, W) -> (H, n W, C)"""
    return np.concatenate(pictures.permute(0, 2, 3, 1).numpy(), axis=1)
