"""The drawn digits: the same every time, shaped like MNIST, and caused by the factors they come with."""

import numpy as np
import pytest
import torch

from course_utils import strokes
from course_utils.strokes import DOTS, GLYPHS, draw_digits

FACTORS = {"style", "wobble", "aspect", "slant", "rotation", "width"}


@pytest.fixture(scope="module")
def drawn():
    return draw_digits(6000, seed=3)


def moments(pixels):
    """Of images (N, 1, 28, 28): the mean x and y, and the central xx, xy and yy; each (N,)."""
    mass = pixels[:, 0].double() / pixels.double().sum(dim=(1, 2, 3))[:, None, None]
    grid = torch.arange(28, dtype=torch.float64)
    x, y = (mass.sum(dim=1) @ grid), (mass.sum(dim=2) @ grid)
    dx, dy = grid - x[:, None], grid - y[:, None]
    xy = torch.einsum("nij,ni,nj->n", mass, dy, dx)
    return x, y, (mass.sum(1) * dx**2).sum(1), xy, (mass.sum(2) * dy**2).sum(1)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


# The same every time ----------------------------------------------------------------------------


def test_shapes_and_types(drawn):
    assert drawn.pixels.shape == (6000, 1, 28, 28) and drawn.pixels.dtype == torch.uint8
    assert drawn.labels.shape == (6000,) and drawn.labels.dtype == torch.int64
    assert set(drawn.factors) == FACTORS
    for name, values in drawn.factors.items():
        assert values.shape == (6000,)
        assert values.dtype == (torch.int64 if name == "style" else torch.float32)


def test_a_seed_gives_the_same_digits_and_another_gives_others():
    first, again, other = draw_digits(50, seed=1), draw_digits(50, seed=1), draw_digits(50, seed=2)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)


@pytest.mark.parametrize("k", [1, 7, 1000, 1200])
def test_fewer_digits_are_the_first_of_more(drawn, k):
    fewer = draw_digits(k, seed=3)
    assert torch.equal(fewer.pixels, drawn.pixels[:k])
    assert torch.equal(fewer.labels, drawn.labels[:k])
    assert all(torch.equal(fewer.factors[name], drawn.factors[name][:k]) for name in FACTORS)


def test_an_image_does_not_depend_on_those_drawn_with_it():
    """So nothing is summed across images, and however threads share them out, no bit changes."""
    rng = np.random.default_rng(0)
    dots = rng.uniform(4, 24, (40, DOTS, 2)).astype(np.float32)
    width, pressure = np.full(40, 2.5, np.float32), strokes.press(rng)[:40]
    together = strokes.ink(dots, width, pressure)
    for i in (0, 17, 39):
        alone = strokes.ink(dots[i : i + 1], width[i : i + 1], pressure[i : i + 1])
        assert np.array_equal(alone[0], together[i])


def test_global_random_numbers_are_left_alone():
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    draw_digits(1)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-3, 0), (5, -1)])
def test_nonsense_is_refused(n, seed):
    with pytest.raises(ValueError, match=f"cannot draw .*{min(n, seed)}.* >= "):
        draw_digits(n, seed)


# Shaped like MNIST ------------------------------------------------------------------------------


def test_each_thousand_holds_a_hundred_of_every_class(drawn):
    for labels in drawn.labels.split(1000):
        assert labels.bincount(minlength=10).tolist() == [100] * 10
    assert drawn.labels[:10].sort().values.tolist() != list(range(10))  # shuffled, not in turn


def test_every_way_of_writing_occurs(drawn):
    for digit, ways in GLYPHS.items():
        styles = drawn.factors["style"][drawn.labels == digit]
        assert styles.unique().tolist() == list(range(len(ways)))


def test_no_two_digits_are_alike(drawn):
    assert len(drawn.pixels.flatten(1).unique(dim=0)) == len(drawn.pixels)


def test_black_is_black_and_white_is_white(drawn):
    """MNIST's training set: 80.9 % of the pixels are 0, 7.4 % are 250 or more, the mean is 0.131."""
    assert (drawn.pixels.amax(dim=(1, 2, 3)) == 255).all()
    assert (drawn.pixels == 0).double().mean().item() == pytest.approx(0.809, abs=0.02)
    assert (drawn.pixels >= 250).double().mean().item() == pytest.approx(0.074, abs=0.01)
    assert drawn.pixels.double().mean().item() / 255 == pytest.approx(0.131, abs=0.01)


def test_the_digit_fills_its_box_and_is_centred(drawn):
    ink = drawn.pixels[:, 0] > 127
    height = ink.any(dim=2).sum(dim=1)
    width = ink.any(dim=1).sum(dim=1)
    longer = torch.maximum(height, width)
    assert ((longer >= 17) & (longer <= 22)).double().mean() > 0.99
    assert longer.double().mean().item() == pytest.approx(19.5, abs=1)
    x, y, *_ = moments(drawn.pixels)
    assert ((x - 14).abs() <= 0.51).double().mean() > 0.98  # to the nearest pixel
    assert ((y - 14).abs() <= 0.51).double().mean() > 0.98


# Caused by the factors --------------------------------------------------------------------------


