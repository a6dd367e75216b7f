"""What every board shares: the decoder packed for the page, the page's script, a still picture.

The decoder's weights travel to the page once, as 16-bit floats; static/decoder.js unpacks them.
"""

import io
import math
import re
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn

from course_utils.distributions import (
    Bernoulli,
    DiscretisedLogistic,
    GaussianPerPixel,
    GaussianShared,
)

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


# The decoder, packed for the page ---------------------------------------------------------------

# What a likelihood's `mean` does to the numbers it is given.
MEAN = {
    Bernoulli: [{"op": "sigmoid"}],
    GaussianShared: [{"op": "clamp"}],
    GaussianPerPixel: [{"op": "clamp"}],
    DiscretisedLogistic: [{"op": "shift", "by": 0.5}, {"op": "clamp"}],
}


def page_decoder(model: nn.Module) -> tuple[list[dict], bytes]:
    """What static/decoder.js needs to turn z into the mean of p(x|z): the operations, and all their weights.

    The weights are little-endian 16-bit floats, each layer's matrix row by row and then its bias. Of the last
    layer only the rows of the mean are kept. Raises TypeError for a layer or likelihood that the page does
    not know, and ValueError for weights that 16 bits cannot hold.
    """
    layers, weights = [], []
    for index, layer in enumerate(model.decoder):
        match layer:
            case nn.Linear():
                is_last = index == len(model.decoder) - 1
                n_out = math.prod(model.image_shape) if is_last else layer.out_features
                layers.append({"op": "linear", "n_in": layer.in_features, "n_out": n_out})
                weights += [layer.weight[:n_out], layer.bias[:n_out]]
            case nn.SiLU():
                layers.append({"op": "silu"})
            case _:
                raise TypeError(
                    f"the page cannot decode layer {index} of the decoder, a {type(layer).__name__}: "
                    "it knows Linear and SiLU; teach it with a function in static/decoder.js "
                    "and a case in widgets.shared.page_decoder"
                )
    if type(model.likelihood) not in MEAN:
        raise TypeError(
            f"the page does not know the mean of a {type(model.likelihood).__name__}: "
            "add it to widgets.shared.MEAN"
        )
    return layers + MEAN[type(model.likelihood)], pack(weights)


def pack(weights: list[Tensor]) -> bytes:
    """The tensors one after the other, as little-endian 16-bit floats."""
    packed = torch.cat([w.detach().flatten().cpu() for w in weights]).half().numpy().astype("<f2")
    if not np.isfinite(packed).all():
        raise ValueError(
            "the decoder holds weights that are not finite or too large for 16 bits: "
            "the training has diverged; train again with a smaller learning rate"
        )
    return packed.tobytes()
