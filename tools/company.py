"""Lesson 02: what its company does to an image in the network of 2015, which always reads its batch.

    measure(model, splits)          rows of the study
    draw(model, splits, folder)     the lesson's pictures of it

The costs of 1,000 images that are read together are no independent numbers: one image can spoil them all. So
what is measured is the batch: the lowest, the median and the highest mean squared error of many.
"""

from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor, nn

from course_utils import plots
from course_utils.data import Splits, random_subset
from course_utils.evaluate import Estimate
from course_utils.models.vae_2015 import VAE2015

SIZE = 1_000  # images in a batch, as in training
OWN, SHUFFLED = "training digits, own batches", "training digits, shuffled"


# Numbers -----------------------------------------------------------------------------------------


def measure(model: VAE2015, splits: Splits) -> Iterator[tuple[Estimate, str, str]]:
    """(estimate, metric, unit): batches of digits in four kinds of company, then what the outliers do."""
    torch.manual_seed(0)
    train, test = splits.train.pixels, splits.test.pixels
    batches = {
        OWN: train.split(SIZE),
        SHUFFLED: train[torch.randperm(len(train))].split(SIZE),
        "test digits, shuffled": torch.cat([test[torch.randperm(len(test))] for _ in range(5)]).split(SIZE),
        "test digits, in the order of the file": test.split(SIZE),
    }
    mean_digit = cost_of_mean_digit(train)
    errors = {name: [squared_errors(model, x).mean() for x in many] for name, many in batches.items()}
    for name, found in errors.items():
        yield from spread(found, "squared_error", f"squared error per image, {name}")
        n_lost = sum(error > mean_digit for error in found)
        yield Estimate(float(n_lost), 0.0, len(found)), "lost_batches", f"batches, {name}"
    lost = [x for x, error in zip(batches[SHUFFLED], errors[SHUFFLED], strict=True) if error > mean_digit]
    yield from measure_outliers(model, batches[OWN], splits.train.labels.split(SIZE), lost)


def measure_outliers(
    model: VAE2015, batches: Sequence[Tensor], labels: Sequence[Tensor], lost: Sequence[Tensor]
) -> Iterator[tuple[Estimate, str, str]]:
    """The outlier of each batch, its mates with and without it, and lost batches given one, or another 0."""
    found = [(x, *outlier(model, x)) for x in batches]
    yield from spread([far for _, _, far in found], "outlier", "standard deviations")
    zeros = sum(its[place] == 0 for (_, place, _), its in zip(found, labels, strict=True))
    yield Estimate(float(zeros), 0.0, len(found)), "outlier", "that are a 0"
    first, place, _ = found[0]
    ordinary = [image for i, image in enumerate(first) if labels[0][i] == 0 and i != place]
    for whose, errors in {
        "outlier": [squared_errors(model, x)[place] for x, place, _ in found],
        "its mates": [others(squared_errors(model, x), place).mean() for x, place, _ in found],
        "its mates without it": [
            others(squared_errors(model, without(x, place)), place).mean() for x, place, _ in found
        ],
        "a lost batch given one": [squared_errors(model, given(x, first[place]))[1:].mean() for x in lost],
        "a lost batch given another 0": [
            squared_errors(model, given(x, image))[1:].mean()
            for x, image in zip(lost, cycle(ordinary), strict=False)
        ],
    }.items():
        yield from spread(errors, "squared_error", f"squared error per image, {whose}")


@torch.no_grad()
def outlier(model: VAE2015, pixels: Tensor) -> tuple[int, Tensor]:
    """The place of the image that is farthest out at most pixels, before the last batch norm; and how far.

    That is the median over the pixels of its distance from the batch's mean, in standard deviations.
    """
    mu, _ = model.encode(pixels / 255)
    *hidden, (product, *_), _ = model.decoder
    h = product(nn.Sequential(*hidden)(mu))
    distance = (h - h.mean(dim=0)).abs() / h.std(dim=0, correction=0)
    place = int(distance.argmax(dim=0).mode().values)
    return place, distance[place].median()


@torch.no_grad()
def squared_errors(model: VAE2015, pixels: Tensor) -> Tensor:
    """Of each image of a batch: (B, 1, H, W) uint8 -> (B,)."""
    x = pixels / 255
    return -model.likelihood.log_prob(x, model(x).px)


