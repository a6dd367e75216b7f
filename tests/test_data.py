"""The data: what comes back, and what is said and left behind when the network or the disk fails."""

import gzip
import hashlib
import itertools
import multiprocessing
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import pytest
import torch

from course_utils import data, scenes, strokes
from course_utils.data import (
    Batches,
    DataError,
    Images,
    LabelledFirst,
    digits,
    fixed_binary,
    load_digits,
    mnist,
    random_subset,
)

# A mirror of our own ----------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The array as a gzipped IDX file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(header + array.tobytes(), mtime=0)


def tiny_files() -> dict[str, bytes]:
    """Ten training and five test digits under MNIST's names."""
    rng = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 10), ("t10k", 5)):
        files[f"{part}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte.gz"] = idx(rng.integers(0, 10, n, dtype=np.uint8))
    return files


FILES = tiny_files()


class Mirror(BaseHTTPRequestHandler):
    """Serves FILES; the server's `fault` says what goes wrong. "patient" sends the rest of the first file
    only once two have asked for it: two downloads that overlap."""

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, send_body: bool):
        fault, body = self.server.fault, FILES[self.path.rsplit("/", 1)[-1]]
        self.server.requests.append((self.command, self.path))
        if fault == "404":
            return self.send_error(404)
        if fault == "not http":
            self.wfile.write(b"who are you?\r\n\r\n")
            return None
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not send_body:
            return None
        if fault == "altered":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "patient" and "train-images" in self.path:
            self.wfile.write(body[:9])
            self.server.both_ask.wait(5)
            time.sleep(0.2)  # for both to have opened their files
            body = body[9:]
        if fault in ("truncated", "stalls"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        if fault == "stalls":
            self.wfile.flush()
            self.server.released.wait(10)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror():
    """mirror("fault") starts a server on this machine and returns its address."""
    servers = []

    def start(fault: str = "") -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
        server.daemon_threads, server.both_ask = True, threading.Barrier(2)
        server.fault, server.requests, server.released = fault, [], threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        start.servers = servers
        return f"http://127.0.0.1:{server.server_address[1]}/mnist/"

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def silent():
    """The address of a mirror that accepts the connection and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/"


@pytest.fixture
def dead() -> str:
    """The address of a mirror that refuses the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/"


def test_mirrors_and_checksums_are_those_of_torchvision():
    from torchvision.datasets import MNIST

    assert dict(MNIST.resources) == data.MNIST_FILES
    assert sorted(MNIST.mirrors) == sorted(data.MNIST_MIRRORS)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """tiny(mirrors...) makes MNIST the tiny files behind these mirrors; returns the folder they land in."""
    sums = {name: hashlib.md5(FILES[name]).hexdigest() for name in data.MNIST_FILES}
    monkeypatch.setattr(data, "MNIST_FILES", sums)
    monkeypatch.setattr(data, "N_TRAIN", 6)
    monkeypatch.setattr(data, "N_VALID", 4)
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def start(*mirrors: str):
        monkeypatch.setattr(data, "MNIST_MIRRORS", list(mirrors))
        return tmp_path / "MNIST" / "raw"

    return start


def put(folder, **replaced: bytes):
    """The tiny files in the folder, some of them replaced: put(folder, train_images=b"")."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in FILES.items():
        key = name.split("-idx")[0].replace("-", "_")
        (folder / name).write_bytes(replaced.get(key, body))


def is_whole(folder) -> bool:
    """The folder holds the four files as they were sent, and nothing else."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found == FILES


# Downloading ------------------------------------------------------------------------------------


def test_mnist_is_downloaded_and_split(tiny, mirror):
    folder = tiny(mirror())
    train, valid, test = mnist()
    assert is_whole(folder)
    assert [len(part.pixels) for part in (train, valid, test)] == [6, 4, 5]
    assert train.pixels.shape == (6, 1, 28, 28) and train.pixels.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    pixels = gzip.decompress(FILES["t10k-images-idx3-ubyte.gz"])[16:]
    assert test.pixels.numpy().tobytes() == pixels


def test_what_is_there_is_not_fetched_again(tiny, mirror):
    folder = tiny(mirror())
    put(folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    mnist()
    asked = {path.rsplit("/", 1)[-1] for _, path in mirror.servers[0].requests}
    assert asked == {"t10k-labels-idx1-ubyte.gz"} and is_whole(folder)
    mnist()
    assert [command for command, _ in mirror.servers[0].requests] == ["HEAD", "GET"]


@pytest.mark.parametrize(
    "fault, said",
    [
        ("truncated", "incomplete or altered"),
        ("altered", "incomplete or altered"),
        ("404", "404"),
        ("not http", "who are you"),
        ("stalls", "timed out"),
    ],
)
def test_a_bad_mirror_is_named_with_what_to_do_and_leaves_nothing(fault, said, tiny, mirror, monkeypatch):
    monkeypatch.setattr(data, "STALL_SECONDS", 0.3)
    address = mirror(fault)
    folder = tiny(address)
    with pytest.raises(DataError) as caught:
        mnist()
    message = str(caught.value)
    assert address in message and said in message and "missing" in message
    assert "Check the network" in message and f"into {folder}" in message
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("fault", ["truncated", "altered", "404", "not http", "stalls"])
def test_a_bad_mirror_is_passed_over_for_a_good_one(fault, tiny, mirror, monkeypatch):
    monkeypatch.setattr(data, "STALL_SECONDS", 0.3)
    bad, good = mirror(fault), mirror()
    answers = {bad: "", good: ""}  # the bad one answered first
    if fault not in ("404", "not http"):
        monkeypatch.setattr(data, "ask_mirrors", lambda mirrors, name: answers)
    folder = tiny(bad, good)
    mnist()
    assert is_whole(folder)


def test_a_dead_and_a_silent_mirror_are_passed_over(tiny, mirror, silent, dead):
    folder = tiny(dead, silent, mirror())
    mnist()
    assert is_whole(folder)


def test_a_mirror_that_never_answers_is_given_up_within_five_seconds(tiny, silent):
    folder = tiny(silent)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"(?s)timed out.*Check the network"):
        mnist()
    assert time.monotonic() - start < 5
    assert list(folder.iterdir()) == []


def test_a_name_server_that_never_answers_is_given_up_too(tiny, mirror, monkeypatch):
    """No socket time-out covers the look-up of a name."""
    address, released = mirror(), threading.Event()
    monkeypatch.setattr(data, "OFFLINE_SECONDS", 0.3)

    def look_up(*args, **kwargs):
        released.wait(5)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    tiny(address)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"no answer within 0\.3 s"):
        mnist()
    assert time.monotonic() - start < 2
    released.set()


