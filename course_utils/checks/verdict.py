"""What all checks share: an answer is compared with the right one and with the answers of known mistakes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """Is the answer right, and what to say about it."""

    passed: bool
    message: str

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{'✓ Right.' if self.passed else '✗ Not yet.'} {self.message}"


def judge(
    attempt: Callable[[], object],
    right: Tensor | dict[str, Tensor],
    praise: str,
    mistakes: dict[str, Tensor] | dict[str, tuple[Tensor, ...]],
) -> Verdict:
    """Compare what the attempt returns with the right answer and with the answers of known mistakes.

    Where a tuple is asked for, `right` maps the name of each part to its value, and the mistakes are tuples.
    Where the right answer is a whole number, a float is a mistake.
    """
    try:
        answer = attempt()
    except Exception as error:
        return Verdict(False, f"Your function stops with {type(error).__name__}: {error}")
    parts = right if isinstance(right, dict) else {"": right}
    given = answer if isinstance(right, dict) and isinstance(answer, tuple | list) else (answer,)
    if any(part is None or part is Ellipsis for part in given):
        return Verdict(False, "Your function returns nothing yet: replace the ... by your answer.")
    odd = [type(part).__name__ for part in given if not is_numeric(part)]
    if odd:
        return Verdict(False, f"Your function returns a {odd[0]}; a tensor or a number is asked for.")
    given = tuple(torch.as_tensor(part) for part in given)
    if same(given, tuple(parts.values())):
        if any(
            a.is_floating_point() > b.is_floating_point() for a, b in zip(given, parts.values(), strict=True)
        ):
            return Verdict(
                False, "The value is right, but a float. What is counted is an int: divide with //."
            )
        return Verdict(True, praise)
    for message, wrong in mistakes.items():
        if same(given, wrong if isinstance(wrong, tuple) else (wrong,)):
            return Verdict(False, message)
    return Verdict(False, difference(given, parts))


def judge_each(
    function: Callable, cases: list[tuple], right: Callable, praise: str, mistakes: dict[str, Callable]
) -> Verdict:
    """Judge a function of plain numbers by several inputs. `right` and the mistakes are functions as well."""
    truths = {f"For {', '.join(map(str, case))}": torch.tensor(right(*case)) for case in cases}
    answers = {text: tuple(torch.tensor(f(*case)) for case in cases) for text, f in mistakes.items()}
    return judge(lambda: [function(*case) for case in cases], truths, praise, answers)


def is_numeric(part: object) -> bool:
    """Can torch make a tensor of it?"""
    try:
        torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def same(given: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    """As many tensors, of equal shapes, and of equal values up to rounding."""
    return len(given) == len(wanted) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
        for a, b in zip(given, wanted, strict=True)
    )


def difference(given: tuple[Tensor, ...], parts: dict[str, Tensor]) -> str:
    """One sentence on the first part that is not as it should be."""
    if len(given) != len(parts):
        shapes = ", ".join(str(tuple(part.shape)) for part in given)
        return f"{len(parts)} tensors are asked for. You return {len(given)}, of shape {shapes}."
    for answer, (name, right) in zip(given, parts.items(), strict=True):
        start = f"{name}: " if name else ""
        if answer.shape != right.shape:
            hint = ": over which axes do you sum?" if answer.ndim != right.ndim else "."
            return f"{start}The shape should be {tuple(right.shape)} and is {tuple(answer.shape)}{hint}"
        if not same((answer,), (right,)):
            break
    shown, truth = (", ".join(f"{v:.4g}" for v in t.flatten()[:3].tolist()) for t in (answer, right))
    return f"{start}Your value: {shown}. True value: {truth}. Compare the formula term by term."
