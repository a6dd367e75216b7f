"""The update rules of lesson 02 that torch does not have: one idea, at three times.

With g the gradient of the cost *summed* over the batch, all parameters together, and n = ||g||:

    committed   g' = g * 5 / max(5, sqrt(n))     step = lr * g'
    July        g' = g * 5 / max(5, sqrt(n))     step = lr * g' / max(sqrt(avg(g'^2) - avg(g')^2), 1e-4)
    final       g' = g * 5 / max(5, n)           step = lr * g' / sqrt(avg(g'^2) - avg(g')^2 + 1e-4)

    theta <- theta + m^2 v - (1 + m) step,    v <- m v - step,    m = 0.9: Nesterov's momentum

The first was called rmsprop and divides by no RMS: its code computed the averages and never used them. Its
square root was taken twice, so that a long gradient is not cut to 5 but compressed to 5 sqrt(n).
SGD with Nesterov's momentum and Adam are torch's own: `torch.optim.SGD(nesterov=True)`, `torch.optim.Adam`.
Sources: kastnerkyle/ift6266h15, optimizers.py (2015); kastnerkyle/dagbldr; after Graves 2013, eq. 38-45.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

LONGEST = 5.0  # what gradients are compared with
NO_DIVISION = 1e-4  # the least that a step is divided by


class Committed2015(torch.optim.Optimizer):
    """April 2015: SGD with Nesterov's momentum and a compressed gradient.

    `n_images` turns the gradient of a batch mean, as `fit` computes it, into that of the sum over the batch,
    which the code of 2015 minimised: give it the batch size.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, n_images: int, momentum: float = 0.9):
        super().__init__(parameters, {"lr": lr, "n_images": n_images, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = torch._foreach_mul([p.grad for p in parameters], float(group["n_images"]))
            norm = nn.utils.get_total_norm(gradients)
            if norm.isfinite():
                torch._foreach_mul_(gradients, self.factor(norm))
            else:  # as the code had it: such a step only pulls the weights towards 0
                gradients = torch._foreach_mul(parameters, 0.1)
            self.divide(gradients, parameters)

            velocities = [self.remembered(p, "velocity") for p in parameters]
            lr, momentum = group["lr"], group["momentum"]
            torch._foreach_add_(parameters, velocities, alpha=momentum**2)
            torch._foreach_add_(parameters, gradients, alpha=-(1 + momentum) * lr)
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, gradients, alpha=-lr)

    def factor(self, norm: Tensor) -> Tensor:
        """What a gradient of this length is multiplied by: () -> ()."""
        return LONGEST / norm.sqrt().clamp(min=LONGEST)

    def divide(self, gradients: list[Tensor], parameters: list[nn.Parameter]) -> None:
        """Divide the gradients in place. The committed rule does not."""

    def remembered(self, parameter: nn.Parameter, name: str) -> Tensor:
        """The state of that name, zero at first: the shape of the parameter."""
        return self.state[parameter].setdefault(name, torch.zeros_like(parameter))


class July2015(Committed2015):
    """July 2015: the same, divided by a running standard deviation of the gradient."""

    decay = 0.9

    def divide(self, gradients: list[Tensor], parameters: list[nn.Parameter]) -> None:
        variances = self.variances(gradients, parameters)
        torch._foreach_clamp_min_(variances, NO_DIVISION**2)  # before the root: rounding can leave it below 0
        torch._foreach_sqrt_(variances)
        torch._foreach_div_(gradients, variances)

    def variances(self, gradients: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
        """avg(g^2) - avg(g)^2 of each parameter, this gradient included."""
        means = [self.remembered(p, "mean") for p in parameters]
        squares = [self.remembered(p, "square") for p in parameters]
        torch._foreach_lerp_(means, gradients, 1 - self.decay)
        torch._foreach_mul_(squares, self.decay)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - self.decay)
        return torch._foreach_addcmul(squares, means, means, -1.0)


class Final2015(July2015):
    """As it stayed: a length of at most 5, a longer memory, and a floor inside the root."""

    decay = 0.95

    def factor(self, norm: Tensor) -> Tensor:
        return LONGEST / norm.clamp(min=LONGEST)

    def divide(self, gradients: list[Tensor], parameters: list[nn.Parameter]) -> None:
        variances = self.variances(gradients, parameters)
        torch._foreach_clamp_min_(variances, 0.0)
        torch._foreach_add_(variances, NO_DIVISION)
        torch._foreach_sqrt_(variances)
        torch._foreach_div_(gradients, variances)
