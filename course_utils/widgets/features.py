"""The feature maps of lesson 03: a channel to pick, its answer to a digit, the images that excite it most."""

import re
from dataclasses import dataclass, replace

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from course_utils.data import Images, as_grey
from course_utils.widgets.shared import described, page, still

N_SHOWN = 12  # images that excite a channel most
N_COUNTED = 50  # images whose classes are counted
FLAT = 1e-3  # a channel that moves by less than this in all images is never excited

# The state --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FeatureState:
    """A channel of a stage, and the example digit that it answers.

    `stages` holds the name of each stage and how many channels it has, `digits` the classes that have an
    example. Each method returns a new state. static/features.js has the same rule, and
    tests/test_features_browser.py holds the two together.
    """

    stages: tuple[tuple[str, int], ...]
    digits: tuple[int, ...]
    chosen: tuple[str, int, int]  # stage, channel, digit
    start: tuple[str, int, int]

    def at(self, stage: str, channel: int, digit: int) -> "FeatureState":
        """This channel, or the last of the stage. Raises ValueError for a stage or digit that is not here."""
        if stage not in dict(self.stages) or digit not in self.digits:
            raise ValueError(self.complaint(f"{stage} · channel {channel} · digit {digit}"))
        last = dict(self.stages)[stage] - 1
        return replace(self, chosen=(stage, min(last, max(0, int(channel))), int(digit)))

    def moved(self, step: int) -> "FeatureState":
        """`step` channels further, as far as the last one or the first."""
        stage, channel, digit = self.chosen
        return self.at(stage, channel + step, digit)

    def reset(self) -> "FeatureState":
        """Back at the start."""
        return self.at(*self.start)

    def text(self) -> str:
        """One line to hand to a neighbour, such as "7×7 · channel 7 · digit 3"."""
        stage, channel, digit = self.chosen
        return f"{stage} · channel {channel} · digit {digit}"

    def parse(self, text: str) -> "FeatureState":
        """The state that `text` speaks of. Raises ValueError if the board does not have it."""
        line = r"(.*[^\s·,;])[\s·,;]+channel\s+([0-9]{1,4})[\s·,;]+digit\s+([0-9]{1,4})"
        found = re.fullmatch(line, plain(text))
        stages = [name for name, _ in self.stages if found and plain(name) == found[1]]
        if not stages or int(found[2]) >= dict(self.stages)[stages[0]] or int(found[3]) not in self.digits:
            raise ValueError(self.complaint(text))
        return self.at(stages[0], int(found[2]), int(found[3]))

    def complaint(self, text: str) -> str:
        stages = " | ".join(f"{name} · channel 0 to {n - 1}" for name, n in self.stages)
        digits = ", ".join(map(str, self.digits))
        example = replace(self, chosen=self.start).text()
        return (
            f"“{text}” is not on this board. Write a line such as {example}. "
            f"The board has {stages}, and digit {digits}"
        )


def plain(text: str) -> str:
    """As people type it: in small letters, x for ×, one space for many."""
    return re.sub(r"\s+", " ", text.strip().lower().replace("×", "x"))


# The view ---------------------------------------------------------------------------------------


