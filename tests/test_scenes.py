"""The painted scenes: the same every time, caused by their factors, and open in the middle."""

import numpy as np
import pytest
import torch

from course_utils import scenes
from course_utils.scenes import BOAT, HOUSE, NAMES, NOTHING, SUN, TREES, draw, draw_scenes

BORDER = torch.ones(64, 64, dtype=torch.bool)
BORDER[16:48, 16:48] = False
INTEGERS = {"season", "frame", "texture", "trees", "conifer"}
RANGES = {
    "time_of_day": (0, 1),
    "season": (0, 3),
    "horizon": (30, 40),
    "lake": (0, 28),
    "roughness": (0, 1),
    "forest": (0, 4),
    "haze": (0, 1),
    "cloud": (0, 1),
    "sun_x": (22, 42),
    "sun_y": (19.9, 23.5),
    "frame": (0, 2),
    "texture": (0, 2**40),
    "hill": (0, 13),
    "hill_x": (26, 38),
    "x": (25.5, 38.5),
    "base": (29, 46),
    "size": (0.8, 1.15),
    "hue": (0, 1),
    "trees": (1, 5),
    "conifer": (0, 1),
}


@pytest.fixture(scope="module")
def drawn():
    return draw_scenes(1010, seed=3)


@pytest.fixture(scope="module")
def lakes(drawn):
    """The factors of 50 scenes with a lake, where every label can be drawn."""
    return {name: values[drawn.factors["lake"] > 0][:50] for name, values in drawn.factors.items()}


@pytest.fixture(scope="module")
def meadows(drawn):
    return {name: values[drawn.factors["lake"] == 0][:50] for name, values in drawn.factors.items()}


def show(label, factors):
    """The scenes with this label in the middle: float64 (N, 3, 64, 64), 0 to 255."""
    return draw(torch.full_like(factors["season"], label), factors).double()


def put(factors, name, value):
    """The factors, with one of them the same in all scenes."""
    return factors | {name: torch.full_like(factors[name], value)}


def noon(factors):
    return put(factors, "time_of_day", 0.5)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.double(), b.double()]))[0, 1].item()


# The same every time ----------------------------------------------------------------------------


def test_shapes_and_types(drawn):
    assert drawn.pixels.shape == (1010, 3, 64, 64) and drawn.pixels.dtype == torch.uint8
    assert drawn.labels.shape == (1010,) and drawn.labels.dtype == torch.int64
    assert set(drawn.factors) == set(RANGES)
    for name, values in drawn.factors.items():
        assert values.shape == (1010,)
        assert values.dtype == (torch.int64 if name in INTEGERS else torch.float32)


@pytest.mark.parametrize("name", RANGES)
def test_factors_are_finite_and_fill_their_range(drawn, name):
    low, high = RANGES[name]
    values = drawn.factors[name].double()
    assert values.isfinite().all() and values.min() >= low and values.max() <= high
    assert values.max() - values.min() > 0.85 * (high - low)


def test_a_seed_gives_the_same_scenes_and_another_gives_others():
    first, again, other = draw_scenes(30, seed=1), draw_scenes(30, seed=1), draw_scenes(30, seed=2)
    assert torch.equal(first.pixels, again.pixels)
    assert not torch.equal(first.pixels, other.pixels)


@pytest.mark.parametrize("k", [1, 26, 1001])
def test_fewer_scenes_are_the_first_of_more(drawn, k):
    fewer = draw_scenes(k, seed=3)
    assert torch.equal(fewer.pixels, drawn.pixels[:k])
    assert torch.equal(fewer.labels, drawn.labels[:k])
    assert all(torch.equal(fewer.factors[name], drawn.factors[name][:k]) for name in RANGES)


def test_a_scene_depends_on_its_own_label_and_factors_alone(drawn):
    """So it can be drawn again, alone or among others."""
    chosen = torch.tensor([1005, 3, 58, 500])
    again = draw(drawn.labels[chosen], {name: values[chosen] for name, values in drawn.factors.items()})
    assert torch.equal(again, drawn.pixels[chosen])


def test_the_size_of_a_block_does_not_matter(drawn, monkeypatch):
    monkeypatch.setattr(scenes, "BLOCK", 7)
    assert torch.equal(draw_scenes(60, seed=3).pixels, drawn.pixels[:60])


