"""What boards share: the page's script, a still picture, the decoder packed for the page.

The decoder's weights travel to the page once, as 16-bit floats, those of lesson 06's own photograph as 8-bit
multiples of such; static/decoder.js unpacks them.
"""

import base64
import copy
import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from course_utils.distributions import (
    Bernoulli,
    BlockLogistic,
    DiscretisedLogistic,
    GaussianPerPixel,
    GaussianShared,
)
from course_utils.models.common import Residual
from course_utils.models.inpainting_vae import LIMIT, SIDES

STATIC = Path(__file__).parent.parent / "static"


def page(*names: str) -> str:
    """The files of static/ as one: those of JavaScript lose their imports of each other."""
    text = "\n".join((STATIC / name).read_text(encoding="utf-8") for name in names)
    return re.sub(r'^import [^;]*? from "\./[^;]*;\n', "", text, flags=re.MULTILINE)


def still(figure: Figure) -> bytes:
    """A figure as a PNG of 256 colours: 40 KB in the notebook instead of 150."""
    FigureCanvasAgg(figure).draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    png = io.BytesIO()
    picture.quantize(method=Image.Quantize.FASTOCTREE).save(png, "png", optimize=True)
    return png.getvalue()


def strip(pictures: Tensor) -> np.ndarray:
    """Pictures side by side, for a still: (n, C, H, W) -> (H, n W, C)"""
    return np.concatenate(pictures.permute(0, 2, 3, 1).numpy(), axis=1)


def described(bundle: tuple[dict, dict], png: bytes, board: str, alt: str) -> tuple[dict, dict]:
    """A board's mime bundle with what pages show that cannot show it: a still picture, and a line of text.

    `board` names it and its state, such as "LatentPlane at z = 0.50, -1.25".
    """
    data, metadata = bundle
    data["image/png"] = base64.b64encode(png).decode()
    data["text/plain"] = (
        f"{board}. If this line is all you see, no board can be shown here: "
        "open the notebook in JupyterLab and run this cell."
    )
    return data, {**metadata, "image/png": {"alt": alt}}


def pick(labels: Tensor, n: int) -> tuple[list[int], list[str]]:
    """n positions, the first of each class before the second of any; and their names, such as 3, 3b, 3c."""
    seen, found = Counter(), []
    for index, label in enumerate(labels.tolist()):
        found.append((seen[label], label, index))
        seen[label] += 1
    found = sorted(found)[: min(n, 100)]
    letters = ["", *"bcdefghijklmnopqrstuvwxyz"]
    return [i for *_, i in found], [f"{label}{letters[nth]}" for nth, label, _ in found]


# The decoder, packed for the page ---------------------------------------------------------------
#
# A flat list of operations, each a dict with its "op" and the sizes that its loops need, and all weights in
# one piece, little-endian 16-bit floats: for each layer its matrix row by row, then its bias. Lesson 04 packs
# each of its modules with `page_layers`.

# What a likelihood's `mean` does to the numbers it is given.
MEAN = {
    Bernoulli: [{"op": "sigmoid"}],
    GaussianShared: [{"op": "clamp"}],
    GaussianPerPixel: [{"op": "clamp"}],
    DiscretisedLogistic: [{"op": "shift", "by": 0.5}, {"op": "clamp"}],
    BlockLogistic: [{"op": "clamp"}],
}


def page_decoder(model: nn.Module) -> tuple[list[dict], bytes]:
    """What static/decoder.js needs to turn z into the mean of p(x|z): the operations, and all their weights.

    The page decodes in evaluation mode, whatever the model's own. Raises TypeError for a layer or likelihood
    that the page does not know, and ValueError for weights that 16 bits cannot hold.
    """
    layers, weights = page_pixels(model, (model.latent_dim,))
    return layers, pack(weights)


def page_pixels(model: nn.Module, shape: tuple[int, ...]) -> tuple[list[dict], list[Tensor]]:
    """(operations, weights) that turn what `model.decoder` is given, of this shape, into mean pixels."""
    mean = page_mean(model.likelihood)
    layers, weights, shape = page_layers(model.decoder, shape, model.likelihood.n_params)
    if math.prod(shape) != math.prod(model.image_shape):
        raise TypeError(
            f"the decoder ends with {shape} numbers, the image is {tuple(model.image_shape)}: the page needs "
            "a decoder whose last Linear or Conv2d gives the mean of each pixel first"
        )
    return layers + mean, weights


