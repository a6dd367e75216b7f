"""Real and embedded images as uint8 tensors that stay where they are, and batches of them.

    mnist()             the real digits, from COURSE_DATA or from torchvision's mirrors, checksums verified
    digits()            the embedded digits, drawn by `strokes`; need no network
    load_digits()       one of the two: "real", "embedded", or "auto" = real if it can be had
    coco64()            photographs, 64x64, prepared by `photographs`; `python -m course_utils.data coco`
    scenes()            the embedded landscapes, painted by `scenes`
    load_photographs()  one of the two, as for digits; real if they are there
    Batches             batches[step] is what the training loop sees at that step

Environment: COURSE_DATA is the root of real data; it may be read-only. Default: data/ beside the package.
"""

import argparse
import gzip
import hashlib
import os
import queue
import re
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from course_utils.fetching import PhotographError, fetch
from course_utils.photographs import Report, open_prepared, prepare
from course_utils.scenes import draw_scenes
from course_utils.strokes import draw_digits

KINDS = ("auto", "real", "embedded")
CONNECT_SECONDS = 2  # for one mirror to answer
OFFLINE_SECONDS = 4  # for all of them together; DNS ignores the limit above
STALL_SECONDS = 10  # for a mirror that has answered to send the next bytes
N_TRAIN, N_VALID, N_TEST = 50_000, 10_000, 10_000  # digits
N_SCENES = 10_000  # to train on
# As torchvision.datasets.MNIST has them (tests/test_data.py compares): importing it would take longer than
# finding out that there is no network.
MNIST_MIRRORS = ["https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"]
MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
# Address and MD5, as PaddleDetection (ppdet/utils/download.py) and many others have them.
COCO_FILES = {
    "val2017": ("http://images.cocodataset.org/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80"),
    "train2017": ("http://images.cocodataset.org/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "captions": (
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "f4bbac642086de4f52a3fdda2de5fa2c",
    ),
}


class Images(NamedTuple):
    """A set of pictures with what is known of them."""

    pixels: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64
    factors: dict[str, Tensor]  # of embedded pictures: what they were drawn with, each (N,)

    def subset(self, index: Tensor | slice) -> "Images":
        """The pictures at these positions."""
        factors = {name: values[index] for name, values in self.factors.items()}
        return Images(self.pixels[index], self.labels[index], factors)


class Splits(NamedTuple):
    """Train on `train`, choose on `valid`, report on `test`."""

    train: Images
    valid: Images
    test: Images


class DataError(RuntimeError):
    """The data cannot be had; the message says what to do."""


# Where things lie --------------------------------------------------------------------------------