def test_arguments_and_global_random_numbers_are_left_alone(drawn):
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    factors = {name: values[:20].clone() for name, values in drawn.factors.items()}
    draw(drawn.labels[:20], factors)
    assert all(torch.equal(factors[name], drawn.factors[name][:20]) for name in RANGES)
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(("n", "seed"), [(0, 0), (-3, 0), (5, -1)])
def test_nonsense_is_refused(n, seed):
    with pytest.raises(ValueError, match=f"cannot draw .*{min(n, seed)}.* >= "):
        draw_scenes(n, seed)


def test_unknown_labels_and_boats_on_meadows_are_refused(lakes, meadows):
    with pytest.raises(ValueError, match="cannot draw label 5: use the labels 0 to 4"):
        show(5, lakes)
    with pytest.raises(ValueError, match="cannot draw label -1"):
        show(-1, lakes)
    with pytest.raises(ValueError, match="boat on a meadow: draw it where"):
        show(BOAT, meadows)


# Pictures ---------------------------------------------------------------------------------------


def test_each_thousand_holds_as_many_of_every_label(drawn):
    assert drawn.labels[:1000].bincount().tolist() == [200] * len(NAMES)
    assert drawn.labels[:5].sort().values.tolist() != list(range(5))  # shuffled, not in turn
    assert (drawn.factors["lake"][drawn.labels == BOAT] > 0).all()


def test_in_winter_all_trees_have_needles(drawn):
    assert (drawn.factors["conifer"][drawn.factors["season"] == 3] == 1).all()


def test_a_border_never_gives_the_label_away(drawn):
    """By a lake or not, each other label is as common as the next."""
    for wet in (True, False):
        counts = drawn.labels[(drawn.factors["lake"] > 0) == wet].bincount(minlength=5)[:BOAT].double()
        assert ((counts / counts.sum() - 0.25).abs() < 0.07).all()


def test_no_two_scenes_are_alike(drawn):
    assert len(drawn.pixels.flatten(1).unique(dim=0)) == len(drawn.pixels)


def test_colours_stay_between_black_and_white(drawn):
    assert ((drawn.pixels == 0) | (drawn.pixels == 255)).double().mean() < 0.02
    assert 90 < drawn.pixels.double().mean() < 170


# One border, several truths -----------------------------------------------------------------------


def test_the_label_leaves_the_border_as_it_is(lakes, meadows):
    for factors, labels in ((lakes, (HOUSE, TREES, SUN, BOAT)), (meadows, (HOUSE, TREES, SUN))):
        empty = show(NOTHING, factors)
        for label in labels:
            assert torch.equal(show(label, factors)[..., BORDER], empty[..., BORDER])


@pytest.mark.parametrize("name", ["hill", "hill_x", "x", "base", "size", "hue", "trees"])
def test_what_is_hidden_leaves_the_border_as_it_is(lakes, meadows, name):
    for factors in (lakes, meadows):
        other = factors[name] / 4 if name == "hill" else factors[name].flip(0)
        for label in (HOUSE, TREES):
            assert torch.equal(
                show(label, factors)[..., BORDER], show(label, factors | {name: other})[..., BORDER]
            )


@pytest.mark.parametrize("label", [HOUSE, TREES, SUN, BOAT])
def test_what_stands_in_the_middle_can_be_seen(lakes, meadows, label):
    """Also by night, in the haze, or behind the top of a hill."""
    for factors in (lakes,) if label == BOAT else (lakes, meadows):
        change = (show(label, factors) - show(NOTHING, factors)).abs().amax(dim=1)
        assert ((change > 8).sum(dim=(1, 2)) >= 8).all()
        assert change.amax(dim=(1, 2)).min() > 20


def test_a_hill_shows_in_every_scene(meadows):
    flat = show(NOTHING, put(meadows, "hill", 0.0))
    change = (show(NOTHING, meadows) - flat).abs().amax(dim=1)
    high = meadows["hill"] > 4
    assert (change > 5).sum(dim=(1, 2))[high].double().median() > 40


# Caused by the factors ------------------------------------------------------------------------------


def test_days_are_bright_and_nights_are_dark(drawn):
    day = -torch.cos(2 * torch.pi * drawn.factors["time_of_day"])
    light = drawn.pixels.double().mean(dim=(1, 2, 3))
    assert correlation(day, light) > 0.85
    assert light[day < -0.6].mean() < 0.45 * light[day > 0.6].mean()


