"""tools/bench.py without its timings: what the floor counts, who takes a turn when, what is reported."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from course_utils import objectives, recipes
from course_utils.distributions import Bernoulli
from course_utils.models.vae import VAE

SAYS = "import json, sys\nprint('a library speaks')\nprint(json.dumps({'ready': True}), flush=True)\n"
TRAINS = SAYS + "for _ in sys.stdin: print(json.dumps({'seconds': 2.0, 'peak_mb': 7.0}), flush=True)"
DIES = (
    SAYS + "input(); print(json.dumps({'seconds': 3.0}), flush=True); input(); raise ValueError('no digits')"
)


@pytest.fixture
def bench(load_tool, tmp_path, monkeypatch):
    bench = load_tool("bench")
    monkeypatch.setattr(bench, "PEERS", tmp_path)
    monkeypatch.setattr(bench, "BUILD", tmp_path)
    monkeypatch.setattr(bench, "REFERENCE", tmp_path / "reference.json")
    return bench


def player(bench, name: str, code: str = TRAINS, floor: str = "floor", absent: str = ""):
    return bench.Player(name, f"what {name} is", floor, [sys.executable, "-c", code], 10, absent)


# The floor ---------------------------------------------------------------------------------------


def vae():
    return VAE(hidden=(40,), latent_dim=5, likelihood=Bernoulli()), torch.rand(6, 1, 28, 28), objectives.elbo


def conv():
    return recipes.build_conv_bn(), torch.rand(3, 1, 28, 28), objectives.elbo


def topdown():
    return recipes.build_topdown(), torch.rand(3, 1, 28, 28), objectives.elbo


def inpainting():
    model = recipes.build_hier().to(memory_format=torch.channels_last)
    model.unet.requires_grad_(False)
    return model, torch.rand(2, 7, 64, 64), objectives.hole_bound


@pytest.mark.parametrize("build", [vae, conv, topdown, inpainting])
def test_the_floor_multiplies_as_often_as_a_step(bench, build):
    """As many multiply-adds as a real step's layers, by torch's own count: none left out, none more."""
    from peers.floor import multiply, products_of

    model, x, objective = build()
    with FlopCounterMode(display=False) as step:
        objective(model, x).loss().backward()
    floor = multiply(products_of(model, lambda: objective(model, x).loss().backward()))
    with FlopCounterMode(display=False) as products:
        floor()
    assert products.get_total_flops() == step.get_total_flops() > 0


def test_the_floor_of_the_mlp_by_hand(bench):
    from peers.floor import multiply, products_of

    model, x, objective = vae()
    floor = multiply(products_of(model, lambda: objective(model, x).loss().backward()))
    with FlopCounterMode(display=False) as products:
        floor()
    weights = [784 * 40, 40 * 10, 5 * 40, 40 * 784]
    # Forward, to the weights, and to the input of all but the first: two operations a multiply-add.
    assert products.get_total_flops() == 2 * 6 * (3 * sum(weights) - weights[0])


def test_the_floor_leaves_no_hook_behind(bench):
    from peers.floor import products_of

    model, x, objective = vae()
    products_of(model, lambda: objective(model, x).loss().backward())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_floor_keeps_the_order_in_memory(bench):
    from peers.floor import products_of

    model, x, objective = inpainting()
    convolutions = [
        product
        for product in products_of(model, lambda: objective(model, x).loss().backward())
        if product.x.ndim == 4
    ]
    last = torch.channels_last
    assert any(product.x.is_contiguous(memory_format=last) and product.wants_dw for product in convolutions)
    assert not all(product.wants_dw for product in convolutions), "the U-Net is not trained"


def test_what_no_gradient_reaches_is_computed_forwards_only(bench):
    from peers.floor import products_of

    model = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)])
    x = torch.rand(4, 3, requires_grad=True)
    products = products_of(model, lambda: (model[0](x) + model[1](x).detach()).sum().backward())
    assert [(product.wants_dx, product.wants_dw) for product in products] == [(True, True), (False, False)]


# The rounds --------------------------------------------------------------------------------------


def test_everyone_takes_a_turn_in_every_round(bench, monkeypatch):
    order = []
    players = [player(bench, name) for name in ("floor", "course", "tutorial")]
    for each in players:
        monkeypatch.setattr(each, "start", lambda name=each.name: order.append(f"start {name}"))
        monkeypatch.setattr(each, "turn", lambda number, name=each.name: order.append((number, name)) or 1.0)
        monkeypatch.setattr(each, "stop", lambda name=each.name: order.append(f"stop {name}"))
    assert bench.take_rounds(players, 2) == [{"floor": 1.0, "course": 1.0, "tutorial": 1.0}] * 2
    names = ["floor", "course", "tutorial"]
    turns = [(number, name) for number in (1, 2) for name in names]
    assert order == [f"start {n}" for n in names] + turns + [f"stop {n}" for n in names]


def test_one_that_dies_has_one_clear_row(bench, capsys):
    """The others go on; what it managed before counts."""
    players = [
        player(bench, "floor"),
        player(bench, "pyro", DIES),
        player(bench, "pythae", absent="no network"),
    ]
    rounds = bench.take_rounds(players, 3)
    assert rounds == [{"floor": 2.0, "pyro": 3.0}, {"floor": 2.0}, {"floor": 2.0}]
    rows = [bench.row_of(each, rounds) for each in players]
    assert rows[1]["ratio_to_floor"] == 1.5
    assert "round 2, exit status 1: ValueError: no digits (pyro.log)" in rows[1]["absent"]
    assert (rows[2]["seconds"], rows[2]["ratio_to_floor"], rows[2]["absent"]) == (None, None, "no network")
    bench.print_table(rows)
    said = capsys.readouterr().out
    assert said.count("ValueError") == 1 and "absent: no network" in said


def test_one_that_cannot_start_or_hangs(bench, monkeypatch):
    monkeypatch.setattr(bench, "TURN_SECONDS", 0.5)
    players = [player(bench, "early", "import nothing_of_this_name"), player(bench, "hangs", "input()")]
    assert bench.take_rounds(players, 1) == [{}]
    assert "ended starting, exit status 1: ModuleNotFoundError" in players[0].absent
    assert "took longer than 0.5 s" in players[1].absent


def test_ratios_are_of_the_same_round(bench):
    """A machine that is slow in one round is so for both."""
    rounds = [{"floor": 1.0, "course": 2.0}, {"floor": 10.0, "course": 20.0}, {"floor": 1.0}, {"conv": 4.0}]
    assert bench.paired(rounds, "course", "floor") == [2.0, 2.0]
    row = bench.row_of(player(bench, "course"), rounds)
    assert (row["seconds"], row["ratio_to_floor"]) == (11.0, 2.0)


# What is reported --------------------------------------------------------------------------------


def test_the_json_has_everyone(bench, monkeypatch):
    """Every name, whether it ran or not, with what DESIGN promises."""
    monkeypatch.setattr(bench, "prepare_peers", lambda names: dict.fromkeys(names, "no network"))
    monkeypatch.setattr(bench, "why_no_bf16", lambda: "no bf16 here")
    players = bench.line_up(None, False, bench.PEERS / "digits_468", 48)
    rows = [bench.row_of(each, [{"floor": 2.0, "course": 3.0}]) for each in players]
    bench.write(bench.BUILD / "bench.json", rows)
    found = {row["name"]: row for row in json.loads((bench.BUILD / "bench.json").read_text())}
    assert {"floor", "course", "course_bf16", "tutorial", "pythae", "pyro"} <= set(found)
    assert all({"name", "seconds", "ratio_to_floor"} <= set(row) for row in found.values())
    assert found["course"]["seconds"] == 3.0 and found["course"]["ratio_to_floor"] == 1.5
    assert found["course_bf16"]["absent"] == "no bf16 here" and found["pythae"]["absent"] == "no network"
    assert {row["floor"] for row in found.values()} <= set(found)
    assert not list(bench.BUILD.glob(".*.part"))


def test_only_one_brings_its_floor(bench, monkeypatch):
    monkeypatch.setattr(bench, "prepare_peers", lambda names: pytest.fail("no peer was asked for"))
    monkeypatch.setattr(bench, "why_no_bf16", lambda: "")
    players = bench.line_up(["conv"], False, bench.PEERS / "digits_468", 48)
    assert [each.name for each in players] == ["conv_floor", "conv"]


@pytest.mark.parametrize(
    "course, tutorial, expected",
    [
        (
            1.5,
            9.0,
            ["1.50    limit <= 1.6: met, goal <= 1.3: MISSED", "6.00    limit >= 3.0: met, goal >= 4.0: met"],
        ),
        (2.0, 2.0, ["2.00    limit <= 1.6: MISSED", "1.00    limit >= 3.0: MISSED"]),
    ],
)
def test_limits_are_said(bench, capsys, course, tutorial, expected):
    bench.print_limits([{"floor": 1.0, "course": course, "tutorial": tutorial}])
    said = capsys.readouterr().out
    assert all(line in said for line in expected) and said.count("not measured") == 2


def test_a_ratio_that_has_grown_says_what_to_do(bench):
    rows = [{"name": "course", "ratio_to_floor": 2.0}, {"name": "conv", "ratio_to_floor": 2.0}]
    rows += [{"name": "pyro", "ratio_to_floor": 99.0}, {"name": "topdown", "ratio_to_floor": None}]
    (only,) = bench.changes(rows, {"course": 1.5, "conv": 1.9, "pyro": 1.0})
    assert only.startswith("course: 2.00, was 1.50.") and only.endswith("tools/bench.py --explain course")


def test_without_a_reference_it_says_so(bench, capsys):
    rows = [{"name": "course", "ratio_to_floor": 2.0}]
    bench.print_changes(rows)
    assert "--remember" in capsys.readouterr().out
    bench.write(bench.REFERENCE, {"another CPU": {"ratios": {"course": 1.0}, "parts": {}}})
    bench.print_changes(rows)
    assert "--remember" in capsys.readouterr().out
    bench.write(bench.REFERENCE, {bench.instructions(): {"ratios": {"course": 1.9}, "parts": {}}})
    bench.print_changes(rows)
    assert "No ratio is more than 15 %" in capsys.readouterr().out


def test_parts_are_compared_with_the_reference(bench, capsys):
    def parts(loop: float) -> dict:
        names = ("products", "data", "forward", "backward", "optimiser", "loop")
        ms = dict(zip(names, (2.0, 0.1, 0.5, 0.5, 0.3, loop), strict=True))
        return {name: {"ms": value, "most": [["aten::mul", value]]} for name, value in ms.items()}

    bench.print_parts("course", parts(0.2))
    assert "takes most beside the products" in capsys.readouterr().out
    bench.write(bench.REFERENCE, {bench.instructions(): {"ratios": {}, "parts": {"course": parts(0.2)}}})
    bench.print_parts("course", parts(0.9))
    said = capsys.readouterr().out
    assert "loop has grown most: train.py" in said and "mul 0.90" in said


def test_the_reference_is_the_calmest_of_three_profiles(bench, monkeypatch, tmp_path):
    times = iter([9.0, 4.0, 5.0])
    monkeypatch.setattr(bench, "profile", lambda *_: {"products": {"ms": 2.0}, "loop": {"ms": next(times)}})
    assert bench.calmest_profile("course", tmp_path, 10)["loop"]["ms"] == 4.0


def test_events_are_sorted_into_parts(bench, monkeypatch):
    """A product counts as one wherever it is, with all that is inside it; what none covers is the loop's."""
    from peers.explain import sort_events

    def event(name: str, us: float, parent=None):
        return SimpleNamespace(name=name, self_cpu_time_total=us, cpu_parent=parent)

    forward = event("bench: forward", 100.0)
    linear = event("aten::addmm", 1000.0, forward)
    events = [forward, linear, event("aten::copy_", 50.0, linear), event("aten::mul", 30.0, forward)]
    events += [event("Optimizer.step#Adam.step", 40.0), event("aten::stack", 10.0)]
    parts = sort_events(events, seconds=0.002, n_steps=1)
    ms = {name: round(part["ms"], 3) for name, part in parts.items()}
    assert ms == {
        "products": 1.05, "data": 0, "forward": 0.13, "backward": 0, "optimiser": 0.04, "loop": 0.78
    }  # fmt: skip
    assert parts["forward"]["most"] == [("Python", 0.1), ("aten::mul", 0.03)]