def test_a_bare_one_leans_as_slant_and_rotation_say(drawn):
    bare = (drawn.labels == 1) & (drawn.factors["style"] == 0)
    f = {name: values[bare].double() for name, values in drawn.factors.items()}
    _, _, _, xy, yy = moments(drawn.pixels[bare])
    lean = torch.atan(-xy / yy)  # to the right, like the factors
    assert correlation(lean, f["slant"] + f["rotation"]) > 0.9
    causes = torch.stack([f["slant"], f["rotation"], torch.ones_like(lean)], dim=1)
    slant, rotation, _ = torch.linalg.lstsq(causes, lean[:, None]).solution[:, 0].tolist()
    assert slant == pytest.approx(1, abs=0.15) and rotation == pytest.approx(1, abs=0.15)


def test_slant_shows_in_every_class(drawn):
    _, _, _, xy, yy = moments(drawn.pixels)
    for digit in range(10):
        mine = drawn.labels == digit
        assert correlation(-(xy / yy)[mine], drawn.factors["slant"][mine]) > 0.5


def test_a_wider_pen_leaves_more_ink(drawn):
    ink = drawn.pixels.double().sum(dim=(1, 2, 3))
    for digit in range(10):
        mine = drawn.labels == digit
        assert correlation(ink[mine], drawn.factors["width"][mine]) > 0.7


def test_aspect_makes_a_zero_round_or_narrow(drawn):
    zero = drawn.labels == 0
    _, _, xx, _, yy = moments(drawn.pixels[zero])
    assert correlation((xx / yy).sqrt(), drawn.factors["aspect"][zero]) > 0.6


def test_wobble_takes_digits_away_from_their_class(drawn):
    wobble = drawn.factors["wobble"]
    for digit in range(10):
        images = drawn.pixels[drawn.labels == digit].double()
        stray = ((images - images.mean(dim=0)) ** 2).mean(dim=(1, 2, 3))
        mine = wobble[drawn.labels == digit]
        assert stray[mine > 0.6].mean() > stray[mine < 0.35].mean()


def test_wobble_is_a_standard_deviation():
    shifts = strokes.stray(np.zeros((4000, 6, 2), np.float32), np.random.default_rng(0))
    assert shifts.std() == pytest.approx(1, abs=0.03)


# The parts --------------------------------------------------------------------------------------


def test_a_spline_goes_through_its_points_without_a_jump_in_curvature():
    points = np.array([[0, 0], [3, 1], [4, 5], [0, 9], [2, 2]], np.float32)
    steps = 201
    to_curve = strokes.fit_spline(points, 0, 4, steps).astype(np.float64)
    assert np.allclose(to_curve.sum(axis=1), 1, atol=1e-5)  # moving the points moves the curve
    curve = (to_curve @ points).reshape(4, steps, 2)
    assert np.allclose(curve[:, 0], points[:-1], atol=1e-5)
    assert np.allclose(curve[:, -1], points[1:], atol=1e-5)
    span = np.linalg.norm(np.diff(points, axis=0), axis=1)[:, None, None]
    way = np.linspace(0, 1, steps)
    cubic = np.stack([np.polynomial.polynomial.polyfit(way, c, 3) for c in curve])  # (4, degree, 2)
    slope_in, slope_out = cubic[:, 1:2] / span, np.tensordot(cubic, [0, 1, 2, 3], ([1], [0]))
    bend_in, bend_out = 2 * cubic[:, 2] / span[:, 0] ** 2, (2 * cubic[:, 2] + 6 * cubic[:, 3])
    bend_out = bend_out / span[:, 0] ** 2
    assert np.allclose(slope_in[1:, 0], (slope_out / span[:, 0])[:-1], atol=1e-3)
    assert np.allclose(bend_in[1:], bend_out[:-1], atol=1e-3)
    assert np.allclose([bend_in[0], bend_out[-1]], 0, atol=1e-3)  # free ends


def test_the_pen_lifts_at_a_slash_and_turns_at_a_corner():
    points, to_dots = strokes.read_path("00 09 / 90 99")
    x, y = (to_dots @ points).T
    assert to_dots.shape == (DOTS, 4)
    assert (np.minimum(abs(x), abs(x - 9)) < 1e-4).all()  # none on the way from one to the other
    assert (np.diff(np.sort(y[x < 1])) < 0.24).all()  # and none missing on the line
    points, to_dots = strokes.read_path("00 90! 99")
    x, y = (to_dots @ points).T
    assert (np.minimum(abs(y), abs(x - 9)) < 1e-4).all()


@pytest.mark.parametrize("width", [2.5, 3.5, 4.5])
def test_a_straight_line_is_as_wide_as_the_pen(width):
    along = np.linspace(4, 23, DOTS)
    for height in (13.0, 13.3, 13.5):
        dots = np.stack([along, np.full(DOTS, height)], axis=-1)[None].astype(np.float32)
        image = strokes.ink(dots, np.array([width], np.float32), np.ones((1, DOTS), np.float32))
        across = image[0, :, 14] / 255
        assert across.sum() == pytest.approx(width, abs=0.15)
        assert abs((across * np.arange(28)).sum() / across.sum() - height) < 0.1
