"""Training: it lowers the loss, survives what stops it, and says what is wrong when it cannot go on."""

import copy
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from course_utils import recipes, train
from course_utils.data import Batches
from course_utils.holes import with_hole
from course_utils.models.vae import VAE
from course_utils.objectives import Elbo, decibels, elbo, sketched_bound, warm_up
from course_utils.train import (
    MAX_BAD_STEPS,
    TrainingError,
    choose_device,
    constant,
    explain_failure,
    fit,
    load_checkpoint,
    one_cycle,
    pick,
    save_checkpoint,
    set_threads,
    set_up,
    write_safely,
)

N_STEPS = 230  # a row every 2 steps, a saving every 20; the last row and the last saving fall between


def small_vae(seed: int = 0) -> VAE:
    torch.manual_seed(seed)
    return VAE((1, 4, 4), hidden=(16,), latent_dim=3)


def small_batches(**choices) -> Batches:
    """Sixty-four images of a bar that is lit in one of four rows."""
    pixels = torch.zeros(64, 1, 4, 4, dtype=torch.uint8)
    for i in range(64):
        pixels[i, 0, i % 4] = 200
    return Batches(pixels, 16, binarise=True, **choices)


class Once:
    """Batches that do something at one step, the first time it is asked for."""

    def __init__(self, step: int, act):
        self.batches, self.step, self.act, self.done = small_batches(), step, act, False

    def __getitem__(self, step: int) -> torch.Tensor:
        if step == self.step and not self.done:
            self.done = True
            return self.act(self.batches[step])
        return self.batches[step]


