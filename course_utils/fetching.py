"""One large file from the web: its size is shown first, it goes on where it broke off, and it is checked.

    path = fetch(url, "data/downloads")         a zip of photographs, from any server

`data.download` is for the opposite: a few small files of known MD5, from the mirror that answers first.

Until the file has all bytes and is right, the folder has these in place of it:

    NAME.part           what has arrived
    NAME.json           which file this is a part of: address, size, version
    NAME.lock           held by the process that downloads; the others wait

The last section is what `photographs` needs as well: room on the disk, and one process at a time.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

CONNECT_SECONDS = 5
STALL_SECONDS = 20  # for the next bytes of a download
RETRY_SECONDS = 1
RETRIES = 3  # in a row that bring nothing
SPARE_BYTES = 64_000_000  # to be left free on the disk


class PhotographError(RuntimeError):
    """The photographs cannot be had; the message says what to do."""


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
    except Exception:  # zipfile's many: an unknown compression, a broken stream
        return False


def size_of(path: Path) -> int:
    """In bytes; 0 if it is not there."""
    return path.stat().st_size if path.exists() else 0


# The disk, and who may write ----------------------------------------------------------------------


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
