"""Landscapes painted by arithmetic: a stand-in for photographs, and one whose causes are known.

A scene is painted from back to front, each layer covering a part of each pixel:

    canvas <- canvas + coverage (colour - canvas)    coverage = signed distance to the edge + 1/2, in [0, 1]
    colour <- light * pigment                        one palette of light for every time of day
    colour <- colour + haze (horizon - colour)       what is far is pale, as the air between is lit too
    water(x, y) = canvas(x, mirrored y + ripple)     the lake repeats all that stands above it

Texture is white noise that a Gaussian has blurred: clouds, ridges, fields and ripples differ in its width.

The middle is open. A 32 x 32 hole is cut where the scene may hold nothing, a house, trees, the sun or
a boat, and where a hill may rise; none of them touches a pixel of the border around it. The border tells
the rest: the hour, the season, the horizon, the weather, and where the light comes from.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

NAMES = ("nothing", "house", "trees", "sun or moon", "boat")  # what stands in the middle: the labels
NOTHING, HOUSE, TREES, SUN, BOAT = range(5)
SEASONS = ("spring", "summer", "autumn", "winter")

# The light of a day that runs from midnight, 0, to midnight, 1: the sky at the top, half way and at the
# horizon, the light that falls on the land, and the disc of the sun, which is the moon by night.

HOURS = """
    0.00   0d1430  1b2a50  35486f   43527c  f3efdc
    0.17   0d1430  1b2a50  35486f   43527c  f3efdc
    0.23   35457c  8f7fae  eab6ae   8d82a2  f6e9d8
    0.28   6d94c4  c9c2cc  fbd3a0   e0c3a8  fff0c4
    0.36   5f9ad2  9cc5e4  e2ecec   fbf3e2  fffbe6
    0.50   4a8bcb  8abbe2  d6e8f0   ffffff  fffdf0
    0.62   5590c8  a3c4da  ecebdc   fff6e2  fffae0
    0.70   6790bd  dcc3a4  fbcb84   f2cb98  fff0bc
    0.76   414f86  b7718c  f79a66   bb8884  ffdca4
    0.82   1f2958  5a4a80  bb7290   665a86  f8e6d0
    0.88   0d1430  1b2a50  35486f   43527c  f3efdc
    1.00   0d1430  1b2a50  35486f   43527c  f3efdc
"""

# Pigments of each season: the meadow, the leaves, needles, the hills.

PIGMENTS = """
    94b062  8fae58  4d7450  7d9a76
    84a050  5c8442  3f6748  6b8a66
    b8a060  c9803c  5a7048  97875f
    e4e9ee  a8a4a2  5f7a74  aebccb
"""

# Along the hue of a house, from 0 to 1: its walls, its roof. Of a boat: its sail, its hull.

PAINTS = """
    0.0   efe8da  b0583e
    0.3   ead3a0  9c4a36
    0.5   d9ab66  6b4a3e
    0.7   b5523f  4c4850
    1.0   8fa3b3  454b5a