def test_an_interrupted_download_leaves_nothing(tiny, mirror, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    folder = tiny(mirror())
    monkeypatch.setattr(data.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        mnist()
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs fork; Windows has none"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_two_processes_may_download_at_once(tiny, mirror):
    folder = tiny(mirror("patient"))
    context = multiprocessing.get_context("fork")  # the twins need not import torch again
    task = (data.MNIST_FILES, folder, data.MNIST_MIRRORS)
    twins = [context.Process(target=data.download, args=task) for _ in range(2)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join(20)
    assert [twin.exitcode for twin in twins] == [0, 0]
    assert is_whole(folder)


# Disks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [b"", b"not gzip", FILES["train-images-idx3-ubyte.gz"][:-9]])
def test_a_corrupt_file_is_replaced(damage, tiny, mirror):
    folder = tiny(mirror())
    put(folder, train_images=damage)
    mnist()
    assert is_whole(folder)


def test_a_corrupt_file_stays_if_nothing_better_can_be_had(tiny, dead):
    folder = tiny(dead)
    put(folder, train_images=b"damaged")
    with pytest.raises(DataError, match=r"corrupt or unreadable \(train-images-idx3-ubyte.gz\)"):
        mnist()
    assert (folder / "train-images-idx3-ubyte.gz").read_bytes() == b"damaged"


def test_a_corrupt_file_in_a_read_only_folder_says_so(tiny, mirror, monkeypatch):
    """Root may write anywhere, so the refusal is played."""
    folder = tiny(mirror())
    put(folder, train_images=b"damaged")

    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data.Path, "touch", refuse)
    with pytest.raises(DataError) as caught:
        mnist()
    message = str(caught.value)
    assert "corrupt or unreadable (train-images-idx3-ubyte.gz)" in message
    assert "cannot be written" in message and "COURSE_DATA" in message
    assert mirror.servers[0].requests == []


def test_a_folder_that_cannot_be_made_says_so(tiny, mirror, tmp_path):
    tiny(mirror())
    (tmp_path / "MNIST").write_text("a file where the folder belongs")
    with pytest.raises(DataError, match=r"missing, and that folder cannot be written"):
        mnist()


def test_a_file_that_may_not_be_read_is_no_crash(tiny, dead, monkeypatch):
    folder = tiny(dead)
    put(folder)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data.Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="corrupt or unreadable"):
        mnist()


def test_a_read_only_course_data_is_read_where_it_is(tiny, dead, monkeypatch):
    folder = tiny(dead)
    put(folder)

    def forbidden(*args, **kwargs):
        raise AssertionError("tried to write")

    for name in ("mkdir", "touch", "write_bytes", "write_text"):
        monkeypatch.setattr(data.Path, name, forbidden)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*"))
    assert len(mnist().test.pixels) == 5
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.parent.rglob("*")) == before


