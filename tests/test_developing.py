"""One photograph: the central square comes out upright, in RGB, with the right pixels."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from drawn_photographs import BLUE, GREEN, RED, YELLOW, encoded, quarters
from PIL import Image

from course_utils.developing import develop
from course_utils.photographs import open_prepared, prepare


def centres(pixels: np.ndarray) -> list[tuple]:
    """The colours in the middle of the four quarters."""
    return [tuple(pixels[:, y, x].tolist()) for y in (16, 47) for x in (16, 47)]


def near(colours: list[tuple], wanted: list[tuple], tolerance: int = 6) -> bool:
    return np.abs(np.subtract(colours, wanted)).max() <= tolerance


@pytest.mark.parametrize(
    "width, height", [(64, 64), (96, 96), (200, 128), (128, 200), (321, 160), (1500, 90)]
)
def test_the_central_square_comes_out(width, height):
    pixels, notes = develop(encoded(quarters(width, height)), "a.png")
    assert pixels.shape == (3, 64, 64) and pixels.dtype == np.uint8 and not notes
    assert near(centres(pixels), [RED, GREEN, BLUE, YELLOW])
    assert near([tuple(pixels[:, 2, 2].tolist())], [RED], 25)  # the square reaches the corners


def test_what_has_the_size_already_is_not_touched():
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels, _ = develop(encoded(Image.fromarray(array)), "a.png")
    assert np.array_equal(pixels.transpose(1, 2, 0), array)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_photograph_upright(orientation, kind):
    undo = dict(enumerate((None, 0, 3, 1, 5, 2, 6, 4), start=1))[orientation]  # Image.Transpose
    stored = quarters(200, 128) if undo is None else quarters(200, 128).transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, notes = develop(encoded(stored, kind, exif=exif), f"a.{kind.lower()}")
    assert near(centres(pixels), [RED, GREEN, BLUE, YELLOW])
    assert ("turned upright" in notes) == (orientation > 1)


def test_the_decoders_own_scaling_costs_little():
    """Against filtering the whole photograph, on smooth noise with edges."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).resize((640, 480), 3)
    content = encoded(noise, "JPEG", quality=92)
    pixels, _ = develop(content, "a.jpg")
    whole = Image.open(io.BytesIO(content)).resize((64, 64), 1, box=(80, 0, 560, 480))
    error = pixels.transpose(1, 2, 0).astype(float) - np.asarray(whole)
    assert abs(error.mean()) < 0.3 and 10 * np.log10(255**2 / (error**2).mean()) > 35


def test_transparent_parts_are_white_and_16_bits_become_8():
    clear = Image.new("RGBA", (70, 70), (255, 0, 0, 0))
    assert near(centres(develop(encoded(clear), "a.png")[0]), [(255, 255, 255)] * 4, 0)
    half = Image.new("RGBA", (70, 70), (200, 0, 0, 128))
    assert near(centres(develop(encoded(half), "a.png")[0]), [(227, 127, 127)] * 4, 2)
    for level in (0, 257 * 100, 65_535):
        deep = Image.fromarray(np.full((70, 70), level, np.uint16))
        assert near(centres(develop(encoded(deep), "a.png")[0]), [(level // 257,) * 3] * 4, 0)


def test_cmyk_of_both_signs():
    for content in (encoded(quarters().convert("CMYK"), "JPEG"), encoded(quarters().convert("CMYK"), "TIFF")):
        assert near(centres(develop(content, "a")[0]), [RED, GREEN, BLUE, YELLOW], 12)


@pytest.mark.real
def test_real_originals_agree_with_filtering_the_whole(tmp_path):
    """By 44 dB or more, where it matters whether the centre is that of the photograph or of its draft."""
    root = Path(os.environ.get("COURSE_DATA") or "data").expanduser()
    if not (root / "coco_raw").is_dir():
        pytest.skip(f"no original COCO photographs in {root}; set COURSE_DATA to a folder with coco_raw")
    report = prepare(root / "coco_raw", tmp_path / "out")
    assert report.kept == 31 and report.notes == {"grey": 2}
    pixels, names, _ = open_prepared(tmp_path / "out")
    for name, row in zip(names, pixels, strict=True):
        whole = Image.open(root / "coco_raw" / name).convert("RGB")
        (width, height), side = whole.size, min(whole.size)
        box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        error = row - np.asarray(whole.resize((64, 64), 1, box=box)).transpose(2, 0, 1).astype(float)
        assert 10 * np.log10(255**2 / (error**2).mean() if error.any() else 1e9) > 44, name