def stop(x):
    raise KeyboardInterrupt


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict, b: dict):
    """Equal to the last bit."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def bounds(rows: list[dict]) -> list[tuple]:
    """The rows without their speed, which no two runs share."""
    return [(row["step"], row["elbo"], row["kl"]) for row in rows]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, fused=True)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that the optimiser remembers, by name."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}


@pytest.fixture(scope="module")
def uninterrupted():
    """(weights, optimiser, rows) of the run that the interrupted ones must end equal to."""
    model = small_vae()
    optimizer = adam(model)
    training = fit(model, small_batches(), N_STEPS, optimizer=optimizer, warm_up_steps=50)
    return weights(model), moments(optimizer), bounds(training.rows)


# The loop ---------------------------------------------------------------------------------------


def test_fit_raises_the_bound(uninterrupted):
    rows = uninterrupted[2]
    assert rows[-1][1] > rows[0][1] + 3  # nats; bars without noise need about log 4 of them
    assert [row[0] for row in rows] == list(range(2, N_STEPS + 1, 2))


def test_a_row_is_the_mean_over_its_steps():
    """With a learning rate of zero the rows can be computed by hand."""
    model, seen = small_vae(), []

    def watched(model, x):
        bound = elbo(model, x)
        seen.append((bound.value().mean().item(), bound.kl.sum(dim=1).mean().item()))
        return bound

    rows = fit(model, small_batches(), 300, objective=watched, lr=0.0).rows
    assert [row["step"] for row in rows] == list(range(3, 301, 3))
    means = torch.tensor(seen).reshape(100, 3, 2).mean(dim=1)
    torch.testing.assert_close(torch.tensor([[row["elbo"], row["kl"]] for row in rows]), means)
    assert all(row["images_per_second"] > 0 for row in rows)


def test_it_takes_the_batches_and_the_optimiser_it_is_given():
    model, asked = small_vae(), []

    class Watched:
        def __getitem__(self, step):
            asked.append(step)
            return torch.ones(2, 1, 4, 4)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = weights(model)
    training = fit(model, Watched(), 7, optimizer=optimizer)
    assert asked == list(range(7)) and training.finished and training.n_skipped == 0
    assert training.seconds > 0
    assert not torch.equal(before["encoder.0.weight"], model.state_dict()["encoder.0.weight"])


def test_the_learning_rate_follows_one_cycle_of_each_group():
    model, seen = small_vae(), []
    groups = [
        {"params": model.encoder.parameters(), "lr": 1.0},
        {"params": model.decoder.parameters(), "lr": 0.1},
    ]
    optimizer = torch.optim.SGD(groups)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append([group["lr"] for group in o.param_groups]))
    for _ in range(2):  # a second call starts from the same peak, not from where the first one ended
        fit(model, small_batches(), 40, optimizer=optimizer)
    expected = [[one_cycle(step, 40), 0.1 * one_cycle(step, 40)] for step in range(40)]
    assert seen == 2 * expected


def test_one_cycle_rises_for_a_twentieth_and_falls_to_nothing():
    rates = [one_cycle(step, 1000) for step in range(1000)]
    peak = rates.index(max(rates))
    assert 45 <= peak <= 50 and 0.99 < rates[peak] <= 1
    assert rates[0] == pytest.approx(1 / 50)
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:]))
    assert 0 < rates[-1] < 1e-5
    assert 0 < one_cycle(0, 1) <= 1


def test_a_constant_learning_rate_stays():
    model, seen = small_vae(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    fit(model, small_batches(), 40, optimizer=optimizer, schedule=constant)
    assert seen == [0.03] * 40


def test_the_schedule_is_asked_for_each_step_and_takes_a_share_of_the_peak():
    model, seen, asked = small_vae(), [], []

    def halves(step, n_steps):
        asked.append((step, n_steps))
        return 0.5**step

    optimizer = torch.optim.SGD(model.parameters(), lr=0.08)
    optimizer.register_step_pre_hook(lambda o, *_: seen.append(o.param_groups[0]["lr"]))
    fit(model, small_batches(), 4, optimizer=optimizer, schedule=halves)
    assert seen == [0.08, 0.04, 0.02, 0.01] and asked == [(step, 4) for step in range(4)]


@pytest.mark.parametrize("longest", [1e-3, float("inf")])
def test_a_gradient_is_shortened_to_the_longest_and_keeps_its_direction(longest):
    model, seen = small_vae(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def look(*_):
        seen.append(torch.cat([p.grad.flatten() for p in model.parameters()]))

    def steep(model, x):
        bound = elbo(model, x)
        return bound._replace(log_px=1e4 * bound.log_px)

    optimizer.register_step_pre_hook(look)
    for limit in (1e9, longest):  # with a learning rate of 0 both see the same gradients
        torch.manual_seed(1)
        fit(model, small_batches(), 5, optimizer=optimizer, objective=steep, max_gradient=limit)
    for whole, short in zip(seen[:5], seen[5:], strict=True):
        assert whole.norm() > train.MAX_GRADIENT
        if longest == float("inf"):
            assert torch.equal(whole, short)
        else:
            torch.testing.assert_close(short, whole * longest / whole.norm(), rtol=1e-4, atol=0)


def test_beta_warms_up():
    """With no learning rate the loss shows beta: what reaches the KL's gradient."""
    model, gradients = small_vae(), []

    def only_kl(model, x):
        bound = elbo(model, x)
        return bound._replace(log_px=torch.zeros_like(bound.log_px))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: gradients.append(model.encoder[0].bias.grad.norm().item()))

    class Same:
        def __getitem__(self, step):
            return torch.ones(4, 1, 4, 4)

    fit(model, Same(), 20, objective=only_kl, optimizer=optimizer, warm_up_steps=10)
    ratios = [gradient / gradients[-1] for gradient in gradients]
    assert ratios == pytest.approx([min(1, (step + 1) / 10) for step in range(20)])


class Prices(nn.Module):
    """Three layers whose KL is a parameter each, so that its gradient is what beta makes of it."""

    def __init__(self, *kl: float):
        super().__init__()
        self.kl = nn.Parameter(torch.tensor(kl))

    def bound(self, x: torch.Tensor) -> Elbo:
        return Elbo(torch.zeros(len(x)), self.kl.expand(len(x), -1))


@pytest.mark.parametrize("from_below", [False, True])
@pytest.mark.parametrize("free_bits", [0.0, 0.5])
def test_the_beta_of_each_layer_and_the_floor_reach_the_loss(from_below, free_bits):
    model, gradients = Prices(1.0, 0.1, 2.0), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: gradients.append(model.kl.grad.clone()))
    fit(
        model,
        small_batches(),
        15,
        objective=Prices.bound,
        optimizer=optimizer,
        warm_up_steps=12,
        warm_up_from_below=from_below,
        free_bits=free_bits,
    )
    betas = torch.stack([warm_up(step, 12, 3, from_below) for step in range(15)])
    assert (betas[:, 0] != betas[:, 2]).any() == from_below
    betas[:, 1] *= free_bits < 0.1  # the layer that is below the floor is left alone
    torch.testing.assert_close(torch.stack(gradients), betas)


