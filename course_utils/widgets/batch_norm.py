"""Batch norm of lesson 02: what one digit is worth, and how it comes back, beside other images."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.distributions import normal_kl, per_image
from course_utils.evaluate import batch_norms, batch_statistics, evaluating
from course_utils.widgets.shared import described, page, still

THIS_BATCH = "this batch"
SIZES = (2, 5, 20, 100, 1000)  # images in the batch; one alone has no variance
N_MATES = max(SIZES) - 1
N_SHOWN = 19  # of the mates, beside the digit itself


# The state --------------------------------------------------------------------------------------


class Choices(NamedTuple):
    """What there is to choose from, by name."""

    digits: tuple[str, ...]
    fixed: tuple[str, ...]  # statistics that do not depend on the batch
    mates: tuple[str, ...]

    def options(self) -> tuple[tuple[str, ...], ...]:
        """The four lists, in the order of a state's text."""
        return self.digits, (THIS_BATCH, *self.fixed), tuple(map(str, SIZES)), self.mates


@dataclass(frozen=True)
class NormState:
    """A digit, whose statistics normalise it, and its batch. Fixed statistics ignore the batch but keep it.

    Each method returns a new state; a name that is not among the choices raises ValueError. The rule is also
    in static/batch_norm.js, and tests/test_batch_norm_board_browser.py holds the two together.
    """

    choices: Choices
    digit: int  # its place among the choices
    statistics: str
    size: int  # images in the batch, the digit itself among them
    mates: str

    def __post_init__(self):
        digits, statistics, _, mates = self.choices.options()
        known = self.digit in range(len(digits)) and self.size in SIZES
        if not (known and self.statistics in statistics and self.mates in mates):
            named = digits[self.digit] if self.digit in range(len(digits)) else f"number {self.digit}"
            text = line_of(named, self.statistics, str(self.size), self.mates)
            raise ValueError(not_a_state(text, self.choices))

    def holding(self, digit: int) -> "NormState":
        """Another digit, by its place."""
        return replace(self, digit=digit)

    def under(self, statistics: str) -> "NormState":
        """Other statistics."""
        return replace(self, statistics=statistics)

    def among(self, size: int) -> "NormState":
        """A batch of another size."""
        return replace(self, size=size)

    def beside(self, mates: str) -> "NormState":
        """Other images in the rest of the batch."""
        return replace(self, mates=mates)

    @property
    def is_fixed(self) -> bool:
        return self.statistics != THIS_BATCH

    @property
    def row(self) -> int:
        """Where the table has it, among the rows of its digit: see `combinations`."""
        if self.is_fixed:
            return self.choices.fixed.index(self.statistics)
        position = SIZES.index(self.size) * len(self.choices.mates) + self.choices.mates.index(self.mates)
        return len(self.choices.fixed) + position

    def text(self) -> str:
        """One line to hand to a neighbour, such as "digit 3 · this batch · 20 images · only 1s"."""
        return line_of(self.choices.digits[self.digit], self.statistics, str(self.size), self.mates)

    def parse(self, text: str) -> "NormState":
        """The state that `text` speaks of. Raises ValueError if this board does not have it."""
        parts = [" ".join(part.split()).lower() for part in text.replace(",", "·").split("·")]
        parts[0] = parts[0].removeprefix("digit ")
        parts[2:3] = [part.removesuffix(" images") for part in parts[2:3]]
        options = self.choices.options()
        places = [
            [name.lower() for name in names].index(part)
            for part, names in zip(parts, options, strict=False)
            if part in [name.lower() for name in names]
        ]
        if len(parts) != 4 or len(places) != 4:
            raise ValueError(not_a_state(text, self.choices))
        _, statistics, _, mates = (names[place] for place, names in zip(places, options, strict=True))
        return NormState(self.choices, places[0], statistics, SIZES[places[2]], mates)


def line_of(digit: str, statistics: str, size: str, mates: str) -> str:
    return f"digit {digit} · {statistics} · {size} images · {mates}"


