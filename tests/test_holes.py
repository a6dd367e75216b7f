"""Photographs with holes: Laplace's equation, what may be looked at, and shifts that can be told exactly."""

import pytest
import torch
import torch.nn.functional as F

from course_utils import holes
from course_utils.data import Batches, Images, as_grey
from course_utils.distributions import to_level
from course_utils.holes import (
    FARTHEST,
    HoleBatches,
    harmonic_fill,
    harmonic_weights,
    holes_of,
    pasted,
    recoloured,
    rim,
    varied,
    with_hole,
)
from course_utils.models.common import centre

HOLE = slice(16, 48)


@pytest.fixture
def x() -> torch.Tensor:
    return to_level(torch.rand(5, 3, 64, 64))


@pytest.fixture
def colours_stay(monkeypatch):
    """varied() without recoloured()."""
    monkeypatch.setattr(holes, "recoloured", lambda x: x)


def seeded(function, *args, seed: int = 7):
    torch.manual_seed(seed)
    return function(*args)


def places(n: int) -> torch.Tensor:
    """Photographs whose pixels say where they are: red the row, green the column: (n, 3, 64, 64)."""
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    return torch.stack([row, column, torch.zeros(64, 64)]).expand(n, -1, -1, -1) / 255


# The harmonic fill -------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "side"), [(3, 64), (1, 8), (4, 20)])
def test_each_pixel_of_the_fill_is_the_mean_of_its_neighbours(channels, side):
    filled = harmonic_fill(torch.rand(2, channels, side, side))
    above, below, left, right = (filled.roll(*way) for way in ((1, -2), (-1, -2), (1, -1), (-1, -1)))
    torch.testing.assert_close(centre(filled), centre(above + below + left + right) / 4, atol=2e-6, rtol=0)


@pytest.mark.parametrize("slopes", [(0.0, 0.0), (0.01, 0.0), (0.0, -0.01), (0.004, 0.007)])
def test_a_ramp_goes_on_through_the_hole(slopes):
    row, column = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = (0.3 + slopes[0] * row + slopes[1] * column).expand(2, 3, -1, -1)
    filled = harmonic_fill(pasted(ramp, torch.rand(2, 3, 32, 32)))
    torch.testing.assert_close(filled, ramp, atol=1e-5, rtol=0)


def test_the_fill_hears_the_rim_and_nothing_else(x):
    """Of 4,096 pixels 128 count: neither the hole, nor the rim's corners, nor what lies further out."""
    counts = torch.zeros(64, 64, dtype=torch.bool)
    counts[[15, 48], HOLE], counts[HOLE, 15], counts[HOLE, 48] = True, True, True
    other = torch.where(counts, x, torch.rand_like(x))
    assert counts.sum() == 128 and torch.equal(centre(harmonic_fill(other)), centre(harmonic_fill(x)))
    x.requires_grad_()
    centre(harmonic_fill(x)).sum().backward()
    assert torch.equal(x.grad > 0, counts.expand_as(x))


def test_around_the_hole_the_picture_stays(x):
    filled, is_hole = harmonic_fill(x), torch.zeros(64, 64, dtype=torch.bool)
    is_hole[HOLE, HOLE] = True
    assert torch.equal(filled[..., ~is_hole], x[..., ~is_hole])
    assert (filled != x)[..., is_hole].float().mean() > 0.99