def test_rows_report_the_bound_without_beta_and_floor():
    rows = fit(
        Prices(1.0, 0.1, 2.0),
        small_batches(),
        15,
        objective=Prices.bound,
        lr=0.0,
        warm_up_steps=12,
        free_bits=0.5,
    ).rows
    assert [(row["elbo"], row["kl"]) for row in rows] == [pytest.approx((-3.1, 3.1))] * 15


# The average of the weights -----------------------------------------------------------------------


def ema(model: nn.Module, decay: float = 0.8) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def with_a_norm() -> VAE:
    torch.manual_seed(0)
    return VAE((1, 4, 4), hidden=(16,), latent_dim=3, batch_norm=True)


def test_the_average_is_the_one_computed_by_hand():
    model, seen = with_a_norm(), []
    average, optimizer = ema(model), adam(model)
    optimizer.register_step_post_hook(
        lambda *_: seen.append([p.detach().clone() for p in model.parameters()])
    )
    fit(model, small_batches(), 12, optimizer=optimizer, average=average)
    expected = seen[0]
    for after in seen[1:]:
        expected = [0.8 * old + 0.2 * new for old, new in zip(expected, after, strict=True)]
    torch.testing.assert_close([p.detach() for p in average.module.parameters()], expected)
    assert average.n_averaged == 12
    for mine, its in zip(model.buffers(), average.module.buffers(), strict=True):
        assert torch.equal(mine, its), "the averages of batch norm are those of the last step"
    assert not torch.equal(average.module.encoder[0].weight, model.encoder[0].weight)


def test_to_average_changes_nothing_in_the_model():
    plain = with_a_norm()
    fit(plain, small_batches(), 12, optimizer=adam(plain))
    averaged = with_a_norm()
    fit(averaged, small_batches(), 12, optimizer=adam(averaged), average=ema(averaged))
    assert_same(weights(plain), weights(averaged))


@pytest.mark.parametrize("step", [0, 19, 25, 39])
def test_stopped_with_an_average_it_ends_equal(step, tmp_path):
    whole = with_a_norm()
    average = ema(whole)
    fit(whole, small_batches(), 40, optimizer=adam(whole), average=average)
    state, batches = tmp_path / "run.safetensors", Once(step, stop)
    for finished in (False, True):  # from other weights, as in a new process: the file is what counts
        model = with_a_norm()
        if finished:
            with torch.no_grad():
                model.encoder[0].weight.fill_(1.0)
        kept = ema(model)
        run = fit(model, batches, 40, optimizer=adam(model), average=kept, state=state)
        assert run.finished == finished
    assert_same(weights(model), weights(whole))
    assert_same(weights(kept), weights(average))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("act", [lambda x: x, stop, None])
def test_the_mode_is_given_back_however_it_ends(training, act):
    model = small_vae().train(training)
    modes = []

    def watched(model, x):
        modes.append(model.training)
        return elbo(model, x)

    if act is None:
        with pytest.raises(RuntimeError, match="mat1"):
            fit(model, [torch.ones(2, 1, 4, 4)], 1, objective=lambda m, x: m.encoder(x))
    else:
        fit(model, Once(3, act), 5, objective=watched)
        assert all(modes)
    assert model.training == training


def test_bf16_gives_about_the_same_bound():
    exact, coarse = (
        fit(small_vae(), small_batches(), 200, lr=0.01, bf16=bf16).rows for bf16 in (False, True)
    )
    assert coarse[0]["elbo"] != exact[0]["elbo"], "bf16 changed nothing, so it was not used"
    for a, b in zip(exact[-10:], coarse[-10:], strict=True):
        assert a["elbo"] == pytest.approx(b["elbo"], abs=0.5)  # of about 9 nats


@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="compile needs a C++ compiler"
)
def test_compile_gives_the_same_bound():
    plain, compiled = (fit(small_vae(), small_batches(), 20, lr=0.01, compile=c).rows for c in (False, True))
    # the same formulas, other random numbers
    assert compiled[0]["elbo"] == pytest.approx(plain[0]["elbo"], abs=1.5)
    assert compiled[-1]["elbo"] > compiled[0]["elbo"]