# One or the other -------------------------------------------------------------------------------


def test_a_missing_course_data_is_an_error_for_real(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere, which does not exist. Correct it, or unset it"):
        load_digits("real")
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_course_data_means_embedded_for_auto(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    start = time.monotonic()
    splits, kind = load_digits("auto", small=True)
    assert time.monotonic() - start < 5
    assert kind == "embedded" and len(splits.train.pixels) == 2_000
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "embedded" in lines[0] and "nowhere" in lines[0]


def test_no_network_means_embedded_for_auto_within_five_seconds(tiny, silent, dead, capsys):
    tiny(silent, dead)
    start = time.monotonic()
    assert load_digits("auto", small=True)[1] == "embedded"
    assert time.monotonic() - start < 5
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "embedded" in lines[0]


def test_auto_takes_real_digits_where_they_are(tiny, dead, capsys):
    put(tiny(dead))
    splits, kind = load_digits("auto")
    assert kind == "real" and len(splits.test.pixels) == 5
    assert capsys.readouterr().out == ""


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'reel': choose one of auto, real, embedded"):
        load_digits("reel")


@pytest.mark.real
def test_real_mnist_is_whole(real_data, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(real_data))
    train, valid, test = mnist()
    assert [len(part.pixels) for part in (train, valid, test)] == [50_000, 10_000, 10_000]
    assert test.labels[0] == 7 and train.labels[0] == 5
    assert train.labels.bincount().tolist()[:2] == [4932, 5678]  # the usual split, not a shuffled one
    assert test.pixels.float().mean().item() == pytest.approx(33.79, abs=0.01)


# Embedded digits and landscapes -----------------------------------------------------------------


def test_digits_have_the_sizes_asked_for_and_their_factors():
    train, valid, test = digits(300, 50, 70)
    assert [len(part.pixels) for part in (train, valid, test)] == [300, 50, 70]
    assert train.pixels.shape == (300, 1, 28, 28) and train.pixels.dtype == torch.uint8
    for part in (train, valid, test):
        assert all(len(values) == len(part.pixels) for values in part.factors.values())
    assert "slant" in train.factors
    assert not torch.equal(train.pixels[:50], valid.pixels)


def test_scenes_have_the_sizes_asked_for():
    train, valid, test = data.scenes(12, 5, 3)
    assert [len(part.pixels) for part in (train, valid, test)] == [12, 5, 3]
    assert train.pixels.shape == (12, 3, 64, 64) and train.pixels.dtype == torch.uint8
    assert train.labels.dtype == torch.int64 and set(train.labels.tolist()) <= set(range(len(scenes.NAMES)))
    assert train.factors["horizon"].dtype == torch.float32 and train.factors["season"].dtype == torch.int64


class Drawn(NamedTuple):
    """A kind of embedded pictures, of which 40 are a full set."""

    splits: Callable[[int, int, int], data.Splits]  # digits or scenes
    draw: Callable  # draws them, uncounted
    counts: list[int]  # of each drawing so far
    code: str  # the file that draws


@pytest.fixture(params=[("digits", strokes, "N_TRAIN"), ("scenes", scenes, "N_SCENES")], ids=lambda p: p[0])
def embedded(request, tmp_path, monkeypatch) -> Drawn:
    """Digits, then landscapes, in a checkout in tmp_path."""
    kind, module, full = request.param
    draw, counts = getattr(module, f"draw_{kind}"), []
    monkeypatch.setattr(data, f"draw_{kind}", lambda n: counts.append(n) or draw(n))
    monkeypatch.setattr(data, "project_root", lambda: tmp_path)
    monkeypatch.setattr(data, full, 30)
    return Drawn(getattr(data, kind), draw, counts, f"{module.__name__.rsplit('.')[-1]}.py")


def test_the_full_set_is_drawn_once_and_split_in_order(embedded, tmp_path):
    drawn = embedded.draw(40)
    for _ in range(2):
        parts = embedded.splits(30, 6, 4)
        assert torch.equal(torch.cat([part.pixels for part in parts]), drawn.pixels)
        assert torch.equal(torch.cat([part.labels for part in parts]), drawn.labels)
        for part in parts:
            assert part.factors.keys() == drawn.factors.keys()
        for name, values in drawn.factors.items():
            assert torch.equal(torch.cat([part.factors[name] for part in parts]), values)
    assert embedded.counts == [40]
    assert not list((tmp_path / "data" / "cache").glob("*.part"))


def test_a_small_set_is_drawn_anew(embedded, tmp_path):
    assert torch.equal(embedded.splits(20, 6, 3).test.pixels, embedded.splits(20, 6, 3).test.pixels)
    assert embedded.counts == [29, 29] and not (tmp_path / "data").exists()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\0" * len(b)])
def test_a_damaged_cache_is_drawn_again(damage, embedded, tmp_path):
    wanted = embedded.splits(30, 6, 4).train.pixels.clone()
    (file,) = (tmp_path / "data" / "cache").glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(embedded.splits(30, 6, 4).train.pixels, wanted)
    assert embedded.counts == [40, 40] and file.read_bytes() == whole


def test_a_changed_drawing_is_not_taken_from_the_cache(embedded, tmp_path, monkeypatch):
    embedded.splits(30, 6, 4)
    monkeypatch.setattr(data, "__file__", str(tmp_path / "data.py"))
    (tmp_path / embedded.code).write_text("# another drawing")
    embedded.splits(30, 6, 4)
    assert embedded.counts == [40, 40]


# Subsets and binary draws -----------------------------------------------------------------------


def numbered(n: int) -> Images:
    """n images, each of one grey level that is its number."""
    pixels = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    return Images(pixels, torch.arange(n), {"twice": 2 * torch.arange(n)})


def test_a_random_subset_is_seeded_and_random_and_keeps_rows_together():
    images = numbered(200)
    a, b, other = random_subset(images, 50), random_subset(images, 50), random_subset(images, 50, seed=1)
    assert torch.equal(a.labels, b.labels) and not torch.equal(a.labels, other.labels)
    assert len(a.labels.unique()) == 50 and a.labels.max() > 100  # not the first 50
    assert torch.equal(a.pixels[:, 0, 0, 0].long(), a.labels)
    assert torch.equal(a.factors["twice"], 2 * a.labels)
    assert len(random_subset(images, 500).labels) == 200


def test_a_subset_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    random_subset(numbered(20), 5)
    fixed_binary(numbered(20))
    Batches(numbered(20).pixels, 5)[3]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fixed_binary_draw_never_changes_and_has_the_grey_mean():
    grey = Images(torch.arange(256, dtype=torch.uint8).repeat(200, 1)[:, None, :, None], torch.zeros(200), {})
    first = fixed_binary(grey)
    torch.rand(7)
    second = fixed_binary(grey)
    assert torch.equal(first.pixels, second.pixels)
    assert not torch.equal(first.pixels, fixed_binary(grey, seed=1).pixels)
    assert set(first.pixels.unique().tolist()) == {0, 255} and first.pixels.dtype == torch.uint8
    # 200 draws of each level: a standard error of at most 0.035 each
    share = (first.pixels == 255).float().mean(dim=0).flatten()
    torch.testing.assert_close(share, torch.arange(256) / 255, atol=0.18, rtol=0)
    assert share[0] == 0 and share[255] == 1
    assert (share - torch.arange(256) / 255).mean().abs() < 0.01


# Batches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixels, batch_size, said",
    [
        (torch.rand(9, 1, 2, 2), 3, r"uint8 \(N, C, H, W\), not torch.float32.*round"),
        (torch.zeros(9, 2, 2, dtype=torch.uint8), 3, r"not torch.uint8 \(9, 2, 2\)"),
        (torch.zeros(9, 1, 2, 2, dtype=torch.uint8), 10, "batch_size=10 does not fit 9 images"),
        (torch.zeros(9, 1, 2, 2, dtype=torch.uint8), 0, "batch_size=0 does not fit"),
        (torch.zeros(0, 1, 2, 2, dtype=torch.uint8), 1, "does not fit 0 images"),
    ],
)
def test_batches_refuse_what_they_cannot_batch(pixels, batch_size, said):
    with pytest.raises(ValueError, match=said):
        Batches(pixels, batch_size)


def numbers(x: torch.Tensor) -> list[int]:
    """Which images of `numbered` a batch holds."""
    return (255 * x[:, 0, 0, 0]).round().long().tolist()


@pytest.mark.parametrize("keep_last, sizes", [(False, [30, 30, 30]), (True, [30, 30, 30, 10])])
def test_an_epoch_shows_each_image_once(keep_last, sizes):
    batches = Batches(numbered(100).pixels, 30, keep_last=keep_last)
    assert len(batches) == len(sizes)
    for epoch in range(3):
        shown = [numbers(batches[epoch * len(batches) + i]) for i in range(len(batches))]
        assert [len(batch) for batch in shown] == sizes
        assert len(set(itertools.chain(*shown))) == sum(sizes)


def test_a_step_shows_the_same_images_whatever_was_asked_before():
    pixels = numbered(100).pixels
    forward, jumping = Batches(pixels, 30, seed=3), Batches(pixels, 30, seed=3)
    expected = [numbers(forward[step]) for step in range(12)]
    for step in (11, 0, 5, 4, 11, 7):
        assert numbers(jumping[step]) == expected[step]
    assert expected[:3] != expected[3:6], "each epoch has its own order"
    assert expected[0] != numbers(Batches(pixels, 30, seed=4)[0])
    assert sorted(expected[0]) != expected[0]


@pytest.mark.parametrize("keep_last", [False, True])
def test_without_shuffling_each_epoch_has_the_order_of_the_file(keep_last):
    batches = Batches(numbered(100).pixels, 30, keep_last=keep_last, shuffle=False, seed=3)
    shown = [numbers(batches[step]) for step in range(2 * len(batches))]
    file = [list(range(start, min(start + 30, 100))) for start in range(0, 100 if keep_last else 90, 30)]
    assert shown == 2 * file
    assert numbers(batches[1]) == file[1]  # back in the first epoch
    assert numbers(Batches(numbered(100).pixels, 30, seed=3)[0]) != file[0]


def test_there_is_no_step_before_the_first():
    with pytest.raises(IndexError, match="count from 0"):
        Batches(numbered(10).pixels, 5)[-1]


def test_batches_are_floats_in_0_1_and_leave_the_pixels_alone():
    pixels = numbered(100).pixels
    before = pixels.clone()
    x = Batches(pixels, 100)[0]
    assert x.dtype == torch.float32 and x.shape == (100, 1, 2, 2)
    assert x.min() == 0 and x.max().item() == pytest.approx(99 / 255)
    assert torch.equal(pixels, before)


def test_binarise_draws_anew_with_the_grey_mean():
    pixels = torch.full((500, 1, 10, 10), 64, dtype=torch.uint8)
    batches = Batches(pixels, 500, binarise=True)
    first, second = batches[0], batches[0]
    assert set(first.unique().tolist()) == {0.0, 1.0}
    assert first.mean().item() == pytest.approx(64 / 255, abs=0.01)  # standard error 0.002
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    again = batches[0]
    torch.manual_seed(5)
    assert torch.equal(batches[0], again)


def test_a_binary_draw_is_that_of_torch_bernoulli():
    """The ledger's numbers were made with it: with black, white and grey, and the same noise afterwards."""
    levels = torch.cat([torch.zeros(50), torch.full((50,), 255.0), torch.linspace(0, 255, 996)]).byte()
    batches = Batches(levels.reshape(1, 1, 8, 137), 1, binarise=True)
    torch.manual_seed(7)
    drawn, noise = batches[0], torch.randn(20)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.bernoulli(data.as_grey(batches.pixels)))
    assert torch.equal(noise, torch.randn(20))


