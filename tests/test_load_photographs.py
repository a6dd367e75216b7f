"""Photographs as the lessons get them: split, real or embedded, and what is said where there are none."""

import socket
import urllib.request

import pytest
import torch
from PIL import Image

from course_utils import data, photographs
from course_utils.data import Batches, DataError, Images, load_photographs
from course_utils.scenes import Scenes


@pytest.fixture
def album(tmp_path, monkeypatch):
    """album(names...) makes COURSE_DATA a folder with such photographs, the i-th of red i; returns it."""
    monkeypatch.setattr(data, "project_root", lambda: tmp_path / "checkout")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "root"))
    (tmp_path / "root").mkdir()

    def fill(*names: str, folder: str = "root/coco64"):
        for i, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (70, 70), (i, 0, 0)).save(path)
        return tmp_path / folder

    return fill


def reds(images: Images) -> list[int]:
    return images.pixels[:, 0, 5, 5].tolist()


def test_coco64_splits_by_folder(album):
    album("train/a.png", "train/b.png", "val/a.png", "valley.png")
    train, valid, test = data.coco64()
    assert (reds(train), reds(valid), reds(test)) == ([0, 1], [2], [2])
    assert train.pixels.dtype == torch.uint8 and train.pixels.shape == (2, 3, 64, 64)
    assert Batches(train.pixels, 2, shuffle=False)[0][:, 0, 9, 9].mul(255).round().tolist() == [0, 1]


@pytest.mark.parametrize("folder", ["", "val2017/"])
def test_coco64_of_one_folder_keeps_a_twentieth_for_validation(album, folder):
    album(*(f"{folder}{i:02d}.png" for i in range(40)))
    train, valid, _ = data.coco64()
    assert reds(train) == list(range(38)) and reds(valid) == [38, 39]


def test_coco64_says_what_to_do_without_photographs(album):
    with pytest.raises(DataError, match=r"python -m course_utils\.data coco --source val2017"):
        data.coco64()


def test_a_damaged_array_is_a_data_error(album):
    album("train/a.png", "val/b.png")
    data.coco64()
    (file,) = data.coco64_folder().glob("*/pixels.npy")
    file.write_bytes(file.read_bytes()[:500])
    for kind in ("real", "auto"):  # they are there, so "auto" does not go on without them
        with pytest.raises(DataError, match=r"damaged.*delete it and prepare it again"):
            load_photographs(kind)


# The command ------------------------------------------------------------------------------------


def test_the_command_prepares_what_coco64_finds(album, capsys):
    source = album("train/a.png", "train/b.png", "val/c.png", folder="elsewhere")
    (source / "captions.json").write_text('{"c": ["A red square."]}')
    assert data.main(["coco", "--source", str(source)]) == 0
    assert "3  kept" in capsys.readouterr().out
    assert reds(data.coco64().valid) == [2]
    prepared = photographs.open_prepared(data.coco64_folder())
    assert prepared.captions == {"val/c.png": ["A red square."]}
    assert data.main(["coco", "--source", str(source / "missing")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_the_command_downloads_by_name_and_asks(album, monkeypatch, capsys):
    asked = []

    def refuse(url, folder, *, md5, yes):
        asked.append((url, md5, yes))
        raise photographs.PhotographError("no")

    monkeypatch.setattr(data, "fetch", refuse)
    for words in (["train2017"], ["train2017", "--yes"], ["a", "--captions", "captions"]):
        assert data.main(["coco", "--source", *words]) == 1
    named = [data.COCO_FILES[name] for name in ("train2017", "train2017", "captions")]
    assert asked == [(*named[0], False), (*named[1], True), (*named[2], False)]


def test_an_interrupted_command_has_a_status_of_its_own(album, monkeypatch):
    def interrupt(*args, captions, workers):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "prepare", interrupt)
    assert data.main(["coco", "--source", "a"]) == 130


# One or the other -------------------------------------------------------------------------------


@pytest.fixture
def painted(monkeypatch) -> list[int]:
    """How many scenes were asked for, each time; they are black."""
    asked = []

    def draw_scenes(n: int) -> Scenes:
        asked.append(n)
        return Scenes(torch.zeros(n, 3, 64, 64, dtype=torch.uint8), torch.ones(n, dtype=torch.long), {})

    monkeypatch.setattr(data, "draw_scenes", draw_scenes)
    return asked


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for it fails, and not with an error that is caught as a network's."""

    def forbidden(*args, **kwargs):
        raise AssertionError("tried the network")

    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)


