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

import math
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

    pulls_to_zero = True  # if the gradient is not finite; the final rule does not look

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, n_images: int, momentum: float = 0.9):
        super().__init__(parameters, {"lr": lr, "n_images": n_images, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients, scale = [p.grad for p in parameters], group["n_images"]
            norm = scale * nn.utils.get_total_norm(gradients).item()
            if math.isfinite(norm) or not self.pulls_to_zero:
                scale *= self.factor(norm)
            else:  # as the code had it: such a step only pulls the weights towards 0
                gradients, scale = [p.clone() for p in parameters], 0.1
            directions = self.divide(gradients, scale, parameters)

            velocities = [self.remembered(p, "velocity") for p in parameters]
            rate, momentum = group["lr"] * scale, group["momentum"]
            torch._foreach_add_(parameters, velocities, alpha=momentum**2)
            torch._foreach_add_(parameters, directions, alpha=-(1 + momentum) * rate)
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, directions, alpha=-rate)

    def factor(self, norm: float) -> float:
        """What a gradient of this length is multiplied by."""
        return LONGEST / max(LONGEST, math.sqrt(norm))

    def divide(self, gradients: list[Tensor], scale: float, parameters: list[nn.Parameter]) -> list[Tensor]:
        """The gradients, divided by what the rule remembers of g' = scale * gradient: here by nothing."""
        return gradients

    def remembered(self, parameter: nn.Parameter, name: str) -> Tensor:
        """The state of that name, zero at first: the shape of the parameter."""
        state = self.state[parameter]
        if name not in state:
            state[name] = torch.zeros_like(parameter)
        return state[name]


class July2015(Committed2015):
    """July 2015: the same, divided by a running standard deviation of the gradient."""

    decay = 0.9

    def divide(self, gradients: list[Tensor], scale: float, parameters: list[nn.Parameter]) -> list[Tensor]:
        means = [self.remembered(p, "mean") for p in parameters]
        squares = [self.remembered(p, "square") for p in parameters]
        torch._foreach_mul_(means, self.decay)
        torch._foreach_add_(means, gradients, alpha=(1 - self.decay) * scale)
        torch._foreach_mul_(squares, self.decay)
        torch._foreach_addcmul_(squares, gradients, gradients, (1 - self.decay) * scale**2)
        quotients = torch._foreach_addcmul(squares, means, means, -1.0)  # from here on in place
        self.floor(quotients)
        torch._foreach_rsqrt_(quotients)
        torch._foreach_mul_(quotients, gradients)
        return quotients

    def floor(self, variances: list[Tensor]) -> None:
        """Keep the variances above 0, in place; rounding can leave them below."""
        torch._foreach_clamp_min_(variances, NO_DIVISION**2)


class Final2015(July2015):
    """As it stayed: a length of at most 5, a longer memory, and a floor inside the root."""

    decay = 0.95
    pulls_to_zero = False

    def factor(self, norm: float) -> float:
        return LONGEST / max(LONGEST, norm)

    def floor(self, variances: list[Tensor]) -> None:
        torch._foreach_add_(variances, NO_DIVISION)  # the rounding error of squares up to 25 is smaller
