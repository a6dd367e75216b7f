"""Two processes on the CPU: they walk as one with twice the batch, end clearly, and go on after that."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
NAMES = ("of1_0", "of2_0", "of2_1")  # how many processes, and which of them

# Without noise: one step's gradient depends on nothing but the batch, so the weights must agree.
QUIET = """
import sys, torch
from safetensors.torch import save_file
from torch import nn
from course_utils import data, processes
from course_utils.objectives import Elbo
from course_utils.train import fit

def squared(model, x):
    error = (model(x.flatten(1)) - x.flatten(1)).square().sum(1)
    return Elbo(-error, torch.zeros(len(x), 1))

with processes.joined(torch.device("cpu")):
    torch.manual_seed(processes.rank())  # only the first one's weights are to count
    model = nn.Sequential(nn.Linear(784, 8), nn.SiLU(), nn.Linear(8, 784))
    pixels = data.digits(512, 1, 1).train.pixels
    fit(model, data.Batches(pixels, int(sys.argv[1]), seed=3), 12, objective=squared, lr=1e-2)
    save_file(model.state_dict(), f"{sys.argv[2]}_{processes.rank()}.safetensors")
"""
VAE = """
import json, sys, torch
from course_utils import data, evaluate, processes
from course_utils.models.vae import VAE
from course_utils.train import fit

with processes.joined(torch.device("cpu")):
    torch.manual_seed(0)
    digits = data.digits(4_000, 1, 1_000)
    model = VAE()
    model.start_at_mean(digits.train.pixels.float().mean(dim=0) / 255)
    training = fit(model, data.Batches(digits.train.pixels, int(sys.argv[1]), binarise=True), 300, lr=2e-3)
    noise = torch.rand(1).item()
    bound = evaluate.bound(model, data.fixed_binary(digits.test)).value().mean().item()
    with open(f"{sys.argv[2]}_{processes.rank()}.json", "w") as file:
        json.dump({"bound": bound, "noise": noise, "steps": training.n_steps}, file)
"""


def start(n: int, *command: str, **places: str) -> subprocess.Popen:
    """`torchrun --standalone --nproc-per-node n command`, or without torchrun if n is 1."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"] if n > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COURSE_THREADS": "1", "TQDM_DISABLE": "1"}
    environment |= {"COURSE_DEVICE": "cpu", "PYTHONPATH": str(ROOT)} | places
    command = [sys.executable, *torchrun, *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, **pipes)


def finish(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=120)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def run(n: int, script: str, batch_size: int, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(script)
    process = start(n, str(path), str(batch_size), str(tmp_path / f"of{n}"))
    said = finish(process)
    assert process.returncode == 0, said


def test_two_processes_walk_as_one_with_twice_the_batch(tmp_path):
    run(1, QUIET, 32, tmp_path)
    run(2, QUIET, 16, tmp_path)
    alone, *both = (load_file(tmp_path / f"{name}.safetensors") for name in NAMES)
    for name, value in alone.items():
        torch.testing.assert_close(both[0][name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(both[0][name], both[1][name])


def test_a_vae_learns_as_much_with_noise_of_each_process_s_own(tmp_path):
    run(1, VAE, 128, tmp_path)
    run(2, VAE, 64, tmp_path)
    alone, *both = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("of1_0", "of2_0", "of2_1")
    )
    assert both[0]["noise"] != both[1]["noise"]
    assert both[0]["steps"] == alone["steps"] == 300
    assert both[0]["bound"] == pytest.approx(alone["bound"], abs=2.0), "nats; two seeds differ by about one"


RECIPE = """
import sys
from pathlib import Path
from course_utils import recipes

recipes.project_root = lambda: Path(sys.argv[1])
recipes.pick = lambda budget, **steps: 400
command = "mlp --profile smoke --data embedded --out".split()
sys.exit(recipes.main([*command, sys.argv[1] + "/out.safetensors"]))
"""


def test_a_killed_worker_ends_all_clearly_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPE)
    command = (str(tmp_path / "recipe.py"), str(tmp_path))
    process = start(2, *command)
    state = tmp_path / "build" / "state" / "mlp_embedded_smoke_0.safetensors"
    until = time.monotonic() + 90
    while not (state.exists() and step_of(state) >= 40):
        assert process.poll() is None and time.monotonic() < until, finish(process)
        time.sleep(0.05)
    workers = [
        p for p in psutil.Process(process.pid).children(recursive=True) if "recipe.py" in str(p.cmdline())
    ]
    workers[-1].kill()
    said = finish(process)
    assert process.returncode != 0 and "SIGKILL" in said
    assert not (tmp_path / "out.safetensors").exists()
    before = step_of(state)
    process = start(2, *command)
    said = finish(process)
    assert process.returncode == 0, said
    assert said.count("-ELBO") == 1, "one of them speaks"
    assert (tmp_path / "out.safetensors").exists() and step_of(state) == 400 > before


def step_of(state: Path) -> int:
    with safe_open(state, framework="pt") as file:
        return json.loads(file.metadata()["progress"])["step"]