def test_embedded_means_landscapes_whatever_is_there(album, capsys):
    album("train/a.png", "val/b.png")
    (train, valid, test), kind = load_photographs("embedded", small=True)
    assert kind == "embedded" and capsys.readouterr().out == ""
    assert [len(part.pixels) for part in (train, valid, test)] == [400, 64, 64]
    assert train.pixels.shape[1:] == (3, 64, 64) and len(test.factors["horizon"]) == 64


@pytest.mark.parametrize("small, n", [(True, 528), (False, 12_000)])
def test_small_paints_only_what_it_keeps(small, n, painted, album, monkeypatch):
    monkeypatch.setattr(data, "N_SCENES", 10**6)  # nothing is written
    splits, _ = load_photographs("embedded", small=small)
    assert painted == [n] and sum(len(part.pixels) for part in splits) == n


def test_no_photographs_mean_embedded_for_auto_in_one_line(album, painted, no_network, capsys):
    splits, kind = load_photographs("auto", small=True)
    assert kind == "embedded" and len(splits.train.pixels) == 400
    (line,) = capsys.readouterr().out.splitlines()
    assert "There are no photographs in" in line and "embedded landscapes" in line
    assert "python -m course_utils.data coco --source val2017" in line


def test_a_folder_without_photographs_means_embedded_for_auto(album, painted, capsys):
    folder = album()
    folder.mkdir()
    (folder / "readme.txt").write_text("none yet")
    assert load_photographs("auto", small=True)[1] == "embedded"
    (line,) = capsys.readouterr().out.splitlines()
    assert "There is no photograph in" in line and "embedded landscapes" in line
    with pytest.raises(DataError, match="There is no photograph in"):
        load_photographs("real")


@pytest.mark.parametrize("kind", ["auto", "real"])
def test_photographs_are_taken_where_they_lie(kind, album, painted, capsys):
    album("train/a.png", "train/b.png", "val/c.png")
    for _ in range(2):  # prepared, then found
        (train, valid, test), chosen = load_photographs(kind)
        assert chosen == "real" and (reds(train), reds(valid), reds(test)) == ([0, 1], [2], [2])
    assert capsys.readouterr().out == "" and not painted


def test_auto_takes_what_the_command_prepared(album, painted, capsys):
    source = album("train/a.png", "train/b.png", "val/c.png", folder="elsewhere")
    assert data.main(["coco", "--source", str(source)]) == 0
    capsys.readouterr()
    splits, kind = load_photographs("auto", small=True)
    assert kind == "real" and reds(splits.train) == [0, 1] and capsys.readouterr().out == ""


def test_small_keeps_the_first_photographs(album):
    album(*(f"train/{i:03d}.png" for i in range(403)), *(f"val/{i:03d}.png" for i in range(66)))
    train, valid, test = load_photographs("real", small=True)[0]
    assert [len(part.pixels) for part in (train, valid, test)] == [400, 64, 64]
    assert [len(part.labels) for part in (train, valid, test)] == [400, 64, 64]
    assert reds(train)[:4] == [0, 1, 2, 3] and torch.equal(test.pixels, valid.pixels)


def test_real_without_photographs_says_what_to_do(album, painted):
    with pytest.raises(DataError, match=r"python -m course_utils\.data coco --source val2017"):
        load_photographs("real")
    assert not painted


def test_a_missing_course_data(album, painted, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere, which does not exist. Correct it, or unset it"):
        load_photographs("real")
    assert load_photographs("auto", small=True)[1] == "embedded"
    (line,) = capsys.readouterr().out.splitlines()
    assert "nowhere, which does not exist" in line and "embedded landscapes" in line
    assert load_photographs("embedded", small=True)[1] == "embedded" and capsys.readouterr().out == ""
    assert not (tmp_path / "nowhere").exists()


def test_an_unknown_kind_names_the_known_ones(painted):
    with pytest.raises(ValueError, match=r"'reel': choose one of auto, real, embedded"):
        load_photographs("reel")
    assert not painted


@pytest.mark.real
def test_real_photographs_have_a_train_and_a_valid_folder(real_data, monkeypatch, tmp_path):
    if not (real_data / "coco64").is_dir() and not (real_data / "coco64_prepared").is_dir():
        pytest.skip(f"no photographs in {real_data}; set COURSE_DATA to a folder with coco64")
    monkeypatch.setenv("COURSE_DATA", str(real_data))
    monkeypatch.setattr(data, "project_root", lambda: tmp_path)
    (train, valid, test), kind = load_photographs("auto", small=True)
    assert kind == "real" and [len(part.pixels) for part in (train, valid, test)] == [400, 64, 64]
    assert 60 < train.pixels.float().mean() < 160 and train.pixels.shape[1:] == (3, 64, 64)