def project_root() -> Path:
    """The checkout that holds this package, or the working folder where it was installed alone."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def data_root() -> Path:
    """The folder of real data: COURSE_DATA, by default data/ of the checkout."""
    chosen = os.environ.get("COURSE_DATA")
    return Path(chosen).expanduser() if chosen else project_root() / "data"


def require_root() -> None:
    """Raises DataError if COURSE_DATA names a folder that is not there: it is likely to be a slip."""
    if os.environ.get("COURSE_DATA") and not data_root().is_dir():
        raise DataError(
            f"COURSE_DATA is set to {data_root()}, which does not exist. Correct it, or unset it to use "
            "data/ of the course."
        )


# Real digits -------------------------------------------------------------------------------------


def mnist() -> Splits:
    """MNIST: 50,000 training digits, the next 10,000 for validation, 10,000 test digits.

    Read from the IDX .gz files in COURSE_DATA/MNIST/raw; files that are missing or corrupt are
    downloaded if that folder can be written. Raises DataError with what to do if that fails.
    """
    folder = mnist_folder()
    halves = [("train-images", "train-labels"), ("t10k-images", "t10k-labels")]
    pixels = torch.cat([read_idx(folder / f"{images}-idx3-ubyte.gz") for images, _ in halves])
    labels = torch.cat([read_idx(folder / f"{labels}-idx1-ubyte.gz") for _, labels in halves])
    return split(Images(pixels.unsqueeze(1), labels.long(), {}), N_TRAIN, N_VALID)


def mnist_folder() -> Path:
    """The folder with the four files of MNIST, their checksums verified; fetches what is missing."""
    require_root()
    folder = data_root() / "MNIST" / "raw"
    wanted = {name: md5 for name, md5 in MNIST_FILES.items() if not has_checksum(folder / name, md5)}
    if wanted:
        download(wanted, folder, MNIST_MIRRORS)
    return folder


def split(images: Images, n_train: int, n_valid: int) -> Splits:
    """The first n_train pictures, the next n_valid, the rest."""
    n = n_train + n_valid
    return Splits(*(images.subset(s) for s in (slice(n_train), slice(n_train, n), slice(n, None))))


def has_checksum(path: Path, md5: str) -> bool:
    """Is the file there, can it be read, and is it the right one?"""
    try:
        return hashlib.md5(path.read_bytes()).hexdigest() == md5
    except OSError:
        return False


def read_idx(path: Path) -> Tensor:
    """The uint8 array in a gzipped IDX file: two zero bytes, a type, how many axes, the axes, the values."""
    with gzip.open(path) as file:
        content = file.read()
    zeros, kind, n_axes = struct.unpack(">HBB", content[:4])
    if zeros != 0 or kind != 0x08:
        raise DataError(f"{path} is not an IDX file of bytes; delete it and run this again.")
    shape = struct.unpack(f">{n_axes}I", content[4 : 4 + 4 * n_axes])
    values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * n_axes)
    return torch.from_numpy(values.reshape(shape).copy())


# Downloading -------------------------------------------------------------------------------------


def download(wanted: dict[str, str], folder: Path, mirrors: list[str]) -> None:
    """Fetch the files {name: md5} into the folder, from the mirror that answers first.

    A file appears under its name only when it is whole and right, so an interrupted download leaves
    nothing behind and two processes may fetch the same file. Raises DataError with what to do.
    """
    corrupt = [name for name in wanted if os.path.exists(folder / name)]
    state = f"corrupt or unreadable ({', '.join(corrupt)})" if corrupt else "missing"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".writable-{os.getpid()}").touch()
        (folder / f".writable-{os.getpid()}").unlink()
    except OSError as error:
        raise DataError(
            f"MNIST in {folder} is {state}, and that folder cannot be written.\nPut the four .gz files of "
            "MNIST there, or set COURSE_DATA to a folder that has or may have them."
        ) from error
    reasons = []
    for mirror, refusal in ask_mirrors(mirrors, next(iter(wanted))).items():
        if refusal:
            reasons.append(f"{mirror}: {refusal}")
            continue
        try:
            for name, md5 in wanted.items():
                if not has_checksum(folder / name, md5):
                    download_file(mirror.rstrip("/") + "/" + name, folder / name, md5)
            return
        except (OSError, HTTPException, DataError) as error:
            reasons.append(f"{mirror}: {error}")
    raise DataError(
        f"MNIST is {state} and could not be downloaded.\n{'; '.join(reasons)}.\nCheck the network and run "
        f"this again, or copy {', '.join(wanted)} into {folder}."
    )


def ask_mirrors(mirrors: list[str], name: str) -> dict[str, str]:
    """Why each mirror cannot serve the file, "" if it can; asked all at once, the first to answer first."""
    answers: queue.Queue = queue.Queue()

    def ask(mirror: str) -> None:
        request = urllib.request.Request(mirror.rstrip("/") + "/" + name, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
                answers.put((mirror, ""))
        except (OSError, ValueError, HTTPException) as error:
            answers.put((mirror, str(error)))

    for mirror in mirrors:
        threading.Thread(target=ask, args=(mirror,), daemon=True).start()
    replies, deadline = {}, time.monotonic() + OFFLINE_SECONDS
    for _ in mirrors:
        try:
            mirror, refusal = answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        replies[mirror] = refusal
    silent = set(mirrors) - set(replies)
    return replies | dict.fromkeys(silent, f"no answer within {OFFLINE_SECONDS} s")


def download_file(url: str, path: Path, md5: str) -> None:
    """Fetch one file beside its place, verify it, then move it there."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    digest = hashlib.md5()
    try:
        with (
            urllib.request.urlopen(url, timeout=STALL_SECONDS) as answer,
            partial.open("wb") as file,
            tqdm(total=answer.length, unit="B", unit_scale=True, desc=path.name, leave=False) as bar,
        ):
            while block := answer.read(1 << 16):
                digest.update(block)
                file.write(block)
                bar.update(len(block))
        if digest.hexdigest() != md5:
            raise DataError(f"{path.name} arrived incomplete or altered (its checksum is wrong)")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


# Embedded digits and landscapes ------------------------------------------------------------------