class FeatureViewer(anywidget.AnyWidget):
    """Every channel of some stages of an encoder: its maps for example digits, and what excites it most.

    `model` has `encode` and is in evaluation mode; `images` are binary test images, about a thousand, with
    labels 0 to 9; `stages` names submodules of the encoder whose outputs are (B, C, H, W). `start` is the
    text of a state, as the board's Copy button gives it. `board.chosen` is (stage, channel, digit),
    `board.state` the same as a FeatureState; both can be set. All is computed at construction. Raises
    ValueError for a model in training mode, images that are not binary, a stage whose outputs are not maps.
    """

    _esm = page("board.js", "features.js")
    _css = page("board.css", "features.css")

    n_images = traitlets.Int().tag(sync=True)  # that were looked at
    n_counted = traitlets.Int().tag(sync=True)  # of those that excite a channel most
    image_shape = traitlets.List().tag(sync=True)  # [1, height, width]
    pictures = traitlets.Bytes().tag(sync=True)  # the images that are shown, eight pixels a byte
    labels = traitlets.List().tag(sync=True)  # of these pictures
    examples = traitlets.List().tag(sync=True)  # [class, picture] each
    stages = traitlets.List().tag(sync=True)  # name, rows, columns, and what `numbers` adds
    maps = traitlets.Bytes().tag(sync=True)  # stage by stage (example, channel, row, column)
    tops = traitlets.Bytes().tag(sync=True)  # so (channel, N_SHOWN, 3): picture, row, column of 16 bits
    counts = traitlets.Bytes().tag(sync=True)  # so (channel, class)
    start = traitlets.Tuple(traitlets.Unicode(), traitlets.Int(), traitlets.Int()).tag(sync=True)
    chosen = traitlets.Tuple(traitlets.Unicode(), traitlets.Int(), traitlets.Int()).tag(sync=True)
    large = traitlets.Bool(False).tag(sync=True)  # for a projector

    def __init__(
        self, model: nn.Module, images: Images, stages: dict[str, nn.Module], start: str = "", large=False
    ):
        check(model, images)
        x = as_grey(images.pixels).to(next(model.parameters()).device)
        h, seen = responses(model, x, stages), fields(model, x, stages)
        contents = describe(x.cpu(), images.labels.cpu(), h, seen)
        state = first_state(contents["stages"], contents["examples"])
        chosen = state.parse(start).chosen if start else state.chosen
        super().__init__(**contents, start=chosen, chosen=chosen, large=large)

    @property
    def state(self) -> FeatureState:
        return replace(first_state(self.stages, self.examples), chosen=self.chosen, start=self.start)

    @state.setter
    def state(self, state: FeatureState):
        self.chosen = state.chosen

    @traitlets.validate("start", "chosen")
    def _here(self, proposal) -> tuple[str, int, int]:
        return first_state(self.stages, self.examples).at(*proposal.value).chosen

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        """Beside the board, for pages that cannot show it: a picture, and a line of text."""
        stage, channel, digit = self.chosen
        alt = (
            f"Two panels. Left: the maps of all channels of stage {stage} for a {digit}. Right: the images "
            f"that excite channel {channel} most, each with a box around what it sees at its maximum."
        )
        board = f"FeatureViewer at {self.state.text()}"
        return described(super()._repr_mimebundle_(**kwargs), features_png(self), board, alt)


def first_state(stages: list[dict], examples: list[list[int]]) -> FeatureState:
    """The first channel of the first stage, for the first digit."""
    chosen = (stages[0]["name"], 0, examples[0][0])
    sizes = tuple((stage["name"], stage["shape"][0]) for stage in stages)
    return FeatureState(sizes, tuple(label for label, _ in examples), chosen, chosen)


def check(model: nn.Module, images: Images) -> None:
    """Raises ValueError unless the model is in evaluation mode and the images are binary."""
    if model.training:
        raise ValueError(
            "the maps of a model in training mode depend on the batch: call model.eval() before the board"
        )
    pixels = images.pixels
    if pixels.ndim != 4 or pixels.shape[1] != 1 or not ((pixels == 0) | (pixels == 255)).all():
        raise ValueError(
            f"the board packs binary images (N, 1, H, W) of 0 and 255, not {tuple(pixels.shape)} with other "
            "levels: give it data.fixed_binary(images)"
        )


# What the model answers -------------------------------------------------------------------------


