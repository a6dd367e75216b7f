"""Speed against the peers and the floor: what `make bench` does.

    python tools/bench.py [--rounds 5] [--only course] [--quick] [--remember]
    python tools/bench.py --explain [course]     where the time of a step goes, and where it went before

One epoch of the same VAE (784-400-20, Bernoulli, Adam, batches of 128 grey digits), trained by `fit`, by the
usual tutorial loop, by pythae and by Pyro; lessons 03, 04 and 06 for some steps each. The floor is a model's
matrix products alone. Every contestant is a process that waits for its turn, so none starts or compiles while
time is taken, and only one works. All take a turn in every round; what counts is the median, over rounds, of
the ratio to the floor of the same round: a machine that is busy for a while slows both.

The peers live in build/peers/.venv, which the first run makes. Writes build/bench.json, bench_growth.json and
bench.png; with --quick or --only, bench_try.json and so on. Everything runs on the CPU, also where there is a
GPU.
"""

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from course_utils.data import load_digits

TOOLS = Path(__file__).resolve().parent
BUILD = TOOLS.parent / "build"
PEERS = BUILD / "peers"
PEERS_PYTHON = PEERS / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
REFERENCE = TOOLS / "peers" / "reference.json"
TURN_SECONDS = 600  # then a contestant is stopped
WORSE = 1.15  # times the reference: worth a look

# name: (model, way to train it, what the row is); see peers/course.py
OURS = {
    "floor": ("mlp", "floor", "matrix products alone"),
    "plain": ("mlp", "plain", "the least that trains, digits resident"),
    "course": ("mlp", "fit", "course_utils.train.fit"),
    "course_compiled": ("mlp", "compiled", "fit(compile=True)"),
    "course_bf16": ("mlp", "bf16", "fit(bf16=True)"),
    "course_compiled_bf16": ("mlp", "compiled_bf16", "fit(compile=True, bf16=True)"),
    "conv_floor": ("conv", "floor", "products of lesson 03's network"),
    "conv": ("conv", "fit", "recipes.build_conv_bn"),
    "topdown_floor": ("topdown", "floor", "products of lesson 04's hierarchy"),
    "topdown": ("topdown", "fit", "recipes.build_topdown"),
    "inpainting_floor": ("inpainting", "floor", "products of lesson 06's hierarchy"),
    "inpainting": ("inpainting", "fit", "recipes.build_hier, U-Net fixed"),
}
# name: (what to install, what the row is)
OTHERS = {
    "tutorial": ([], "DataLoader, ToTensor, loss.item() (pytorch/examples)"),
    "pythae": (["pythae>=0.1.2,<0.2"], "pythae's BaseTrainer, digits resident"),
    "pyro": (["pyro-ppl>=1.9,<2"], "Pyro's SVI, digits resident"),
}
EXPLAINED = {name: OURS[name][0] for name in ("course", "conv", "topdown", "inpainting")}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    n_steps, seconds = (8, 0.02) if options.quick else (48, 0.25)
    folder = write_digits(20 if options.quick else 468)
    if options.explain:
        print_parts(options.explain, profile(options.explain, folder, 2 * n_steps))
        return 0
    where = machine()  # before this loads it
    print(where, flush=True)
    players = line_up(options.only, options.quick, folder, n_steps)
    rounds = []
    for floor in dict.fromkeys(player.floor for player in players):
        together = [player for player in players if player.floor == floor]
        rounds += take_rounds(together, options.rounds or (2 if options.quick else 5))
    rows = [row_of(player, rounds) for player in players]
    print_table(rows)
    print_limits(rounds)
    result = BUILD / ("bench_try.json" if options.quick or options.only else "bench.json")
    write(result, rows)
    if not options.only:
        growth = ask("growth", folder, str(seconds))
        write(result.with_stem(f"{result.stem}_growth"), growth)
        draw(rows, growth, where).savefig(result.with_suffix(".png"), dpi=150)
    if options.remember:
        parts = {name: calmest_profile(name, folder, 2 * n_steps) for name in EXPLAINED}
        ratios = {row["name"]: row["ratio_to_floor"] for row in rows if row["ratio_to_floor"]}
        found = {"machine": where, "ratios": ratios, "parts": parts}
        write(REFERENCE, references() | {instructions(): found})
    print_changes(rows)
    print(f"Results: {result}" + ("" if options.only else ", and beside it the plot"))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    names = [*OURS, *OTHERS]
    parser = argparse.ArgumentParser(description="Speed against peers and floor.", allow_abbrev=False)
    parser.add_argument("--rounds", type=int, help="how often each takes a turn (default: 5, quick 2)")
    parser.add_argument("--only", choices=names, action="append", help="this one, and the floor under it")
    parser.add_argument("--quick", action="store_true", help="20 steps for an epoch; to see that it works")
    parser.add_argument("--remember", action="store_true", help="make this the reference that is committed")
    parser.add_argument(
        "--explain",
        choices=EXPLAINED,
        nargs="?",
        const="course",
        help="profile a step instead: where the time outside the matrix products goes",
    )
    options = parser.parse_args(arguments)
    if options.remember and (options.quick or options.only):
        parser.error("--remember needs the whole bench, without --quick and --only")
    return options


