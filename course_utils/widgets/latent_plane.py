"""The latent plane of lesson 01: a point to drag, and what the decoder draws there."""

import re
from dataclasses import dataclass, replace

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.evaluate import evaluating
from course_utils.widgets.shared import described, page, page_decoder, still

# Ten classes that stay apart for colour-blind eyes too (tests/test_widgets.py measures it), dark enough for
# digits on white, none near the orange that means "the point you hold".
CLASS_COLOURS = [
    "#0072b2", "#8b4a17", "#058761", "#b4278d", "#4a5867",
    "#223691", "#749557", "#ad6e8a", "#4898ba", "#740b00",
]  # fmt: skip


# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlaneState:
    """A point of the latent plane. It has two decimals, so its text is all of it.

    Each method returns a new state. static/latent_plane.js has the same rule;
    tests/test_latent_plane_browser.py holds the two together.
    """

    z: tuple[float, float] = (0.0, 0.0)
    start: tuple[float, float] = (0.0, 0.0)
    extent: float = 4.0  # the plane shows -extent ... extent of both coordinates

    def at(self, z1: float, z2: float) -> "PlaneState":
        """The point (z1, z2), or the point of the plane nearest to it."""
        inside = (min(self.extent, max(-self.extent, float(v))) for v in (z1, z2))
        return replace(self, z=tuple(round(v, 2) + 0.0 for v in inside))  # + 0.0 turns -0.0 into 0.0

    def moved(self, dx: float, dy: float) -> "PlaneState":
        """dx to the right and dy up, as far as the edge."""
        return self.at(self.z[0] + dx, self.z[1] + dy)

    def reset(self) -> "PlaneState":
        """Back at the start."""
        return self.at(*self.start)

    def text(self) -> str:
        """One line to hand to a neighbour, such as "z = 0.50, -1.25"."""
        return f"z = {self.z[0]:.2f}, {self.z[1]:.2f}"

    def parse(self, text: str) -> "PlaneState":
        """The state that `text` speaks of. Raises ValueError if it is not a point of the plane."""
        number = r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))"
        line = rf"(?:z\s*=)?\s*[\[(]?\s*{number}\s*[,;\s]\s*{number}\s*[\])]?"
        found = re.fullmatch(line, text.strip().replace("−", "-"))
        z = [float(v) for v in found.groups()] if found else []
        if not z or max(map(abs, z)) > self.extent:
            raise ValueError(
                f"“{text}” is not a point of this plane. Write two numbers "
                f"from −{self.extent:g} to {self.extent:g}, such as z = 0.50, -1.25"
            )
        return self.at(*z)


# The view ---------------------------------------------------------------------------------------