def listen(model: nn.Module, x: Tensor, stages: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What each stage gives out while the model encodes x: (B, C, H, W) each; ValueError if it is no map."""
    outputs = {name: [] for name in stages}
    hooks = [
        module.register_forward_hook(lambda _module, _input, h, name=name: outputs[name].append(h))
        for name, module in stages.items()
    ]
    try:
        model.encode(x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, heard in outputs.items():
        if len(heard) != 1 or heard[0].ndim != 4:
            raise ValueError(
                f"stage “{name}” gave out {[tuple(h.shape) for h in heard] or 'nothing'}: name modules "
                "that the encoder uses once and whose output is (B, C, H, W)"
            )
    return {name: heard[0].float() for name, heard in outputs.items()}


@torch.no_grad()
def responses(model: nn.Module, x: Tensor, stages: dict[str, nn.Module]) -> dict[str, Tensor]:
    """What each stage gives out for all images x, a part at a time: (N, C, H, W) each.

    Rounded, so that units that see the same pixels agree, whatever the order in which a machine sums.
    """
    parts = [listen(model, part, stages) for part in x.split(250)]
    return {name: torch.cat([part[name].cpu() for part in parts]).round(decimals=4) for name in stages}


def fields(model: nn.Module, x: Tensor, stages: dict[str, nn.Module]) -> dict[str, tuple[list, list]]:
    """For each stage, what its units see: [first, end) among the pixel rows by unit row, and so for columns.

    Measured: a unit sees the pixels for which its gradient is not zero. One unit on the diagonal of the map
    for each row and column says it all, since what a convolution sees is a rectangle. With the image as noise
    no unit is silent by chance; each unit has its own copy of it, so one backward pass asks all of them.
    """
    noise = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x.device)
    copies = noise.repeat(max(x.shape[2:]), 1, 1, 1).requires_grad_()
    found = {}
    with torch.enable_grad():
        for name, h in listen(model, copies, stages).items():
            height, width = h.shape[2:]
            units = range(max(height, width))
            answers = [h[k, :, min(k, height - 1), min(k, width - 1)].sum() for k in units]
            (slope,) = torch.autograd.grad(sum(answers), copies, retain_graph=True)
            seen = (slope != 0).any(1).cpu()  # (B, H, W)
            found[name] = [ends(s) for s in seen.any(2)[:height]], [ends(s) for s in seen.any(1)[:width]]
    return found


def ends(seen: Tensor) -> list[int]:
    """[first, end) of what is true; [0, 0] if nothing is."""
    where = seen.nonzero().flatten().tolist() or [0, -1]
    return [where[0], where[-1] + 1]


def strongest(h: Tensor) -> tuple[Tensor, Tensor]:
    """What excites each channel: (image, row, column) of all images, strongest first (C, N, 3), and maxima.

    Of equal images, and of equal places in an image, the first comes first.
    """
    highest, place = h.flatten(2).max(2)  # (N, C)
    image = highest.T.argsort(stable=True, dim=1, descending=True)  # (C, N)
    place = place.T.gather(1, image)
    where = torch.stack([image, place // h.shape[3], place % h.shape[3]], 2)
    return where, highest.T.gather(1, image)


# What the page is told --------------------------------------------------------------------------


def describe(x: Tensor, labels: Tensor, h: dict[str, Tensor], seen: dict[str, tuple[list, list]]) -> dict:
    """The contents of a FeatureViewer, by name of its traits."""
    classes = labels.unique().tolist()
    examples = [(labels == label).nonzero()[0].item() for label in classes]  # the first of each
    stages, maps, tops, counts = [], [], [], []
    for name, its in h.items():
        where, highest = strongest(its)
        rows, columns = seen[name]
        stages.append({"name": name, "rows": rows, "columns": columns, **numbers(its, highest, examples)})
        maps.append(grey_levels(its[examples]))
        tops.append(where[:, :N_SHOWN])
        ranked = labels[where[:, :N_COUNTED, 0]]  # (C, N_COUNTED)
        counts.append(torch.stack([(ranked == label).sum(1) for label in range(10)], 1))  # (C, 10)
    # Of the images, the page has those that it shows; from here on they are counted anew.
    shown = torch.cat([torch.tensor(examples), *(top[..., 0].flatten() for top in tops)]).unique()
    for top in tops:
        top[..., 0] = torch.searchsorted(shown, top[..., 0].contiguous())
    where_examples = torch.searchsorted(shown, torch.tensor(examples)).tolist()
    return {
        "n_images": len(x),
        "n_counted": min(N_COUNTED, len(x)),
        "image_shape": list(x.shape[1:]),
        "pictures": np.packbits(x[shown].flatten(1).numpy() > 0, axis=1).tobytes(),
        "labels": labels[shown].tolist(),
        "examples": list(zip(classes, where_examples, strict=True)),
        "stages": stages,
        "maps": in_order(maps, "u1"),
        "tops": in_order(tops, "<u2"),
        "counts": in_order(counts, "u1"),
    }


def numbers(h: Tensor, highest: Tensor, examples: list[int]) -> dict:
    """The size of a stage, and of each channel the numbers that the page writes beside it."""
    (low, high), (black, white) = extremes(h), extremes(h[examples])
    by_channel = {"black": black, "white": white, "high": high, "least": highest[:, :N_SHOWN][:, -1]}
    return {
        "shape": list(h.shape[1:]),
        **{name: [round(v, 4) + 0.0 for v in values.tolist()] for name, values in by_channel.items()},
        "ties": (highest == high[:, None]).sum(1).tolist(),  # images that reach the highest value
        "flat": (high - low < FLAT).tolist(),
    }


def extremes(h: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of each channel: (C,) each."""
    return h.amin((0, 2, 3)), h.amax((0, 2, 3))


def grey_levels(h: Tensor) -> Tensor:
    """Each channel from 0 at its lowest value to 255 at its highest; 0 if it hardly moves."""
    low, high = (extreme[:, None, None] for extreme in extremes(h))
    return torch.where(high - low < FLAT, 0, 255 * (h - low) / (high - low).clamp(min=FLAT)).round()


def in_order(parts: list[Tensor], kind: str) -> bytes:
    return b"".join(part.numpy().astype(kind).tobytes() for part in parts)


def unpacked(board: FeatureViewer) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """What the page reads out of the bytes: pictures (P, H, W), and by stage the maps and the tops."""
    _, height, width = board.image_shape
    bits = np.unpackbits(np.frombuffer(board.pictures, "u1").reshape(len(board.labels), -1), axis=1)
    pictures = bits[:, : height * width].reshape(-1, height, width)
    maps, tops, shapes = [], [], [stage["shape"] for stage in board.stages]
    n_shown = len(board.tops) // (2 * 3 * sum(shape[0] for shape in shapes))
    all_maps, all_tops = np.frombuffer(board.maps, "u1"), np.frombuffer(board.tops, "<u2")
    for shape in shapes:
        n_maps, n_tops = len(board.examples) * int(np.prod(shape)), shape[0] * n_shown * 3
        maps.append(all_maps[:n_maps].reshape(-1, *shape))
        tops.append(all_tops[:n_tops].reshape(shape[0], n_shown, 3))
        all_maps, all_tops = all_maps[n_maps:], all_tops[n_tops:]
    return pictures, maps, tops


# The still picture ------------------------------------------------------------------------------


def features_png(board: FeatureViewer) -> bytes:
    """The board as a still picture: the maps of one stage, and what excites one channel."""
    name, channel, digit = board.chosen
    at = [stage["name"] for stage in board.stages].index(name)
    example = [label for label, _ in board.examples].index(digit)
    stage, (pictures, maps, tops) = board.stages[at], unpacked(board)
    figure = Figure(figsize=(8, 3.3), dpi=96, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    corners = draw_tiles(left, maps[at][example], 8)
    add_frame(left, corners[channel], stage["shape"][:0:-1])
    left.set_title(f"{name}: all channels for a {digit}", color="#1b2433", size=11)
    for axes in (left, right):
        axes.set(xticks=[], yticks=[], anchor="N")
        axes.spines[:].set_visible(False)
    if stage["flat"][channel]:
        right.set_title(f"Channel {channel} is never excited", color="#1b2433", size=11)
        return still(figure)
    images, rows, columns = tops[at][channel].T
    corners = draw_tiles(right, 255 * pictures[images], 4)
    right.set_title(f"What excites channel {channel} most", color="#1b2433", size=11)
    for (x, y), row, column in zip(corners, rows, columns, strict=True):
        (top, bottom), (first, end) = stage["rows"][row], stage["columns"][column]
        add_frame(right, (x + first, y + top), (end - first, bottom - top))
    return still(figure)


def draw_tiles(axes: Axes, pictures: np.ndarray, n_columns: int) -> list[tuple[int, int]]:
    """Draws pictures (N, H, W) of grey levels row by row; returns the upper left corner (x, y) of each."""
    n, height, width = pictures.shape
    gap = max(1, width // 7)
    n_rows = -(-n // n_columns)
    sheet = np.full((n_rows * (height + gap) + gap, n_columns * (width + gap) + gap), 255)
    corners = [(gap + i % n_columns * (width + gap), gap + i // n_columns * (height + gap)) for i in range(n)]
    for (x, y), picture in zip(corners, pictures, strict=True):
        sheet[y : y + height, x : x + width] = picture
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, extent=(0, sheet.shape[1], sheet.shape[0], 0))
    return corners


def add_frame(axes: Axes, corner: tuple[float, float], size: tuple[float, float]) -> None:
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#d55e00", linewidth=2))
