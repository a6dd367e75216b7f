"""The ledger keeps one row for each thing measured, whoever writes, however many write at once."""

import subprocess
import sys

import pytest

from course_utils import ledger
from course_utils.evaluate import Estimate

FACTS = {
    "notebook": "01_basic_vae",
    "model": "mlp",
    "role": "headline",
    "data": "mnist_binary",
    "metric": "neg_elbo",
    "unit": "nats/image",
    "profile": "quick",
}


def test_a_number_comes_back_with_its_error_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "build" / "ledger.csv"
    ledger.record(Estimate(99.0, 0.3, 2_000), seed=0, path=path, **FACTS)
    ledger.record(Estimate(94.25, 0.24, 2_000), seed=0, path=path, **FACTS)
    ledger.record(Estimate(94.75, 0.24, 2_000), seed=1, path=path, **FACTS)
    rows = ledger.read(path)
    assert [row["value"] for row in rows] == ["94.25", "94.75"]
    assert list(rows[0]) == ledger.COLUMNS
    assert rows[0]["n"] == "2000" and rows[0]["stderr"] == "0.24"
    assert ledger.over_seeds(rows) == (94.5, pytest.approx(0.3536, abs=1e-4), 2)
    assert ledger.quote(rows) == "94.5 ± 0.4 nats/image (2 seeds)"
    assert ledger.quote(rows[:1]) == "94.2 ± 0.2 nats/image"


def test_forgetting_a_notebook_leaves_the_others(tmp_path):
    path = tmp_path / "ledger.csv"
    ledger.record(1.0, seed=0, path=path, **FACTS)
    ledger.record(2.0, seed=0, path=path, **FACTS | {"notebook": "02_batch_norm_vae"})
    ledger.forget(["01_basic_vae"], path)
    assert [row["notebook"] for row in ledger.read(path)] == ["02_batch_norm_vae"]


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="no column colour"):
        ledger.read(tmp_path / "ledger.csv", colour="blue")
    with pytest.raises(ValueError, match="choose one of headline"):
        ledger.record(1.0, seed=0, path=tmp_path / "ledger.csv", **FACTS | {"role": "heading"})
    with pytest.raises(ValueError, match="no such rows"):
        ledger.over_seeds([])


def test_two_processes_lose_no_rows(tmp_path):
    code = (
        "import sys; from pathlib import Path; from course_utils import ledger\n"
        "for seed in range(15):\n"
        "    ledger.record(1.0, notebook=sys.argv[2], model='mlp', role='study', data='mnist_grey',\n"
        "        metric='neg_elbo', unit='nats/image', profile='smoke', seed=seed, path=Path(sys.argv[1]))\n"
    )
    path = tmp_path / "ledger.csv"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, name]) for name in ("a", "b")]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    assert len(ledger.read(path)) == 30


def test_a_table_keeps_its_columns_when_a_name_has_a_bar():
    table = ledger.Table(("−log p(x|z)", "nats"), [("a", "1")])
    assert table._repr_markdown_().splitlines()[0] == r"| −log p(x\|z) | nats |"
    assert repr(table).splitlines()[0] == "−log p(x|z)   nats"
