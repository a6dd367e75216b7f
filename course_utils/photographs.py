"""Photographs of any kind, from a folder or a zip, as one uint8 array (N, 3, 64, 64) that stays on the disk.

    report = prepare("holiday", "data/prepared")            a folder, a zip, the archive of the 2017 class
    pixels, names, captions = open_prepared("data/prepared")
    fetch(url, "data/downloads")                            a zip from the web, resumed where it broke off

Every file that is found is either kept or skipped, and the report counts it with the reason. Each photograph
is turned upright, its central square cut out and scaled down to 64x64.

A prepared folder looks like this; its files are written beside, under KEY.part, and renamed at the end:

    current             the KEY of the array that holds now
    KEY/pixels.npy      (N, 3, 64, 64) uint8
    KEY/files.jsonl     a line for each file found, in order: kept, or why not
    KEY/captions.json   {name: [caption, ...]}, for the photographs that have any
    KEY/report.json     the counts

KEY says what is in the source, whatever its name: relative names, sizes, and for a zip the CRCs in its
directory, for a folder the times of last change. Checksums of 118,000 files would take minutes at each start.
"""

import contextlib
import hashlib
import io
import json
import os
import pickletools
import re
import shutil
import stat
import time
import urllib.request
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from functools import cache
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from filelock import FileLock, Timeout
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm.auto import tqdm

VERSION = 1  # part of every KEY: raise it when the same photograph would give other pixels
CHUNK = 256  # files between two entries in the journal; what a kill may cost
MAX_BYTES = 200_000_000  # of one file
MAX_PIXELS = 89_478_485  # of one photograph; where Pillow begins to suspect a decompression bomb
SPARE_BYTES = 64_000_000  # to be left free on the disk
CONNECT_SECONDS = 5
STALL_SECONDS = 20  # for the next bytes of a download
RETRY_SECONDS = 1
RETRIES = 3  # in a row that bring nothing
# All that cameras and the web write. Not EPS, for which Pillow starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # what undoes each orientation that EXIF knows
CAPTION_FILES = ("captions*.json", "dict_key_imgID_value_caps*.pkl")  # COCO's and the 2017 archive's names


class PhotographError(RuntimeError):
    """The photographs cannot be had; the message says what to do."""


