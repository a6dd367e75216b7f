"""Digits drawn with a pen: a stand-in for MNIST that needs no network, and whose causes are known.

A digit is a few points on a grid, a smooth curve through them, and a pen that leaves dots along it:

    dots = A @ (points + wobble)                     a spline is linear in the points it goes through
    wet(x, y) ∝ sum_i exp(-|(x, y) - dot_i|² / 2s²)  every dot wets the paper around it
    distance = s sqrt(-2 log wet)                    from the line: exact if straight, less at a blot
    grey = (width / 2 - distance) / edge + 1/2       the pen's soft edge, cut off at black and white

A Gaussian is the product of its x part and its y part, so `wet` is one matrix product an image.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# One way of writing a digit is its weight (how common it is) and the path of the pen. "37" is the
# point in column 3 and row 7, so "00" is top left and "99" bottom right. The line bends smoothly
# through every point except a corner, "37!". A slash lifts the pen. The end of a path may overlap
# its beginning: wobbled apart, the two show how a hand closes a loop.

GLYPHS = {
    0: [
        (4, "60 22 05 17 39 78 95 92 60 31"),
        (3, "62 50 22 05 17 39 78 95 93 70 43"),
        (2, "50 32 25 27 49 68 74 72 50 31"),
        (2, "81 51 23 06 18 49 78 95 92 60 30"),
    ],
    1: [
        (16, "60 55 49"),
        (3, "33 50! 55 49"),
        (2, "33 50! 55 59 / 29 59 89"),
    ],
    2: [
        (4, "12 30 60 73 55 28 09! 59 99"),
        (4, "12 30 71 83 55 28 09 07 27 58 98"),
        (2, "11 50 71 63 36 09! 59 99"),
        (4, "12 40 71 73 46 19 07 36 58 99"),
        (2, "23 12 40 72 64 38 09! 49 98"),
    ],
    3: [
        (4, "11 40 81 73 44! 75 87 69 18"),
        (2, "00 50 90! 44! 75 87 59 08"),
        (2, "11 40 81 73 54 34 54 75 87 59 08"),
        (2, "02 30 71 63 34! 64 77 59 29 07"),
        (2, "21 50 72 53 24! 64 97 69 09"),
    ],
    4: [
        (4, "20 12 04 25 84 / 81 75 69"),
        (2, "70 33 06! 46 96 / 70 65 69"),
        (3, "10 04 25 74 80! 75 69"),
        (2, "20 05! 45 95 / 80 65 49"),
        (2, "10 13 35 74 / 90 74 49"),
        (1, "80 43 05! 45 75 / 80 74 69"),
    ],
    5: [
        (4, "20 14! 43 75 78 49 08 / 20 60 90"),
        (3, "90 50 20! 14! 53 86 68 39 08"),
        (2, "81 40 13 45 77 59 18"),
        (4, "40 24! 54 67 49 08 / 40 70 91"),
        (2, "80 20! 24! 64 87 59 18 06"),
    ],
    6: [
        (3, "60 22 06 18 49 78 86 55 17"),
        (3, "50 14 07 49 87 75 45 17"),
        (2, "50 22 05 18 59 88 96 75 45 26"),
        (3, "60 33 16 18 49 68 66 46 28"),
        (2, "30 13 06 29 69 97 85 55 37"),
    ],
    7: [
        (5, "01 50 80! 64 49"),
        (3, "03 00! 50 80! 64 59"),
        (3, "00 50 80! 54 49 / 15 55 95"),
        (1, "03 20 60 81 65 49"),
        (1, "02 30 80 72 45 29 / 15 45 85"),
    ],
    8: [
        (4, "72 40 12 44 87 49 17 54 82 60 31"),
        (2, "61 40 22 44 72 50 30 / 54 34 17 49 87 54"),
        (4, "80 40 22 44 66 48 27 45 81"),
        (2, "62 40 22 44 77 59 18 26 54 72 60"),
        (2, "80 30 12 44 57 39 27 45 82 81"),
    ],
    9: [
        (3, "81 40 13 35 74 81! 85 79"),
        (2, "81 50 12 25 64 81 86 58 19"),
        (3, "72 50 22 24 44 71! 65 59"),
        (3, "71 40 12 24 53 72! 56 39"),
        (2, "70 30 12 34 63 70 / 71 75 79"),
    ],
}

SIDE = 28  # pixels: the side of the image
BOX = 20  # pixels: the longer side of the digit, as MNIST has it
EDGE = 1.2  # pixels: from full ink to none
SPREAD = 0.5  # pixels: s above; more makes larger blots where lines meet
DOTS = 96  # an image; less than 2s apart, so that they run into one line
CHUNK = 1000  # digits drawn at a time, from a random stream of their own


class Strokes(NamedTuple):
    """Drawn digits: pixels uint8 (N, 1, 28, 28), labels int64 (N,), and what caused them, each (N,)."""

    pixels: Tensor
    labels: Tensor
    factors: dict[str, Tensor]


def draw_digits(n: int, seed: int = 0) -> Strokes:
    """`n` drawn digits that look like MNIST: white ink on black (exactly 0), some 20 pixels long,
    the centre of mass in the middle, each thousand holding a hundred of every class in random order.

    The factors are what one would like a model to find; all but the first are float32.

        style      which of the ways in GLYPHS[label] it is written, counted from 0 (int64)
        wobble     grid cells: how far the hand strays from it, as a standard deviation
        aspect     width over height of a grid cell
        slant      radians: the shear of the upright, positive leans to the right
        rotation   radians: of the whole digit, after the slant, positive is clockwise
        width      pixels: the pen's, between the two half-grey edges; pressure varies it by a tenth

    The same (n, seed) gives the same bits, whatever the number of threads, and the first k of
    `draw_digits(n, seed)` are `draw_digits(k, seed)`. Raises ValueError for n < 1 or seed < 0.
    """
    if n < 1:
        raise ValueError(f"cannot draw {n} digits: ask draw_digits for n >= 1.")
    if seed < 0:
        raise ValueError(f"cannot draw from seed {seed}: give draw_digits a seed >= 0.")
    chunks = [draw_chunk(np.random.default_rng([seed, i])) for i in range(math.ceil(n / CHUNK))]
    return Strokes(
        pixels=torch.cat([c.pixels for c in chunks])[:n],
        labels=torch.cat([c.labels for c in chunks])[:n],
        factors={name: torch.cat([c.factors[name] for c in chunks])[:n] for name in chunks[0].factors},
    )


def draw_chunk(rng: np.random.Generator) -> Strokes:
    """CHUNK digits: first what causes them, then their ink."""
    glyphs = read_glyphs()
    labels = rng.permutation(np.arange(CHUNK) % 10)
    odds = np.cumsum(glyphs.weight * (glyphs.digit == labels[:, None]), axis=1)  # (B, G)
    chosen = (odds > odds[:, -1:] * rng.random((CHUNK, 1))).argmax(axis=1)
    factors = {
        "style": glyphs.style[chosen],
        "wobble": rng.uniform(0.1, 0.85, CHUNK),
        "aspect": rng.lognormal(math.log(0.8), 0.2, CHUNK),
        "slant": rng.normal(0.13, 0.22, CHUNK),
        "rotation": rng.normal(0, 0.1, CHUNK),
        "width": rng.lognormal(math.log(2.5), 0.27, CHUNK).clip(1.3, 4.8),
    }
    for name in ("wobble", "aspect", "slant", "rotation", "width"):
        factors[name] = factors[name].astype(np.float32)
    points = glyphs.points[chosen]  # (B, P, 2)
    points = points + factors["wobble"][:, None, None] * stray(points, rng)
    dots = place(glyphs.to_dots[chosen] @ points, factors)  # (B, DOTS, 2)
    pixels = centre(ink(dots, factors["width"], press(rng)))
    return Strokes(
        torch.from_numpy(pixels[:, None]),
        torch.from_numpy(labels),
        {name: torch.from_numpy(values) for name, values in factors.items()},
    )


# From the table to curves -----------------------------------------------------------------------


class Glyphs(NamedTuple):
    """All ways of writing all digits, G of them; those with fewer than P points are padded."""

    digit: np.ndarray  # (G,)
    style: np.ndarray  # (G,)
    weight: np.ndarray  # (G,)
    points: np.ndarray  # (G, P, 2): (x, y), y downwards
    to_dots: np.ndarray  # (G, DOTS, P): to_dots @ points are dots at even steps along the curve


@functools.cache
def read_glyphs() -> Glyphs:
    """GLYPHS, read once."""
    rows = []
    for digit, ways in GLYPHS.items():
        for style, (weight, path) in enumerate(ways):
            rows.append((digit, style, weight, *read_path(path)))
    digit, style, weight, points, to_dots = zip(*rows, strict=True)
    most = max(len(p) for p in points)
    return Glyphs(
        np.array(digit),
        np.array(style),
        np.array(weight),
        np.stack([np.pad(p, ((0, most - len(p)), (0, 0))) for p in points]),
        np.stack([np.pad(a, ((0, 0), (0, most - a.shape[1]))) for a in to_dots]),
    )


def read_path(path: str) -> tuple[np.ndarray, np.ndarray]:
    """The points (P, 2) of a path, and the matrix (DOTS, P) that takes them to the dots."""
    strokes = [stroke.split() for stroke in path.split("/")]
    points = np.array([[int(t[0]), int(t[1])] for tokens in strokes for t in tokens], np.float32)
    smooth, first = [], 0  # the points between which the line is smooth
    for tokens in strokes:
        last = first + len(tokens) - 1
        corners = [first + i for i, token in enumerate(tokens) if token.endswith("!")]
        smooth += zip([first, *corners], [*corners, last], strict=True)
        first = last + 1
    fine = [fit_spline(points, a, b) for a, b in smooth]  # each (many, P)
    step = np.concatenate([np.linalg.norm(np.diff(a @ points, axis=0), axis=1) for a in fine])
    between = np.concatenate([(a[1:] + a[:-1]) / 2 for a in fine])
    travelled = np.cumsum(step)  # pen on paper
    stops = (np.arange(DOTS) + 0.5) / DOTS * travelled[-1]
    return points, between[np.searchsorted(travelled, stops)]


def fit_spline(points: np.ndarray, first: int, last: int, steps: int = 200) -> np.ndarray:
    """The matrix (many, P) from points (P, 2) to the natural cubic spline through first .. last.

    It is the curve of a thin wooden strip held at the points: cubic between two of them, with no
    jump in slope or curvature. The slopes solve a linear system (de Boor 1978, chapter 4).
    """
    knots = np.eye(len(points))[first : last + 1]  # each row picks one point
    span = np.linalg.norm(np.diff(knots @ points, axis=0), axis=1)
    chord = np.diff(knots, axis=0) / span[:, None]
    beside = np.diag(np.append(span[1:], 1), -1) + np.diag(np.insert(span[:-1], 0, 1), 1)
    system = beside + 2 * np.diag(beside.sum(axis=1))
    slope = np.linalg.solve(system, 3 * (np.tril(beside)[:, :-1] + np.triu(beside)[:, 1:]) @ chord)
    t = np.linspace(0, 1, steps)[:, None]
    hermite = [
        (1 + 2 * t) * (1 - t) ** 2 * knots[i]
        + t**2 * (3 - 2 * t) * knots[i + 1]
        + t * (1 - t) * span[i] * ((1 - t) * slope[i] - t * slope[i + 1])
        for i in range(len(span))
    ]
    return np.concatenate(hermite).astype(np.float32)


# From curves to ink -----------------------------------------------------------------------------


def stray(points: np.ndarray, rng: np.random.Generator, waves: int = 3) -> np.ndarray:
    """Random shifts (B, P, 2) of standard deviation 1: long waves over the paper, which move nearby
    points together, and a little (0.3) of each point's own."""
    n = len(points)
    frequency = 0.35 * rng.standard_normal((n, 2, waves), dtype=np.float32)  # radians a grid cell
    phase = 2 * np.pi * rng.random((n, 1, waves), dtype=np.float32)
    height = rng.standard_normal((n, waves, 2), dtype=np.float32) * math.sqrt(2 / waves)
    together = np.cos(points @ frequency + phase) @ height
    alone = rng.standard_normal(points.shape, dtype=np.float32)
    return math.sqrt(1 - 0.3**2) * together + 0.3 * alone