def cost_of_mean_digit(pixels: Tensor) -> Tensor:
    """The mean squared error of answering with the mean image. A batch that costs more is lost."""
    return (pixels / 255).var(dim=0, correction=0).sum()


def without(x: Tensor, place: int) -> Tensor:
    """The batch with a copy of the next image in that place."""
    x = x.clone()
    x[place] = x[(place + 1) % len(x)]
    return x


def given(x: Tensor, image: Tensor) -> Tensor:
    """The batch with this image in the first place."""
    return torch.cat([image[None], x[1:]])


def others(values: Tensor, place: int) -> Tensor:
    """All values but that one."""
    return torch.cat([values[:place], values[place + 1 :]])


def spread(values: Sequence[Tensor], metric: str, unit: str) -> Iterator[tuple[Estimate, str, str]]:
    """The lowest, the median and the highest value; `n` says of how many."""
    values = torch.stack(list(values))
    for word, value in (("lowest", values.min()), ("median", values.median()), ("highest", values.max())):
        yield Estimate(value.item(), 0.0, len(values)), metric, f"{unit}, {word}"


# Pictures ----------------------------------------------------------------------------------------


@torch.no_grad()
def draw(model: VAE2015, splits: Splits, folder: Path) -> None:
    """Codes and digits in other company, and outliers: four files vae_2015_*.png in the folder."""
    torch.manual_seed(0)
    codes = torch.randn(SIZE, model.latent_dim)
    for name, title, rows in (
        ("company", "the same codes in other company", codes_in_company(model, codes)),
        ("path", "a path by itself, and in company", path_in_company(model, codes)),
        ("samples", "after all its 25,000 updates", digits_and_samples(model, splits)),
        ("outliers", "twelve of its batches", outliers_and_mates(model, splits)),
    ):
        images, title = torch.cat(list(rows.values())), f"The network of 2015: {title}"
        figure = plots.plot_images(images, title, n_columns=12, row_labels=list(rows))
        figure.savefig(folder / f"vae_2015_{name}.png", dpi=100)


def codes_in_company(model: VAE2015, codes: Tensor) -> dict[str, Tensor]:
    """The pictures of the same twelve codes, decoded so many at a time."""
    rows = {}
    for label, size in {"1000 at a time": 1_000, "100": 100, "12": 12, "2": 2, "1": 1}.items():
        batches = [codes[:size]] if size >= 12 else codes[:12].split(size)
        rows[label] = torch.cat([decoded(model, z) for z in batches])[:12]
    return rows


def path_in_company(model: VAE2015, codes: Tensor) -> dict[str, Tensor]:
    """Twelve pictures on the way from one code to another."""
    t = torch.linspace(0, 1, 12)[:, None]
    path = (1 - t) * codes[:1] + t * codes[1:2]
    among = decoded(model, torch.cat([path, codes]))[:12]
    return {"12 at a time": decoded(model, path), "among 1000": among}


def digits_and_samples(model: VAE2015, splits: Splits) -> dict[str, Tensor]:
    """Twelve test digits, what comes back, and two rows drawn from the prior, each among a thousand."""
    digits = random_subset(splits.test, SIZE).pixels / 255
    back = model.likelihood.mean(model(digits).px)[:12]
    drawn = model.generate(SIZE)
    return {
        "test digit": digits[:12],
        "comes back": back,
        "drawn from": drawn[:12],
        "the prior": drawn[12:24],
    }


def outliers_and_mates(model: VAE2015, splits: Splits) -> dict[str, Tensor]:
    """Of twelve training batches the outlier and a mate, as they are and as they come back."""
    columns = []
    for x in splits.train.pixels.split(SIZE)[:12]:
        place, _ = outlier(model, x)
        mate = (place + 2) % SIZE  # the next one stands in for the outlier
        back, spoiled = (model.likelihood.mean(model(y / 255).px) for y in (x, without(x, place)))
        columns.append([x[place] / 255, back[place], x[mate] / 255, back[mate], spoiled[mate]])
    labels = ("outlier", "it comes back", "a mate", "comes back", "without outlier")
    return {label: torch.stack(row) for label, row in zip(labels, zip(*columns, strict=True), strict=True)}


def decoded(model: VAE2015, z: Tensor) -> Tensor:
    """The pictures of codes, decoded as one batch: (B, D) -> (B, C, H, W) in [0, 1]."""
    return model.likelihood.mean(model.decode(z))