@pytest.mark.parametrize("side", [1, 4, 32])
def test_the_weights_of_a_pixel_are_shares(side):
    """None is negative and a row sums to 1, so no fill is brighter than its rim; symmetric as the square."""
    weights = harmonic_weights(side)
    assert weights.shape == (side * side, 4 * side) and weights.min() > 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(side * side), atol=1e-6, rtol=0)
    top, bottom, left, right = weights.reshape(side, side, 4, side).unbind(dim=2)
    torch.testing.assert_close(top, bottom.flip(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(top, left.transpose(0, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(left, right.flip(1), atol=1e-6, rtol=0)


def test_the_rim_goes_above_below_left_right():
    row, column = rim(places(1))[0, :2].mul(255).round()
    along = torch.arange(16.0, 48.0)
    at = torch.full((32,), 15.0), torch.full((32,), 48.0)
    assert torch.equal(row, torch.cat([*at, along, along]))
    assert torch.equal(column, torch.cat([along, along, *at]))


def test_pasted_is_a_copy(x):
    before, hole = x.clone(), torch.rand(5, 3, 32, 32)
    picture = pasted(x, hole)
    assert torch.equal(x, before) and torch.equal(centre(picture), hole)
    assert torch.equal(pasted(picture, centre(x)), x), "around the hole it changed something"
    several = pasted(x.expand(2, -1, -1, -1, -1), torch.stack([hole, 1 - hole]))
    assert torch.equal(several[0], picture) and torch.equal(centre(several[1]), 1 - hole)


# What a model sees -------------------------------------------------------------------------------


def test_the_seven_channels(x):
    before = x.clone()
    seen = with_hole(x)
    assert seen.shape == (5, 7, 64, 64) and torch.equal(x, before)
    assert torch.equal(seen[:, :3], x) and torch.equal(seen[:, 3:6], harmonic_fill(x))
    mask = torch.ones(5, 1, 64, 64)
    mask[..., HOLE, HOLE] = 0
    assert torch.equal(seen[:, 6:], mask)


def test_the_mask_is_what_is_known_less_the_hole(x):
    known = (torch.rand(5, 1, 64, 64) > 0.5).float()
    before = known.clone()
    mask = with_hole(x, known)[:, 6:]
    assert torch.equal(known, before) and centre(mask).sum() == 0
    assert torch.equal(pasted(mask, centre(known)), known)


def test_what_may_be_looked_at_says_nothing_of_the_hole(x):
    other = with_hole(pasted(x, torch.rand(5, 3, 32, 32)))
    assert torch.equal(other[:, 3:], with_hole(x)[:, 3:])


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 1, 64, 64), (2, 3, 32, 32), (2, 7, 64, 64)])
def test_other_shapes_are_refused_with_what_to_do(shape):
    match = rf"\(B, 3, 64, 64\), not \({', '.join(map(str, shape))}\).*course_utils.data coco.*x\[None\]"
    with pytest.raises(ValueError, match=match):
        with_hole(torch.zeros(shape))


def test_holes_of_images_are_those_of_their_pixels():
    pixels = torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(holes_of(Images(pixels, torch.zeros(4), {})), with_hole(as_grey(pixels)))


# Training on few photographs ---------------------------------------------------------------------


def where_from(row: torch.Tensor, column: torch.Tensor) -> tuple[int, int, bool]:
    """(rows moved, columns moved, mirrored) of one picture, read off two pixels in its middle."""
    mirrored = bool(column[32, 33] < column[32, 32])
    start = 31 if mirrored else 32  # the column that lands there unmoved
    return int(row[32, 32]) - 32, int(column[32, 32]) - start, mirrored


def test_a_varied_photograph_is_a_shift_of_it_mirrored_or_not(colours_stay):
    """All its 4,096 pixels, and known marks what came from within: mask and photograph move alike."""
    (x, known), at, found = varied(places(300)), torch.arange(64), []
    for picture, within in zip(x, known[:, 0], strict=True):
        down, along, mirrored = where_from(*(picture[:2] * 255).round())
        found.append((down, along, mirrored))
        rows, columns = at + down, (at.flip(0) if mirrored else at) + along
        assert torch.equal(picture, places(1)[0][:, rows.clamp(0, 63)][:, :, columns.clamp(0, 63)])
        inside = [(where >= 0) & (where <= 63) for where in (rows, columns)]
        assert torch.equal(within, (inside[0][:, None] & inside[1]).float())
    for moves in [*zip(*found, strict=True)][:2]:
        assert set(moves) == set(range(-FARTHEST, FARTHEST + 1))
    assert 100 < sum(mirrored for *_, mirrored in found) < 200
    assert len(set(found)) > 200, "they move together"


def test_the_hole_and_its_rim_stay_within_the_photograph():
    _, known = varied(torch.rand(300, 3, 64, 64))
    assert known[..., 15:49, 15:49].min() == 1 and known.min() == 0


def test_no_two_calls_are_alike_and_no_photograph_is_changed(x):
    before = x.clone()
    (a, known_a), (b, known_b) = varied(x), varied(x)
    assert torch.equal(x, before)
    assert not any(torch.equal(one, other) for one, other in zip(a, b, strict=True))
    assert not torch.equal(known_a, known_b)


def test_other_colours_are_whole_levels_that_an_image_can_have(x):
    before, found = x.clone(), recoloured(x)
    assert torch.equal(x, before) and not torch.equal(found, x)
    assert found.min() == 0 and found.max() == 1, "the test cannot tell"
    assert torch.equal(found, to_level(found))


def test_light_contrast_and_each_colour_s_strength_change_a_little():
    """Of a picture half 0.3, half 0.7: the mean moves with the light, the two part with the contrast."""
    x = torch.full((500, 3, 64, 64), 0.3)
    x[..., 32:] = 0.7
    dark, bright = recoloured(x)[..., 0, [0, -1]].unbind(dim=-1)  # (500, 3)
    light, strength = (dark + bright) / 2 - 0.5, (bright - dark) / 0.4
    assert (light - light[:, :1]).abs().max() <= 1 / 255 + 1e-6, "light is that of all three colours"
    assert 0.09 < light.abs().max() < 0.1 + 1 / 255 and abs(light.mean()) < 0.01
    assert 0.8 * 0.9 - 0.01 < strength.min() < 0.8 and 1.2 < strength.max() < 1.2 * 1.1 + 0.01
    assert abs(strength.mean() - 1) < 0.02
    ratio = strength[:, 0] / strength[:, 1]
    assert 1.1 < ratio.max() < 1.1 / 0.9 + 0.03, "colours have a strength of their own"
    assert strength.mean(dim=1).std() > 0.08, "and a contrast in common"


@pytest.fixture
def photographs() -> Batches:
    return Batches(torch.randint(256, (10, 3, 64, 64), dtype=torch.uint8), 4, seed=3)


def test_batches_go_on_where_they_stopped(photographs):
    batches = HoleBatches(photographs)
    assert len(batches) == 2
    before = [seeded(batches.__getitem__, step, seed=step) for step in range(5)]
    for step in (3, 0, 4):
        fresh = HoleBatches(Batches(photographs.pixels, 4, seed=3))
        assert torch.equal(seeded(fresh.__getitem__, step, seed=step), before[step])
    assert before[0].shape == (4, 7, 64, 64)
    with pytest.raises(TypeError):
        iter(batches)


def test_a_batch_is_varied_anew_each_time_and_its_mask_with_it(photographs):
    batches = HoleBatches(photographs)
    found = seeded(batches.__getitem__, 1)
    assert torch.equal(found, seeded(lambda: with_hole(*varied(photographs[1]))))
    assert not torch.equal(found, batches[1])
    assert torch.equal(found[:, 3:6], harmonic_fill(found[:, :3])), "the fill is that of another picture"
    assert found[:, 6:].sum(dim=(1, 2, 3)).min() < 64 * 64 - 32 * 32, (
        "the mask forgets what is beyond the edge"
    )


def test_without_vary_photographs_come_as_they_are(photographs):
    batches = HoleBatches(photographs, vary=False)
    state = torch.get_rng_state()
    assert torch.equal(batches[1], with_hole(photographs[1])) and torch.equal(batches[1], batches[1])
    assert torch.equal(state, torch.get_rng_state()), "nothing is drawn"


def test_shapes_of_the_middle():
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert torch.equal(centre(x), x[..., 2:6, 2:6])
    assert torch.equal(centre(F.pad(torch.ones(2, 2), (1, 1, 1, 1))), torch.ones(2, 2))