"""

SIDE = 64  # pixels: the side of the image
HOLE = slice(16, 48), slice(16, 48)  # rows and columns of the middle
WHOLE = slice(None), slice(None)
LEFT = slice(None), slice(0, 16)
RIGHT = slice(None), slice(-1, -17, -1)  # as in a mirror
PLANES = 6  # of white noise for each scene
FINE = 3  # columns to a pixel where a ridge is measured
CHUNK = 1000  # scenes whose factors come from one random stream
BLOCK = 40  # scenes painted at a time, to stay in the processor's cache

BARK, PETALS, LAMP = np.array([[0.4, 0.34, 0.27], [1, 0.96, 0.7], [1, 0.83, 0.47]], np.float32)[
    ..., None, None
]

AT = np.arange(SIDE, dtype=np.float32) + 0.5  # the centres of the pixels: x as (64,), y as (64, 1)
ACROSS, DOWN = AT[16:48], AT[16:48, None]  # those of the hole


class Scenes(NamedTuple):
    """Painted scenes: pixels uint8 (N, 3, 64, 64), labels int64 (N,), and what caused them, each (N,)."""

    pixels: Tensor
    labels: Tensor
    factors: dict[str, Tensor]


def draw_scenes(n: int, seed: int = 0) -> Scenes:
    """`n` landscapes, each thousand holding two hundred of every label (see NAMES) in random order.

    The factors are float32, but for those marked as int64. Lengths are in pixels, rows count downwards.

        time_of_day  0 and 1 are midnight, 0.5 is noon
        season       0 spring, 1 summer, 2 autumn, 3 winter (int64)
        horizon      the row where the land ends, or the lake begins
        lake         rows of water below the horizon; 0 is a meadow
        roughness    of the ridges, from 0, round, to 1, jagged
        forest       height of the trees along the horizon
        haze, cloud  from 0, clear, to 1
        sun_x, sun_y where the light comes from, seen or not
        frame        large trees in front: 0 none, 1 left, 2 right (int64)
        texture      the seed of all noise: the shapes of ridges, clouds, ripples, and the grain (int64)

    The others are those of the middle. Only `hill` shows in every scene.

        hill, hill_x how much higher the ridge is there, and where it is highest
        x, base      where a house or trees stand, by a lake one row above the horizon; x for a boat too
        size         of house, trees or boat, about 1
        hue          from 0 to 1, along PAINTS
        trees        how many, 1 to 5 (int64)
        conifer      1 if they, and the large ones in front, have needles, as in winter (int64)

    The same (n, seed) gives the same bits, whatever the number of threads, and the first k of
    `draw_scenes(n, seed)` are `draw_scenes(k, seed)`. Raises ValueError for n < 1 or seed < 0.
    """
    if n < 1:
        raise ValueError(f"cannot draw {n} scenes: ask draw_scenes for n >= 1.")
    if seed < 0:
        raise ValueError(f"cannot draw from seed {seed}: give draw_scenes a seed >= 0.")
    chunks = [choose(np.random.default_rng([seed, i])) for i in range(math.ceil(n / CHUNK))]
    labels = torch.cat([torch.from_numpy(labels) for labels, _ in chunks])[:n]
    factors = {
        name: torch.cat([torch.from_numpy(values[name]) for _, values in chunks])[:n] for name in chunks[0][1]
    }
    return Scenes(draw(labels, factors), labels, factors)


def draw(labels: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """The pictures (N, 3, 64, 64), uint8, of labels (N,) and factors, each (N,).

    Give it another label, `draw(torch.full_like(labels, HOUSE), factors)`, and the border stays as it is, to
    the bit. So it does if a factor of the middle changes within its range, but for `conifer`, which the
    large trees share. Raises ValueError for a label that is none, and for a boat where there is no lake.
    """
    unknown = labels[(labels < 0) | (labels >= len(NAMES))].tolist()
    if unknown:
        raise ValueError(f"cannot draw label {unknown[0]}: use the labels 0 to {len(NAMES) - 1}, see NAMES.")
    if ((labels == BOAT) & (factors["lake"] == 0)).any():
        raise ValueError("cannot draw a boat on a meadow: draw it where factors['lake'] > 0.")
    blocks = []
    for first in range(0, len(labels), BLOCK):
        part = slice(first, first + BLOCK)
        blocks.append(paint(labels[part].numpy(), {name: v[part].numpy() for name, v in factors.items()}))
    return torch.from_numpy(np.concatenate(blocks))


def choose(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Labels and factors of CHUNK scenes. A boat needs a lake; nothing else of the border knows the label."""
    n = CHUNK
    labels = rng.permutation(np.arange(n) % len(NAMES))
    wet = (labels == BOAT) | (rng.random(n) < 0.5)
    time = np.interp(rng.random(n), [0, 0.09, 0.91, 1], [0, 0.2, 0.84, 1])  # nights are long, and all alike
    horizon = np.where(wet, rng.uniform(30, 34.5, n), rng.uniform(30, 40, n))
    high = np.abs(np.cos(2 * np.pi * time))  # the sun at noon, the moon at midnight
    sun_x, sun_y = rng.uniform(22, 42, n), 22.7 - 2 * high + rng.uniform(-0.8, 0.8, n)
    season = rng.integers(0, 4, n)
    hill_x = rng.uniform(26, 38, n)
    below = horizon - sun_y - 0.2 * (horizon - 21)  # room for a hill that would not hide the sun
    highest = np.minimum(0.65 * (horizon - 20), below / (1.2 * rise(sun_x, hill_x) ** 0.7).clip(0.1, None))
    factors = {
        "time_of_day": time,
        "season": season,
        "horizon": horizon,
        "lake": wet * rng.uniform(18, 28, n),
        "roughness": rng.random(n),
        "forest": rng.uniform(0, 4, n),
        "haze": rng.random(n),
        "cloud": rng.random(n),
        "sun_x": sun_x,
        "sun_y": sun_y,
        "frame": rng.choice(3, n, p=[0.5, 0.25, 0.25]),
        "texture": rng.integers(0, 2**40, n),
        "hill": rng.random(n) * highest,
        "hill_x": hill_x,
        "x": rng.uniform(25.5, 38.5, n),
        "base": np.where(wet, horizon - 1, rng.uniform(horizon + 3, 46, n)),
        "size": rng.uniform(0.8, 1.15, n),
        "hue": rng.random(n),
        "trees": rng.integers(1, 6, n),
        "conifer": np.where(season == 3, 1, rng.integers(0, 2, n)),
    }
    return labels, {k: v if v.dtype == np.int64 else v.astype(np.float32) for k, v in factors.items()}


