"""Captions of photographs, from COCO's JSON, a plain JSON, or a pickle, which is read here and never run.

    by_stem = read_captions("notes.json")       {stem: [caption, ...]}

They name a photograph by its stem: `val2017/000000000139.jpg` is 000000000139.
"""

import json
import pickletools
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from course_utils.fetching import PhotographError

CAPTION_FILES = ("captions*.json", "dict_key_imgID_value_caps*.pkl")  # COCO's and the 2017 archive's names


def collect_captions(
    names: list[str], read: Callable[[str], bytes], path: Path | str | None
) -> tuple[dict[str, list[str]], list[str]]:
    """{stem of a file's name: captions}, from this file and those in the source; and which could not be read.

    `names` are the files of the source, and `read` gives the content of one. Raises PhotographError if `path`
    cannot be read; one within the source may be something else.
    """
    by_stem, remarks = {}, []
    for name in names:
        last = PurePosixPath(name).name
        if any(fnmatch(last, pattern) for pattern in CAPTION_FILES):
            try:
                by_stem |= parse_captions(last, read(name))
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                remarks.append(f"The captions in {name} are not used: {error}.")
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
