"""Photographs of any kind, from a folder or a zip, as one uint8 array (N, 3, 64, 64) that stays on the disk.

    report = prepare("holiday", "data/prepared")            a folder, a zip, the archive of the 2017 class
    pixels, names, captions = open_prepared("data/prepared")

Every file that is found is either kept or skipped, and the report counts it with the reason. Each photograph
is turned upright, its central square cut out and scaled down to 64x64 (`developing`); what was written of it
is kept with it (`captions`).

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
import re
import shutil
import stat
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from course_utils.captions import collect_captions, stem
from course_utils.developing import Refused, develop, readable_formats
from course_utils.fetching import PhotographError, disk_errors, one_process, require_space

VERSION = 1  # part of every KEY: raise it when the same photograph would give other pixels
CHUNK = 256  # files between two entries in the journal; what a kill may cost
MAX_BYTES = 200_000_000  # of one file


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
    `captions` names a file for `captions.read_captions`; those within the source are found by themselves.
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


# Preparing: a journal that a killed run goes on with ----------------------------------------------


def prepare_anew(
    source: Path, found: list[Found], part: Path, size: int, workers: int | None, captions: Path | str | None
) -> None:
    """Fill the folder `part` with pixels, journal, captions and report."""
    start = time.perf_counter()
    with reader(source) as read:
        readable = [file.name for file in found if not file.refusal]
        by_stem, remarks = collect_captions(readable, read, captions)
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
