"""Figures come from tensors alone, say their point, and reach the notebook with a text for the blind."""

import base64
import io

import matplotlib
import pytest
import torch
from PIL import Image

from course_utils import plots

ROWS = [{"step": s, "elbo": -300 / s, "kl": 20 - 1 / s, "images_per_second": 1.0} for s in range(1, 30)]
FIGURES = {
    "images": lambda: plots.plot_images(
        torch.rand(7, 1, 28, 28), "Point", n_columns=4, row_labels=["a", "b"]
    ),
    "colour images": lambda: plots.plot_images(torch.rand(3, 3, 16, 8), "Point", n_columns=3),
    "lines": lambda: plots.plot_lines(
        [1, 10, 100], {"one": [1, 2, 3]}, "Point", x_label="x", y_label="y", reference=("r", 2.0), log_x=True
    ),
    "training": lambda: plots.plot_training(ROWS, "Point"),
    "bars": lambda: plots.plot_bars(
        ["a", "b"], [1.0, 9.0], "Point", x_label="x", reference=("zero", 2.0), own={0: 1.5}
    ),
    "ladder": lambda: plots.plot_ladder(
        ["a", "b"],
        {
            "x": {"one": [(1.0, 0.1), None], "two": [(9.0, 0.1), (2.0, 0.5)]},
            "y": {"one": [(5.0, 1), (6.0, 1)]},
        },
        "Point",
        own={"x": {1: 3.0}},
    ),
    "calibration": lambda: plots.plot_calibration({"a": [(0.5, 0.4), (0.9, 0.8)]}, "Point"),
    "columns": lambda: plots.plot_columns([3.0, 0.0], "Point", x_label="x", y_label="y", threshold=0.01),
}


@pytest.fixture(params=FIGURES)
def figure(request):
    return FIGURES[request.param]()


def test_a_figure_has_its_point_as_title_and_shows_with_its_alt_text(figure, monkeypatch):
    assert figure.get_suptitle() == "Point"
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, metadata, raw: shown.append((data, metadata)))
    alt = "Two lines that cross in the middle."
    plots.show(figure, alt=alt)
    ((data, metadata),) = shown
    assert metadata["image/png"]["alt"] == data["text/plain"] == alt
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).width == plots.WIDTH * 100
    assert len(png) < 120_000


def test_a_figure_leaves_the_reader_s_own_style_alone():
    before = dict(matplotlib.rcParams)
    FIGURES["lines"]()
    assert dict(matplotlib.rcParams) == before


def test_an_alt_text_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="says too little"):
        plots.show(FIGURES["columns"](), alt="a plot")


def test_images_stand_where_they_belong():
    """The second of three images, all white, must be the white square in the middle of the sheet."""
    images = torch.zeros(3, 1, 10, 10)
    images[1] = 1
    figure = plots.plot_images(images, "Point", n_columns=3, gap=0)
    sheet = figure.axes[0].images[0].get_array()
    assert sheet[:, 10:20].min() == 1 and sheet[:, :10].max() == 0 and sheet[:, 20:].max() == 0


def contrast(colour: str) -> float:
    """The contrast of a colour with white, WCAG 2.1."""
    rgb = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


@pytest.mark.parametrize("name", ["INK", "GREY", "BLUE", "ORANGE", "GREEN", "PURPLE"])
def test_colours_of_words_can_be_read_on_white(name):
    assert contrast(getattr(plots, name)) >= 4.5