def not_a_state(text: str, choices: Choices) -> str:
    """What is wrong with it and what to write: each list, then the first of each as an example."""
    options = choices.options()
    digits, statistics, sizes, mates = (", ".join(names) for names in options)
    return (
        f"“{text}” is not a state of this board. Write a digit ({digits}), its statistics ({statistics}), "
        f"the images in the batch ({sizes}) and its mates ({mates}), "
        f"such as {line_of(*(names[0] for names in options))}"
    )


# The table --------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What a digit is worth under one choice, and how it comes back."""

    bound: float  # nats, of one draw
    kl: float  # nats
    picture: np.ndarray  # (C, H, W) uint8


def measure(model: nn.Module, x: Tensor, eps: Tensor, seed: int) -> Row:
    """The first image of the batch x, its latent drawn with eps: (B, C, H, W), (B, D) -> Row."""
    x, eps = (t.to(next(model.parameters()).device) for t in (x, eps))
    mu, log_var = model.encode(x)
    px = model.decode(mu + torch.exp(0.5 * log_var) * eps)
    zero = torch.zeros_like(mu)
    kl = per_image(normal_kl(mu, log_var, zero, zero))[0].item()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # some likelihoods draw noise of their own
        log_px = model.likelihood.log_prob(x[:1], px[:1]).item()
    if not math.isfinite(log_px - kl):
        raise ValueError(
            "the bound is not finite: the training has diverged; train with a smaller learning rate"
        )
    picture = (255 * model.likelihood.mean(px[:1])[0]).round().byte().cpu().numpy()
    return Row(round(log_px - kl, 2), round(kl, 2), picture)


def combinations(
    models: dict[str, nn.Module], digit: Tensor, mates: dict[str, Images | None], seed: int
) -> Iterator[Row]:
    """A digit (1, C, H, W) uint8 under each of the fixed statistics, then in each batch: size by size.

    Every place in the batch has one draw of noise, always the same: only the statistics change.
    """
    generator = torch.Generator().manual_seed(seed)
    model, *_ = models.values()
    eps = torch.randn(max(SIZES), model.latent_dim, generator=generator)
    for fixed in models.values():
        with evaluating(fixed):
            yield measure(fixed, as_grey(digit), eps[:1], seed)
    with evaluating(model), batch_statistics(model):
        for size in SIZES:
            for images in mates.values():
                others = digit.expand(size - 1, -1, -1, -1) if images is None else images.pixels[: size - 1]
                yield measure(model, as_grey(torch.cat([digit, others.to(digit.device)])), eps[:size], seed)


def span(bounds: list[float]) -> list[float]:
    """The stretch of the axis that shows the bounds of one digit: [worst, best], in nats.

    Three quarters of them lie within some distance of the best. What is more than twice as far would squeeze
    all others together; it is marked at the edge.
    """
    below = max(bounds) - np.array(bounds)
    width = max(10.0, below[below <= 2 * np.quantile(below, 0.75)].max().item())
    return [round(max(bounds) - 1.03 * width, 2), round(max(bounds) + 0.03 * width, 2)]


# The view ---------------------------------------------------------------------------------------


CHOSEN = (traitlets.Int(), traitlets.Unicode(), traitlets.Int(), traitlets.Unicode())  # as in NormState