def place(dots: np.ndarray, factors: dict[str, np.ndarray]) -> np.ndarray:
    """Stretches, slants and rotates dots (B, DOTS, 2) on the grid, and fits them to the box, in pixels."""
    f = {name: values[:, None] for name, values in factors.items()}
    x, y = dots[..., 0] * f["aspect"], dots[..., 1]
    x = x - np.tan(f["slant"]) * y
    c, s = np.cos(f["rotation"]), np.sin(f["rotation"])
    dots = np.stack([c * x - s * y, s * x + c * y], axis=-1)
    low, high = dots.min(axis=1), dots.max(axis=1)  # (B, 2)
    scale = (BOX - EDGE - f["width"]) / (high - low).max(axis=1, keepdims=True)  # (B, 1)
    return (dots - (low + high)[:, None] / 2) * scale[:, None] + SIDE / 2


def press(rng: np.random.Generator, waves: int = 3) -> np.ndarray:
    """How the pen's width varies on its way, about 1: (CHUNK, DOTS)."""
    way = np.linspace(0, np.pi, DOTS, dtype=np.float32)
    height = 0.08 * rng.standard_normal((CHUNK, waves), dtype=np.float32)
    return np.exp(height @ np.cos(np.arange(1, waves + 1, dtype=np.float32)[:, None] * way))