# The machine and the digits ----------------------------------------------------------------------


def n_threads() -> int:
    """COURSE_THREADS, by default as many as this process has physical cores."""
    try:
        cores = os.sched_getaffinity(0)
        topology = [f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list" for core in cores]
        physical = len({Path(path).read_text() for path in topology})
    except (AttributeError, OSError):
        physical = os.cpu_count() or 1
    return int(os.environ.get("COURSE_THREADS") or physical)


def machine() -> str:
    """One line on where this runs, and whether something else runs there."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    busy = ": something else is running, do not trust the seconds" if load > 1 else ""
    release = torch.__version__.split("+")[0]
    return f"{n_threads()} threads, {instructions()}, torch {release}, load before {load:.1f}{busy}"


def instructions() -> str:
    """The widest of this CPU's that torch makes use of, such as AVX2: ratios depend on them."""
    return torch.backends.cpu.get_cpu_capability()


def write_digits(n_batches: int) -> Path:
    """The same grey digits for all, whole batches of 128, as torchvision finds MNIST; returns its folder."""
    splits, _ = load_digits()
    pixels = torch.cat([splits.train.pixels, splits.valid.pixels])[: 128 * n_batches]
    folder = PEERS / f"digits_{n_batches}"
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    n = len(pixels)
    for half in ("train", "t10k"):  # torchvision wants to see both
        images = struct.pack(">HBBIII", 0, 8, 3, n, 28, 28) + pixels.numpy().tobytes()
        (raw / f"{half}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{half}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, n) + bytes(n))
    return folder


def why_no_bf16() -> str:
    """Why the rows in bfloat16 are left out, "" if they are not: is a product in it faster on this CPU?

    With one thread and the best of several, which other programs disturb least.
    """
    before, fastest = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        values, times = torch.randn(512, 512).to(dtype), []
        for _ in range(9):
            start = time.perf_counter()
            values @ values
            times.append(time.perf_counter() - start)
        fastest[dtype] = min(times)
    torch.set_num_threads(before)
    ratio = fastest[torch.bfloat16] / fastest[torch.float32]
    return (
        f"this CPU has no bf16 instructions: a product takes {ratio:.0f} times as long" if ratio > 1 else ""
    )


# The peers' environment --------------------------------------------------------------------------


def prepare_peers(wanted: list[str]) -> dict[str, str]:
    """Make build/peers/.venv unless it is there; returns name -> why it cannot be used, of those that cannot.

    The peers get the course's own versions of torch and torchvision.
    """
    base = [f"{name}=={version(name).split('+')[0]}" for name in ("torch", "torchvision")]
    cpu = ["--torch-backend", "cpu"] if (TOOLS.parent / ".venv" / ".cpu").exists() else []
    stamp, needed = PEERS / "installed.json", {"base": base, **{name: OTHERS[name][0] for name in OTHERS}}
    done = json.loads(stamp.read_text()) if stamp.exists() and PEERS_PYTHON.exists() else {}
    if done.get("base") != base:
        print(
            f"Making {PEERS / '.venv'} for the peers; the first time this takes some minutes ...", flush=True
        )
        done, failed = {}, uv("venv", "--clear", "--python", sys.executable, str(PEERS / ".venv"))
        if failed := failed or install_peer(base + cpu):
            return {name: f"cannot be installed: {failed}" for name in wanted}
    absent = {}
    for name in wanted:
        if done.get(name) != needed[name] and (failed := install_peer(needed[name] + base + cpu)):
            absent[name] = f"cannot be installed: {failed}"
        else:
            done[name] = needed[name]
    write(stamp, {**done, "base": base})
    return absent


def install_peer(packages: list[str]) -> str:
    return uv("pip", "install", "--python", str(PEERS_PYTHON), *packages)


def uv(*arguments: str) -> str:
    """Run uv; returns "" or what it says went wrong."""
    ran = subprocess.run([sys.executable, "-m", "uv", *arguments], stderr=subprocess.PIPE, text=True)
    return last_line(ran.stderr) if ran.returncode else ""


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


# The contestants ---------------------------------------------------------------------------------


class Player:
    """A contestant's process: it trains for each line that it is sent and answers with the seconds."""

    def __init__(self, name: str, what: str, floor: str, command: list[str], n_steps: int, absent: str = ""):
        self.name, self.what, self.floor, self.command = name, what, floor, command
        self.n_steps, self.absent, self.peak_mb = n_steps, absent, None
        self.log = PEERS / f"{name}.log"

    def start(self) -> None:
        """Until it is ready to train."""
        if self.absent:
            return
        PEERS.mkdir(parents=True, exist_ok=True)
        with open(self.log, "w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(self.command, cwd=TOOLS, env=environment(), text=True, **pipes)
        self.listen("starting")

    def turn(self, number: int) -> float | None:
        """The seconds of one turn; None, and `absent` says why, if there are none."""
        if self.absent:
            return None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except OSError:
            pass  # it has died, which is about to be heard
        answer = self.listen(f"in round {number}")
        self.peak_mb = answer.get("peak_mb")
        return answer.get("seconds")

    def listen(self, doing: str) -> dict:
        """The next line of JSON that it writes; {} if it ends instead."""
        timer, start = threading.Timer(TURN_SECONDS, self.process.kill), time.monotonic()
        timer.start()
        try:
            for line in self.process.stdout:
                if line.startswith("{"):
                    return json.loads(line)
        finally:
            timer.cancel()
        status = self.process.wait()
        said = last_line(self.log.read_text(errors="replace"))
        if time.monotonic() - start >= TURN_SECONDS:
            said = f"it took longer than {TURN_SECONDS} s"
        self.absent = f"ended {doing}, exit status {status}: {said} ({self.log.name})"
        return {}

    def stop(self) -> None:
        """It ends when its input does."""
        if getattr(self, "process", None):
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


def environment() -> dict[str, str]:
    """All have the same threads, and nothing of the user's own Python."""
    threads = str(n_threads())
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return kept | {"COURSE_THREADS": threads, "OMP_NUM_THREADS": threads}


def floor_of(model: str) -> str:
    """The row of the floor under a model."""
    return "floor" if model == "mlp" else f"{model}_floor"


def line_up(only: list[str] | None, quick: bool, folder: Path, n_steps: int) -> list[Player]:
    """Everyone who takes part, floors first; those who cannot are in the line and say why."""
    n_epoch = int(folder.name.split("_")[1])
    names = [name for name in [*OURS, *OTHERS] if not (quick and "compiled" in name)]
    if only:
        names = [*only, *(floor_of(OURS[name][0]) if name in OURS else "floor" for name in only)]
    absent = prepare_peers([name for name in OTHERS if name in names]) if set(names) & set(OTHERS) else {}
    if no_bf16 := why_no_bf16():
        absent |= {name: no_bf16 for name in OURS if name.endswith("bf16")}
    players = []
    for name, (model, way, what) in OURS.items():
        steps = n_epoch if model == "mlp" else n_steps
        command = [sys.executable, "-m", "peers.course", model, way, str(folder), str(steps)]
        players.append(Player(name, what, floor_of(model), command, steps, absent.get(name, "")))
    for name, (_, what) in OTHERS.items():
        command = [str(PEERS_PYTHON), "-m", f"peers.{name}", str(folder)]
        players.append(Player(name, what, "floor", command, n_epoch, absent.get(name, "")))
    return [player for player in players if player.name in names]


# The rounds --------------------------------------------------------------------------------------


def take_rounds(players: list[Player], n_rounds: int) -> list[dict[str, float]]:
    """Start all, let each take its turn in every round, stop all: the seconds by name, one dict a round."""
    try:
        for player in [player for player in players if not player.absent]:
            print(f"starting {player.name:24}", end="\r", flush=True)
            player.start()
        rounds = []
        for number in range(1, n_rounds + 1):
            print(f"round {number} of {n_rounds} {'':24}", end="\r", flush=True)
            seconds = {player.name: player.turn(number) for player in players}
            rounds.append({name: taken for name, taken in seconds.items() if taken is not None})
        return rounds
    finally:
        for player in players:
            player.stop()


def paired(rounds: list[dict[str, float]], name: str, other: str) -> list[float]:
    """How many times as long as `other` it took, in each round that has both."""
    return [times[name] / times[other] for times in rounds if name in times and other in times]


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def row_of(player: Player, rounds: list[dict[str, float]]) -> dict:
    """What bench.json says of a contestant; seconds and ratio are null if it took no turn."""
    ratios = paired(rounds, player.name, player.floor)
    return {
        "name": player.name,
        "seconds": median([times[player.name] for times in rounds if player.name in times]),
        "ratio_to_floor": median(ratios),
        "ratio_lowest": min(ratios, default=None),
        "ratio_highest": max(ratios, default=None),
        "floor": player.floor,
        "steps": player.n_steps,
        "peak_mb": player.peak_mb,
        "what": player.what,
        "absent": player.absent,
    }


def write(path: Path, what: object) -> None:
    """Whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(what, indent=1) + "\n")
    os.replace(partial, path)


def ask(script: str, *arguments: str) -> list | dict:
    """Run one of our scripts in peers/ to its end; what it answers."""
    command = [sys.executable, "-m", f"peers.{script}", *map(str, arguments)]
    ran = subprocess.run(command, cwd=TOOLS, env=environment(), capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(f"peers/{script}.py failed:\n{ran.stderr}")
    return json.loads(ran.stdout.strip().splitlines()[-1])


# What is said ------------------------------------------------------------------------------------


def print_table(rows: list[dict]) -> None:
    print(f"{'':22}{'seconds':>8}{'ms/step':>9}{'ratio':>7}  {'lowest-highest':14}{'peak MB':>8}  what")
    for row in rows:
        if row["seconds"] is None:
            print(f"{row['name']:22}absent: {row['absent']}")
            continue
        ratio = f"{row['ratio_to_floor']:7.2f}" if row["ratio_to_floor"] else f"{'-':>7}"
        spread = f"{row['ratio_lowest']:.2f}-{row['ratio_highest']:.2f}" if row["ratio_lowest"] else ""
        memory = f"{row['peak_mb']:8.0f}" if row["peak_mb"] else f"{'-':>8}"
        per_step = 1000 * row["seconds"] / row["steps"]
        print(
            f"{row['name']:22}{row['seconds']:8.2f}{per_step:9.2f}{ratio}  {spread:14}{memory}  {row['what']}"
        )
        if row["absent"]:
            print(f"{'':22}{row['absent']}")


class Limit(NamedTuple):
    """The first of `names`, the better of several, against `other`."""

    what: str
    names: tuple[str, ...]
    other: str
    limit: float
    goal: float
    at_least: bool = False


LIMITS = [
    Limit("fp32 / floor", ("course",), "floor", 1.6, 1.3),
    Limit("bf16 / floor", ("course_bf16", "course_compiled_bf16"), "floor", 1.2, 0.95),
    Limit("tutorial / course", ("tutorial",), "course", 3.0, 4.0, at_least=True),
    Limit("pythae / course", ("pythae",), "course", 1.5, 3.0, at_least=True),
]


def judge(limit: Limit, rounds: list[dict[str, float]]) -> str:
    """One line: the ratio, its limit and its goal."""
    values = [median(paired(rounds, name, limit.other)) for name in limit.names]
    values = [value for value in values if value is not None]
    sign = ">=" if limit.at_least else "<="
    if not values:
        return f"{limit.what:20}      not measured    limit {sign} {limit.limit}, goal {sign} {limit.goal}"
    value = min(values)

    def verdict(bar: float) -> str:
        return "met" if (value >= bar if limit.at_least else value <= bar) else "MISSED"

    bars = [("limit", limit.limit), ("goal", limit.goal)]
    said = ", ".join(f"{bar} {sign} {number}: {verdict(number)}" for bar, number in bars)
    return f"{limit.what:20}{value:6.2f}    {said}"


def print_limits(rounds: list[dict[str, float]]) -> None:
    print("\nLimits, for four idle cores")
    for limit in LIMITS:
        print(judge(limit, rounds))


def references() -> dict[str, dict]:
    """What was measured when the speed was last looked at, by `instructions`: machine, ratios, parts."""
    return json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}


def reference() -> dict:
    """That of a CPU like this one: wider instructions shorten the products more than the rest."""
    return references().get(instructions(), {"ratios": {}, "parts": {}})


def changes(rows: list[dict], before: dict[str, float]) -> list[str]:
    """The rows whose ratio has grown, and what to do next."""
    found = []
    for row in rows:
        name, ratio = row["name"], row["ratio_to_floor"]
        if name in OURS and ratio and ratio > WORSE * before.get(name, ratio):
            model, explained = OURS[name][0], {model: name for name, model in EXPLAINED.items()}
            command = f"python tools/bench.py --explain {explained[model]}"
            found.append(f"{name}: {ratio:.2f}, was {before[name]:.2f}. Where the time goes: {command}")
    return found


def print_changes(rows: list[dict]) -> None:
    before = reference()["ratios"]
    well = "No ratio is more than 15 % above the reference."
    nothing = (
        f"There is no reference of a CPU with {instructions()} yet: python tools/bench.py --remember, on an "
        "idle machine, makes one."
    )
    print("\n" + ("\n".join(changes(rows, before)) or (well if before else nothing)))


# Where the time goes -----------------------------------------------------------------------------

NEXT = {  # part: where to look
    "data": "Batches.__getitem__ in data.py, HoleBatches in holes.py",
    "forward": "the objective and the model: fewer, larger operations, or compile=True",
    "backward": "as forward: every operation there has one here",
    "optimiser": "Adam with fused=True? as many parameters as before?",
    "loop": "train.py: fit, descend and Log; is something read from the device in every step?",
}


def profile(name: str, folder: Path, n_steps: int) -> dict[str, dict]:
    """The parts of a step of this row; see peers/explain.py."""
    return ask("explain", EXPLAINED[name], str(folder), str(n_steps))


def step_ms(parts: dict[str, dict]) -> float:
    return sum(part["ms"] for part in parts.values())


def calmest_profile(name: str, folder: Path, n_steps: int) -> dict[str, dict]:
    """The fastest of three: what a burst of other work has slowed is no reference."""
    return min((profile(name, folder, n_steps) for _ in range(3)), key=step_ms)


def print_parts(name: str, parts: dict[str, dict]) -> None:
    """How long each part takes, against the products and against the reference."""
    before = reference()["parts"].get(name, {})
    products = parts["products"]["ms"]
    print(f"{name}: a step of {step_ms(parts):.2f} ms under the profiler")
    print(f"{'':12}{'ms':>7}{'of products':>13}{'reference':>11}   most of it, ms")
    grown = {}
    for part, found in parts.items():
        share = found["ms"] / products
        then = before[part]["ms"] / before["products"]["ms"] if before else None
        grown[part] = share - (then or 0)
        most = ", ".join(f"{operation.removeprefix('aten::')} {ms:.2f}" for operation, ms in found["most"])
        past = f"{then:11.2f}" if before else f"{'-':>11}"
        print(f"{part:12}{found['ms']:7.2f}{share:13.2f}{past}   {most}")
    del grown["products"]
    worst = max(grown, key=grown.get)
    verb = "has grown most" if before else "takes most beside the products"
    print(f"\n{worst} {verb}: {NEXT[worst]}")


# The plot ----------------------------------------------------------------------------------------


def draw(rows: list[dict], growth: list[dict], where: str) -> Figure:
    """On the left how far each is above its floor, on the right how a step grows."""
    figure, axes = plt.subplot_mosaic(
        [["ratios", "batch"], ["ratios", "width"], ["ratios", "depth"]],
        figsize=(12, 8),
        width_ratios=[1.4, 1],
        layout="constrained",
    )
    draw_ratios(
        axes["ratios"], [row for row in rows if row["ratio_to_floor"] and row["name"] != row["floor"]]
    )
    units = {"batch": "images in a batch", "width": "width of the hidden layer", "depth": "hidden layers"}
    for what, unit in units.items():
        draw_growth(axes[what], [point for point in growth if point["grows"] == what], unit)
    axes["batch"].set_title("A step is flat in what it computes, then linear")
    axes["batch"].legend(frameon=False)
    figure.supxlabel(where, fontsize=8)
    return figure


def draw_ratios(axes: plt.Axes, rows: list[dict]) -> None:
    for height, row in enumerate(reversed(rows)):
        ratio, ours = row["ratio_to_floor"], row["name"] in OURS
        axes.barh(height, ratio, color="#1f6f8b" if ours else "#b8b8b8")
        axes.plot([row["ratio_lowest"], row["ratio_highest"]], [height, height], color="black", linewidth=1)
        axes.text(row["ratio_highest"], height, f"  {ratio:.2f}", va="center")
    axes.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)])
    axes.axvline(1, color="black", linestyle=":")
    axes.set_xlabel("time, in times of the matrix products alone (line: lowest to highest of the rounds)")
    axes.spines[["top", "right"]].set_visible(False)
    course = [row["ratio_to_floor"] for row in rows if row["name"] == "course"]
    axes.set_title(
        f"fit takes {course[0]:.1f} times its matrix products" if course else "Time above the floor"
    )


def draw_growth(axes: plt.Axes, points: list[dict], unit: str) -> None:
    values = [point["value"] for point in points]
    axes.loglog(values, [point["step_ms"] for point in points], "o-", color="#1f6f8b", label="step of fit")
    axes.loglog(values, [point["floor_ms"] for point in points], "o:", color="black", label="its products")
    axes.set_xlabel(unit)
    axes.set_ylabel("ms")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