class LatentPlane(anywidget.AnyWidget):
    """A point to drag in the plane of a two-dimensional latent, and what the decoder draws there.

    `codes` (N, 2) are posterior means of test images, `labels` (N,) their classes 0 to 9; the plane shows a
    sample of them. `board.z` is where the reader is, `board.state` the same as a PlaneState; both can be set.
    The weights are those of the moment of construction. Raises ValueError unless latent and codes are 2-D.
    """

    _esm = page("decoder.js", "board.js", "latent_plane.js")
    _css = page("board.css", "latent_plane.css")

    layers = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    image_shape = traitlets.List().tag(sync=True)
    codes = traitlets.List().tag(sync=True)  # [z1, z2, label] each
    colours = traitlets.List(CLASS_COLOURS).tag(sync=True)
    extent = traitlets.Float().tag(sync=True)
    start = traitlets.Tuple(traitlets.Float(), traitlets.Float()).tag(sync=True)
    z = traitlets.Tuple(traitlets.Float(), traitlets.Float()).tag(sync=True)
    large = traitlets.Bool(False).tag(sync=True)  # for a projector
    pictures = traitlets.Bool(False).tag(sync=True)  # the map of decoded pictures, not the test images

    def __init__(self, model: nn.Module, codes: Tensor, labels: Tensor, start=(0.0, 0.0), large=False):
        if model.latent_dim != 2 or codes.shape != (len(labels), 2):
            raise ValueError(
                "a LatentPlane shows a model with latent_dim=2 and codes (N, 2) with labels (N,), not "
                f"latent_dim={model.latent_dim}, codes {tuple(codes.shape)} and {len(labels)} labels"
            )
        layers, weights = page_decoder(model)
        extent = max(2.0, round(2 * codes.abs().quantile(0.98).item()) / 2)  # a whole or a half
        super().__init__(
            layers=layers,
            weights=weights,
            image_shape=list(model.image_shape),
            codes=sample_codes(codes, labels, extent),
            extent=extent,
            start=start,
            z=start,
            large=large,
        )
        self._map = decoded_map(model, extent)

    @property
    def state(self) -> PlaneState:
        return PlaneState(self.z, self.start, self.extent)

    @state.setter
    def state(self, state: PlaneState):
        self.z = state.z

    @traitlets.validate("start", "z")
    def _inside(self, proposal) -> tuple[float, float]:
        return PlaneState(extent=self.extent).at(*proposal.value).z

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        alt = (
            "Two panels. Left: the latent plane with the codes of test images, each drawn as its class, "
            f"and a point at {self.state.text()}. Right: what the decoder draws all over the same plane."
        )
        board = f"LatentPlane at {self.state.text()}"
        return described(
            super()._repr_mimebundle_(**kwargs), plane_png(self.state, self.codes, self._map), board, alt
        )


def sample_codes(codes: Tensor, labels: Tensor, extent: float, n: int = 600) -> list[list]:
    """At most n codes that lie in the plane, as [z1, z2, label]: a random sample, always the same."""
    chosen = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))[:n]
    rows = zip(codes.cpu()[chosen].tolist(), labels.cpu()[chosen].tolist(), strict=True)
    return [[round(z1, 2), round(z2, 2), y] for (z1, z2), y in rows if max(abs(z1), abs(z2)) < extent]


def decoded_map(model: nn.Module, extent: float, n_tiles: int = 15) -> np.ndarray:
    """What the decoder draws in the middle of each of n_tiles x n_tiles tiles of the plane: one (H, W, C)."""
    middle = extent * ((2 * torch.arange(n_tiles) + 1) / n_tiles - 1)
    z = torch.cartesian_prod(-middle, middle).flip(1)  # row by row from the top
    with evaluating(model):
        x = model.likelihood.mean(model.decode(z.to(next(model.parameters()).device))).cpu()
    return x.unflatten(0, (n_tiles, n_tiles)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1).numpy()


def plane_png(state: PlaneState, codes: list[list], decoded: np.ndarray) -> bytes:
    """The board as a still picture."""
    figure = Figure(figsize=(8, 4.2), dpi=96, layout="constrained", facecolor="white")
    plane, pictures = figure.subplots(1, 2)
    for label, colour in enumerate(CLASS_COLOURS):
        marks = [(z1, z2) for z1, z2, y in codes if y == label]
        if marks:
            plane.scatter(*zip(*marks, strict=True), s=20, color=colour, linewidths=0, marker=f"${label}$")
    plane.set(facecolor="#f2f5f9", title="Latent plane: codes of test images")
    pictures.imshow(decoded, cmap="gray", vmin=0, vmax=1, extent=(-state.extent, state.extent) * 2)
    pictures.set(title="What the decoder draws there")
    for axes in (plane, pictures):
        axes.plot(*state.z, "o", color="#d55e00", markeredgecolor="white", markeredgewidth=2, markersize=11)
        axes.set(xlim=(-state.extent, state.extent), ylim=(-state.extent, state.extent), aspect="equal")
        axes.tick_params(colors="#566173", length=0, labelsize=8)
        axes.spines[:].set_visible(False)
        axes.title.set(color="#1b2433", size=11)
    return still(figure)
