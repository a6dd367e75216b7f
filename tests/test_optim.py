"""The update rules of 2015 against NumPy, written from their equations; and what torch's own two do."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.data import Batches
from course_utils.models.vae import VAE
from course_utils.optim import Committed2015, Final2015, July2015
from course_utils.train import fit

RULES = [Committed2015, July2015, Final2015]
SHAPES = [(3, 4), (5,), (2, 1, 2)]
SIZE = 21  # numbers in these shapes


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    return [nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in SHAPES]


def set_gradients(some: list[nn.Parameter], flat: np.ndarray) -> None:
    pieces = torch.from_numpy(flat).split([p.numel() for p in some])
    for p, piece in zip(some, pieces, strict=True):
        p.grad = piece.reshape(p.shape).to(p.dtype, copy=True)


def flat(some: list[nn.Parameter]) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in some]).numpy().copy()


def gradients_of_length(norms: list[float]) -> list[np.ndarray]:
    """Gradients of the summed cost whose length, all parameters together, is as asked."""
    drawn = [np.random.randn(SIZE) for _ in norms]
    return [norm * g / np.linalg.norm(g) for norm, g in zip(norms, drawn, strict=True)]


def reference(rule: type, theta: np.ndarray, gradients: list[np.ndarray], lr: float, m: float) -> np.ndarray:
    """theta after those gradients of the summed cost, as the equations have it."""
    v = mean = square = np.zeros_like(theta)
    decay = {Committed2015: 0.9, July2015: 0.9, Final2015: 0.95}[rule]
    for g in gradients:
        n = math.sqrt((g**2).sum())
        if rule is not Final2015 and not math.isfinite(n):
            g = 0.1 * theta
        else:
            g = g * 5 / max(5, n if rule is Final2015 else math.sqrt(n))
        mean, square = decay * mean + (1 - decay) * g, decay * square + (1 - decay) * g**2
        divisor = {
            Committed2015: 1,
            July2015: np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-4),
            Final2015: np.sqrt(square - mean**2 + 1e-4),
        }[rule]
        step = lr * g / divisor
        v_new = m * v - step
        theta, v = theta + m * m * v - (1 + m) * step, v_new
    return theta


# The three rules --------------------------------------------------------------------------------

LENGTHS = {
    "short": [0.3, 2.0, 4.9],
    "between the thresholds 5 and 25": [5.1, 12.0, 24.9],
    "long": [25.1, 400.0, 1e6],
    "mixed": [1.0, 3000.0, 7.0, 0.0, 30.0, 0.01],
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norms", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_a_rule_is_its_equations(rule, norms, momentum):
    some, lr, n_images = parameters(), 1e-3, 50
    gradients = gradients_of_length(norms)
    optimizer = rule(some, lr=lr, n_images=n_images, momentum=momentum)
    theta = flat(some)
    for t, g in enumerate(gradients):
        set_gradients(some, g / n_images)  # that of the batch mean
        optimizer.step()
        expected = reference(rule, theta, gradients[: t + 1], lr, momentum)
        np.testing.assert_allclose(flat(some), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_in_float32_the_rule_is_the_same_over_many_steps(rule):
    """The gradients hardly vary, so that the two averages nearly cancel."""
    some = parameters(torch.float32)
    theta, n_images = flat(some).astype(np.float64), 1000
    gradients = [1 + 1e-2 * np.random.randn(SIZE) for _ in range(60)]
    optimizer = rule(some, lr=1e-4, n_images=n_images)
    for g in gradients:
        set_gradients(some, g / n_images)
        optimizer.step()
    np.testing.assert_allclose(flat(some), reference(rule, theta, gradients, 1e-4, 0.9), atol=2e-4)


@pytest.mark.parametrize("rule", [July2015, Final2015])
def test_a_gradient_that_never_varies_is_divided_by_no_less_than_the_floor(rule):
    """In float32 the variance of a constant can come out below 0, whose root would be NaN."""
    p = nn.Parameter(torch.zeros(1000))
    optimizer = rule([p], lr=1e-6, n_images=1)
    for _ in range(300):
        p.grad = torch.linspace(0.01, 0.2, 1000)
        optimizer.step()
        assert p.isfinite().all()


def test_a_long_gradient_is_compressed_by_the_first_rule_and_cut_by_the_last():
    for rule, length in ((Committed2015, 5 * math.sqrt(400)), (Final2015, 5)):
        some = parameters()
        optimizer = rule(some, lr=1.0, n_images=1, momentum=0.0)
        assert 400 * optimizer.factor(400.0) == pytest.approx(length)
    some = parameters()
    before = flat(some)
    set_gradients(some, gradients_of_length([400.0])[0])
    Committed2015(some, lr=1.0, n_images=1, momentum=0.0).step()
    assert np.linalg.norm(flat(some) - before) == pytest.approx(100)


@pytest.mark.parametrize("rule", [Committed2015, July2015])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_pulls_the_weights_towards_0(rule, bad):
    some, gradients = parameters(), gradients_of_length([3.0, 3.0, 3.0])
    gradients[1][4] = bad
    optimizer, theta = rule(some, lr=1e-3, n_images=7), flat(some)
    for g in gradients:
        set_gradients(some, g / 7)
        optimizer.step()
    np.testing.assert_allclose(flat(some), reference(rule, theta, gradients, 1e-3, 0.9), rtol=1e-9)


def test_the_first_such_step_is_a_tenth_of_the_weights():
    some = parameters()
    before = flat(some)
    set_gradients(some, np.full(SIZE, np.nan))
    Committed2015(some, lr=0.01, n_images=1000).step()
    np.testing.assert_allclose(flat(some), before * (1 - 1.9 * 0.01 * 0.1), rtol=1e-12)


def test_the_final_rule_has_no_such_branch():
    some = parameters()
    set_gradients(some, np.full(SIZE, np.nan))
    Final2015(some, lr=0.01, n_images=1).step()
    assert np.isnan(flat(some)).all()


@pytest.mark.parametrize("rule", RULES)
def test_what_has_no_gradient_is_left_alone(rule):
    some, other = parameters(), nn.Parameter(torch.ones(4, dtype=torch.float64))
    optimizer, theta = rule([other, *some], lr=1e-3, n_images=1), flat(some)
    gradients = gradients_of_length([50.0, 2.0])
    for g in gradients:
        set_gradients(some, g)
        optimizer.step()
    assert other.tolist() == [1, 1, 1, 1] and other not in optimizer.state
    np.testing.assert_allclose(flat(some), reference(rule, theta, gradients, 1e-3, 0.9), rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_a_step_reads_the_gradients_and_does_not_change_them(rule):
    some, (g,) = parameters(), gradients_of_length([80.0])
    set_gradients(some, g)
    rule(some, lr=1e-3, n_images=3).step()
    assert np.array_equal(np.concatenate([p.grad.flatten().numpy() for p in some]), g)


# Gone on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_from_its_state_a_rule_goes_on_bit_for_bit(rule):
    some, gradients = parameters(torch.float32), gradients_of_length([40.0, 3.0, 9.0, 100.0, 1.0])
    optimizer = rule(some, lr=1e-3, n_images=2, momentum=0.8)
    for i, g in enumerate(gradients):
        if i == 2:
            others = copy.deepcopy(some)
            resumed = rule(others, lr=7.0, n_images=99)  # the state says what these are
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        for chosen, rule_of_them in ((some, optimizer), *(((others, resumed),) if i >= 2 else ())):
            set_gradients(chosen, g)
            rule_of_them.step()
    assert np.array_equal(flat(some), flat(others))


def bars() -> Batches:
    pixels = torch.zeros(64, 1, 4, 4, dtype=torch.uint8)
    for i in range(64):
        pixels[i, 0, i % 4] = 200
    return Batches(pixels, 16, binarise=True)


class StopsAt:
    """Batches during which the reader stops the cell."""

    def __init__(self, step: int):
        self.step = step

    def __getitem__(self, step: int) -> torch.Tensor:
        if step == self.step:
            raise KeyboardInterrupt
        return bars()[step]


def trained(rule: type, batches, state: Path | None = None) -> list[torch.Tensor]:
    """The weights after `fit`, and all that the rule remembers."""
    torch.manual_seed(0)
    model = VAE((1, 4, 4), hidden=(16,), latent_dim=3)
    optimizer = rule(model.parameters(), lr=1e-4, n_images=16)
    fit(model, batches, 50, optimizer=optimizer, state=state)
    remembered = [t for values in optimizer.state_dict()["state"].values() for t in values.values()]
    return [*model.state_dict().values(), *remembered]


@pytest.mark.parametrize("rule", RULES)
def test_an_interrupted_fit_ends_where_the_uninterrupted_one_does(rule, tmp_path):
    state = tmp_path / "run.safetensors"
    whole = trained(rule, bars())
    stopped = trained(rule, StopsAt(33), state)
    resumed = trained(rule, bars(), state)
    assert len(whole) == len(resumed) and not torch.equal(whole[0], stopped[0])
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


# What the lesson says of torch's own ------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_sgd_of_torch_with_nesterov_is_the_form_of_2015(fused):
    some, lr, m = parameters(), 0.01, 0.9
    optimizer = torch.optim.SGD(some, lr=lr, momentum=m, nesterov=True, fused=fused)
    theta, v = flat(some), np.zeros(SIZE)
    for g in gradients_of_length([1.0, 30.0, 4.0, 0.5]):
        set_gradients(some, g)
        optimizer.step()
        theta, v = theta + m**2 * v - (1 + m) * lr * g, m * v - lr * g
        np.testing.assert_allclose(flat(some), theta, rtol=1e-9)


def test_the_committed_rule_is_that_sgd_while_gradients_are_short():
    ours, torchs = parameters(), parameters()
    set_both = [(ours, 1.0), (torchs, 10.0)]  # mean over ten images, and their sum
    with torch.no_grad():
        for a, b in zip(ours, torchs, strict=True):
            b.copy_(a)
    committed = Committed2015(ours, lr=0.01, n_images=10)
    sgd = torch.optim.SGD(torchs, lr=0.01, momentum=0.9, nesterov=True)
    for g in gradients_of_length([24.0, 1.0, 10.0]):
        for some, share in set_both:
            set_gradients(some, g * share / 10)
        committed.step()
        sgd.step()
    np.testing.assert_allclose(flat(ours), flat(torchs), rtol=1e-9)


@pytest.mark.parametrize("fused", [False, True])
def test_adam_of_torch_is_the_textbook(fused):
    """Kingma & Ba 2015, algorithm 1."""
    some, lr = parameters(), 0.01
    optimizer = torch.optim.Adam(some, lr=lr, fused=fused)
    theta, m, s = flat(some), np.zeros(SIZE), np.zeros(SIZE)
    for t, g in enumerate(gradients_of_length([1.0, 300.0, 0.02, 5.0]), start=1):
        set_gradients(some, g)
        optimizer.step()
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        theta = theta - lr * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(flat(some), theta, rtol=1e-9)
