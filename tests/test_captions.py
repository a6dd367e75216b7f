"""Captions of every form are found, and a pickle of anything else is refused and not run."""

import json

import pytest
from drawn_photographs import GOOD, PHOTO, encoded, fill, quarters, zipped

from course_utils.captions import parse_captions, read_plain_pickle
from course_utils.fetching import PhotographError
from course_utils.photographs import open_prepared, prepare

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