def paint(labels: np.ndarray, factors: dict[str, np.ndarray]) -> np.ndarray:
    """A block of scenes, from back to front: (B, 3, 64, 64), uint8."""
    f = {name: values[:, None, None].astype(np.float32) for name, values in factors.items()}  # (B, 1, 1)
    streams = [np.random.default_rng(int(seed)) for seed in factors["texture"]]
    noise = np.stack([s.standard_normal((PLANES, SIDE, SIDE), dtype=np.float32) for s in streams])
    hues = mix_colours(factors)
    canvas = paint_sky(f, hues, noise)
    canvas = inside(labels == SUN, HOLE, paint_sun, canvas, f, hues, noise)
    canvas = paint_land(canvas, f, hues, noise)
    canvas = inside(labels == HOUSE, HOLE, paint_house, canvas, f, hues, noise)
    canvas = inside(labels == TREES, HOLE, paint_trees, canvas, f, hues, noise)
    canvas = inside(factors["lake"] > 0, WHOLE, paint_lake, canvas, f, hues, noise)
    canvas = inside(labels == BOAT, HOLE, paint_boat, canvas, f, hues, noise)
    canvas = paint_front(canvas, f, hues, noise)
    canvas = inside(factors["frame"] == 1, LEFT, paint_frame, canvas, f, hues, noise)
    canvas = inside(factors["frame"] == 2, RIGHT, paint_frame, canvas, f, hues, noise)
    canvas = canvas + 0.005 * noise[:, :1]  # the grain of a film
    return np.rint(255 * canvas.clip(0, 1)).astype(np.uint8)


def inside(chosen: np.ndarray, part: tuple, add: Callable, canvas: np.ndarray, *causes) -> np.ndarray:
    """The canvas, with what `add` paints into a part of the chosen scenes; it cannot touch the rest."""
    pick = [{k: v[chosen] for k, v in c.items()} if isinstance(c, dict) else c[chosen] for c in causes]
    canvas = canvas.copy()
    canvas[chosen, :, *part] = add(canvas[chosen, :, *part], *pick)
    return canvas


# Colour and noise -------------------------------------------------------------------------------


def rgb(table: str, skip: int) -> np.ndarray:
    """The colours of a table (rows, columns, 3), in [0, 1], without its first `skip` columns."""
    rows = [line.split()[skip:] for line in table.strip().splitlines()]
    return np.array([[list(bytes.fromhex(word)) for word in row] for row in rows], np.float32) / 255


def along(at: np.ndarray, table: str) -> list[np.ndarray]:
    """The colours of each column of a table, each (B, 3, 1, 1), at the places `at` (B,) of its first."""
    stops, colours = [float(line.split()[0]) for line in table.strip().splitlines()], rgb(table, 1)
    mixed = [[np.interp(at, stops, c) for c in column.T] for column in colours.swapaxes(0, 1)]
    return [np.stack(column, axis=1)[:, :, None, None].astype(np.float32) for column in mixed]


