"""Rows of layers: what the reader asks of each layer of a hierarchy, and what its code then is.

The layer board of lesson 04 and the photo board of lesson 06 have them. A layer's prior is given by mu and
log_var; its code z comes of four parts. The page has the same in static/layers.js, and the draws in draws.js.

    the state        a mode, a temperature T and a shift s       LayersState, with a LayerRow for each layer
    the draws        eps ~ N(0, 1), from a seed                  noise(seed, layer, picture, n)
    the directions   v, one standard deviation of the codes      directions(mu)
    the code         z, in each of the modes                     code(row, layer, prior, held, ways)

        hold      z = held + s v
        mean      z = mu + s v
        sample    z = mu + T exp(log_var / 2) eps + s v
"""

import math
import re
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MODES = ("hold", "mean", "sample")  # of a layer
LAST_SEED = 9999
WIDEST = 3.0  # the largest shift, in standard deviations
HOTTEST = 2.0  # the highest temperature
N_DIRECTIONS = 6  # principal ones of each layer
N_LISTED, N_CHOSEN = 64, 16  # of a layer with more coordinates than N_LISTED, those that vary most

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
    `in_hole` says that the layers fill the hole of a photograph: then a draw of the prior is no start, since
    the prior is told of the image; and at first all layers sample. Each method returns a new state.
    static/layers.js has the same rule, and the browser tests of the two boards hold the two together.
    """

    images: tuple[str, ...]
    directions: tuple[tuple[str, ...], ...]
    start: str  # "image 3", "prior draw 7"
    rows: tuple[LayerRow, ...]
    in_hole: bool = False

    @classmethod
    def first(
        cls, images: tuple[str, ...], directions: tuple[tuple[str, ...], ...], in_hole: bool = False
    ) -> "LayersState":
        """An image, of which only the middle layer samples, of digits a 3; in a hole all layers sample."""
        rows = tuple(LayerRow(names[0]) for names in directions)
        image = "3" if "3" in images and not in_hole else images[0]
        state = cls(images, directions, f"image {image}", rows, in_hole)
        return state.all("sample") if in_hole else state.only(len(rows) // 2 + 1)

    def reset(self) -> "LayersState":
        """Back at the first."""
        return self.first(self.images, self.directions, self.in_hole)

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
        """One layer samples, the others are means, but that an image without a hole is held above it.

        None is shifted.
        """
        self._at(layer)
        above = "hold" if self.start.startswith("image") and not self.in_hole else "mean"
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
            f"“{text}” is not on this board. Write a start, {self._starts(' or ')}, then each layer from "
            f"{len(self.rows)} to 1 with hold, mean or sample: {self.reset().text()}. A layer may add "
            f"T=0.50 (0 to 2), seed 4, +1.50 along {self.directions[0][0]} (-3 to 3)"
        )

    def _starts(self, between: str) -> str:
        draws = "" if self.in_hole else f"{between}prior draw 1 to {LAST_SEED}"
        return f"image {', '.join(self.images)}{draws}"

    def _has(self, start: str) -> bool:
        is_draw = re.fullmatch(r"prior draw [1-9][0-9]{0,3}", start) and not self.in_hole
        return start in {f"image {name}" for name in self.images} or bool(is_draw)

    def _from(self, start: str) -> "LayersState":
        if not self._has(start):
            raise ValueError(f"no {start}: there are {self._starts(' and ')}")
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


# The draws --------------------------------------------------------------------------------------
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


# The directions ---------------------------------------------------------------------------------


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


# The code, and what the page is told ------------------------------------------------------------


def code(
    row: LayerRow, layer: int, prior: tuple[Tensor, Tensor], held: Tensor, ways: list[Direction]
) -> Tensor:
    """What `row` says a layer's code is in each picture: its prior's (mu, log_var) (n, ...) -> (n, ...).

    `held` (1, ...) is the reference code. The draws are those of pictures 1 to n.
    """
    mu, log_var = prior
    z = held.expand_as(mu) if row.mode == "hold" else mu
    if row.mode == "sample":
        eps = np.stack([noise(row.seed, layer, i + 1, held.numel()) for i in range(len(mu))])
        z = mu + row.temperature * torch.exp(0.5 * log_var) * torch.from_numpy(eps).view_as(mu)
    vectors = {way.name: way.vector for way in ways}
    return z + row.shift * vectors[row.along].view_as(held) if row.shift else z


def described_layer(mu: Tensor, ways: list[Direction], kl: Tensor, chosen: list[int]) -> dict:
    """What the page is told of one layer: of codes (N, ...), of their KL (N,), and of the chosen images."""
    return {
        "shape": list(mu.shape[1:]),
        "directions": [[way.name, way.label] for way in ways],
        "kl": round(kl.mean().item(), 2),
        "own_kl": [round(v, 2) for v in kl[chosen].tolist()],
    }
