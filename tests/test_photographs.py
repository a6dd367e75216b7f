"""Photographs: odd files are kept or counted, a kill or fault costs a moment, the pixels are right."""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import photographs
from course_utils.photographs import (
    PhotographError,
    develop,
    fetch,
    open_prepared,
    parse_captions,
    prepare,
    read_plain_pickle,
)

# Photographs of our own ---------------------------------------------------------------------------

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


def centres(pixels: np.ndarray) -> list[tuple]:
    """The colours in the middle of the four quarters."""
    return [tuple(pixels[:, y, x].tolist()) for y in (16, 47) for x in (16, 47)]


def near(colours: list[tuple], wanted: list[tuple], tolerance: int = 6) -> bool:
    return np.abs(np.subtract(colours, wanted)).max() <= tolerance


# The pixels -----------------------------------------------------------------------------------------


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


# Odd files: the name, what is in it, and what becomes of it -------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """The start of a PNG that promises so many pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    )


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def with_broken_exif() -> bytes:
    content = encoded(quarters(), "JPEG", exif=turned())
    start = content.index(b"Exif\0\0") + 6
    return content[:start] + b"XX" + content[start + 2 :]


def with_broken_data() -> bytes:
    content = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8)))
    start = content.index(b"IDAT") + 4
    return content[: start + 2] + b"\xff" * 40 + content[start + 42 :]


