"""tools/company.py: the outlier of a batch, and the numbers of lesson 02 on what it does."""

import pytest
import torch

from course_utils.data import Images, Splits
from course_utils.models.vae_2015 import VAE2015


@pytest.fixture
def company(load_tool):
    return load_tool("company")


def grey(n: int, brightest: int = 60) -> torch.Tensor:
    return torch.randint(0, brightest, (n, 1, 28, 28), dtype=torch.uint8)


@pytest.mark.parametrize("place", [0, 41, 99])
def test_the_outlier_is_found_where_it_is(company, place):
    model, codes = VAE2015(), torch.randn(100, 384)
    codes[place] *= 100
    model.encode = lambda x: (codes, torch.zeros_like(codes))
    found, far = company.outlier(model, grey(100))
    assert found == place and 5 < far <= 99**0.5  # more than the root of n - 1 no image of n can lie out


def test_an_image_is_exchanged_for_its_neighbour(company):
    x = grey(5)
    for place, neighbour in [(0, 1), (4, 0)]:
        y = company.without(x, place)
        assert torch.equal(y[place], x[neighbour])
        assert torch.equal(company.others(y, place), company.others(x, place))
    assert len(company.others(x, 2)) == 4
    assert torch.equal(company.given(x, x[3]), x[[3, 1, 2, 3, 4]])


def test_the_mean_digit_costs_what_a_loop_says(company):
    x = grey(7, brightest=256)
    by_hand = sum(((image - (x / 255).mean(dim=0)) ** 2).sum() for image in x / 255) / 7
    torch.testing.assert_close(company.cost_of_mean_digit(x), by_hand)


def test_batches_are_measured_one_by_one(company, monkeypatch):
    monkeypatch.setattr(company, "SIZE", 20)
    images = [Images(grey(n), torch.arange(n) % 10, {}) for n in (100, 20, 60)]
    rows = {
        (metric, unit): estimate for estimate, metric, unit in company.measure(VAE2015(), Splits(*images))
    }
    assert {unit: rows[metric, unit].n for metric, unit in rows if metric == "lost_batches"} == {
        "batches, training digits, own batches": 5,
        "batches, training digits, shuffled": 5,
        "batches, test digits, shuffled": 15,
        "batches, test digits, in the order of the file": 3,
    }
    for (metric, unit), estimate in rows.items():
        if unit.endswith(", lowest"):
            larger = [rows[metric, unit.replace("lowest", word)].value for word in ("median", "highest")]
            assert estimate.value <= larger[0] <= larger[1]
    # Nothing is learned yet: each batch costs more than the mean digit, and one more outlier mends none.
    assert rows["lost_batches", "batches, training digits, shuffled"].value == 5
    given = rows["squared_error", "squared error per image, a lost batch given one, median"]
    assert given.n == 5 and given.value > company.cost_of_mean_digit(images[0].pixels)