def test_the_plot_is_drawn(bench):
    rows = [
        bench.row_of(player(bench, name), [{"floor": 2.0, "course": 3.0}]) for name in ("floor", "course")
    ]
    growth = [
        {"grows": what, "value": 4**k, "step_ms": 1 + 2.0**k, "floor_ms": 2.0**k}
        for what in ("batch", "width", "depth")
        for k in range(4)
    ]
    figure = bench.draw(rows, growth, "4 threads")
    assert figure.axes[0].get_title() == "fit takes 1.5 times its matrix products"
    bench.plt.close(figure)


# The contestants' own side -----------------------------------------------------------------------


def test_the_digits_are_read_as_they_were_written(bench, monkeypatch):
    from peers.turns import read_digits
    from torchvision.datasets import MNIST

    pixels = torch.randint(256, (300, 1, 28, 28), dtype=torch.uint8)
    part = SimpleNamespace(pixels=pixels)
    splits = SimpleNamespace(train=part, valid=part)
    monkeypatch.setattr(bench, "load_digits", lambda: (splits, "real"))
    folder = bench.write_digits(3)
    assert torch.equal(read_digits(folder), torch.cat([pixels, pixels[:84]]))
    assert torch.equal(MNIST(folder).data.unsqueeze(1), read_digits(folder))


def test_a_contestant_answers_each_line(monkeypatch, bench, capsys):
    from peers.turns import take_turns

    turns = []
    monkeypatch.setattr(sys, "stdin", iter(["\n", "\n"]))
    take_turns(lambda: turns.append(len(turns)))
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line]
    assert turns == [0, 1] and answers[0] == {"ready": True}
    assert all(set(answer) == {"seconds", "peak_mb"} for answer in answers[1:])