# Stopped and gone on ----------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 1, 19, 20, 131, 221, N_STEPS - 1])
def test_stopped_by_hand_it_keeps_the_model_and_ends_equal(step, uninterrupted, tmp_path, capsys):
    state = tmp_path / "states" / "run.safetensors"
    model, batches = small_vae(), Once(step, stop)
    stopped = fit(model, batches, N_STEPS, optimizer=adam(model), warm_up_steps=50, state=state)
    assert not stopped.finished and bounds(stopped.rows) == uninterrupted[2][: step // 2]
    assert f"stopped after {step} of {N_STEPS} steps" in capsys.readouterr().out
    if step > 0:
        assert not torch.equal(weights(model)["encoder.0.weight"], small_vae().encoder[0].weight)
    torch.rand(5)  # what happens in between does not matter
    optimizer = adam(model)
    resumed = fit(model, batches, N_STEPS, optimizer=optimizer, warm_up_steps=50, state=state)
    assert resumed.finished and bounds(resumed.rows) == uninterrupted[2]
    assert_same(weights(model), uninterrupted[0])
    assert_same(moments(optimizer), uninterrupted[1])
    assert [path.name for path in state.parent.iterdir()] == ["run.safetensors"]


@pytest.mark.parametrize("where", ["save_file", "replace"])
def test_stopped_while_saving_it_ends_equal(where, uninterrupted, tmp_path, monkeypatch):
    state, module = tmp_path / "run.safetensors", train if where == "save_file" else train.os
    calls, real = [], getattr(module, where)

    def fails_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, where, fails_at_the_third)
    model = small_vae()
    assert not fit(
        model, small_batches(), N_STEPS, optimizer=adam(model), warm_up_steps=50, state=state
    ).finished
    assert list(tmp_path.iterdir()) == [state]
    fit(model, small_batches(), N_STEPS, optimizer=adam(model), warm_up_steps=50, state=state)
    assert_same(weights(model), uninterrupted[0])


