"""From the bytes of a file to 64x64 pixels: a photograph of any kind, turned upright, its central square.

    pixels, notes = develop(content, name)      uint8 (3, 64, 64), and what was odd about the file

A file that gives no photograph is Refused, with the reason for the report. Whoever changes what pixels come
out raises `photographs.VERSION`, so that everything is prepared anew.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import PurePosixPath

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # of one photograph; where Pillow begins to suspect a decompression bomb
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


class Refused(Exception):
    """One file gives no photograph: the reason, which the report counts, and a detail for the journal."""

    def __init__(self, reason: str, detail: object = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, str(detail)


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
    with decoding():
        # A JPEG comes out of its decoder at 1/2, 1/4 or 1/8, twice as fast. Twice the final size is left for
        # the filter, so COCO's differ by 44 dB or more from those filtered as a whole.
        drafted = image.draft(None, (2 * size, 2 * size))
        turned = image.format == "TIFF" and orientation(image) in UPRIGHT  # load() turns it, and forgets it
        image.load()  # before EXIF is asked for: that loads a PNG too, and a broken one is loaded only once
        notes = ["turned upright"] * turned + oddities(image, name)
        extent = drafted[1][2:] if drafted else image.size  # 425 rows at 1/2 are 212.5 of the 213 that came
        turn = UPRIGHT.get(orientation(image))
        image = to_rgb(image)
    width, height = extent
    left, top = max(width - height, 0) / 2, max(height - width, 0) / 2
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, width - left, height - top))
    image = image if turn is None else image.transpose(turn)
    return np.asarray(image).transpose(2, 0, 1), notes  # (H, W, 3) -> (3, H, W)


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever a decoder raises within, as Refused with a reason."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # the decoders raise whatever a broken file makes them stumble over
        reason = "truncated" if "truncated" in str(error).lower() else "damaged"
        reason = "not enough memory" if isinstance(error, MemoryError) else reason
        raise Refused(reason, f"{type(error).__name__}: {error}") from error


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