def test_mornings_and_evenings_are_redder_than_noon(lakes):
    hours = [show(NOTHING, put(lakes, "time_of_day", time)) for time in (0.27, 0.5, 0.75)]
    warmth = [(rgb[:, 0] - rgb[:, 2])[:, 16:28].mean().item() for rgb in hours]
    assert min(warmth[0], warmth[2]) > 30 + warmth[1]


def test_the_sun_stands_where_its_factors_say(lakes, meadows):
    for factors in (lakes, meadows):
        gained = (show(SUN, factors) - show(NOTHING, factors)).abs().mean(dim=1)  # (N, 64, 64)
        gained = gained * (torch.arange(64)[:, None] + 0.5 < factors["horizon"][:, None, None])
        gained = gained * (gained > gained.amax(dim=(1, 2), keepdim=True) / 2)
        mass = gained / gained.sum(dim=(1, 2), keepdim=True)
        grid = torch.arange(64) + 0.5
        for name, centre in (
            ("sun_x", mass.sum(dim=1) @ grid.double()),
            ("sun_y", mass.sum(dim=2) @ grid.double()),
        ):
            away = (centre - factors[name]).abs()
            assert away.median() < 0.5 and away.max() < 3.2, name


def test_the_border_knows_where_the_light_comes_from(meadows):
    clear = put(put(noon(meadows), "cloud", 0.0), "frame", 0)
    sky = show(NOTHING, clear)[:, 0, 2:28]
    assert correlation(sky[..., 50:].mean(dim=(1, 2)) - sky[..., :14].mean(dim=(1, 2)), clear["sun_x"]) > 0.9


def test_the_lake_begins_below_the_horizon(lakes):
    """Without a lake the picture is the same above its shore."""
    change = show(NOTHING, lakes) - show(NOTHING, put(lakes, "lake", 0.0))
    first = (change.abs().amax(dim=(1, 3)) > 0).double().argmax(dim=1)
    assert ((first - (lakes["horizon"] - 2)).abs() <= 1.5).all()


def test_the_lake_mirrors_the_sky(lakes, meadows):
    """Its colour is that of the sky in the evening as at noon; that of a meadow is not."""
    agreement = []
    for factors in (lakes, meadows):
        rgb = show(NOTHING, put(factors, "frame", 0))
        warmth = rgb[:, 0] - rgb[:, 2]
        agreement.append(correlation(warmth[:, 16:22].mean(dim=(1, 2)), warmth[:, 40:46].mean(dim=(1, 2))))
    assert agreement[0] > 0.9 and agreement[1] < 0.8


def test_the_lake_mirrors_what_stands_on_its_shore(lakes):
    change = (show(HOUSE, lakes) - show(NOTHING, lakes)).abs().mean(dim=1)
    rows = torch.arange(64) + 0.5
    above = torch.where(rows < lakes["horizon"][:, None], change.mean(dim=2), 0).sum(dim=1)
    below = torch.where(rows > lakes["horizon"][:, None] + 1, change.mean(dim=2), 0).sum(dim=1)
    assert (below > 0.15 * above).all() and (below < above).all()


def test_snow_lies_in_winter(meadows):
    grounds = [show(NOTHING, put(noon(meadows), "season", season))[:, :, 46:54] for season in range(4)]
    colourfulness = [(rgb.amax(dim=1) - rgb.amin(dim=1)).mean().item() for rgb in grounds]
    assert colourfulness[3] < 0.5 * min(colourfulness[:3])
    assert grounds[3].mean() > 1.3 * max(rgb.mean() for rgb in grounds[:3])


def test_clouds_cover_the_blue_of_the_sky(lakes):
    clear, covered = (show(NOTHING, put(noon(lakes), "cloud", cloud))[:, :, :12] for cloud in (0.0, 1.0))
    assert ((covered[:, 2] - covered[:, 0]).mean() + 15) < (clear[:, 2] - clear[:, 0]).mean()


def test_haze_hides_the_ridges(meadows):
    """They stand out from the sky just above them less and less."""
    hilly = put(noon(meadows), "hill", 6.0)
    contrast = []
    for haze in (0.0, 0.5, 1.0):
        change = show(NOTHING, put(hilly, "haze", haze)) - show(
            NOTHING, put(put(hilly, "haze", haze), "hill", 0.0)
        )
        contrast.append(change.abs().mean().item())
    assert contrast[0] > contrast[1] > contrast[2]