def ink(dots: np.ndarray, width: np.ndarray, pressure: np.ndarray) -> np.ndarray:
    """The equations above: dots (B, DOTS, 2) in pixels to images (B, 28, 28), uint8."""
    s = SPREAD * pressure[..., None]  # (B, DOTS, 1)
    step = np.median(np.linalg.norm(np.diff(dots, axis=1), axis=2), axis=1)[:, None, None]
    pixel = np.arange(SIDE, dtype=np.float32)
    part_x = np.exp(-0.5 * ((pixel - dots[..., :1]) / s) ** 2)  # (B, DOTS, 28)
    part_y = np.exp(-0.5 * ((pixel - dots[..., 1:]) / s) ** 2)
    part_y *= step / (math.sqrt(2 * math.pi) * s)  # so that wet = 1 on a straight line
    wet = part_y.swapaxes(1, 2) @ part_x  # (B, 28, 28)
    distance = SPREAD * np.sqrt(-2 * np.log(wet.clip(1e-30, 1)))
    grey = ((width[:, None, None] / 2 - distance) / EDGE + 0.5).clip(0, 1)
    grey /= grey.max(axis=(1, 2), keepdims=True)  # a thin pen reaches white too
    return np.rint(255 * grey).astype(np.uint8)


def centre(pixels: np.ndarray) -> np.ndarray:
    """Images (B, 28, 28), moved by whole pixels so that the centre of mass is at (14, 14) or nearest.

    That is how MNIST was made. The box starts 4 pixels from one side and 3 from the other: no ink is lost.
    """
    pixel = np.arange(SIDE)
    for axis, other in ((1, 2), (2, 1)):
        profile = pixels.sum(axis=other, dtype=np.float64)  # (B, 28)
        offset = SIDE / 2 - profile @ pixel / profile.sum(axis=1)
        shift = np.rint(offset).astype(int).clip(-4, 3)  # (B,)
        source = (pixel - shift[:, None]) % SIDE  # what leaves at one side enters at the other: black
        pixels = np.take_along_axis(pixels, np.expand_dims(source, other), axis)
    return pixels
