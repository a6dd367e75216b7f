"""The figures of the course: tensors in, `Figure` out. Nothing here trains, loads or shows, but for `show`.

Each figure says what to see in its title, names what it draws at the place where it is drawn rather than in
a legend, and uses colours that a colour-blind reader and a projector keep apart (Okabe & Ito 2008).
"""

import base64
import io
from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image
from torch import Tensor

INK, GREY, PALE = "#1b2433", "#5c6675", "#d9dee5"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#bd4f00", "#00805c", "#a94f86"
SERIES = [BLUE, ORANGE, GREEN, PURPLE, INK]
LINE_HEIGHT = 17  # points, of a name beside a line
WIDTH = 9.0  # inches, of every figure
STYLE = {
    "font.size": 13,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 13,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "lines.linewidth": 2.4,
}
STYLED = matplotlib.rc_context(STYLE)  # as a decorator: the style holds while a figure is made, no longer


def show(figure: Figure, alt: str) -> None:
    """Display the figure with a text for those who cannot see it: what a listener should know of it."""
    if len(alt) < 20:
        raise ValueError(f"alt={alt!r} says too little; say in a sentence what there is to see")
    FigureCanvasAgg(figure).draw()
    pixels = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    buffer = io.BytesIO()  # 256 colours are enough, and a third of the size in the notebook
    pixels.quantize(method=Image.Quantize.FASTOCTREE).save(buffer, "png", optimize=True)
    picture = base64.b64encode(buffer.getvalue()).decode()
    display({"image/png": picture, "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def new_figure(title: str, height: float, n_rows: int = 1, n_columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the course's width with its point written above it, and its axes, row by row."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=16, fontweight="bold", color=INK)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    return figure, list(axes.flat)


# Pictures ----------------------------------------------------------------------------------------


@STYLED
def plot_images(
    images: Tensor, title: str, *, n_columns: int = 10, row_labels: Sequence[str] = (), gap: int = 2
) -> Figure:
    """Images (N, C, H, W) in [0, 1] side by side, `n_columns` a row, each row with its label at the left."""
    n, channels, height, width = images.shape
    n_rows = -(-n // n_columns)
    sheet = images.new_ones(channels, n_rows * (height + gap) - gap, n_columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = (i // n_columns) * (height + gap), (i % n_columns) * (width + gap)
        sheet[:, top : top + height, left : left + width] = image
    figure, (axes,) = new_figure(
        title, 0.7 + (WIDTH - 1.2 * bool(row_labels)) * sheet.shape[1] / sheet.shape[2]
    )
    axes.imshow(
        sheet.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest"
    )
    axes.grid(False)
    axes.set_xticks([])
    rows = [row * (height + gap) + height / 2 for row in range(n_rows)]
    axes.set_yticks(rows[: len(row_labels)], row_labels, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


# Curves ------------------------------------------------------------------------------------------


@STYLED
def plot_lines(
    x: Sequence[float],
    lines: dict[str, Sequence[float]],
    title: str,
    *,
    x_label: str,
    y_label: str,
    reference: tuple[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """One line for each entry, its name written at its end; `reference` is a dashed level with its name."""
    figure, (axes,) = new_figure(title, 4.2)
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear")
    draw_lines(axes, x, lines)
    for axis in [axes.xaxis] * log_x + [axes.yaxis] * log_y:
        number_log(axis)
    if reference:
        name, level = reference
        axes.axhline(level, color=INK, linestyle=(0, (4, 3)), linewidth=1.6)
        axes.annotate(name, (x[0], level), (0, 6), textcoords="offset points", color=INK)
    return figure


def number_log(axis: Axis) -> None:
    """Plain numbers on a log axis: 10, 100, 1,000, and 2 and 5 between them where the axis is short."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high / low < 1_000 else (1,)
    axis.set(
        major_locator=LogLocator(subs=subs), major_formatter="{x:,.10g}", minor_formatter=NullFormatter()
    )


def draw_lines(axes: Axes, x: Sequence[float], lines: dict[str, Sequence[float]]) -> None:
    """At most five lines with their names at their right ends, moved apart where the ends are close."""
    if len(lines) > len(SERIES):
        raise ValueError(f"{len(lines)} lines are too many to tell apart; draw at most {len(SERIES)}")
    for y, colour, marker in zip(lines.values(), SERIES, "os^Dv", strict=False):
        axes.plot(x, y, color=colour, marker=marker if len(x) < 20 else "", markersize=6)
    axes.autoscale_view()  # or the places below are those of an empty figure
    ends = [axes.transData.transform((x[-1], y[-1]))[1] * 72 / axes.figure.dpi for y in lines.values()]
    places = spread(ends, [LINE_HEIGHT * (1 + name.count("\n")) for name in lines])
    bottom = axes.transAxes.transform((0, 0))[1] * 72 / axes.figure.dpi + LINE_HEIGHT / 2
    places = [place + max(0.0, bottom - min(places)) for place in places]  # not over the numbers below
    for (name, y), colour, end, place in zip(lines.items(), SERIES, ends, places, strict=False):
        axes.annotate(
            name,
            (x[-1], y[-1]),
            (8, place - end),
            textcoords="offset points",
            color=colour,
            va="center",
            annotation_clip=False,
        )


def spread(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Where to put labels of these heights so that none covers another, near the places they belong to."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for _ in range(100):
        for low, high in pairwise(order):
            overlap = (heights[low] + heights[high]) / 2 - (moved[high] - moved[low])
            if overlap > 0:
                moved[low] -= overlap / 2
                moved[high] += overlap / 2
    return moved


Curves = dict[str, tuple[Sequence[float], Sequence[float]]]  # of each line its x and its y


@STYLED
def plot_pair(left: Curves, right: Curves, title: str, *, x_labels: tuple[str, str], y_label: str) -> Figure:
    """The same lines against two different x, both on log axes: `left` and `right` have one (x, y) a line."""
    figure, panels = new_figure(title, 4.4, n_columns=2)
    for axes, lines, x_label in zip(panels, (left, right), x_labels, strict=True):
        for (name, (x, y)), colour, marker in zip(lines.items(), SERIES, "os^Dv", strict=False):
            axes.plot(x, y, color=colour, marker=marker, markersize=6)
            axes.annotate(name, (x[0], y[0]), (8, 4), textcoords="offset points", color=colour)
        axes.set(xlabel=x_label, xscale="log")
        number_log(axes.xaxis)
    panels[1].sharey(panels[0])
    panels[0].set_ylabel(y_label)
    return figure


@STYLED
def plot_training(rows: Sequence[dict], title: str) -> Figure:
    """How the bound and its price grew while training: `Training.rows` of `fit`."""
    figure, (left, right) = new_figure(title, 4.0, n_columns=2)
    steps = [row["step"] for row in rows]
    bound = [row["elbo"] for row in rows]
    left.plot(steps, bound, color=BLUE)
    left.set(title="bound on log p(x)", xlabel="step", ylabel="nats per image")
    left.set_ylim(bottom=min(bound[len(bound) // 10 :]))  # the first steps would flatten all the rest
    right.plot(steps, [row["kl"] for row in rows], color=ORANGE)
    right.set(title="of which spent on the code: KL", xlabel="step")
    return figure


# Bars --------------------------------------------------------------------------------------------


@STYLED
def plot_bars(
    names: Sequence[str],
    values: Sequence[float],
    title: str,
    *,
    x_label: str,
    reference: tuple[str, float] | None = None,
    own: dict[int, float] | None = None,
) -> Figure:
    """Horizontal bars with their values. `own` marks at bar i what the reader's own run measured."""
    figure, (axes,) = new_figure(title, 1.4 + 0.55 * len(names))
    worse = [reference is not None and value > reference[1] for value in values]
    axes.barh(range(len(names)), values, color=[ORANGE if w else BLUE for w in worse], height=0.62)
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.06 * max([*values, *(own or {}).values(), reference[1] if reference else 0]))
    axes.set_xlabel(x_label)
    for i, value in (own or {}).items():
        axes.plot(value, i, marker="D", color="white", markeredgecolor=INK, markersize=9)
    for i, value in enumerate(values):
        axes.annotate(
            f"{value:.2f}",
            (0, i),
            (8, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
            color="white",
        )
    if reference:
        name, level = reference
        axes.axvline(level, color=INK, linestyle=(0, (4, 3)), linewidth=1.6)
        axes.annotate(f"{name} {level:.2f}", (level, -0.5), (6, 4), textcoords="offset points", va="bottom")
        axes.margins(y=0.12)
    return figure


@STYLED
def plot_columns(
    values: Sequence[float], title: str, *, x_label: str, y_label: str, threshold: float
) -> Figure:
    """Vertical columns, those above the threshold in blue, the others pale."""
    figure, (axes,) = new_figure(title, 3.4)
    axes.bar(range(len(values)), values, color=[BLUE if value > threshold else GREY for value in values])
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(False, axis="x")
    return figure


@STYLED
def plot_stacked(
    names: Sequence[str], parts: dict[str, Sequence[float]], title: str, *, x_label: str
) -> Figure:
    """Horizontal bars made of parts, one value for each name; the parts are named below them."""
    figure, (axes,) = new_figure(title, 1.8 + 0.7 * len(names))
    left = [0.0] * len(names)
    for (part, values), colour in zip(parts.items(), [*SERIES, GREY], strict=False):
        axes.barh(
            range(len(names)), values, left=left, color=colour, height=0.62, edgecolor="white", label=part
        )
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.set_yticks(range(len(names)), names, color=INK)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xlabel(x_label)
    figure.legend(loc="outside lower center", ncols=len(parts), frameon=False, handlelength=1)
    return figure


# A matrix ----------------------------------------------------------------------------------------


@STYLED
def plot_matrix(values: Tensor, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    """Cells (n_rows, n_columns) of values from 0 to 1, darker for more, each with its number."""
    figure, (axes,) = new_figure(title, 1.3 + 0.7 * len(rows))
    axes.imshow(values.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, color=INK)
    axes.set_yticks(range(len(rows)), rows, color=INK)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    for row, its in enumerate(values.tolist()):
        for column, value in enumerate(its):
            colour = "white" if value > 0.55 else INK
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, weight="bold")
    return figure


# Few labels --------------------------------------------------------------------------------------

Spread = tuple[float, float]  # a mean, and the spread around it


@STYLED
def plot_ladder(
    names: Sequence[str],
    panels: dict[str, dict[str, Sequence[Spread | None]]],
    title: str,
    *,
    own: dict[str, dict[int, float]] | None = None,
) -> Figure:
    """Side by side one panel for each quantity, each with a bar or two for each name, and their spreads.

    A panel that is named by its axis holds series of (mean, spread), one for each name, None where there is
    none. Bars start at 0 if the values are far apart; where they are not, points stand in for them. `own`
    marks what the reader's own run measured, beside the last series: {panel: {position: value}}.
    """
    figure, axes_of = new_figure(title, 1.6 + 0.62 * len(names), n_columns=len(panels))
    axes_of[0].set_yticks(range(len(names)), names, color=INK)
    for axes, (panel, series) in zip(axes_of, panels.items(), strict=True):
        means = [found[0] for values in series.values() for found in values if found]
        draw_rungs(axes, series, bars=max(means) > 2 * min(means))
        place = 0.4 - 0.4 / len(series)  # that of the last series
        for i, value in (own or {}).get(panel, {}).items():
            axes.plot(
                value, i + place, marker="D", color="white", markeredgecolor=INK, markersize=8, zorder=4
            )
        axes.set(xlabel=panel, ylim=(len(names) - 0.4, -0.6))
        axes.grid(False, axis="y")
        if axes is not axes_of[0]:
            axes.set_yticks(range(len(names)), [])
    return figure


def draw_rungs(axes: Axes, series: dict[str, Sequence[Spread | None]], bars: bool) -> None:
    """Each series in a colour of its own, named in the first free corner; a line is the spread."""
    height = 0.8 / len(series)
    for n, (name, values) in enumerate(series.items()):
        colour = [BLUE, ORANGE][n]
        offset = height * (n - (len(series) - 1) / 2)
        for i, found in enumerate(values):
            label = name if found and all(other is None for other in values[:i]) else None
            if found and bars:
                axes.barh(i + offset, found[0], height * 0.9, color=colour, label=label)
            elif found:
                axes.plot(found[0], i + offset, "o", color=colour, markersize=8, label=label)
            if found:
                ends = [found[0] - found[1], found[0] + found[1]]
                axes.plot(ends, [i + offset] * 2, color=INK if bars else colour, linewidth=2)
    axes.legend(frameon=False, loc="best", fontsize=12)


@STYLED
def plot_calibration(groups: dict[str, Sequence[tuple[float, float]]], title: str) -> Figure:
    """The share that is right against the confidence: of each model a line of (confidence, share right)."""
    figure, (axes,) = new_figure(title, 5.0)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=(0, (4, 3)), linewidth=1.6)
    axes.annotate("as sure as right", (0.5, 0.5), (-8, 6), textcoords="offset points", ha="right", color=GREY)
    for (name, points), colour, marker in zip(groups.items(), SERIES, "os^Dv", strict=False):
        confidence, right = zip(*points, strict=True)
        axes.plot(confidence, right, color=colour, marker=marker, markersize=6, label=name)
    axes.set(xlabel="confidence: the largest q(y|x)", ylabel="share named correctly", xlim=(0.2, 1.01))
    axes.set_ylim(0.2, 1.01)
    axes.legend(frameon=False, loc="lower right")
    return figure
