"""Photographs that the tests draw for themselves, folders and zips of them, and a disk that is soon full."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RED, GREEN, BLUE, YELLOW, BLACK = (220, 30, 40), (20, 200, 60), (30, 60, 210), (230, 220, 30), (0, 0, 0)


def quarters(width: int = 96, height: int = 96) -> Image.Image:
    """Red, green / blue, yellow: a square in the middle of a black page."""
    side = min(width, height)
    array = np.zeros((height, width, 3), np.uint8)
    top, left, half = (height - side) // 2, (width - side) // 2, side // 2
    for i, colour in enumerate((RED, GREEN, BLUE, YELLOW)):
        y, x = top + half * (i // 2), left + half * (i % 2)
        array[y : y + half, x : x + half] = colour
    return Image.fromarray(array)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


GOOD = encoded(quarters())
PHOTO = encoded(quarters(200, 150), "JPEG")


def numbered(i: int) -> bytes:
    """A photograph that can be told from the others: its red is i."""
    return encoded(Image.new("RGB", (70, 66), (i % 256, i // 256, 99)))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@contextlib.contextmanager
def small_disk(n_bytes: int):
    """No file may grow beyond this."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