class Refused(Exception):
    """One file gives no photograph: the reason, which the report counts, and a detail for the journal."""

    def __init__(self, reason: str, detail: object = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, str(detail)


class Report(NamedTuple):
    """What became of the files found in a source; found = kept + all of skipped."""

    source: str
    found: int
    kept: int
    notes: dict[str, int]  # of those kept: how many were grey, turned, ...; one may count twice
    skipped: dict[str, int]  # reason -> files
    captions: int  # photographs that have captions
    remarks: list[str]  # what else to know
    developed: int  # files read in the last run, which took `seconds`; fewer than `found` if it resumed
    seconds: float

    def __str__(self) -> str:
        lines = [(self.found, f"files found in {self.source}"), (self.kept, "kept")]
        lines += [(n, f"of them: {note}") for note, n in self.notes.items()]
        lines += [(sum(self.skipped.values()), "skipped")] if self.skipped else []
        lines += [(n, f"of them: {reason}") for reason, n in self.skipped.items()]
        lines += [(self.captions, "with captions")] if self.captions else []
        lines += [(round(self.developed / self.seconds), "photographs per second")] if self.seconds else []
        return "\n".join([f"{n:>9,}  {text}" for n, text in lines] + self.remarks)


class Prepared(NamedTuple):
    """The photographs of a prepared folder, in the order of their names."""

    pixels: np.memmap  # (N, 3, size, size) uint8, read-only, read from the disk as it is used
    names: list[str]  # N paths relative to the source, with "/" between folders
    captions: dict[str, list[str]]  # name -> captions, for the photographs that have any


# The whole --------------------------------------------------------------------------------------


def prepare(
    source: Path | str,
    target: Path | str,
    *,
    size: int = 64,
    workers: int | None = None,
    captions: Path | str | None = None,
) -> Report:
    """Turn the photographs in `source`, a folder or a zip, into one array in the folder `target`.

    Reuses what is there if it was made from the same files, goes on where a killed or interrupted run
    stopped, and replaces what came from another source. One process works at a time, the others wait.
    `captions` names a file of them (see `read_captions`); those within the source are found by themselves.
    `workers` are threads, by default one a core. Raises PhotographError with what to do.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    found = list_source(source)
    if target.resolve().is_relative_to(source.resolve()):
        raise PhotographError(f"The target {target} lies in the source {source}; choose a folder outside it.")
    key = fingerprint(found, size, captions)
    if not is_current(target, key):
        with disk_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            with one_process(target / ".lock", "preparing these photographs"):
                if not (target / key).is_dir():
                    prepare_anew(source, found, target / f"{key}.part", size, workers, captions)
                    os.replace(target / f"{key}.part", target / key)
                make_current(target, key)
    return read_report(target)


def open_prepared(folder: Path | str) -> Prepared:
    """What `prepare` left in this folder; the source need no longer exist. Raises PhotographError."""
    folder = Path(folder).expanduser()
    try:
        inside = folder / (folder / "current").read_text(encoding="ascii").strip()
        pixels = np.load(inside / "pixels.npy", mmap_mode="r")
        names = [line["name"] for line in read_journal(inside / "files.jsonl") if "skipped" not in line]
        captions = json.loads((inside / "captions.json").read_text(encoding="ascii"))
    except FileNotFoundError as error:
        raise PhotographError(f"Nothing is prepared in {folder}; prepare a folder or a zip first.") from error
    except ValueError as error:
        raise PhotographError(f"{folder} is damaged ({error}); delete it and prepare it again.") from error
    if len(pixels) != len(names):
        raise PhotographError(f"{folder} is damaged; delete it and prepare it again.")
    return Prepared(pixels, names, captions)


def read_report(folder: Path) -> Report:
    """The report of a prepared folder."""
    key = (folder / "current").read_text(encoding="ascii").strip()
    return Report(*json.loads((folder / key / "report.json").read_text(encoding="ascii")).values())


# What is in the source --------------------------------------------------------------------------


class Found(NamedTuple):
    """A file in the source, before it is opened."""

    name: str  # relative, with "/" between folders
    n_bytes: int
    stamp: int  # in a zip the CRC, in a folder the time of last change (ns)
    refusal: str  # why it need not be opened; "" if it is to be


def list_source(source: Path) -> list[Found]:
    """All files in a folder and those below it, or in a zip, by name. Raises PhotographError."""
    if source.is_dir():
        found = list_folder(source)
    elif not source.exists():
        raise PhotographError(f"{source} does not exist; give a folder of photographs or a zip of them.")
    elif not zipfile.is_zipfile(source):
        raise PhotographError(
            f"{source} is neither a folder nor a whole zip. Unpack an archive of another kind and give the "
            "folder; download a broken zip again."
        )
    else:
        with zipfile.ZipFile(source) as archive:
            found = list_zip(archive)
    if not found:
        raise PhotographError(f"There are no files in {source}; give a folder or a zip that has photographs.")
    return sorted(found)


def list_folder(folder: Path) -> list[Found]:
    """Links to files count as files; links to folders are not followed, since they may lead in circles."""
    found = []

    def not_listed(error: OSError) -> None:
        name = Path(error.filename).relative_to(folder).as_posix()
        found.append(Found(name, 0, 0, "a folder that cannot be listed"))

    for parent, folders, files in os.walk(folder, onerror=not_listed):
        prefix = Path(parent).relative_to(folder).as_posix()
        prefix = "" if prefix == "." else prefix + "/"
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        found += [Found(prefix + name, 0, 0, "a link to a folder") for name in links]
        found += [look_at(os.path.join(parent, name), prefix + name) for name in files]
    return found


def look_at(path: str, name: str) -> Found:
    """What the folder knows of a file. A pipe or a device is not opened: reading it might never end."""
    try:
        status = os.stat(path)
    except OSError:
        return Found(name, 0, 0, "a broken link" if os.path.islink(path) else "cannot be read")
    refusal = refuse_size(status.st_size) if stat.S_ISREG(status.st_mode) else "not a regular file"
    return Found(name, status.st_size, status.st_mtime_ns, refusal)


def list_zip(archive: zipfile.ZipFile) -> list[Found]:
    """A zip may hold a name twice; as when it is unpacked, the last one counts."""
    found = []
    for file in archive.infolist():
        refusal = refuse_size(file.file_size)
        refusal = "encrypted" if file.flag_bits & 1 else refusal
        refusal = "replaced further on in the zip" if archive.getinfo(file.filename) is not file else refusal
        if not file.is_dir():
            found.append(Found(file.filename, file.file_size, file.CRC, refusal))
    return found


def refuse_size(n_bytes: int) -> str:
    """Why a file of this size need not be opened, "" if it should."""
    return "an empty file" if n_bytes == 0 else f"over {MAX_BYTES // 10**6} MB" if n_bytes > MAX_BYTES else ""


def fingerprint(found: list[Found], size: int, captions: Path | str | None) -> str:
    """16 digits that change when a file comes, goes or changes. A copy has the same if it kept the times."""
    digest = hashlib.sha256(json.dumps([VERSION, size]).encode())
    for file in found:
        digest.update(json.dumps(file).encode())
    if captions is not None:
        path = os.path.realpath(Path(captions).expanduser())
        digest.update(json.dumps(look_at(path, path)).encode())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def reader(source: Path) -> Iterator[Callable[[str], bytes]]:
    """A function name -> content for the files of the source, which threads may call at once."""
    if source.is_dir():
        yield lambda name: (source / name).read_bytes()
    else:
        with zipfile.ZipFile(source) as archive:
            yield archive.read  # compares the CRC


# From a file to 64x64 pixels ----------------------------------------------------------------------


def develop(content: bytes, name: str = "", size: int = 64) -> tuple[np.ndarray, list[str]]:
    """A photograph's central square, upright and in RGB: uint8 (3, size, size), and what was odd about it.

    Transparent parts turn white, as on a page; 16-bit greys lose their lower 8 bits; of several frames the
    first is taken. One smaller than size x size is refused: enlarged, it would teach a model to blur. Colour
    profiles are ignored. Raises Refused.
    """
    image = identify(content, name)
    if min(image.size) < size:
        raise Refused(f"smaller than {size}x{size}", f"{image.width}x{image.height}")
    if image.width * image.height > MAX_PIXELS:
        raise Refused(f"over {MAX_PIXELS // 10**6} million pixels", f"{image.width}x{image.height}")
    try:
        # A JPEG comes out of its decoder at 1/2, 1/4 or 1/8, twice as fast. Twice the final size is left for
        # the filter, so COCO's differ by 44 dB or more from those filtered as a whole.
        drafted = image.draft(None, (2 * size, 2 * size))
        turned = image.format == "TIFF" and orientation(image) in UPRIGHT  # load() turns it, and forgets it
        image.load()  # before EXIF is asked for: that loads a PNG too, and a broken one is loaded only once
        notes = ["turned upright"] * turned + oddities(image, name)
        extent = drafted[1][2:] if drafted else image.size  # 425 rows at 1/2 are 212.5 of the 213 that came
        turn = UPRIGHT.get(orientation(image))
        image = to_rgb(image)
    except Refused:
        raise
    except Exception as error:  # the decoders raise whatever a broken file makes them stumble over
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        reason = "not enough memory" if isinstance(error, MemoryError) else reason
        raise Refused(reason, f"{type(error).__name__}: {error}") from error
    width, height = extent
    left, top = max(width - height, 0) / 2, max(height - width, 0) / 2
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, width - left, height - top))
    image = image if turn is None else image.transpose(turn)
    return np.asarray(image).transpose(2, 0, 1), notes  # (H, W, 3) -> (3, H, W)


def identify(content: bytes, name: str) -> Image.Image:
    """The image, not yet decoded; what it is follows from its content, not from its name. Raises Refused."""
    try:
        return Image.open(io.BytesIO(content), formats=readable_formats())
    except Image.DecompressionBombError as error:
        raise Refused(f"over {MAX_PIXELS // 10**6} million pixels", error) from error
    except UnidentifiedImageError as error:
        if content[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise Refused("HEIC, which Pillow does not read: export it as JPEG") from error
        promised = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
        reason = "no image, in spite of its name" if promised in FORMATS else "not a photograph"
        raise Refused(reason) from error
    except Exception as error:  # as in develop
        raise Refused("damaged", f"{type(error).__name__}: {error}") from error


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of FORMATS that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def oddities(image: Image.Image, name: str) -> list[str]:
    """What the report counts although the photograph is kept."""
    promised = Image.registered_extensions().get(PurePosixPath(name).suffix.lower())
    odd = {
        "grey": image.mode in ("1", "L", "LA") or image.mode.startswith("I"),
        "CMYK": image.mode == "CMYK",
        "a palette": image.mode in ("P", "PA"),
        "16 bits": image.mode.startswith("I"),
        "transparent, now on white": image.has_transparency_data,
        "turned upright": orientation(image) in UPRIGHT,
        "several frames, of which the first": getattr(image, "is_animated", False),
        "another format than its name says": promised != {"MPO": "JPEG"}.get(image.format, image.format),
    }
    return [note for note, is_so in odd.items() if is_so]


def orientation(image: Image.Image) -> int:
    """How the camera was held: EXIF's number, 1 if upright or unknown."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block raises anything, and the pixels may be good
        return 1


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB, transparent parts on white. Raises Refused for numbers of which none is known to be white."""
    if image.mode.startswith(("I", "F")):
        levels = np.asarray(image)
        if image.mode == "F" or levels.min() < 0 or levels.max() > 65_535:
            raise Refused("numbers of unknown range", image.mode)
        image = Image.fromarray((levels / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        page = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(page, image.convert("RGBA"))
    return image.convert("RGB")


# Preparing: a journal that a killed run goes on with ----------------------------------------------


def prepare_anew(
    source: Path, found: list[Found], part: Path, size: int, workers: int | None, captions: Path | str | None
) -> None:
    """Fill the folder `part` with pixels, journal, captions and report."""
    start = time.perf_counter()
    with reader(source) as read:
        by_stem, remarks = collect_captions(found, read, captions)
        developed = develop_all(found, read, part, size, workers)
    lines = read_journal(part / "files.jsonl")
    kept = [line for line in lines if "skipped" not in line]
    with_captions = {line["name"]: texts for line in kept if (texts := by_stem.get(stem(line["name"])))}
    report = Report(
        source=str(source.resolve()),
        found=len(lines),
        kept=len(kept),
        notes=dict(Counter(note for line in kept for note in line["notes"]).most_common()),
        skipped=dict(Counter(line["skipped"] for line in lines if "skipped" in line).most_common()),
        captions=len(with_captions),
        remarks=remarks,
        developed=developed,
        seconds=round(time.perf_counter() - start, 3),
    )
    if not kept:
        raise PhotographError(f"There is no photograph in {source}; give another folder or zip.\n{report}")
    with (part / "pixels.npy").open("r+b") as file:
        file.write(npy_header(len(kept), size))
    (part / "captions.json").write_text(json.dumps(with_captions), encoding="ascii")
    (part / "report.json").write_text(json.dumps(report._asdict(), indent=2), encoding="ascii")


def develop_all(
    found: list[Found], read: Callable[[str], bytes], part: Path, size: int, workers: int | None
) -> int:
    """Append all files that the journal in `part` lacks, in order; returns how many these were.

    Pillow decodes and filters without holding Python's lock, so threads are as fast as processes here.
    Pixels are written before the lines that speak of them: a line in the journal is a promise kept.
    """
    n_done, n_kept = resume(part, size)
    require_space(part, (len(found) - n_done) * 3 * size * size, "the array of photographs")
    readable_formats()  # not in two threads at once
    with (
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
        (part / "pixels.npy").open("r+b") as pixels,
        (part / "files.jsonl").open("ab") as journal,
        tqdm(total=len(found), initial=n_done, unit=" photographs", desc="preparing") as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # Pillow's, on broken files: the report counts those
        pixels.seek(len(npy_header(0, size)) + n_kept * 3 * size * size)
        start = n_done
        try:
            for start in range(n_done, len(found), CHUNK):
                chunk = found[start : start + CHUNK]
                rows = list(pool.map(lambda file: develop_file(file, read, size), chunk))
                pixels.write(b"".join(row for row, _ in rows))
                pixels.flush()
                os.fsync(pixels.fileno())
                journal.write(b"".join(json.dumps(line).encode() + b"\n" for _, line in rows))
                journal.flush()
                bar.update(len(chunk))
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            bar.close()
            print(f"Interrupted after {start:,} of {len(found):,} files; run the same again to go on.")
            raise
    return len(found) - n_done


def develop_file(file: Found, read: Callable[[str], bytes], size: int) -> tuple[bytes, dict]:
    """The pixels of a file as bytes, none if it is skipped, and its line in the journal.

    Raises PhotographError if the file has gone since it was found.
    """
    try:
        if file.refusal:
            raise Refused(file.refusal)
        try:
            content = read(file.name)
        except FileNotFoundError as error:  # a drive that is gone would otherwise count as 100,000 bad files
            raise PhotographError(
                f"{file.name} is gone; the source must stay as it is meanwhile. Run the same again."
            ) from error
        except OSError as error:
            raise Refused("cannot be read", error) from error
        except Exception as error:  # zipfile's many: a wrong CRC, an unknown compression, a broken stream
            raise Refused("damaged in the zip", error) from error
        pixels, notes = develop(content, file.name, size)
        return pixels.tobytes(), {"name": file.name, "notes": notes}
    except Refused as refused:
        return b"", {"name": file.name, "skipped": refused.reason, "detail": refused.detail}


def resume(part: Path, size: int) -> tuple[int, int]:
    """How many files the journal in `part` has, and how many of them were kept: 0 and 0 for a new one.

    Cuts off what was half-written when the last run was killed.
    """
    header, row = len(npy_header(0, size)), 3 * size * size
    part.mkdir(exist_ok=True)
    pixels, journal = part / "pixels.npy", part / "files.jsonl"
    if not pixels.exists() or pixels.stat().st_size < header:
        pixels.write_bytes(npy_header(0, size))
        journal.write_bytes(b"")
    room, n_kept, whole = (pixels.stat().st_size - header) // row, 0, []
    for line in journal.read_bytes().splitlines(keepends=True):
        is_kept = line.endswith(b"}\n") and "skipped" not in json.loads(line)
        if not line.endswith(b"}\n") or n_kept + is_kept > room:
            break
        n_kept += is_kept
        whole.append(line)
    os.truncate(journal, sum(len(line) for line in whole))
    os.truncate(pixels, header + n_kept * row)
    return len(whole), n_kept


def read_journal(path: Path) -> list[dict]:
    """The lines of files.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def npy_header(n: int, size: int) -> bytes:
    """The header of a .npy file of n photographs; numpy pads it, so that it is as long for every n."""
    header = io.BytesIO()
    shape = (n, 3, size, size)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def is_current(target: Path, key: str) -> bool:
    """Is the array with this key prepared and the one that holds?"""
    try:
        return (target / "current").read_text(encoding="ascii") == key and (target / key).is_dir()
    except OSError:
        return False


def make_current(target: Path, key: str) -> None:
    """Let this array hold, then remove those of other sources, also half-prepared ones."""
    (target / "current.part").write_text(key, encoding="ascii")
    os.replace(target / "current.part", target / "current")
    for other in target.iterdir():
        if re.fullmatch(r"[0-9a-f]{16}(\.part)?", other.name) and other.name != key:
            shutil.rmtree(other, ignore_errors=True)  # Windows keeps what is still mapped


@contextlib.contextmanager
def one_process(path: Path, task: str) -> Iterator[None]:
    """One process at a time; the others say what they wait for."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"Another process is {task}; waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, as a PhotographError with what to do."""
    try:
        yield
    except OSError as error:
        raise PhotographError(
            f"{folder} could not be written: {error}.\nFree some space, or choose a folder that may be "
            "written; run the same again and it goes on where it stopped."
        ) from error


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Raises PhotographError unless the disk can take so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes + SPARE_BYTES:
        raise PhotographError(
            f"There is not enough space in {folder}: {in_words(free)} are free, and {what} takes "
            f"{in_words(n_bytes)}. Free some, or choose another folder."
        )


def in_words(n_bytes: int) -> str:
    """1.0 GB, 816 MB, 12 kB."""
    for unit, power in (("GB", 9), ("MB", 6)):
        if n_bytes >= 0.9995 * 10**power:
            return f"{n_bytes / 10**power:.{1 if power == 9 else 0}f} {unit}"
    return f"{n_bytes / 1000:.0f} kB"


# Captions -----------------------------------------------------------------------------------------


def collect_captions(
    found: list[Found], read: Callable[[str], bytes], path: Path | str | None
) -> tuple[dict[str, list[str]], list[str]]:
    """{stem of a file's name: captions}, from this file and all in the source; and which could not be read.

    Raises PhotographError if `path` cannot be read; one within the source may be something else.
    """
    by_stem, remarks = {}, []
    for file in found:
        last = PurePosixPath(file.name).name
        if not file.refusal and any(fnmatch(last, pattern) for pattern in CAPTION_FILES):
            try:
                by_stem |= parse_captions(last, read(file.name))
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                remarks.append(f"The captions in {file.name} are not used: {error}.")
    if path is not None:
        try:
            by_stem |= read_captions(Path(path).expanduser())
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise PhotographError(
                f"The captions in {path} cannot be used: {error}. Give COCO's captions_*.json or the zip "
                "that has it, or a JSON file {name of a photograph without its suffix: [captions]}."
            ) from error
    return by_stem, remarks


def read_captions(path: Path) -> dict[str, list[str]]:
    """{stem: captions} from a .json or .pkl for `parse_captions`, or from a zip that holds captions*.json."""
    if not zipfile.is_zipfile(path):
        return parse_captions(path.name, path.read_bytes())
    by_stem = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if fnmatch(PurePosixPath(name).name, CAPTION_FILES[0]):
                by_stem |= parse_captions(name, archive.read(name))
    if not by_stem:
        raise ValueError(f"no file in it is called {CAPTION_FILES[0]}")
    return by_stem


def parse_captions(name: str, content: bytes) -> dict[str, list[str]]:
    """{stem: captions} from COCO's JSON, a JSON {stem: [captions]}, or such a dictionary as a pickle.

    Raises ValueError.
    """
    try:
        given = read_plain_pickle(content) if name.endswith(".pkl") else json.loads(content)
        if "annotations" in given:
            stems = {image["id"]: stem(image["file_name"]) for image in given["images"]}
            pairs = [(stems[line["image_id"]], line["caption"]) for line in given["annotations"]]
        else:
            listed = {key: [value] if isinstance(value, str) else value for key, value in given.items()}
            pairs = [(stem(key), caption) for key, captions in listed.items() for caption in captions]
        by_stem: dict[str, list[str]] = {}
        for key, caption in pairs:
            by_stem.setdefault(key, []).append(caption.strip())
        return by_stem
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError("it has neither COCO's form nor {stem: [captions]}") from error


def stem(name: str) -> str:
    """What a photograph's name has in common with its captions': no folder, no suffix."""
    return PurePosixPath(name).stem


def read_plain_pickle(content: bytes) -> object:
    """Dictionaries, lists, tuples, texts and numbers from a pickle, interpreted here and never run.

    A pickle is a program, and unpickling executes whatever its author wrote. This knows only the instructions
    that build plain data. Raises ValueError at any other.
    """
    stack, outer, memo = [], [], {}
    try:
        for operation, value, _ in pickletools.genops(content):
            match operation.name:
                case "MARK":
                    outer.append(stack)
                    stack = []
                case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                    stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[operation.name])
                case "DICT" | "LIST" | "TUPLE" | "APPENDS" | "SETITEMS" as name:
                    items, stack = stack, outer.pop()
                    gather(name, items, stack)
                case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                    n = int(name[-1])
                    stack[-n:] = [tuple(stack[-n:])]
                case "APPEND":
                    gather("APPENDS", [stack.pop()], stack)
                case "SETITEM":
                    gather("SETITEMS", [stack.pop(-2), stack.pop()], stack)
                case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    memo[len(memo) if value is None else value] = stack[-1]
                case "GET" | "BINGET" | "LONG_BINGET":
                    stack.append(memo[value])
                case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # Python 2's: bytes, as a rule of UTF-8
                    stack.append(value.encode("latin-1").decode("utf-8", "replace"))
                case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                    stack.append(value.decode("utf-8", "replace"))
                case "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                    stack.append(value)
                case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4":
                    stack.append(value)
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case name:
                    raise ValueError(f"the pickle holds more than plain data ({name}), which could run code")
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("the pickle is damaged") from error
    raise ValueError("the pickle is damaged")