def test_more_trees_cover_more(meadows):
    empty = show(NOTHING, meadows)
    covered = [
        ((show(TREES, put(meadows, "trees", n)) - empty).abs().amax(dim=1) > 8).sum().item()
        for n in range(1, 6)
    ]
    assert covered == sorted(covered) and covered[4] > 2.2 * covered[0]


def test_a_house_is_painted_in_its_hue(meadows):
    red, blue = (show(HOUSE, put(noon(meadows), "hue", hue)) for hue in (0.7, 1.0))
    painted = (red - blue).abs().amax(dim=1) > 8
    assert (painted.sum(dim=(1, 2)) > 30).all()
    assert ((red[:, 0] - red[:, 2]) - (blue[:, 0] - blue[:, 2]))[painted].mean() > 40


def test_house_and_boat_stand_at_x(lakes):
    for label in (HOUSE, BOAT):
        change = (show(label, lakes) - show(NOTHING, lakes)).abs().amax(dim=1) > 8
        grid = torch.arange(64) + 0.5
        middle = (change.double().sum(dim=1) @ grid.double()) / change.sum(dim=(1, 2))
        assert (middle - lakes["x"]).abs().median() < 1


def test_a_frame_stands_at_its_side(meadows):
    plain = show(NOTHING, put(meadows, "frame", 0))
    for frame, columns in ((1, slice(16, None)), (2, slice(None, 48))):
        change = (show(NOTHING, put(meadows, "frame", frame)) - plain).abs().amax(dim=1)
        assert change[..., columns].max() == 0
        assert ((change > 8).sum(dim=(1, 2)) > 80).all()


# Colour and noise -----------------------------------------------------------------------------------


def test_a_day_ends_as_it_began():
    rows = [line.split() for line in scenes.HOURS.strip().splitlines()]
    times = [float(row[0]) for row in rows]
    assert times == sorted(times) and (times[0], times[-1]) == (0, 1)
    assert rows[0][1:] == rows[-1][1:]


def test_along_a_table_colours_mix():
    walls, roof = scenes.along(np.array([0.0, 0.15, 1.0]), scenes.PAINTS)
    assert walls.shape == roof.shape == (3, 3, 1, 1) and walls.dtype == np.float32
    assert np.allclose(255 * walls[0, :, 0, 0], [0xEF, 0xE8, 0xDA])
    assert np.allclose(255 * walls[1, :, 0, 0], [(0xEF + 0xEA) / 2, (0xE8 + 0xD3) / 2, (0xDA + 0xA0) / 2])
    assert np.allclose(255 * roof[2, :, 0, 0], [0x45, 0x4B, 0x5A])


@pytest.mark.parametrize(("x", "y"), [(0.7, 1.4), (7, 1.8), (12, 3)])
def test_smooth_noise_keeps_its_variance_and_varies_slowly(x, y):
    white = np.random.default_rng(0).standard_normal((400, 64, 64), dtype=np.float32)
    noise = scenes.smooth(white, x, y)
    assert noise.std() == pytest.approx(1, abs=0.05)
    for axis, width in ((2, x), (1, y)):  # neighbours of blurred noise agree like exp(-1 / 4 width²)
        together = (noise.take(range(20, 44), axis) * noise.take(range(21, 45), axis)).mean() / noise.var()
        assert together == pytest.approx(np.exp(-1 / (4 * width**2)), abs=0.07)


def test_coverage_is_the_area_of_a_pixel_inside():
    edge = np.linspace(3, 4, 11)  # an upright edge that crosses the pixel from 3 to 4
    assert np.allclose(scenes.cover(edge - 3.5), edge - 3)
    assert scenes.cover(np.array([-9.0, 9.0])).tolist() == [0, 1]


def test_a_layer_hides_as_much_as_it_covers():
    canvas, colour = np.full((1, 3, 2, 2), 0.2), np.full((1, 3, 1, 1), 0.8)
    coverage = np.array([[[0, 0.5], [0.25, 1]]])
    assert np.allclose(scenes.over(canvas, colour, coverage)[0, 1], [[0.2, 0.5], [0.35, 0.8]])
    assert (canvas == 0.2).all()


def test_a_hill_ends_inside_the_hole():
    x = np.linspace(0, 64, 1000)
    for top in (26, 32, 38):
        height = scenes.rise(x, np.float64(top))
        assert height[(x < 17) | (x > 47)].max() < 1e-9
        assert x[height.argmax()] == pytest.approx(top, abs=0.1) and height.max() == pytest.approx(
            1, abs=1e-3
        )
