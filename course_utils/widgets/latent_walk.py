"""The latent walk of lesson 03: from one digit to another, through codes and through pixels."""

import copy
import math
import re
from dataclasses import dataclass, replace

import anywidget
import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.evaluate import evaluating, posterior_means
from course_utils.widgets.shared import described, page, page_decoder, pick, still

N_STEPS = 11  # pictures in a film strip: t = 0, 0.1, ... 1


# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WalkState:
    """Which two of the pictures `names` the walk joins, on which way, and how far along it is: t in [0, 1].

    Each method returns a new state. static/latent_walk.js has the same rule, and
    tests/test_latent_walk_browser.py holds the two together.
    """

    names: tuple[str, ...]
    start: tuple[str, str]  # the ends to come back to
    ends: tuple[str, str]
    sphere: bool = False
    t: float = 0.5

    def at(self, t: float) -> "WalkState":
        """At t, to two decimals and as far as the ends."""
        return replace(self, t=math.floor(100 * min(1.0, max(0.0, float(t))) + 0.5) / 100)

    def between(self, first: str, last: str) -> "WalkState":
        """From one picture to another. Raises ValueError if one of them is not there."""
        if not {first, last} <= set(self.names):
            raise ValueError(f"no walk from {first} to {last}: the pictures are {', '.join(self.names)}")
        return replace(self, ends=(first, last))

    def reset(self) -> "WalkState":
        """Half-way along the straight line of the start."""
        return WalkState(self.names, self.start, self.start)

    def text(self) -> str:
        """One line to hand to a neighbour, such as "from 3 to 8 · straight · t = 0.40"."""
        way = "on the sphere" if self.sphere else "straight"
        return f"from {self.ends[0]} to {self.ends[1]} · {way} · t = {self.t:.2f}"

    def parse(self, text: str) -> "WalkState":
        """The state that `text` speaks of. Raises ValueError if it is not a walk between these pictures."""
        name, gap, number = r"([0-9]+[a-z]?)", r"\s*[·,;]?\s*", r"([0-9]+\.?[0-9]*|\.[0-9]+)"
        line = rf"(?:from\s+)?{name}\s+to\s+{name}{gap}(straight|on the sphere){gap}(?:t\s*=)?\s*{number}"
        found = re.fullmatch(line, text.strip().lower())
        first, last, way, t = found.groups() if found else ("", "", "", 2)
        if not {first, last} <= set(self.names) or float(t) > 1:
            raise ValueError(
                f"“{text}” is not a walk on this board. Write two of {', '.join(self.names)}, the way and t "
                f"from 0 to 1, such as from {self.start[0]} to {self.start[1]} · straight · t = 0.40"
            )
        return replace(self, ends=(first, last), sphere=way == "on the sphere").at(float(t))


def along(a: Tensor, b: Tensor, t: float, sphere: bool) -> Tensor:
    """The point at t of the way from a to b: (D,), (D,) -> (D,).

    On the sphere the direction turns evenly (Shoemake 1985), while the length goes evenly from |a| to |b|.
    """
    directions = F.normalize(torch.stack([a, b]), dim=1)
    angle = torch.acos((directions[0] @ directions[1]).clamp(-1, 1))
    if not sphere or torch.sin(angle) < 1e-6:  # of two equal or opposite directions no one is between
        return (1 - t) * a + t * b
    turned = torch.sin((1 - t) * angle) * directions[0] + torch.sin(t * angle) * directions[1]
    return ((1 - t) * a.norm() + t * b.norm()) * turned / torch.sin(angle)


# The view ---------------------------------------------------------------------------------------


