"""Photographs from folders and zips: odd files are kept or counted, a kill or fault costs a moment."""

import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_photographs import GOOD, PHOTO, encoded, fill, numbered, quarters, small_disk, zipped
from PIL import Image

from course_utils import developing, fetching, photographs
from course_utils.developing import develop
from course_utils.fetching import PhotographError
from course_utils.photographs import open_prepared, prepare

# Odd files: the name, what is in it, and what becomes of it ---------------------------------------


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

    monkeypatch.setattr(developing, "to_rgb", starved)
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


# What comes back ----------------------------------------------------------------------------------


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


# Kills, interrupts, two at once -------------------------------------------------------------------


# It holds at file 100 until it may go on: how fast a machine is must not decide what a test sees.
# Who starts the tests in the background of a shell has them ignore Ctrl-C; a preparation must not.
HELD = """
import pathlib, signal, sys, time
from course_utils import photographs
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.alarm(60)
whole, may_go_on = photographs.develop, pathlib.Path(sys.argv[3])
def held(content, name, size):
    while name >= "100" and not may_go_on.exists():
        time.sleep(0.01)
    return whole(content, name, size)
photographs.develop, photographs.CHUNK = held, 4
print("ready", flush=True)
print(photographs.prepare(sys.argv[1], sys.argv[2], workers=2).developed)
"""


def start_held(source: Path, target: Path, may_go_on: Path) -> subprocess.Popen:
    """Another process that prepares photographs, and waits at file 100 for the file `may_go_on`."""
    command = [sys.executable, "-c", HELD, source, target, may_go_on]
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
    process = start_held(source, tmp_path / "out", tmp_path / "go on")
    wait_for_lines(tmp_path / "out", 80)
    process.send_signal(getattr(signal, signal_name))
    (tmp_path / "go on").touch()  # what is being developed is ended, and nothing more
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
    source = many(tmp_path / "in", 120)
    first = start_held(source, tmp_path / "out", tmp_path / "go on")
    wait_for_lines(tmp_path / "out", 80)
    second = start_held(source, tmp_path / "out", tmp_path / "go on")
    waiting = "Another process is preparing these photographs; waiting for it.\n"
    assert [second.stdout.readline() for _ in range(2)] == ["ready\n", waiting]
    (tmp_path / "go on").touch()
    texts = [process.communicate(timeout=30) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], texts
    # Both have the report of the one that worked.
    assert [out for out, _ in texts] == ["ready\n120\n", "120\n"]
    assert len(open_prepared(tmp_path / "out").names) == 117


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
    monkeypatch.setattr(fetching, "SPARE_BYTES", 10**15)
    fill(tmp_path / "in", {"a.png": GOOD})
    with pytest.raises(
        PhotographError, match=r"not enough space in .* are free, and the array of photographs"
    ):
        prepare_to(tmp_path)
    assert not developed


# Wrong sources ------------------------------------------------------------------------------------


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