def test_a_saving_happens_at_the_start_every_tenth_and_at_the_end(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(
        train, "save_state", lambda path, label, n, model, optimizer, average, log: saved.append(log.step)
    )
    fit(small_vae(), small_batches(), 105, state=tmp_path / "run.safetensors")
    assert saved == [0, *range(10, 101, 10), 105]


def test_a_finished_run_is_not_run_again(tmp_path, uninterrupted):
    state = tmp_path / "run.safetensors"
    fit(small_vae(), small_batches(), 20, lr=0.01, state=state)
    model = small_vae(seed=1)
    again = fit(model, None, 20, lr=0.01, state=state)  # it asks for no batch
    assert again.finished and len(again.rows) == 20
    reference = small_vae()
    fit(reference, small_batches(), 20, lr=0.01)
    assert_same(weights(model), weights(reference))


VICTIM = """
import sys, time
sys.path[:0] = ["tests"]
import torch
from pathlib import Path
from test_train import N_STEPS, Once, adam, fit, small_vae
torch.set_num_threads(1)
model = small_vae()

def wait(x):
    print("in the middle", flush=True)
    time.sleep(60)

fit(model, Once(150, wait), N_STEPS, optimizer=adam(model), warm_up_steps=50, state=Path(sys.argv[1]))
"""


def test_killed_it_ends_equal(uninterrupted, tmp_path):
    state = tmp_path / "run.safetensors"
    root = Path(train.__file__).parent.parent
    command = [sys.executable, "-c", VICTIM, str(state)]
    victim = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert victim.stdout.readline() == "in the middle\n", victim.stderr.read()
    victim.kill()
    victim.communicate()
    assert victim.returncode == (-signal.SIGKILL if os.name == "posix" else 1)
    model = small_vae(seed=7)  # what is in memory does not count, the file does
    optimizer, asked = adam(model), []

    class Watched(Batches):
        def __getitem__(self, step):
            asked.append(step)
            return super().__getitem__(step)

    batches = Watched(small_batches().pixels, 16, binarise=True)
    resumed = fit(model, batches, N_STEPS, optimizer=optimizer, warm_up_steps=50, state=state)
    assert asked == list(range(140, N_STEPS)), "it goes on from the last saving"
    assert bounds(resumed.rows) == uninterrupted[2]
    assert_same(weights(model), uninterrupted[0])
    assert_same(moments(optimizer), uninterrupted[1])


@pytest.mark.parametrize("rule", ["SGD", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_every_optimiser_resumes(rule, tmp_path):
    state, choices = tmp_path / "run.safetensors", {"lr": 0.01} | ({"momentum": 0.9} if rule == "SGD" else {})
    build = lambda model: getattr(torch.optim, rule)(model.parameters(), **choices)  # noqa: E731
    whole, halves = small_vae(), small_vae()
    fit(whole, small_batches(), 40, optimizer=build(whole))
    torch.manual_seed(0)
    halves.load_state_dict(small_vae().state_dict())
    batches = Once(25, stop)
    fit(halves, batches, 40, optimizer=build(halves), state=state)
    fit(halves, batches, 40, optimizer=build(halves), state=state)
    assert_same(weights(halves), weights(whole))


@pytest.mark.parametrize("other", [{"label": "another"}, {"n_steps": 30}])
def test_the_state_of_another_run_is_refused(other, tmp_path):
    state = tmp_path / "run.safetensors"
    fit(small_vae(), small_batches(), 20, label="mine", state=state)
    model, before = small_vae(seed=1), state.read_bytes()
    untouched = weights(model)
    n_steps, label = other.get("n_steps", 20), other.get("label", "mine")
    with pytest.raises(TrainingError, match=r'another run \("mine", 20 steps.*Delete it, or keep'):
        fit(model, small_batches(), n_steps, label=label, state=state)
    assert_same(weights(model), untouched)
    assert state.read_bytes() == before


def test_the_state_of_another_model_is_refused(tmp_path):
    state = tmp_path / "run.safetensors"
    fit(small_vae(), small_batches(), 20, state=state)
    model = VAE((1, 4, 4), hidden=(8,), latent_dim=3)
    untouched = weights(model)
    with pytest.raises(
        TrainingError, match=r"encoder.0.weight is \[16, 16\] in the file and \[8, 16\] in the model"
    ):
        fit(model, small_batches(), 20, state=state)
    assert_same(weights(model), untouched)


def test_a_checkpoint_is_no_state(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(small_vae(), path, recipe="mlp", label="mlp")
    with pytest.raises(TrainingError, match="belongs to another run"):
        fit(small_vae(), small_batches(), 20, state=path)


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"\xff" * len(b)])
def test_a_damaged_file_says_what_to_do(damage, tmp_path):
    state, checkpoint = tmp_path / "run.safetensors", tmp_path / "weights.safetensors"
    fit(small_vae(), small_batches(), 20, state=state)
    save_checkpoint(small_vae(), checkpoint)
    for path in (state, checkpoint):
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TrainingError, match=r"run.safetensors is damaged .* delete it to start afresh"):
        fit(small_vae(), small_batches(), 20, state=state)
    with pytest.raises(TrainingError) as caught:
        load_checkpoint(small_vae(), checkpoint)
    assert str(caught.value).endswith(f"git checkout -- {checkpoint}")


# Bad numbers ------------------------------------------------------------------------------------


def spoil(layer: nn.Module, when=lambda calls: True):
    """The layer's output becomes infinite at the calls for which `when` says so."""
    calls = []

    def hook(module, inputs, output):
        calls.append(1)
        return output * float("inf") if when(len(calls) - 1) else output

    return layer.register_forward_hook(hook)


def test_nan_in_the_images_is_named():
    with pytest.raises(TrainingError, match=r"step 19: the batch itself holds NaN.*check the images"):
        fit(small_vae(), [torch.full((2, 1, 4, 4), torch.nan)] * 50, 50)


@pytest.mark.parametrize("name", ["encoder.0", "encoder.2", "decoder.0", "decoder.2"])
def test_an_exploding_layer_is_named_and_the_weights_are_those_before(name):
    model = small_vae()
    hook, before = spoil(model.get_submodule(name)), weights(model)
    with pytest.raises(
        TrainingError, match=rf"output of layer '{name}' is not finite.*20 steps.*Try a lower"
    ):
        fit(model, small_batches(), 50)
    hook.remove()
    assert_same(weights(model), before)
    assert not any(layer._forward_hooks for layer in model.modules()), "no hook stays behind"


@pytest.mark.parametrize("name", ["encoder.0", "encoder.2", "decoder.0", "decoder.2"])
def test_a_layer_with_an_exploding_gradient_is_named(name):
    """Forward all is well; NaN comes in at this layer's gradient and flows to all before it."""
    model = small_vae()

    def spoil_gradient(layer, inputs, output):
        if output.requires_grad:
            output.register_hook(lambda grad: grad * torch.nan)

    model.get_submodule(name).register_forward_hook(spoil_gradient)
    with pytest.raises(TrainingError, match=rf"the gradient of '{name}.bias' is not finite"):
        fit(model, small_batches(), 50)


def test_a_gradient_of_infinite_length_is_no_crash():
    """Each number is finite in float32, the sum of their squares is not."""
    model = small_vae()
    model.encoder[0].weight.register_hook(lambda grad: torch.full_like(grad, 1e30))
    with pytest.raises(TrainingError, match="the length of the gradient is not finite"):
        fit(model, small_batches(), 50)


def test_a_single_bad_step_is_skipped_and_counted():
    """At the bad step the optimiser leaves weights, moments and its count of steps as they were."""
    model, steps = small_vae(), []
    optimizer = adam(model)
    optimizer.register_step_post_hook(lambda *_: steps.append(weights(model)))
    spoil(model.decoder[2], when=lambda call: call == 5)
    training = fit(model, small_batches(), 12, optimizer=optimizer)
    assert training.n_skipped == 1 and training.finished
    assert len(steps) == 12
    assert_same(steps[4], steps[5])
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert all(optimizer.state[p]["step"] == 11 for p in model.parameters())


def steep_at(step: int):
    """The bound, times 1000 at one step."""
    calls = []

    def bound(model, x):
        calls.append(1)
        found, factor = elbo(model, x), 1000 if len(calls) == step + 1 else 1
        return found._replace(log_px=factor * found.log_px)

    return bound


def test_a_gradient_that_is_too_long_is_not_followed():
    model, lengths, steps = with_a_norm(), [], []
    norm, optimizer = model.encoder[1], adam(model)
    average = ema(model)
    optimizer.register_step_pre_hook(
        lambda *_: lengths.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
    )
    optimizer.register_step_post_hook(lambda *_: steps.append(norm.num_batches_tracked.item()))
    kept = []

    class Watched:
        def __getitem__(self, step):
            kept.append(copy.deepcopy((weights(model), weights(average), moments(optimizer))))
            return small_batches()[step]

    training = fit(
        model,
        Watched(),
        12,
        optimizer=optimizer,
        objective=steep_at(5),
        skip_gradient=500.0,
        average=average,
    )
    assert training.n_skipped == 1 and training.finished
    assert lengths.pop(5) > 500 and max(lengths) < 200, "the long one is left as it is"
    assert steps == [1, 2, 3, 4, 5, *range(5, 12)], "batch norm forgets the step that was not taken"
    for before, after in zip(kept[5], kept[6], strict=True):  # model, average, optimiser
        assert_same(before, after)
    assert average.n_averaged == 11
    for before, after in zip(kept[4], kept[5], strict=True):
        assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_without_a_limit_a_long_gradient_is_shortened_and_followed():
    model = small_vae()
    optimizer = adam(model)
    assert fit(model, small_batches(), 12, optimizer=optimizer, objective=steep_at(5)).n_skipped == 0
    assert all(optimizer.state[p]["step"] == 12 for p in model.parameters())


class Reads(TorchDispatchMode):
    """Counts how often a number is read from the device, for which a card would have to be waited for."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_between_two_rows_of_the_log_nothing_is_read_from_the_device():
    batches, steps, reads = small_batches(), [], Reads()

    class Watched:
        def __getitem__(self, step):
            steps.append(reads.n)
            return batches[step]

    with reads:
        fit(with_a_norm(), Watched(), 500, skip_gradient=500.0, warm_up_steps=100, free_bits=0.5)
    rises = [
        step for step, (before, after) in enumerate(itertools.pairwise(steps), start=1) if after > before
    ]
    assert rises == list(range(5, 500, 5)), "a row is five steps"


@pytest.mark.parametrize(
    ("build", "objective", "side"),
    [
        (recipes.build_mlp, elbo, 28),
        (recipes.build_conv_bn, elbo, 28),
        (recipes.build_topdown, elbo, 28),
        (recipes.UNet, decibels, 64),
        (recipes.build_hier, sketched_bound, 64),
    ],
    ids=["mlp", "conv_bn", "topdown", "unet_l2", "hier"],
)
def test_an_objective_compiles_to_one_graph_without_breaks(build, objective, side):
    """So a card could run a whole step without asking Python."""
    x = with_hole(torch.rand(2, 3, 64, 64)) if side == 64 else torch.rand(2, 1, 28, 28).round()
    torch._dynamo.reset()
    found = torch._dynamo.explain(objective)(build(), x)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@pytest.mark.parametrize("n_steps", [12, 250, 255])
def test_skipped_steps_after_the_last_row_are_counted(n_steps):
    model = small_vae()
    spoil(model.decoder[2], when=lambda call: call in (3, n_steps - 1))
    assert fit(model, small_batches(), n_steps).n_skipped == 2


def test_an_optimiser_that_cannot_skip_is_not_called():
    model, steps = small_vae(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    optimizer.register_step_post_hook(lambda *_: steps.append(weights(model)))
    spoil(model.decoder[2], when=lambda call: call == 5)
    assert fit(model, small_batches(), 12, optimizer=optimizer).n_skipped == 1 and len(steps) == 11
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_bad_steps_in_a_row_are_counted_anew_after_a_good_one():
    model = small_vae()
    spoil(model.decoder[2], when=lambda call: call % MAX_BAD_STEPS)
    assert fit(model, small_batches(), 60).n_skipped == 57


def test_a_skipped_step_leaves_batch_norm_alone():
    """A NaN that reached the running mean would stay there for good."""
    model = small_vae()
    model.encoder = nn.Sequential(model.encoder[0], nn.BatchNorm1d(16), nn.SiLU(), model.encoder[2])
    spoil(model.encoder[0], when=lambda call: call == 5)
    assert fit(model, small_batches(), 12).n_skipped == 1
    norm = model.encoder[1]
    assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()
    assert norm.num_batches_tracked == 11
    spoil(model.encoder[0])
    before = weights(model)
    with pytest.raises(TrainingError, match=r"layer 'encoder.0'"):
        fit(model, small_batches(), 50)
    assert_same(weights(model), before)


def test_long_gradients_are_shortened():
    model, norms = small_vae(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
    )
    fit(
        model,
        small_batches(),
        3,
        optimizer=optimizer,
        objective=lambda m, x: elbo(m, x)._replace(log_px=1e5 * elbo(m, x).log_px),
    )
    assert norms == pytest.approx([train.MAX_GRADIENT] * 3, rel=1e-3)


def test_the_explanation_leaves_the_model_alone():
    model = small_vae()
    before = weights(model)
    x = small_batches()[0]
    elbo(model, x).loss().backward()
    assert "step 3" in explain_failure(model, x, 3)
    assert_same(weights(model), before)


# Files ------------------------------------------------------------------------------------------


def test_a_checkpoint_is_half_precision_with_facts_and_can_be_read_by_anyone(tmp_path):
    path, model = tmp_path / "new" / "mlp.safetensors", small_vae()
    model.register_buffer("count", torch.tensor(3))
    save_checkpoint(model, path, recipe="mlp", seed=0, neg_elbo=93.25)
    with safe_open(path, framework="pt") as file:
        assert {name: file.get_tensor(name).dtype for name in file.keys()} == {  # noqa: SIM118
            name: torch.float16 if value.is_floating_point() else value.dtype
            for name, value in weights(model).items()
        }
    other = small_vae(seed=1)
    other.register_buffer("count", torch.tensor(0))
    assert load_checkpoint(other, path) == {"recipe": "mlp", "seed": "0", "neg_elbo": "93.25"}
    assert other.encoder[0].weight.dtype == torch.float32
    for name, value in weights(model).items():
        torch.testing.assert_close(other.state_dict()[name], value, atol=1e-3, rtol=1e-3)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    """The file starts with the length of a JSON header, and torch.load is never called."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a pickle was read or written")

    monkeypatch.setattr(torch, "load", forbidden)
    monkeypatch.setattr(torch, "save", forbidden)
    state, checkpoint = tmp_path / "run.safetensors", tmp_path / "mlp.safetensors"
    for _ in range(2):
        fit(small_vae(), small_batches(), 20, state=state)
    save_checkpoint(small_vae(), checkpoint)
    load_checkpoint(small_vae(), checkpoint)
    for path in (state, checkpoint):
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        assert isinstance(json.loads(content[8 : 8 + size]), dict)