PHOTO = encoded(quarters(200, 150), "JPEG")
FRAMES = [quarters(), Image.new("RGB", (96, 96))]
KEPT = {
    "plain.jpg": (PHOTO, ""),
    "grey.jpg": (encoded(quarters().convert("L"), "JPEG"), "grey"),
    "grey and clear.png": (encoded(quarters().convert("LA")), "transparent, now on white"),
    "one bit.png": (encoded(quarters().convert("1")), "grey"),
    "cmyk.jpg": (encoded(quarters().convert("CMYK"), "JPEG"), "CMYK"),
    "palette.png": (encoded(quarters().convert("P")), "a palette"),
    "palette and clear.png": (encoded(quarters().convert("P"), transparency=0), "transparent, now on white"),
    "deep.png": (encoded(Image.fromarray(np.full((70, 70), 9000, np.uint16))), "16 bits"),
    "deep.tif": (encoded(Image.fromarray(np.full((70, 70), 9000, ">u2")), "TIFF"), "16 bits"),
    "deep.pgm": (b"P5 70 70 1023\n" + struct.pack(">H", 511) * 4900, "16 bits"),
    "rgba.png": (encoded(quarters().convert("RGBA")), "transparent, now on white"),
    "turned.jpg": (encoded(quarters(), "JPEG", exif=turned()), "turned upright"),
    "broken exif.jpg": (with_broken_exif(), ""),
    "moving.gif": (
        encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]),
        "several frames, of which the first",
    ),
    "moving.webp": (
        encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]),
        "several frames, of which the first",
    ),
    "two at once.jpg": (
        encoded(FRAMES[0], "MPO", save_all=True, append_images=FRAMES[1:]),
        "several frames, of which the first",
    ),
    "really a jpeg.png": (PHOTO, "another format than its name says"),
    "no suffix": (PHOTO, "another format than its name says"),
    "UPPER.JPG": (PHOTO, ""),
    "пример 写真 é.jpg": (PHOTO, ""),
    "lab.tif": (encoded(Image.new("LAB", (70, 70)), "TIFF"), ""),
    "long.png": (encoded(quarters(4000, 64)), ""),
}
SKIPPED = {
    "tiny.png": (encoded(quarters(63, 200)), "smaller than 64x64"),
    "bomb.png": (png_of(50_000, 50_000), "over 89 million pixels"),
    "suspect.png": (png_of(12_000, 9_000), "over 89 million pixels"),
    "half.jpg": (PHOTO[: len(PHOTO) // 2], "truncated"),
    "half.png": (GOOD[: len(GOOD) // 2], "truncated"),
    "half.gif": (encoded(quarters(), "GIF")[:200], "truncated"),
    "broken.png": (with_broken_data(), "damaged"),
    "empty.jpg": (b"", "an empty file"),
    "readme.txt": (b"hello", "not a photograph"),
    "Thumbs.db": (bytes(500), "not a photograph"),
    "page.jpg": (b"<html>404</html>", "no image, in spite of its name"),
    "header.jpg": (PHOTO[:5], "no image, in spite of its name"),
    "telephone.heic": (
        b"\0\0\0\x18ftypheic" + bytes(99),
        "HEIC, which Pillow does not read: export it as JPEG",
    ),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "not a photograph"),
    "heights.tif": (
        encoded(Image.fromarray(np.ones((70, 70), np.float32)), "TIFF"),
        "numbers of unknown range",
    ),
    "depths.tif": (
        encoded(Image.fromarray(np.full((70, 70), -5, np.int32)), "TIFF"),
        "numbers of unknown range",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_an_odd_photograph_is_kept_and_noted(name, tmp_path):
    content, note = KEPT[name]
    fill(tmp_path / "in", {name: content})
    report = prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert (report.found, report.kept, report.skipped) == (1, 1, {})
    assert note in report.notes if note else not report.notes
    assert open_prepared(tmp_path / "out").names == [name]


@pytest.mark.parametrize("name", SKIPPED)
def test_an_unusable_file_is_skipped_and_counted(name, tmp_path):
    content, reason = SKIPPED[name]
    fill(tmp_path / "in", {name: content, "good.png": GOOD})
    report = prepare(tmp_path / "in", tmp_path / "out", workers=1)
    assert (report.found, report.kept, report.skipped) == (2, 1, {reason: 1})
    assert open_prepared(tmp_path / "out").names == ["good.png"]


def test_a_folder_with_all_of_them_adds_up(tmp_path, capsys):
    files = {name: content for name, (content, _) in (KEPT | SKIPPED).items()}
    files |= {f"{folder}/same.png": numbered(i) for i, folder in enumerate(("a", "b", "b/c"))}
    fill(tmp_path / "in", files)
    report = prepare(tmp_path / "in", tmp_path / "out", workers=2)
    assert report.found == len(files) and report.kept == len(KEPT) + 3
    assert report.kept + sum(report.skipped.values()) == report.found
    for _, reason in SKIPPED.values():
        assert report.skipped[reason] == sum(reason == other for _, other in SKIPPED.values())
        assert f"{report.skipped[reason]}  of them: {reason}" in str(report)
    pixels, names, _ = open_prepared(tmp_path / "out")
    assert names == sorted({*KEPT, "a/same.png", "b/same.png", "b/c/same.png"}) and len(pixels) == len(names)
    assert [pixels[names.index(f"{folder}/same.png"), 0, 9, 9] for folder in ("a", "b", "b/c")] == [0, 1, 2]
    for name, row in zip(names, pixels, strict=True):
        content = files[name]
        assert np.array_equal(row, develop(content, name)[0])
    key = (tmp_path / "out" / "current").read_text()
    lines = photographs.read_journal(tmp_path / "out" / key / "files.jsonl")
    assert [line["name"] for line in lines] == sorted(files)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows makes links and pipes in other ways")
def test_links_pipes_and_what_cannot_be_read(tmp_path, monkeypatch):
    folder = fill(tmp_path / "in", {"good.png": GOOD, "sub/good.png": GOOD, "closed.png": GOOD})
    fill(tmp_path / "elsewhere", {"inside.png": GOOD})
    (folder / "link.png").symlink_to(folder / "good.png")
    (folder / "broken.png").symlink_to(folder / "gone.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "folder").symlink_to(tmp_path / "elsewhere")
    (folder / "huge.png").touch()
    os.truncate(folder / "huge.png", photographs.MAX_BYTES + 1)
    os.mkfifo(folder / "pipe.jpg")
    os.close(os.open(os.fsencode(folder) + b"/bad\xff.png", os.O_CREAT | os.O_WRONLY))
    whole = Path.read_bytes

    def read_bytes(path):  # root may read everything
        if path.name == "closed.png":
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    report = prepare(folder, tmp_path / "out", workers=1)
    assert open_prepared(tmp_path / "out").names == ["good.png", "link.png", "sub/good.png"]
    assert report.skipped == {
        "a link to a folder": 2,
        "a broken link": 2,
        "an empty file": 1,
        "cannot be read": 1,
        "not a regular file": 1,
        "over 200 MB": 1,
    }


def test_a_folder_that_cannot_be_listed_is_counted(tmp_path, monkeypatch):
    folder = fill(tmp_path / "in", {"good.png": GOOD, "closed/lost.png": GOOD})
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert prepare(folder, tmp_path / "out").skipped == {"a folder that cannot be listed": 1}


def test_a_source_that_goes_away_stops_the_preparation(tmp_path, monkeypatch):
    source, found = fill(tmp_path / "in", {"a.png": GOOD, "b.png": GOOD}), photographs.list_source

    def then_gone(source):
        files = found(source)
        (source / "b.png").unlink()
        return files

    monkeypatch.setattr(photographs, "list_source", then_gone)
    with pytest.raises(PhotographError, match=r"b\.png is gone.*Run the same again"):
        prepare(source, tmp_path / "out")
    monkeypatch.undo()
    assert prepare(source, tmp_path / "out").kept == 1


def test_too_little_memory_is_counted(tmp_path, monkeypatch):
    def starved(image):
        raise MemoryError

    monkeypatch.setattr(photographs, "to_rgb", starved)
    with pytest.raises(PhotographError, match="not enough memory"):
        prepare(fill(tmp_path / "in", {"a.png": GOOD}), tmp_path / "out")


def test_a_zip_with_odd_members(tmp_path, recwarn):
    path = tmp_path / "a.zip"
    files = {"val/a.png": numbered(1), "val/é.png": numbered(2), "val/bad.png": GOOD, "val/none.png": b""}
    zipped(path, files | {"val/": b""})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("val/a.png", numbered(3))
    content = path.read_bytes()
    path.write_bytes(content.replace(GOOD, GOOD[:-9] + bytes([GOOD[-9] ^ 1]) + GOOD[-8:]))
    report = prepare(path, tmp_path / "out")
    assert report.skipped == {
        "replaced further on in the zip": 1,
        "damaged in the zip": 1,
        "an empty file": 1,
    }
    pixels, names, _ = open_prepared(tmp_path / "out")
    assert names == ["val/a.png", "val/é.png"] and pixels[:, 0, 9, 9].tolist() == [3, 2]


def test_an_encrypted_member_is_counted(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.png": GOOD, "b.png": GOOD})
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # the flag, in the directory
    path.write_bytes(content)
    assert prepare(path, tmp_path / "out").skipped == {"encrypted": 1}


# What comes back --------------------------------------------------------------------------------------


def test_the_array_stays_on_the_disk_and_cannot_be_written(tmp_path):
    fill(tmp_path / "in", {f"{i:03d}.png": numbered(i) for i in range(300)})
    prepare(tmp_path / "in", tmp_path / "out")
    pixels, names, captions = open_prepared(tmp_path / "out")
    assert isinstance(pixels, np.memmap) and pixels.shape == (300, 3, 64, 64) and pixels.dtype == np.uint8
    assert [int(name[:3]) for name in names] == (
        pixels[:, 0, 0, 0] + 256 * pixels[:, 1, 0, 0].astype(int)
    ).tolist()
    assert captions == {}
    with pytest.raises(ValueError, match="read-only"):
        pixels[0] = 0
    copy = torch.from_numpy(np.load(pixels.filename, mmap_mode="c"))
    assert copy.shape == (300, 3, 64, 64) and torch.equal(copy[7], torch.tensor(pixels[7]))


def test_another_size(tmp_path):
    fill(tmp_path / "in", {"a.png": GOOD})
    assert open_prepared(prepare_to(tmp_path, size=32)).pixels.shape == (1, 3, 32, 32)
    assert open_prepared(prepare_to(tmp_path, size=64)).pixels.shape == (1, 3, 64, 64)


def prepare_to(folder: Path, **options) -> Path:
    """Prepares folder/in into folder/out, which is returned."""
    prepare(folder / "in", folder / "out", **options)
    return folder / "out"


def test_headers_are_as_long_for_every_number():
    assert len({len(photographs.npy_header(n, 64)) for n in (0, 9, 10**5, 10**9)}) == 1


@pytest.fixture
def developed(monkeypatch) -> list[str]:
    """The names of the files that were really opened."""
    names, whole = [], photographs.develop

    def counting(content, name, size):
        names.append(name)
        return whole(content, name, size)

    monkeypatch.setattr(photographs, "develop", counting)
    return names


def test_a_finished_array_is_reused_and_another_source_replaces_it(tmp_path, developed):
    source = fill(tmp_path / "in", {"a.png": numbered(1), "b.png": numbered(2)})
    first = prepare(source, tmp_path / "out")
    assert prepare(source, tmp_path / "out") == first and len(developed) == 2
    source.rename(tmp_path / "other name")
    prepare(tmp_path / "other name", tmp_path / "out")
    assert len(developed) == 2  # the same files under another name
    fill(source, {"a.png": numbered(3), "b.png": numbered(4)})
    prepare(source, tmp_path / "out")
    assert len(developed) == 4  # other files under the same name
    assert open_prepared(tmp_path / "out").pixels[:, 0, 0, 0].tolist() == [3, 4]
    assert len([path for path in (tmp_path / "out").iterdir() if path.is_dir()]) == 1
    (source / "c.png").write_bytes(numbered(5))
    assert prepare(source, tmp_path / "out").kept == 3
    os.utime(source / "c.png", (1, 1))
    prepare(source, tmp_path / "out")
    assert len(developed) == 4 + 3 + 3


def test_a_zip_is_known_by_its_content(tmp_path, developed):
    files = {"a.png": numbered(1), "b.png": numbered(2)}
    prepare(zipped(tmp_path / "a.zip", files), tmp_path / "out")
    zipped(tmp_path / "b.zip", files)
    os.utime(tmp_path / "b.zip", (1, 1))
    prepare(tmp_path / "b.zip", tmp_path / "out")
    assert len(developed) == 2
    prepare(zipped(tmp_path / "a.zip", files | {"b.png": numbered(3)}), tmp_path / "out")
    assert len(developed) == 4


def test_the_source_may_go_once_it_is_prepared(tmp_path):
    fill(tmp_path / "in", {"a.png": GOOD})
    out = prepare_to(tmp_path)
    (tmp_path / "in" / "a.png").unlink()
    assert len(open_prepared(out).pixels) == 1


# Kills, interrupts, two at once -------------------------------------------------------------------------

SLOWLY = """
import sys, time
from course_utils import photographs
whole = photographs.develop
def slow(content, name, size):
    time.sleep(0.02)
    return whole(content, name, size)
photographs.develop, photographs.CHUNK = slow, 4
print("ready", flush=True)
print(photographs.prepare(sys.argv[1], sys.argv[2], workers=2).developed)
"""


def start_slowly(source: Path, target: Path) -> subprocess.Popen:
    """Another process that prepares 100 photographs a second."""
    command = [sys.executable, "-c", SLOWLY, source, target]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, cwd=photographs.__file__.rsplit("course_utils", 1)[0]
    )


def wait_for_lines(target: Path, n: int) -> None:
    """Until the journal of a preparation has so many lines."""
    deadline = time.monotonic() + 30
    while sum(path.read_bytes().count(b"\n") for path in target.glob("*.part/files.jsonl")) < n:
        assert time.monotonic() < deadline, "the preparation does not get on"
        time.sleep(0.005)


def many(folder: Path, n: int = 200) -> Path:
    files = {f"{i:03d}.png": numbered(i) for i in range(n)}
    return fill(folder, files | {"050.png": b"", "051.png": b"no", "052.png": GOOD[:200]})


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_stopped_preparation_goes_on(signal_name, tmp_path, developed):
    source = many(tmp_path / "in")
    process = start_slowly(source, tmp_path / "out")
    wait_for_lines(tmp_path / "out", 80)
    process.send_signal(getattr(signal, signal_name))
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0
    with pytest.raises(PhotographError, match="Nothing is prepared"):
        open_prepared(tmp_path / "out")
    if signal_name == "SIGINT":
        assert "of 200 files; run the same again to go on." in out and out.count("\n") == 2
        assert "KeyboardInterrupt" in err.splitlines()[-1]
    report = prepare(source, tmp_path / "out")
    assert report.developed <= 120 and len(developed) <= 120
    assert (report.found, report.kept) == (200, 197)
    prepare(source, tmp_path / "at once")
    stopped, at_once = open_prepared(tmp_path / "out"), open_prepared(tmp_path / "at once")
    assert np.array_equal(stopped.pixels, at_once.pixels) and stopped.names == at_once.names


@pytest.mark.parametrize("cut_pixels, cut_journal", [(0, 20), (5000, 0), (20_000, 3), (10**9, 0), (0, 10**9)])
def test_what_was_half_written_is_done_again(cut_pixels, cut_journal, tmp_path, monkeypatch):
    source, out = many(tmp_path / "in"), tmp_path / "out"
    whole = open_prepared(prepare_to(tmp_path))
    pixels, names = np.array(whole.pixels), whole.names
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    part = folder.rename(folder.with_name(folder.name + ".part"))
    del whole
    for name, cut in (("pixels.npy", cut_pixels), ("files.jsonl", cut_journal)):
        os.truncate(part / name, max(0, (part / name).stat().st_size - cut))
    report = prepare(source, out)
    assert (report.found, report.kept) == (200, 197)
    assert np.array_equal(open_prepared(out).pixels, pixels) and open_prepared(out).names == names


def test_two_processes_at_once_prepare_it_once(tmp_path):
    source = many(tmp_path / "in", 60)
    processes = [start_slowly(source, tmp_path / "out") for _ in range(2)]
    texts = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert [out.splitlines()[-1] for out, _ in texts] == [
        "60",
        "60",
    ]  # both have the report of the one that worked
    waited = "Another process is preparing these photographs; waiting for it."
    assert sum(waited in out for out, _ in texts) == 1
    assert len(open_prepared(tmp_path / "out").names) == 57


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


def test_a_full_disk_stops_it_and_it_goes_on(tmp_path, monkeypatch, developed):
    monkeypatch.setattr(photographs, "CHUNK", 16)
    source = many(tmp_path / "in")
    with (
        small_disk(1_000_000),
        pytest.raises(PhotographError, match=r"could not be written.*\nFree some space"),
    ):
        prepare(source, tmp_path / "out")
    assert 60 < len(developed) < 120
    assert prepare(source, tmp_path / "out").kept == 197 and len(developed) < 230


def test_the_disk_is_asked_first(tmp_path, monkeypatch, developed):
    monkeypatch.setattr(photographs, "SPARE_BYTES", 10**15)
    fill(tmp_path / "in", {"a.png": GOOD})
    with pytest.raises(
        PhotographError, match=r"not enough space in .* are free, and the array of photographs"
    ):
        prepare_to(tmp_path)
    assert not developed


# Wrong sources ------------------------------------------------------------------------------------------


def test_wrong_sources_say_what_to_do(tmp_path):
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "texts", {"a.txt": b"a", "b.txt": b""})
    fill(tmp_path / "photos", {"a.png": GOOD})
    broken = zipped(tmp_path / "a.zip", {"a.png": GOOD})
    os.truncate(broken, 100)
    for source, message in {
        "missing": "does not exist; give a folder",
        "empty": "There are no files in",
        "texts": "There is no photograph in .*(\n.*)+not a photograph",
        "a.zip": "neither a folder nor a whole zip",
        "photos/a.png": "neither a folder nor a whole zip",
    }.items():
        with pytest.raises(PhotographError, match=message):
            prepare(tmp_path / source, tmp_path / "out")
    with pytest.raises(PhotographError, match="choose a folder outside"):
        prepare(tmp_path / "photos", tmp_path / "photos" / "out")
    with pytest.raises(PhotographError, match="could not be written"):
        prepare(tmp_path / "photos", tmp_path / "texts" / "a.txt" / "out")
    with pytest.raises(PhotographError, match="Nothing is prepared"):
        open_prepared(tmp_path / "out")


def test_a_damaged_array_is_not_handed_out(tmp_path):
    fill(tmp_path / "in", {"a.png": GOOD})
    out = prepare_to(tmp_path)
    (pixels,) = out.glob("*/pixels.npy")
    os.truncate(pixels, 500)
    with pytest.raises(PhotographError, match=r"damaged.*delete it"):
        open_prepared(out)


# Captions -----------------------------------------------------------------------------------------------

# pickle.dumps({"a": ["one ", "two"], "b": ("drei",)}) of protocols 0, 2 and 4, and {"a": ["é"]} from Python 2
PICKLES = [
    b"(dp0\nVa\np1\n(lp2\nVone \np3\naVtwo\np4\nasVb\np5\n(Vdrei\np6\ntp7\ns.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(X\x04\x00\x00\x00one q\x03X\x03\x00\x00\x00twoq\x04e"
    b"X\x01\x00\x00\x00bq\x05X\x04\x00\x00\x00dreiq\x06\x85q\x07u.",
    b"\x80\x04\x95'\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(\x8c\x04one \x94\x8c\x03two\x94e"
    b"\x8c\x01b\x94\x8c\x04drei\x94\x85\x94u.",
]
PYTHON_2 = b"(dp0\nS'a'\np1\n(lp2\nU\x02\xc3\xa9p3\nas."
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": "c.jpg"}],
    "annotations": [
        {"image_id": 7, "caption": "A dog.\n"},
        {"image_id": 8, "caption": "A cat."},
        {"image_id": 7, "caption": "A wet dog."},
    ],
}


def test_captions_of_every_form():
    assert parse_captions("captions_val2017.json", json.dumps(COCO).encode()) == {
        "a": ["A dog.", "A wet dog."],
        "c": ["A cat."],
    }
    plain = {"a": ["one ", "two"], "b": "drei"}
    assert parse_captions("x.json", json.dumps(plain).encode()) == {"a": ["one", "two"], "b": ["drei"]}
    for content in PICKLES:
        assert parse_captions("x.pkl", content) == {"a": ["one", "two"], "b": ["drei"]}
    assert parse_captions("x.pkl", PYTHON_2) == {"a": ["é"]}
    assert read_plain_pickle(b"(K\x01M\x01\x02J\x01\x00\x00\x00I5\nL6L\n\x8a\x01\x07t.") == (
        1,
        513,
        1,
        5,
        6,
        7,
    )


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(S'echo pwned > pwned'\ntR.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
        b"(S'true'\nios\nsystem\n.",
        b"\x80\x02}q\x00K\x01}q\x01sb.",
        b"P1\n.",
        b"\x82\x01.",
        PICKLES[1][:40],
        b"0000.",
        b"u.",
        b"]K\x01K\x02s.",
        b"",
    ],
)
def test_a_pickle_of_anything_else_is_refused_and_not_run(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"pickle|opcode|not enough|exhausted"):
        parse_captions("x.pkl", content)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["[1]", "3", '{"a": 5}', '{"a": [5]}', "{", '{"annotations": [{}], "images": []}']
)
def test_captions_of_no_form_are_refused(text):
    with pytest.raises(ValueError):
        parse_captions("x.json", text.encode())


def test_the_archive_of_the_class_keeps_its_captions(tmp_path):
    source = fill(
        tmp_path / "in",
        {
            "train2014/a.jpg": encoded(quarters(64, 64), "JPEG"),
            "val2014/b.jpg": encoded(quarters(64, 64), "JPEG"),
            "val2014/c.jpg": encoded(quarters(64, 64), "JPEG"),
            "dict_key_imgID_value_caps_train_and_valid.pkl": PICKLES[1],
        },
    )
    report = prepare(source, tmp_path / "out")
    assert (report.kept, report.captions, report.remarks) == (3, 2, [])
    names, captions = open_prepared(tmp_path / "out")[1:]
    assert names == ["train2014/a.jpg", "val2014/b.jpg", "val2014/c.jpg"]
    assert captions == {"train2014/a.jpg": ["one", "two"], "val2014/b.jpg": ["drei"]}


def test_captions_from_elsewhere_and_from_a_zip_of_them(tmp_path):
    source = zipped(tmp_path / "val.zip", {"val2017/a.jpg": PHOTO, "val2017/b.jpg": PHOTO})
    notes = zipped(tmp_path / "notes.zip", {"annotations/captions_val2017.json": json.dumps(COCO).encode()})
    assert prepare(source, tmp_path / "out").captions == 0
    assert prepare(source, tmp_path / "out", captions=notes).captions == 1
    assert open_prepared(tmp_path / "out").captions == {"val2017/a.jpg": ["A dog.", "A wet dog."]}
    for wrong in (tmp_path / "missing.json", source):
        with pytest.raises(PhotographError, match=r"cannot be used: .*Give COCO's"):
            prepare(source, tmp_path / "out", captions=wrong)


def test_captions_that_cannot_be_read_cost_no_photographs(tmp_path):
    bad = {"captions.json": b"{", "dict_key_imgID_value_caps.pkl": b"cos\nsystem\n."}
    source = fill(tmp_path / "in", {"a.png": GOOD, **bad})
    report = prepare(source, tmp_path / "out")
    assert report.kept == 1 and len(report.remarks) == 2
    assert "dict_key_imgID_value_caps.pkl are not used: the pickle holds more than plain data" in str(report)


# Downloading --------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Serves one file; the server's `faults` say what goes wrong, each as long as it stands there."""

    def do_HEAD(self):
        if "404" in self.server.faults:
            self.send_error(404)
            return
        self.send_response(200)
        if "no size" not in self.server.faults:
            self.send_header(
                "Content-Length", str(len(self.server.body) + 100 * ("more" in self.server.faults))
            )
        self.send_header("ETag", self.server.etag)
        self.end_headers()

    def do_GET(self):
        body, faults = self.server.body, self.server.faults
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.server.starts.append(start)
        if "refuses" in faults:
            return self.send_error(503)
        if start and "no range" not in faults:
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "cut once" in faults:
            faults.remove("cut once")
            body = body[: len(body) // 2]
        if "cuts" in faults:
            body = body[: len(body) // 3]
        if "altered" in faults:
            body = body.replace(b"IDAT", b"IDAX")
        if "garbled" in faults:
            body = body[:100] + bytes(200_000) + body[200_100:]
        self.wfile.write(body)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine, with .url of a zip of 20 photographs."""
    monkeypatch.setattr(photographs, "RETRY_SECONDS", 0.01)
    files = {f"val/{i}.png": numbered(i) for i in range(20)} | {"val/noise.bin": os.urandom(300_000)}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads, server.faults, server.starts, server.etag = True, [], [], '"1"'
    server.body = zipped(tmp_path / "served.zip", files).read_bytes()
    server.url = f"http://127.0.0.1:{server.server_address[1]}/zips/val.zip"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_zip_is_downloaded_once_and_prepared(server, tmp_path):
    path = fetch(server.url, tmp_path / "down", yes=True)
    assert path.name == "val.zip" and path.read_bytes() == server.body
    assert fetch(server.url, tmp_path / "down") == path and server.starts == [0]
    assert {file.name for file in path.parent.iterdir()} <= {"val.zip", "val.zip.lock"}
    assert prepare(path, tmp_path / "out").kept == 20


def test_a_cut_download_goes_on_by_itself(server, tmp_path):
    server.faults.append("cut once")
    path = fetch(server.url, tmp_path, yes=True)
    assert path.read_bytes() == server.body and server.starts == [0, len(server.body) // 2]


def test_a_server_that_cuts_every_time_is_outlasted(server, tmp_path):
    server.faults += ["cuts"]
    with pytest.raises(PhotographError, match=r"stopped after .* Run the same again and it goes on"):
        fetch(server.url, tmp_path, yes=True)  # ever smaller thirds, until one is empty
    server.faults.clear()
    n = len(server.starts)
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts[n] > len(server.body) * 0.9


def test_no_range_means_from_the_beginning(server, tmp_path):
    server.faults += ["cut once", "no range"]
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts == [0, len(server.body) // 2]


def test_a_changed_file_is_not_glued_to_the_old_one(server, tmp_path):
    server.faults.append("cuts")
    with pytest.raises(PhotographError, match="goes on from there"):
        fetch(server.url, tmp_path, yes=True)
    server.faults.clear()
    server.starts.clear()
    server.etag, server.body = '"2"', server.body[::-1][:22] + server.body[22:]
    with pytest.raises(PhotographError, match="altered"):  # it is no zip, but it is all of one piece
        fetch(server.url, tmp_path, yes=True)
    assert server.starts == [0]


@pytest.mark.parametrize(
    "fault, message",
    [
        ("404", "cannot be had: HTTP Error 404.*Check the address"),
        ("no size", "does not say how big it is"),
        ("more", "announced .* bytes, then"),
        ("refuses", "stopped after 0 kB of .*503"),
        ("garbled", "arrived altered and was deleted"),
        ("altered", "arrived altered and was deleted"),
    ],
)
def test_a_faulty_server_leaves_no_zip_and_a_message(fault, message, server, tmp_path):
    server.faults.append(fault)
    with pytest.raises(PhotographError, match=message):
        fetch(server.url, tmp_path / "down", yes=True)
    assert not (tmp_path / "down" / "val.zip").exists()
    server.faults.clear()
    assert fetch(server.url, tmp_path / "down", yes=True).read_bytes() == server.body


def test_the_checksum_counts_where_it_is_known(server, tmp_path):
    right = hashlib.md5(server.body).hexdigest()
    with pytest.raises(PhotographError, match="altered"):
        fetch(server.url, tmp_path, md5="0" * 32, yes=True)
    assert fetch(server.url, tmp_path, md5=right, yes=True).read_bytes() == server.body


def test_the_size_is_shown_and_asked(server, tmp_path, monkeypatch, capsys):
    for answer in ("n", ""):
        monkeypatch.setattr("builtins.input", lambda _, answer=answer: answer)
        with pytest.raises(PhotographError, match=r"Nothing was downloaded.*--yes"):
            fetch(server.url, tmp_path)
    assert re.search("has 30[56] kB, of which 30[56] kB are to be downloaded", capsys.readouterr().out)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert server.starts == [] and fetch(server.url, tmp_path).is_file()


def test_nobody_to_ask_is_a_no(server, tmp_path, monkeypatch):
    def closed(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    with pytest.raises(PhotographError, match="--yes"):
        fetch(server.url, tmp_path)


def test_a_full_disk_stops_the_download_and_it_goes_on(server, tmp_path):
    with (
        small_disk(200_000),
        pytest.raises(PhotographError, match=r"could not be written.*\nFree some space"),
    ):
        fetch(server.url, tmp_path / "down", yes=True)
    assert len(server.starts) == 1  # it does not try again
    assert fetch(server.url, tmp_path / "down", yes=True).read_bytes() == server.body
    assert server.starts[1] > 100_000


def test_the_disk_is_asked_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "SPARE_BYTES", 10**15)
    with pytest.raises(PhotographError, match="not enough space"):
        fetch(server.url, tmp_path, yes=True)
    assert not server.starts


def test_an_interrupted_download_says_so_in_one_line(server, tmp_path, monkeypatch, capsys):
    def interrupted(answer):
        yield answer.read(1000)
        raise KeyboardInterrupt

    monkeypatch.setattr(photographs, "blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, tmp_path, yes=True)
    said = capsys.readouterr().out
    assert re.fullmatch(r"Interrupted after 1 kB of 30\d kB; run the same again to go on.\n", said)
    monkeypatch.undo()
    assert fetch(server.url, tmp_path, yes=True).read_bytes() == server.body
    assert server.starts == [0, 1000]


def test_addresses_that_cannot_work(tmp_path):
    for url in ("file:///etc/passwd", "val.zip", "http://127.0.0.1:9/val.zip"):
        with pytest.raises(PhotographError, match="Check the address and the network"):
            fetch(url, tmp_path, yes=True)


# Real photographs ---------------------------------------------------------------------------------------


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