class BatchNormBoard(anywidget.AnyWidget):
    """A digit in the company of others: how it comes back, and its bound, under a choice of statistics.

    `models` are copies of one model, under the names of the statistics that their batch norms hold; the first
    is also the one shown under "this batch". `held` are the digits to choose from, `mates` by name the images
    that fill the batch, 999 or more in the order in which they come; None stands for copies of the digit.
    `board.state`, a NormState, is where the reader is, and can be set; `start` is the text of the state where
    the board starts. All is computed at construction, nothing in the page. Raises ValueError for a model
    without batch norm, images that do not fit, too few mates and names that cannot be told apart.
    """

    _esm = page("board.js", "batch_norm.js")
    _css = page("board.css", "batch_norm.css")

    choices = traitlets.Dict().tag(sync=True)
    image_shape = traitlets.List().tag(sync=True)
    digits = traitlets.Bytes().tag(sync=True)  # the pixels of what is held
    beside = traitlets.Bytes().tag(sync=True)  # of the first mates under each name; of copies nothing
    table = traitlets.List().tag(sync=True)  # of each digit, of each of its rows: [bound, kl] in nats
    pictures = traitlets.Bytes().tag(sync=True)  # in the same order
    spans = traitlets.List().tag(sync=True)  # of each digit: [worst, best] of its axis
    start = traitlets.Tuple(*CHOSEN).tag(sync=True)
    chosen = traitlets.Tuple(*CHOSEN).tag(sync=True)
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(
        self,
        models: dict[str, nn.Module],
        held: Images,
        mates: dict[str, Images | None],
        start: str | None = None,
        seed: int = 0,
        large: bool = False,
    ):
        check(models, held, mates)
        self._choices = Choices(digit_names(held.labels.tolist()), tuple(models), tuple(mates))
        first = NormState(self._choices, 0, THIS_BATCH, SIZES[0], self._choices.mates[0])
        chosen = tuple_of(first if start is None else first.parse(start))
        rows = [list(combinations(models, digit, mates, seed)) for digit in held.pixels.split(1)]
        sets = [images.pixels[:N_SHOWN] for images in mates.values() if images is not None]
        super().__init__(
            choices={
                **self._choices._asdict(),
                "statistics": [THIS_BATCH, *models],
                "sizes": SIZES,
                "copies": [name for name, images in mates.items() if images is None],
            },
            image_shape=list(held.pixels.shape[1:]),
            digits=bytes_of(held.pixels),
            beside=b"".join(map(bytes_of, sets)),
            table=[[[row.bound, row.kl] for row in its] for its in rows],
            pictures=b"".join(row.picture.tobytes() for its in rows for row in its),
            spans=[span([row.bound for row in its]) for its in rows],
            start=chosen,
            chosen=chosen,
            large=large,
        )

    @property
    def state(self) -> NormState:
        return NormState(self._choices, *self.chosen)

    @state.setter
    def state(self, state: NormState):
        self.chosen = tuple_of(state)

    @traitlets.validate("start", "chosen")
    def _known(self, proposal) -> tuple[int, str, int, str]:
        return tuple_of(NormState(self._choices, *proposal.value))

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        state = self.state
        bounds = [bound for bound, _ in self.table[state.digit]]
        n_fixed = len(self._choices.fixed)
        fixed = ", ".join(
            f"{bound:.1f} under {name}"
            for bound, name in zip(bounds[:n_fixed], self._choices.fixed, strict=True)
        )
        batches = bounds[n_fixed:]
        alt = (
            f"{state.text()}: the digit, what comes back, and its bound of {bounds[state.row]:.1f} nats. "
            f"Under fixed statistics the same digit has one bound, {fixed}; under those of its batch "
            f"it has {min(batches):.1f} to {max(batches):.1f} nats, by the other images of the batch."
        )
        board = f"BatchNormBoard at {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), board_png(self), board, alt)


def tuple_of(state: NormState) -> tuple[int, str, int, str]:
    return state.digit, state.statistics, state.size, state.mates


def bytes_of(pixels: Tensor) -> bytes:
    return pixels.contiguous().cpu().numpy().tobytes()


def digit_names(labels: list[int]) -> tuple[str, ...]:
    """Each digit by its class; the second of a class is "3b", the third "3c"."""
    before = [labels[:i].count(label) for i, label in enumerate(labels)]
    return tuple(f"{label}{chr(ord('a') + n) if n else ''}" for label, n in zip(labels, before, strict=True))