def digits(n_train: int = N_TRAIN, n_valid: int = N_VALID, n_test: int = N_TEST) -> Splits:
    """Digits drawn from strokes, with the factors that they were drawn with.

    The full set takes some seconds to draw, so it is kept in data/cache of the checkout, under a name
    that changes when `strokes` does; a smaller set is drawn anew each time.
    """
    n = n_train + n_valid + n_test
    drawn = Images(*draw_digits(n)) if n < N_TRAIN else draw_once(draw_digits, n, "digits", "strokes.py")
    return split(drawn, n_train, n_valid)


def scenes(n_train: int = N_SCENES, n_valid: int = 1_000, n_test: int = 1_000) -> Splits:
    """Landscapes of 64x64 in RGB, with what stands in the middle as labels and the factors that caused them.

    For both see `scenes.draw_scenes`. The full set takes about half a minute to paint, so it is kept as the
    digits are; a smaller set is painted anew each time.
    """
    n = n_train + n_valid + n_test
    drawn = Images(*draw_scenes(n)) if n < N_SCENES else draw_once(draw_scenes, n, "scenes", "scenes.py")
    return split(drawn, n_train, n_valid)


def draw_once(
    draw: Callable[[int], tuple[Tensor, Tensor, dict[str, Tensor]]], n: int, name: str, code: str
) -> Images:
    """What draw(n) gives: pixels, labels and factors, from data/cache of the checkout once they are there.

    `code` names the file beside this one that draws; the name of the cache changes when it does.
    """
    version = hashlib.md5((Path(__file__).parent / code).read_bytes()).hexdigest()[:8]
    cache = project_root() / "data" / "cache" / f"{name}_{n}_{version}.safetensors"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache.with_suffix(".lock")):  # one process draws, the others wait for it
        try:
            tensors = load_file(cache)
        except (FileNotFoundError, SafetensorError):
            pixels, labels, factors = draw(n)
            tensors = {"pixels": pixels, "labels": labels, **factors}
            partial = cache.with_suffix(".part")
            save_file(tensors, partial)
            os.replace(partial, cache)
    return Images(tensors.pop("pixels"), tensors.pop("labels"), tensors)


# Photographs -------------------------------------------------------------------------------------