def gather(name: str, items: list, stack: list) -> None:
    """What a pickle's instruction makes of the items since its last mark."""
    pairs = zip(items[::2], items[1::2], strict=True) if name in ("DICT", "SETITEMS") else ()
    match name:
        case "DICT":
            stack.append(dict(pairs))
        case "LIST":
            stack.append(items)
        case "TUPLE":
            stack.append(tuple(items))
        case "APPENDS":
            stack[-1].extend(items)
        case "SETITEMS":
            stack[-1].update(pairs)


# Downloading --------------------------------------------------------------------------------------


def fetch(url: str, folder: Path | str, *, md5: str = "", yes: bool = False) -> Path:
    """Download a zip into the folder and return its path; at once if it is there.

    Shows the size and asks first, unless `yes`. A download that breaks off goes on by itself, after a while
    without progress it stops, and the next call goes on. The file gets its name only when it is right: its
    MD5 if that is known, else the CRC of each file in it. Raises PhotographError with what to do.
    """
    folder = Path(folder).expanduser()
    path = folder / (PurePosixPath(urlsplit(url).path).name or "photographs.zip")
    if path.is_file():
        return path
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with one_process(path.with_name(path.name + ".lock"), f"downloading {path.name}"):
            if not path.is_file():
                part = path.with_name(path.name + ".part")
                size = begin(url, part, yes)
                download(url, part, size)
                verify(part, md5)
                os.replace(part, path)
                part.with_suffix(".json").unlink(missing_ok=True)
    return path