def check(models: dict[str, nn.Module], held: Images, mates: dict[str, Images | None]) -> None:
    """ValueError, with what to do, if these are not what a BatchNormBoard shows."""
    if not models or not mates or not len(held.pixels):
        raise ValueError("a BatchNormBoard needs at least one model, one held digit and one set of mates")
    for name, model in models.items():
        if not batch_norms(model):
            raise ValueError(f"the model {name!r} has no batch norm: build it with VAE(batch_norm=True)")
    shape = tuple(next(iter(models.values())).image_shape)
    for name, images in {"held": held, **mates}.items():
        if images is not None and (images.pixels.shape[1:] != shape or images.pixels.dtype != torch.uint8):
            raise ValueError(
                f"the images {name!r} are {images.pixels.dtype} {tuple(images.pixels.shape[1:])}, "
                f"but the models see uint8 {shape}"
            )
    for name, images in mates.items():
        if images is not None and len(images.pixels) < N_MATES:
            raise ValueError(
                f"the mates {name!r} are {len(images.pixels)} images: a batch of {max(SIZES)} needs {N_MATES}"
            )
    for names in ([THIS_BATCH, *models], list(mates)):
        clear = [
            name.lower() for name in names if name == " ".join(name.split()) and not set(name) & set(",·")
        ]
        if len(set(clear)) < len(names):
            raise ValueError(
                f"these names cannot be told apart in the text of a state: {', '.join(names)}. "
                "Give each another name, without comma and · and not differing in capitals alone"
            )


# The still picture ------------------------------------------------------------------------------

INK, SOFT, BLUE, ORANGE = "#1b2433", "#566173", "#0072b2", "#d55e00"


def board_png(board: BatchNormBoard) -> bytes:
    """The board as a still picture."""
    state = board.state
    figure = Figure(figsize=(8, 4.2), dpi=96, facecolor="white")
    boxes = {
        "held": (0.0, 0.55, 0.26, 0.37),
        "back": (0.0, 0.05, 0.26, 0.37),
        "strip": (0.33, 0.22, 0.64, 0.68),
    }
    axes = {name: figure.add_axes(box) for name, box in boxes.items()}
    shape = (-1, *board.image_shape)
    held = np.frombuffer(board.digits, np.uint8).reshape(shape)[state.digit]
    place = state.digit * len(board.table[0]) + state.row
    back = np.frombuffer(board.pictures, np.uint8).reshape(shape)[place]
    bound, _ = board.table[state.digit][state.row]
    titles = {"held": "The digit", "back": f"Comes back: {minus(bound)} nats"}
    for (name, title), picture in zip(titles.items(), (held, back), strict=True):
        axes[name].imshow(picture.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=255)
        axes[name].set(xticks=[], yticks=[])
        axes[name].set_title(title, color=INK, size=10)
    draw_strip(axes["strip"], state, [row[0] for row in board.table[state.digit]], board.spans[state.digit])
    return still(figure)


def draw_strip(axes, state: NormState, bounds: list[float], stretch: list[float]) -> None:
    """The bound of one digit: a line for each of the fixed statistics, a row of dots for each batch size."""
    fixed, mates = state.choices.fixed, state.choices.mates
    shown = np.clip(bounds, stretch[0], None)
    for n, name in enumerate(fixed):
        axes.axvline(shown[n], color=BLUE, linestyle=["-", "--", ":", "-."][n % 4], linewidth=1.2, label=name)
    for n, size in enumerate(SIZES):
        its = shown[len(fixed) + n * len(mates) :][: len(mates)]
        outside = its <= stretch[0]
        axes.plot(its[~outside], np.full((~outside).sum(), n), "o", color=SOFT, alpha=0.55, markersize=6)
        axes.plot(its[outside], np.full(outside.sum(), n), "<", color=SOFT, alpha=0.55, clip_on=False)
        axes.text(
            -0.02, n, f"{size}", transform=axes.get_yaxis_transform(), ha="right", va="center", color=INK
        )
    height = -0.75 if state.is_fixed else SIZES.index(state.size)
    axes.plot(shown[state.row], height, "o", color=ORANGE, markeredgecolor="white", markersize=11, zorder=3)
    axes.set(ylim=(len(SIZES) - 0.5, -1.0), xlim=stretch, yticks=[])
    axes.set_title("The bound of this one digit, by the size of its batch", color=INK, size=11)
    axes.set_xlabel("nats, higher is better", color=SOFT, size=9)
    axes.xaxis.set_major_formatter(lambda value, _: minus(value, 0))
    axes.tick_params(colors=SOFT, length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=3, frameon=False, fontsize=8)


def minus(value: float, decimals: int = 1) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")