def coco64() -> Splits:
    """Photographs of 64x64 in RGB, which stay on the disk until they are used; labels are all 0.

    The folders train*/ and val*/ of the source are training and validation; where it has not both, the last
    twentieth of the names is for validation. `test` is `valid` again: of COCO's there are too few for a third
    part. Raises DataError with what to do.
    """
    try:
        prepared = open_prepared(coco64_folder())
    except PhotographError as error:
        raise DataError(str(error)) from error
    # Copy on write: torch warns of memory that it must not write to.
    pixels = torch.from_numpy(np.load(prepared.pixels.filename, mmap_mode="c"))  # (N, 3, 64, 64)
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.long), {})
    train, valid = (stretch(prepared.names, part) for part in (r"train\d*/", r"val\d*/"))
    if not (prepared.names[train] and prepared.names[valid]):
        n_train = len(pixels) - max(1, len(pixels) // 20)
        train, valid = slice(n_train), slice(n_train, None)
    return Splits(images.subset(train), images.subset(valid), images.subset(valid))


def stretch(names: list[str], start: str) -> slice:
    """Where the names are that start like this; sorted names have them in one stretch."""
    places = [i for i, name in enumerate(names) if re.match(start, name)]
    return slice(places[0], places[-1] + 1) if places else slice(0)


def coco64_folder() -> Path:
    """The folder with the prepared photographs, for `photographs.open_prepared`, which also has the captions.

    Prepares COURSE_DATA/coco64 first if that is all there is. Raises DataError with what to do.
    """
    require_root()
    source, prepared = data_root() / "coco64", data_root() / "coco64_prepared"
    if (prepared / "current").is_file():
        return prepared
    if not source.is_dir():
        raise DataError(
            f"There are no photographs in {data_root()}. Prepare some: python -m course_utils.data coco "
            "--source val2017 (COCO's, 0.8 GB), or any folder of photographs in place of val2017."
        )
    cache = project_root() / "data" / "cache" / "coco64"  # COURSE_DATA may be read-only
    try:
        prepare(source, cache)
    except PhotographError as error:
        raise DataError(str(error)) from error
    return cache


def prepare_coco(
    source: str, *, captions: str | None = None, workers: int | None = None, yes: bool = False
) -> Report:
    """Prepare a folder, a zip, an address of one or a name in COCO_FILES, as what coco64() finds.

    It replaces what was prepared in COURSE_DATA before. Raises PhotographError with what to do.
    """

    def at_hand(wanted: str) -> str | Path:
        url, md5 = COCO_FILES.get(wanted, (wanted, ""))
        return fetch(url, data_root() / "downloads", md5=md5, yes=yes) if "://" in url else wanted

    captions_file = at_hand(captions) if captions else None
    return prepare(at_hand(source), data_root() / "coco64_prepared", captions=captions_file, workers=workers)


# One or the other --------------------------------------------------------------------------------


def decide(kind: str, find: Callable[[], Path] = mnist_folder, things: str = "digits") -> str:
    """The data to use, "real" or "embedded"; says in one line if a wish of "auto" ends in embedded.

    `find` raises DataError where the real ones cannot be had. Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"data={kind!r}: choose one of {', '.join(KINDS)}")
    if kind != "auto":
        return kind
    try:
        find()
    except DataError as error:
        reason = str(error).splitlines()[0]
        print(f"{reason} So this uses the embedded {things}, drawn by the course.", flush=True)
        return "embedded"
    return "real"


def decide_photographs(kind: str) -> str:
    """The same for photographs; none are downloaded, they are there or not."""
    return decide(kind, coco64_folder, "landscapes")


def load_digits(kind: str = "auto", *, small: bool = False) -> tuple[Splits, str]:
    """(digits, "real" or "embedded"). `small` keeps 2,000 + 500 + 500 of them, for a quick look or a test."""
    chosen = decide(kind)
    if chosen == "embedded":
        return digits(2_000, 500, 500) if small else digits(), chosen
    train, valid, test = mnist()
    if small:
        train, valid = train.subset(slice(2_000)), valid.subset(slice(500))
        test = random_subset(test, 500)
    return Splits(train, valid, test), chosen


def load_photographs(kind: str = "auto", *, small: bool = False) -> tuple[Splits, str]:
    """(photographs or landscapes, "real" or "embedded"). `small` keeps 400 + 64 + 64 of them.

    "auto" is real where photographs are prepared, or lie in COURSE_DATA/coco64 to be prepared; none are
    downloaded. Of photographs `test` is `valid` again, as in coco64(). Raises DataError as coco64() does, and
    ValueError for an unknown kind.
    """
    chosen = decide_photographs(kind)
    if chosen == "embedded":
        return scenes(400, 64, 64) if small else scenes(), chosen
    train, valid, test = coco64()
    if small:
        train, valid, test = (part.subset(slice(n)) for part, n in ((train, 400), (valid, 64), (test, 64)))
    return Splits(train, valid, test), chosen


def random_subset(images: Images, n: int, seed: int = 0) -> Images:
    """n of the pictures at random, the same ones for the same seed; all of them if there are no more."""
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    return images.subset(order[:n])


def fixed_binary(images: Images, seed: int = 0) -> Images:
    """One binary draw of each grey digit, pixels 0 or 255: the fixed test set of all binary models.

    A pixel is white with the probability that its grey value names (Salakhutdinov & Murray 2008).
    """
    generator = torch.Generator().manual_seed(seed)
    white = torch.rand(images.pixels.shape, generator=generator) < as_grey(images.pixels)
    return images._replace(pixels=white.to(torch.uint8) * 255)


# Few labels ---------------------------------------------------------------------------------------


def draw_labels(labels: Tensor, n: int, draw: int) -> Tensor:
    """Positions of n images whose labels are to be known, as many of each class: (N,) -> (n,).

    `draw` numbers the choices: every model of a comparison gets the same ones. Raises ValueError if n is no
    multiple of the number of classes, or a class has too few images.
    """
    n_classes = int(labels.max()) + 1
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    chosen = [order[labels[order] == c][: n // n_classes] for c in range(n_classes)]
    if n % n_classes or any(len(index) < n // n_classes for index in chosen):
        raise ValueError(
            f"{n} labels cannot be drawn evenly from {len(labels)} images of {n_classes} classes; "
            f"choose a multiple of {n_classes} that each class can give its share of"
        )
    return torch.cat(chosen)


def jitter(x: Tensor) -> Tensor:
    """Each image a little turned, slanted, scaled and moved, at random: (B, C, H, W) -> the same.

    Up to 20 degrees, 0.3 of slant, 15 % of size and 5 % of the width, about what a hand does by itself.
    """
    turn, slant, size, right, down = torch.empty(5, len(x), device=x.device).uniform_(-1, 1)
    angle, scale = 0.35 * turn, 1 + 0.15 * size
    across = torch.stack([angle.cos() * scale, 0.3 * slant - angle.sin() * scale, 0.1 * right], dim=1)
    along = torch.stack([angle.sin() * scale, angle.cos() * scale, 0.1 * down], dim=1)
    grid = F.affine_grid(torch.stack([across, along], dim=1), x.shape, align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).clamp(0, 1)


# Batches -----------------------------------------------------------------------------------------


def as_grey(pixels: Tensor) -> Tensor:
    """uint8 levels as floats in [0, 1]: x = level / 255."""
    return pixels.float() / 255


class Batches:
    """`batches[step]` is the batch of training step `step`: x (B, C, H, W), floats in [0, 1].

    All pixels stay on the device as bytes, so a batch is one gather. An epoch is a new random order,
    which follows from seed and epoch alone: training that resumes at step 1,000 sees what it would
    have seen; without `shuffle` every epoch has the order of the file. The `len(batches)` steps of an
    epoch leave out the last, smaller batch unless `keep_last`. With `binarise` each batch is a new
    binary draw of its grey values, made by torch's global generator on the device; with `jittered` each image
    is moved a little before that, another way every time (`jitter`).
    """

    def __init__(
        self,
        pixels: Tensor,
        batch_size: int,
        *,
        binarise: bool = False,
        keep_last: bool = False,
        shuffle: bool = True,
        jittered: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ):
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise ValueError(
                f"give the pixels as uint8 (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}; "
                "for floats in [0, 1] use (255 * x).round().to(torch.uint8)"
            )
        if not 1 <= batch_size <= len(pixels):
            raise ValueError(f"batch_size={batch_size} does not fit {len(pixels)} images")
        self.pixels = pixels.to(device)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.binarise, self.jittered = binarise, jittered
        whole, rest = divmod(len(pixels), batch_size)
        self.n_batches = whole + (1 if rest and keep_last else 0)
        self.epoch, self.order = -1, torch.empty(0)

    __iter__ = None  # a loop over batches would never end: loop over steps

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, step: int) -> Tensor:
        if step < 0:
            raise IndexError(f"steps count from 0 and there is no last one; batches[{step}] does not exist")
        epoch, position = divmod(step, len(self))
        if epoch != self.epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            n = len(self.pixels)
            order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
            self.order = order.to(self.pixels.device)
            self.epoch = epoch
        index = self.order[position * self.batch_size : (position + 1) * self.batch_size]
        x = as_grey(self.pixels[index])
        x = jitter(x) if self.jittered else x
        # torch.bernoulli draws the same, and on a CPU takes three times as long.
        return (torch.rand_like(x) < x).float() if self.binarise else x


class LabelledFirst:
    """`batches[step]` of both: the labelled images first, then the others.

    They go through the network together, so batch norm takes its mean and variance over both (lesson 05).
    """

    def __init__(self, labelled: Batches, others: Batches):
        self.labelled, self.others = labelled, others

    __iter__ = None

    def __len__(self) -> int:
        return len(self.others)

    def __getitem__(self, step: int) -> Tensor:
        return torch.cat([self.labelled[step], self.others[step]])


# The command ---------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """`python -m course_utils.data coco --source ...`; the exit status is 0 only if it is prepared."""
    parser = argparse.ArgumentParser(prog="python -m course_utils.data")
    coco = parser.add_subparsers(required=True).add_parser("coco", help="prepare photographs for lesson 06")
    coco.add_argument(
        "--source",
        required=True,
        help="a folder of photographs, a zip or its address, or COCO's val2017 (0.8 GB) or train2017 (19 GB)",
    )
    coco.add_argument("--captions", help="a file of captions, or `captions` for COCO's of 2017 (0.3 GB)")
    coco.add_argument("--workers", type=int, help="threads; by default one a core")
    coco.add_argument("--yes", action="store_true", help="download without asking")
    chosen = parser.parse_args(arguments)
    try:
        print(prepare_coco(chosen.source, captions=chosen.captions, workers=chosen.workers, yes=chosen.yes))
    except PhotographError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # what it leaves, and how to go on, has been said
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