def test_project_root_is_this_checkout():
    assert (data.project_root() / "pyproject.toml").is_file()
    assert os.path.samefile(data.project_root() / "course_utils" / "data.py", data.__file__)


# Few labels --------------------------------------------------------------------------------------


def test_labelled_images_stand_first_in_each_batch_in_their_order():
    labelled = Batches(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), 6, shuffle=False)
    others = Batches(torch.arange(100, 150, dtype=torch.uint8).view(50, 1, 1, 1), 20, seed=3)
    batches = LabelledFirst(labelled, others)
    assert len(batches) == len(others)
    for step in (0, 1, 2, 7):
        levels = (255 * batches[step]).flatten().round().int()
        assert levels[:6].tolist() == [0, 1, 2, 3, 4, 5]
        assert torch.equal(batches[step][6:], others[step])
    with pytest.raises(TypeError):
        iter(batches)


def test_jittered_batches_move_each_image_anew_before_it_is_binarised():
    pixels = torch.zeros(4, 1, 20, 20, dtype=torch.uint8)
    pixels[:, :, 6:14, 9:12] = 255
    still = Batches(pixels, 4, shuffle=False)
    jittered = Batches(pixels, 4, shuffle=False, jittered=True)
    torch.manual_seed(0)
    first, again = jittered[0], jittered[0]
    assert not torch.equal(first, again) and not torch.equal(first, still[0])
    assert first.min() >= 0 and first.max() <= 1
    assert 0.6 < first.sum() / still[0].sum() < 1.4  # about as much ink
    binary = Batches(pixels, 4, shuffle=False, jittered=True, binarise=True)[0]
    assert set(binary.unique().tolist()) == {0.0, 1.0}