def mix_colours(factors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The colours of scenes, (B, 3, 1, 1) each: of the sky, and of all that stands in its light."""
    zenith, middle, horizon, light, disc = along(factors["time_of_day"], HOURS)
    pigments = rgb(PIGMENTS, 0)[factors["season"]].swapaxes(0, 1)[..., None, None]  # (4, B, 3, 1, 1)
    walls, roof = along(factors["hue"], PAINTS)
    hues = {"zenith": zenith, "middle": middle, "horizon": horizon, "light": light, "disc": disc}
    hues |= dict(zip(("meadow", "leaves", "needles", "hills"), pigments * light, strict=True))
    night = ((0.66 - light.mean(axis=1)) / 0.24).clip(0, 1)  # (B, 1, 1)
    return hues | {"walls": walls * light, "roof": roof * light, "night": night}


def over(canvas: np.ndarray, colour: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """The canvas (B, 3, H, W) under a layer of a colour, (B, 3, 1, 1) or more, and coverage (B, H, W)."""
    change = coverage[:, None] * (colour - canvas)
    change += canvas  # in place: to ask for new memory takes longer than to add
    return change


def cover(distance: np.ndarray) -> np.ndarray:
    """How much of a pixel is covered whose centre lies at a distance from the edge, positive inside."""
    return (distance + 0.5).clip(0, 1)


@functools.cache
def blur(width: float, fine: int = 1) -> np.ndarray:
    """The matrix (SIDE, fine SIDE) from white noise to smooth noise of the same variance."""
    places = (np.arange(fine * SIDE, dtype=np.float32) + 0.5) / fine
    kernel = np.exp(-0.5 * ((AT[:, None] - places) / width) ** 2)
    return kernel / np.sqrt((kernel**2).sum(axis=0))


def smooth(white: np.ndarray, x: float, y: float) -> np.ndarray:
    """Noise (B, 64, 64) of variance 1 that varies over x pixels across and y pixels down."""
    return blur(y).T @ white @ blur(x)


# The border, from back to front -----------------------------------------------------------------


def paint_sky(f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """The sky, its stars, the glow around the sun, and the clouds."""
    down = (AT[:, None] / f["horizon"]).clip(0, 1)  # (B, 64, 1)
    upper, lower = (down / 0.6).clip(0, 1)[:, None], ((down - 0.4) / 0.6).clip(0, 1)[:, None]
    canvas = hues["zenith"] + upper * (hues["middle"] - hues["zenith"])  # (B, 3, 64, 1)
    canvas = canvas + lower**1.5 * (hues["horizon"] - canvas)
    stars = (1.5 * (noise[:, 1] - 2.5)).clip(0, 1) * hues["night"] * (1 - down)
    canvas = over(canvas, hues["disc"], stars)  # (B, 3, 64, 64)
    far = ((AT - f["sun_x"]) / 26) ** 2 + ((AT[:, None] - f["sun_y"]) / 16) ** 2
    canvas = over(canvas, hues["disc"], (0.44 - 0.3 * hues["night"]) * np.exp(-far))
    puffs = smooth(noise[:, 2], 7, 1.8) + 0.5 * smooth(noise[:, 3], 3, 0.9)
    cloud = 0.75 * (0.55 * (puffs - 1.5 + 2 * f["cloud"])).clip(0, 1) * (1 - 0.5 * down)
    return over(canvas, 0.45 * hues["horizon"] + 0.55 * hues["light"], cloud)


def paint_land(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """Two ridges, the trees along the horizon, and the meadow in front of them."""
    y = AT[:, None]
    tops = shape_ridges(f, noise)
    mottle = smooth(noise[:, 1], 1.6, 1.2)
    for top, pigment, distance in zip(tops, ("hills", "hills", "needles"), (0.72, 0.42, 0.22), strict=True):
        covered = sum(cover(y - top[..., i::FINE]) for i in range(FINE)) / FINE
        slope = np.gradient(top[..., ::FINE], axis=2)  # (B, 1, 64), positive where it falls to the right
        lit = (slope * (f["sun_x"] - AT) / 16).clip(-1, 1)
        colour = hues[pigment] * (1 + (1 - distance) * (0.25 * lit + 0.09 * mottle))[:, None]
        air = distance * (0.7 + 0.4 * f["haze"]) + 0.25 * f["haze"] * (1 - (f["horizon"] - y) / 14).clip(0, 1)
        canvas = over(canvas, over(colour, hues["horizon"], air.clip(0, 0.9)), covered)
    near = ((y - f["horizon"]) / (SIDE - f["horizon"])).clip(0, 1)  # (B, 64, 1)
    fold = cover(y - f["horizon"] - 9 - 2 * (noise[:, 4, 6:7] @ blur(11)))  # a second field, nearer
    fields = 0.06 * smooth(noise[:, 2], 9, 1.3) + 0.035 * smooth(noise[:, 1], 1.5, 0.6) - 0.09 * fold
    colour = hues["meadow"] * (1.06 - 0.15 * near + (0.5 + 0.5 * near) * fields)[:, None]
    air = (0.2 + 0.35 * f["haze"]) * (1 - near) ** 2
    shore = np.float32(2) * (f["lake"] > 0)
    canvas = over(canvas, over(colour, hues["horizon"], air), cover(y - f["horizon"] + shore))
    petals = (1.5 * (noise[:, 3] - 2.2)).clip(0, 0.8) * near * (f["season"] < 2)
    return over(canvas, hues["light"] * PETALS, petals)


def shape_ridges(f: dict, noise: np.ndarray) -> list[np.ndarray]:
    """The upper edges of the far ridge, the near one and the trees: three of (B, 1, FINE 64), in rows."""
    x = (np.arange(FINE * SIDE, dtype=np.float32) + 0.5) / FINE
    room = f["horizon"] - 21
    white = noise[:, 4, :6]
    rough = f["roughness"]
    waves = [w * (white @ blur(s, FINE)) for s, w in ((12, 1), (5, 0.2 + 0.5 * rough), (2, 0.4 * rough**2))]
    waves = sum(waves)  # (B, 6, FINE 64)
    creased = 1 - 1.6 * np.abs(waves[:, 1:2])
    peaks = waves[:, :1] * (1 - rough) + creased * rough
    hill = f["hill"] * rise(x, f["hill_x"]) ** (1 - 0.3 * rough)
    hill = hill * (1 + 0.2 * rough * np.tanh(waves[:, 5:]))
    tooth = np.abs(2 * ((x / 2.4 + 0.5 * waves[:, 3:4]) % 1) - 1)
    trees = f["forest"] * (0.4 + 0.6 * tooth) * (0.75 + 0.25 * waves[:, 4:5]).clip(0.2, 1.2)
    return [
        f["horizon"] - room * (0.45 + 0.35 * np.tanh(0.6 * peaks)),
        f["horizon"] - (room * (0.2 + 0.1 * waves[:, 2:3])).clip(0.5, 0.35 * room) - hill,
        f["horizon"] - 0.7 - trees,
    ]


def rise(x: np.ndarray, top: np.ndarray) -> np.ndarray:
    """The outline of a hill that is 1 high at its top, and whose foot lies inside the hole."""
    foot = np.where(x < top, top - 17, 47 - top)
    return np.cos(np.pi / 2 * (np.abs(x - top) / foot).clip(0, 1)) ** 2


def paint_lake(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """The lake: what stands above the horizon, mirrored, pressed together, rippled and darkened.

    The hole's top row is mirrored above the hole's bottom row, so that nothing in it shows below it.
    """
    y, horizon = AT[:, None], f["horizon"]
    depth = (y - horizon).clip(0, None)
    press = np.minimum(1, (46 - horizon) / (horizon - 16))
    ripple = smooth(noise[:, 3], 3.5, 0.7)
    row = horizon - depth / press + ((0.3 + 0.06 * depth) * ripple).clip(-2, 2)
    row = (row - 0.5).clip(0, SIDE - 1.001)
    part = (row % 1)[:, None]
    whole = row.astype(np.int64)
    mirrored = np.take_along_axis(canvas, whole[:, None], axis=2) * (1 - part)
    mirrored += np.take_along_axis(canvas, whole[:, None] + 1, axis=2) * part
    near = depth / (SIDE - horizon)
    water = over(0.93 * mirrored, 0.55 * hues["zenith"], 0.12 + 0.33 * near)
    water = over(water, hues["horizon"], 0.1 * (ripple - 0.4).clip(0, 1.5) * (1 - 0.6 * near))
    return over(canvas, water, cover(y - horizon))


def paint_front(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """The bank, or the grass at our feet, all of it below the hole."""
    y = AT[:, None]
    edge = np.where(f["lake"] > 0, f["horizon"] + f["lake"], np.float32(58))
    edge = edge + 1.6 * (noise[:, 5, :1] @ blur(9)) + 0.6 * (noise[:, 5, 1:2] @ blur(0.6))  # (B, 1, 64)
    grass = 0.06 * smooth(noise[:, 5], 0.6, 1.3)
    colour = hues["meadow"] * (0.7 + grass - 0.01 * (y - 56))[:, None]
    return over(canvas, colour, cover(y - edge.clip(49, None)))


def paint_frame(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """A large tree at the side, (B, 3, 64, 16), dark against the light; column 0 is the image's edge."""
    hues = hues | {name: 0.6 * hues[name] for name in ("leaves", "needles")}
    tuft = 0.9 * smooth(noise[:, 1], 2.2, 1.8) + 0.3 * smooth(noise[:, 2], 0.9, 0.9)
    foot, height = -3 + 5.5 * f["conifer"], 44 + 2 * noise[:, 0, :1, :1]
    return plant(canvas, AT[:16] - foot, 62 - AT[:, None], height, 1, f["conifer"], hues, 1, tuft[..., :16])


# The middle: each paints the hole, (B, 3, 32, 32) --------------------------------------------------


def paint_sun(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """The sun or the moon, and its halo, which ends where the hole does."""
    away = np.hypot(ACROSS - f["sun_x"], DOWN - f["sun_y"])
    within = (np.minimum(np.minimum(ACROSS - 16, 48 - ACROSS), DOWN - 16) / 4).clip(0, 1)
    canvas = over(canvas, hues["disc"], 0.6 * (1 - away / 9).clip(0, 1) ** 2 * within)
    return over(canvas, hues["disc"], cover(3.1 - away))


def paint_house(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """A house, its windows lit by night; u and v measure it in its own units, from a corner of the gable."""
    turn = np.where(f["x"] < 32, np.float32(1), np.float32(-1))  # the gable is on the left, or on the right
    size = f["size"]
    u = (ACROSS - f["x"]) * turn / size + 6.5
    v = (f["base"] - DOWN) / size
    gable = np.minimum(np.minimum(u, 5 - u), 8.5 - v - 1.3 * np.abs(u - 2.5))
    gable = cover(size * gable) * cover(size * v)
    wall = cover(size * np.minimum(np.minimum(u - 5, 13 - u), 5.2 - v)) * cover(size * v)
    tilt = 1.3 * u + v  # constant along the slope of the roof
    roof = np.minimum(np.minimum(v - 4.9, 9 - v), np.minimum(tilt - 11.7, 21.9 - tilt) / 1.6)
    chimney = cover(size * np.minimum(1 - np.abs(u - 8.5), np.minimum(v - 7, 11 - v)))
    sunny = np.heaviside(turn * (f["x"] - f["sun_x"]), 0)[:, None]  # 1 if the light falls on the gable
    shade = 0.26 - 0.08 * f["haze"][:, None]
    snow = np.float32(0.45) * (f["season"] == 3)
    tiles = over(hues["roof"] * (1 - 0.15 * sunny), hues["meadow"], snow)
    canvas = shadow(canvas, f, hues, ACROSS - f["x"], f["base"] - DOWN, 8 * size)
    canvas = over(canvas, hues["roof"] * 0.8, chimney)
    canvas = over(canvas, hues["walls"] * (1 - shade * sunny), wall)
    canvas = over(canvas, hues["walls"] * (1 - shade * (1 - sunny)), gable)
    canvas = over(canvas, tiles, cover(size * roof))
    glass = over(0.35 * hues["walls"], LAMP, (1.8 * hues["night"]).clip(0, 1))
    for at, up, wide, tall in ((2.5, 3, 0.8, 1.2), (7.2, 2.9, 0.8, 0.9), (10.6, 2.9, 0.8, 0.9)):
        pane = cover(size * (wide - np.abs(u - at))) * cover(size * (tall - np.abs(v - up)))
        canvas = over(canvas, glass, pane)
    return canvas


def paint_trees(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """One to five trees around x, the later ones in front."""
    alone, meadow = (f["trees"] == 1).astype(np.float32), (f["lake"] == 0).astype(np.float32)
    sunny, leaves = np.sign(f["sun_x"] - f["x"]), noise[:, 1, *HOLE]
    for i, offset in enumerate((-5.5, 5, 0.5, -9, 8.5)):
        sway = noise[:, 5, i : i + 1, :2, None]  # (B, 1, 2, 1)
        x = (f["x"] + offset * (1 - alone) + 0.6 * sway[:, :, 0]).clip(20.5, 43.5)
        height = f["size"] * (11.5 + 0.9 * sway[:, :, 1]).clip(9, 13) * (1 + 0.15 * alone)
        v = f["base"] + 0.3 * (i % 3) * meadow - DOWN
        shown = (f["trees"] > i).astype(np.float32)
        canvas = shadow(canvas, f, hues, ACROSS - x, v, 3.5 * shown)
        canvas = plant(canvas, ACROSS - x, v, height, shown, f["conifer"], hues, sunny, leaves)
    return canvas


def shadow(canvas: np.ndarray, f: dict, hues: dict, u, v, half: np.ndarray) -> np.ndarray:
    """What stands on a meadow darkens the grass at its foot, more on the side away from the sun."""
    u = u - 0.4 * half * np.sign(f["x"] - f["sun_x"])
    dark = (1 - (u / (1.25 * half + 1e-6)) ** 2 - ((v + 0.3) / 1.8) ** 2).clip(0, 1) * cover(0.7 - v)
    return over(canvas, 0.55 * hues["meadow"], 0.7 * dark * (1 - 0.6 * hues["night"]))


def plant(canvas, u, v, height, shown, conifer, hues: dict, sunny, tuft: np.ndarray) -> np.ndarray:
    """One tree on a canvas of any size; its foot is at u = 0 (to the right) and v = 0 (up), in pixels.
    The light comes from the right if `sunny` is 1, from the left if it is -1; tufts are noise (B, H, W)."""
    tier = (5 * v / height) % 1
    cone = np.minimum(0.25 * (height - v) * (1.12 - 0.4 * tier), v - 0.1 * height) - np.abs(u)
    ball = 0.36 * height * (1 - np.hypot(u / (0.34 * height), (v - 0.62 * height) / (0.38 * height)))
    crown = cover(np.where(conifer > 0, cone, ball + 0.04 * height * tuft)) * shown
    trunk = cover(0.2 + 0.035 * height - np.abs(u)) * cover(v) * cover(0.5 * height - v) * shown
    canvas = over(canvas, hues["light"] * BARK, trunk)
    lit = 0.7 * sunny * u / height + 0.3 * (v / height - 0.6) + 0.12 * tuft
    colour = np.where(conifer[:, None] > 0, hues["needles"], hues["leaves"])
    return over(canvas, colour * (1 + lit)[:, None], crown)


def paint_boat(canvas: np.ndarray, f: dict, hues: dict, noise: np.ndarray) -> np.ndarray:
    """A boat under sail, and its reflection, shorter and paler."""
    size = f["size"]
    u = (ACROSS - f["x"]) / size
    up = (f["horizon"] + 5 - DOWN) / size
    for v, strength in ((-up / 0.6, 0.35), (up, 1)):
        hull = cover(size * np.minimum(np.minimum(v, 1.8 - v), 4.6 + 0.6 * (v - 1) - np.abs(u)))
        main = cover(size * np.minimum(np.minimum(u - 0.2, v - 2.6), (11 - v) * 0.5 - u))
        jib = cover(size * np.minimum(np.minimum(-0.4 - u, v - 2.6), (9.5 - v) * 0.45 + u))
        canvas = over(canvas, hues["roof"], strength * hull)
        canvas = over(canvas, 0.3 * hues["walls"] + 0.7 * hues["light"], strength * main)
        canvas = over(canvas, 0.3 * hues["walls"] + 0.58 * hues["light"], strength * jib)
        lantern = cover(size * (0.6 - np.hypot(u + 3, v - 2.4)))
        canvas = over(canvas, LAMP, strength * lantern * hues["night"])
    return canvas