def begin(url: str, part: Path, yes: bool) -> int:
    """The size of the download in bytes, once it is agreed to; forgets a part of a file that has changed."""
    size, version = ask(url)
    about = part.with_suffix(".json")
    identity = json.dumps({"url": url, "size": size, "version": version}).encode()
    if not about.exists() or about.read_bytes() != identity:
        part.unlink(missing_ok=True)
        about.write_bytes(identity)
    missing = size - size_of(part)
    require_space(part.parent, missing, url)
    if not yes and missing:
        print(f"{url} has {in_words(size)}, of which {in_words(missing)} are to be downloaded.", flush=True)
        try:
            agreed = input("Download it? [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            agreed = False
        if not agreed:
            raise PhotographError("Nothing was downloaded. To agree beforehand, add --yes (yes=True).")
    return size


def ask(url: str) -> tuple[int, str]:
    """The size of a file on the web in bytes, and what its server calls this version of it, "" if nothing."""
    advice = "Check the address and the network, or download it in another way and give the path of the file."
    if url.partition("://")[0] not in ("http", "https"):
        raise PhotographError(f"{url} is no address of a file on the web. {advice}")
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:
            size = int(answer.headers["Content-Length"] or 0)
            version = answer.headers["ETag"] or answer.headers["Last-Modified"] or ""
    except (OSError, ValueError, HTTPException) as error:
        raise PhotographError(f"{url} cannot be had: {error}. {advice}") from error
    if not size:
        raise PhotographError(f"{url} does not say how big it is. {advice}")
    return size, version


def download(url: str, part: Path, size: int) -> None:
    """Append to `part` until it has all bytes, over as many connections as it takes."""
    fruitless, reason = 0, "the connection was cut"
    with tqdm(total=size, unit="B", unit_scale=True, desc=part.stem, initial=size_of(part)) as bar:
        while (have := size_of(part)) < size and fruitless < RETRIES:
            time.sleep(RETRY_SECONDS * fruitless)
            try:
                receive(url, part, size, bar)
            except KeyboardInterrupt:
                bar.close()
                state = f"{in_words(size_of(part))} of {in_words(size)}"
                print(f"Interrupted after {state}; run the same again to go on.")
                raise
            except (OSError, HTTPException) as error:
                reason = str(error)
            fruitless = 0 if size_of(part) > have else fruitless + 1
    if size_of(part) < size:
        raise PhotographError(
            f"{url} stopped after {in_words(size_of(part))} of {in_words(size)}: {reason}. Run the same "
            "again and it goes on from there."
        )


def receive(url: str, part: Path, size: int, bar: tqdm) -> None:
    """One connection: what is missing, or everything from a server that cannot start in the middle."""
    have = size_of(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=STALL_SECONDS) as answer:
        if not (answer.headers["Content-Range"] or "").startswith(f"bytes {have}-"):
            have = 0
        if answer.length is not None and have + answer.length != size:
            raise PhotographError(
                f"{url} announced {size:,} bytes, then {have + answer.length:,}. Run the same again later, "
                "or download it in another way and give the path of the file."
            )
        bar.reset(total=size)
        bar.update(have)
        with disk_errors(part.parent), part.open("ab" if have else "wb") as file:
            for block in blocks(answer):
                file.write(block)
                bar.update(len(block))


def blocks(answer: HTTPResponse) -> Iterator[bytes]:
    """The body of an answer as it arrives; it ends where the connection breaks, which the size will show."""
    with contextlib.suppress(OSError, HTTPException):
        while block := answer.read1(1 << 20):
            yield block


def verify(part: Path, md5: str) -> None:
    """Raises PhotographError, and deletes the download, if it is not the file that was asked for."""
    print(f"Checking {part.stem} ...", flush=True)
    with part.open("rb") as file:
        right = hashlib.file_digest(file, "md5").hexdigest() == md5 if md5 else is_whole_zip(file)
    if not right:
        part.unlink()
        raise PhotographError(
            f"{part.stem} arrived altered and was deleted. Run the same again, or download it in another way "
            "and give the path of the file."
        )


def is_whole_zip(file: BinaryIO) -> bool:
    """Does the CRC of every file in it agree?"""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # as in develop_file
        return False


def size_of(path: Path) -> int:
    """In bytes; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0