class LatentWalk(anywidget.AnyWidget):
    """Two digits, the way from one's code to the other's, and what the decoder draws along it.

    `images` are test images, black and white for a Bernoulli. The board offers n of them, the first of each
    class before the second of any, and calls them by their class: "3", a second one "3b". Their codes are
    posterior means. `start` names the two ends of the first walk. `board.state` is where the reader is, as a
    WalkState; it can be set. The weights are those of the moment of construction. Raises ValueError for
    fewer than two images, and for a start that is not among them.
    """

    _esm = page("decoder.js", "board.js", "latent_walk.js")
    _css = page("board.css", "latent_walk.css")

    layers = traitlets.List().tag(sync=True)
    weights = traitlets.Bytes().tag(sync=True)
    image_shape = traitlets.List().tag(sync=True)
    pixels = traitlets.Bytes().tag(sync=True)  # of the n images, a byte each
    codes = traitlets.List().tag(sync=True)  # (n, D)
    names = traitlets.List().tag(sync=True)
    start = traitlets.List().tag(sync=True)
    ends = traitlets.List().tag(sync=True)
    sphere = traitlets.Bool(False).tag(sync=True)
    t = traitlets.Float(0.5).tag(sync=True)
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(self, model: nn.Module, images: Images, n: int = 10, start=(3, 8), large: bool = False):
        chosen, names = pick(images.labels, n)
        if len(chosen) < 2:
            raise ValueError(f"a walk joins two images, here there are {len(chosen)}: give more images or n")
        images = images.subset(chosen)
        self._pixels = images.pixels.cpu()
        self._model = copy.deepcopy(model).cpu().float()
        start = [str(name) for name in start]
        WalkState(tuple(names), (), ()).between(*start)
        layers, weights = page_decoder(model)
        super().__init__(
            layers=layers,
            weights=weights,
            image_shape=list(model.image_shape),
            pixels=self._pixels.numpy().tobytes(),
            codes=[[round(v, 4) for v in code] for code in posterior_means(model, images).tolist()],
            names=names,
            start=start,
            ends=start,
            large=large,
        )

    @property
    def state(self) -> WalkState:
        return WalkState(tuple(self.names), tuple(self.start), tuple(self.ends), self.sphere, self.t)

    @state.setter
    def state(self, state: WalkState):
        self.ends, self.sphere, self.t = list(state.ends), state.sphere, state.t

    @traitlets.validate("ends")
    def _known(self, proposal) -> list[str]:
        return list(WalkState(tuple(self.names), (), ()).between(*proposal.value).ends)

    @traitlets.validate("t")
    def _inside(self, proposal) -> float:
        return WalkState((), (), ()).at(proposal.value).t

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        alt = (
            f"Two film strips of {N_STEPS} pictures, {self.state.text()}. The upper one decodes points on "
            "the way between two codes: one digit turns into the other. The lower one mixes the pixels of "
            "the same two images: one fades out, the other in. On the right what is decoded at t."
        )
        board = f"LatentWalk {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), self._png(), board, alt)

    def _png(self) -> bytes:
        first, last = (self.names.index(name) for name in self.ends)
        a, b = torch.tensor(self.codes, dtype=torch.float64)[[first, last]]
        steps = [*torch.linspace(0, 1, N_STEPS).tolist(), self.t]
        z = torch.stack([along(a, b, t, self.sphere) for t in steps]).float()
        with evaluating(self._model):
            decoded = self._model.likelihood.mean(self._model.decode(z))  # the last one is at t
        x, y = as_grey(self._pixels[[first, last]])
        mixed = torch.stack([(1 - t) * x + t * y for t in steps[:-1]])
        return walk_png(self.state, decoded.permute(0, 2, 3, 1).numpy(), mixed.permute(0, 2, 3, 1).numpy())


def walk_png(state: WalkState, decoded: np.ndarray, mixed: np.ndarray) -> bytes:
    """The board as a still picture, of pictures (H, W, C): the last that is decoded is the one at t."""
    figure = Figure(figsize=(8.4, 1.95), dpi=96, layout="constrained", facecolor="white")
    parts = figure.subplot_mosaic([["walk", "picture"], ["mix", "picture"]], width_ratios=[4.4, 1])
    titles = {
        "walk": "The codes mixed, then decoded",
        "mix": "The pixels mixed",
        "picture": f"t = {state.t:.2f}",
    }
    for name, cells in {"walk": decoded[:-1], "mix": mixed, "picture": decoded[-1:]}.items():
        strip = np.concatenate(cells, axis=1)
        height, width = strip.shape[:2]
        axes = parts[name]
        axes.imshow(strip, cmap="gray", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[])
        axes.set_title(titles[name], loc="left", size=10, color="#1b2433")
        axes.spines[:].set_visible(False)
        if name != "picture":
            side = width / N_STEPS
            gate = ((N_STEPS - 1) * state.t * side - 0.5, -0.5)
            axes.add_patch(
                Rectangle(gate, side, height, fill=False, color="#d55e00", linewidth=3, clip_on=False)
            )
    return still(figure)