@pytest.mark.parametrize("value", [7e4, float("nan")])
def test_a_checkpoint_loses_no_number_without_a_word(value, tmp_path):
    path, model = tmp_path / "mlp.safetensors", small_vae()
    model.decoder[0].bias.data[1] = value
    with pytest.raises(TrainingError, match=r"decoder\.0\.bias holds numbers that float16 cannot hold"):
        save_checkpoint(model, path)
    assert not path.exists()


def test_a_checkpoint_of_another_model_says_how_they_differ(tmp_path):
    path = tmp_path / "mlp.safetensors"
    save_checkpoint(small_vae(), path, recipe="mlp")
    model = VAE((1, 4, 4), hidden=(16,), latent_dim=2)
    before = weights(model)
    with pytest.raises(
        TrainingError, match=r"another model \(mlp\): encoder.2.weight is \[6, 16\] in the file and \[4,"
    ):
        load_checkpoint(model, path)
    assert_same(weights(model), before)
    model = small_vae()
    model.register_buffer("count", torch.tensor(3))
    with pytest.raises(TrainingError, match=r"count is missing in the file and \[\] in the model"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("where", ["save_file", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(where, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_safely({"x": torch.ones(3)}, path, {})
    before = path.read_bytes()

    def full(*args):
        if where == "save_file":
            Path(args[1]).write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train if where == "save_file" else train.os, where, full)
    with pytest.raises(OSError, match="No space left"):
        write_safely({"x": torch.zeros(3)}, path, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Profile, device, threads -----------------------------------------------------------------------


def test_pick_takes_the_profiles_choice_and_names_them_if_there_is_none():
    assert pick("quick", smoke=1, quick=2, full=3) == 2
    with pytest.raises(ValueError, match=r"'quik': choose one of smoke, quick, full"):
        pick("quik", smoke=1, quick=2, full=3)
    with pytest.raises(ValueError, match="'quik'"):
        set_up("quik", 0, "1 minute")


@pytest.mark.parametrize("wish", ["1", "2"])
def test_course_threads_is_honoured(wish, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("COURSE_THREADS", wish)
    try:
        assert set_threads() == torch.get_num_threads() == int(wish)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("unset", ["", None])
def test_without_course_threads_all_cores_of_this_process_work(unset, monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setenv("COURSE_THREADS", unset) if unset is not None else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        assert set_threads() == cores
    finally:
        torch.set_num_threads(before)


def test_course_device_is_honoured(monkeypatch):
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    assert choose_device() == torch.device("cpu")
    for unset in ("", "auto"):
        monkeypatch.setenv("COURSE_DEVICE", unset)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device().type == "mps"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device().type == "cpu"


def test_set_up_seeds_and_says_what_to_expect(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_THREADS", "1")
    monkeypatch.setenv("COURSE_DEVICE", "cpu")
    draws = []
    for _ in range(2):
        assert set_up("smoke", seed=3, minutes={"smoke": 1}) == torch.device("cpu")
        draws.append(torch.rand(3))
    assert torch.equal(*draws)
    first = capsys.readouterr().out.splitlines()[0]
    assert torch.__version__.split("+")[0] in first and "cpu, 1 thread;" in first
    assert "profile smoke, about 1 min" in first
    set_up("full", seed=3, minutes={"smoke": 1})
    assert "profile full, duration not measured" in capsys.readouterr().out


def test_gradients_that_are_all_too_long_end_in_a_message_of_their_own():
    batches = Batches(torch.randint(0, 256, (100, 1, 4, 4), dtype=torch.uint8), 20)
    with pytest.raises(TrainingError, match=r"longer than skip_gradient.*Raise skip_gradient"):
        fit(small_vae(), batches, 30, skip_gradient=1e-6)


def test_a_state_without_the_average_is_refused_before_anything_changes(tmp_path):
    batches = Batches(torch.randint(0, 256, (100, 1, 4, 4), dtype=torch.uint8), 20)
    fit(small_vae(), batches, 3, state=tmp_path / "state")
    model = small_vae()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"saved without an average"):
        fit(model, batches, 3, state=tmp_path / "state", average=AveragedModel(model))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