def page_mean(likelihood: nn.Module) -> list[dict]:
    """The operations of a likelihood's `mean`."""
    if type(likelihood) not in MEAN:
        raise TypeError(
            f"the page does not know the mean of a {type(likelihood).__name__}: add it to widgets.shared.MEAN"
        )
    return MEAN[type(likelihood)]


def page_location(likelihood: nn.Module) -> list[dict]:
    """The operations of a likelihood's `from_mean`, which undo those of its `mean`."""
    mean = page_mean(likelihood)
    if {"op": "sigmoid"} in mean:
        raise TypeError("the page cannot undo a sigmoid: add it to static/decoder.js and page_location")
    return [{**entry, "by": -entry["by"]} for entry in mean if entry["op"] == "shift"]


def page_layers(
    module: nn.Module, shape: tuple[int, ...], n_params: int = 1, within: str = ""
) -> tuple[list[dict], list[Tensor], tuple[int, ...]]:
    """(operations, weights, shape that comes out) of a module if `shape` goes in, not counting the batch.

    Of the last layer with weights only the first n_out / n_params outputs are kept: those of the mean.
    """
    layers = without_norms(leaves(module, within))
    weighted = [layer for _, layer in layers if isinstance(layer, nn.Linear | nn.Conv2d)]
    for values in [values for layer in weighted[-1:] for values in (layer.weight, layer.bias)]:
        values.data = values.data[: len(values) // n_params]
    operations, weights = [], []
    for name, layer in layers:
        if isinstance(layer, Residual):
            block, block_weights, _ = page_layers(layer.block, shape, within=f"{name}.block.")
            operations.append({"op": "residual", "layers": block})
            weights += block_weights
        else:
            operation, shape = page_operation(name, layer, shape)
            operations += [operation] if operation else []
            weights += [layer.weight, layer.bias] if layer in weighted else []
    return operations, weights, shape


def page_walk(model: nn.Module) -> tuple[list[list[dict]], list[Tensor]]:
    """The walk down of an InpaintingVAE: the operations of each network, and the weights of all.

    The top prior, down and prior of each layer below, the decoder, and the likelihood's mean of what decoder
    and guess give together.
    """
    told = [(len(told.bias), *[SIDES[s]] * 2) for told, s in zip(model.told, model.stages, strict=True)]
    lists, weights, above = [], [], None
    for level in reversed(range(len(told))):
        if above is not None:
            down, more, _ = page_layers(model.down[level], above, within=f"down.{level}.")
            lists.append(down)
            weights += more
        prior, more, both = page_layers(model.prior[level], told[level], within=f"prior.{level}.")
        lists.append([*prior, {"op": "bounded", "shape": both, "limit": LIMIT}])
        weights += more
        above = (told[level][0] + both[0] // 2, *both[1:])
    decoder, more, _ = page_layers(model.decoder, above, model.likelihood.n_params, within="decoder.")
    return [*lists, decoder, page_mean(model.likelihood)], weights + more


def page_operation(name: str, layer: nn.Module, shape: tuple[int, ...]) -> tuple[dict, tuple[int, ...]]:
    """One layer as its entry in the list, {} if the page has nothing to do; and the shape that comes out."""
    match layer:
        case nn.Linear():
            n_out = len(layer.bias)
            return {"op": "linear", "n_in": layer.in_features, "n_out": n_out}, (n_out,)
        case nn.Conv2d(padding=(py, px), dilation=(1, 1), groups=1, padding_mode="zeros"):
            n_out, (ky, kx), (sy, sx) = len(layer.bias), layer.kernel_size, layer.stride
            conv = {"op": "conv", "shape": shape, "n_out": n_out}
            conv |= {"kernel": (ky, kx), "padding": (py, px), "stride": (sy, sx)}
            return conv, (n_out, (shape[1] + 2 * py - ky) // sy + 1, (shape[2] + 2 * px - kx) // sx + 1)
        case nn.SiLU():
            return {"op": "silu"}, shape
        case nn.Unflatten(dim=1):  # the page keeps the numbers in this order anyway
            inner = layer.unflattened_size[1:]  # before it, as many as are kept of the last layer
            return {}, (shape[0] // math.prod(inner), *inner, *shape[1:])
        case nn.Upsample(mode="nearest" | "bilinear", scale_factor=2, align_corners=None | False):
            op = {"nearest": "upsample", "bilinear": "blend"}[layer.mode]
            return {"op": op, "shape": shape}, (shape[0], 2 * shape[1], 2 * shape[2])
        case nn.PixelShuffle(upscale_factor=2):
            return {"op": "shuffle", "shape": shape}, (shape[0] // 4, 2 * shape[1], 2 * shape[2])
    raise TypeError(
        f"the page cannot decode layer {name} of the decoder, a {type(layer).__name__}: it knows Linear, "
        "Conv2d (no dilation, zeros around), batch norm after one of these, SiLU, Unflatten, Upsample and "
        "PixelShuffle by 2, and Residual; teach it with a function in static/decoder.js "
        "and a case in widgets.shared.page_operation"
    )


def leaves(module: nn.Module, within: str) -> Iterator[tuple[str, nn.Module]]:
    """(name, layer) of what an nn.Sequential holds, however deep, in the order in which it is run."""
    # Not named_children: that has a layer only once which stands in its place twice.
    for name, layer in module._modules.items():
        if isinstance(layer, nn.Sequential):
            yield from leaves(layer, f"{within}{name}.")
        else:
            yield f"{within}{name}", layer


def without_norms(layers: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """Copies of the layers in float64, each batch norm folded into the Linear or Conv2d before it.

    In evaluation mode its mean and variance are constants, so it scales and shifts what it is given, and
    scale * (W h + b) + shift = (scale W) h + (scale b + shift).
    """
    kept = []
    for name, layer in layers:
        layer = copy.deepcopy(layer).requires_grad_(False).double()
        before = kept[-1][1] if kept else None
        is_norm = isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        if is_norm and isinstance(before, nn.Linear | nn.Conv2d):
            scale = layer.weight / torch.sqrt(layer.running_var + layer.eps)
            before.weight *= scale.view(-1, *[1] * (before.weight.ndim - 1))
            before.bias.sub_(layer.running_mean).mul_(scale).add_(layer.bias)
        else:
            kept.append((name, layer))
    return kept


def floats(values: Tensor) -> bytes:
    """A tensor as little-endian 32-bit floats."""
    return values.detach().numpy().astype("<f4").tobytes()


def pack(weights: list[Tensor]) -> bytes:
    """The tensors one after the other, as little-endian 16-bit floats."""
    values = torch.cat([w.detach().flatten().cpu() for w in weights]).half()
    must_be_finite(values)
    return values.numpy().astype("<f2").tobytes()


def must_be_finite(packed: Tensor) -> None:
    if not packed.isfinite().all():
        raise ValueError(
            "the decoder holds weights that are not finite or too large for 16 bits: "
            "the training has diverged; train again with a smaller learning rate"
        )


BLOCK = 16  # weights that share a step


def pack_small(weights: list[Tensor]) -> bytes:
    """The tensors one after the other: of each the 16-bit steps of all blocks, then the 8-bit multiples."""
    packed = []
    for values in weights:
        steps, multiples = in_blocks(values)
        must_be_finite(steps)
        packed.append(steps.numpy().astype("<f2").tobytes())
        packed.append(multiples.numpy().astype("i1").tobytes()[: values.numel()])
    return b"".join(packed)


def rounded(values: Tensor) -> Tensor:
    """The tensor as it comes out of `pack_small`, to a 254th of what is largest among its 16 neighbours."""
    steps, multiples = in_blocks(values)
    return (steps * multiples).flatten()[: values.numel()].view_as(values)


def in_blocks(values: Tensor) -> tuple[Tensor, Tensor]:
    """(steps (n, 1), whole numbers (n, 16) from -127 to 127) whose product is nearly the tensor."""
    flat = values.detach().cpu().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    steps = (blocks.abs().amax(dim=1, keepdim=True) / 127).half().float()
    return steps, (blocks / steps.clamp(min=1e-9)).round().clamp(-127, 127)
