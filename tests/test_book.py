"""The book's pages before Sphinx sees them, and what happens when something is missing."""

import base64
import json
import re
import shutil

import anywidget
import pytest
import traitlets
from ipywidgets import IntSlider
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_utils import ledger

PIXEL = base64.b64encode(b"a picture").decode()


class Small(anywidget.AnyWidget):
    _esm = "export default { render: ({ el }) => (el.innerHTML = '<b>here</b></script>') };"
    value = traitlets.Int(3).tag(sync=True)
    weights = traitlets.Bytes(b"\x00\x3c").tag(sync=True)


def executed(*widgets, alt: str = 'a <small> "board"'):
    """A notebook as papermill leaves it: its widgets' views in the outputs, their states in its metadata."""
    states = {}
    outputs = []
    for widget in widgets:
        states |= widget.get_manager_state(widgets=[widget])["state"]
        data = {"application/vnd.jupyter.widget-view+json": {"model_id": widget.model_id}, "image/png": PIXEL}
        outputs.append(new_output("display_data", data, metadata={"image/png": {"alt": alt}}))
    notebook = new_notebook(cells=[new_markdown_cell("# 09 · A lesson"), new_code_cell("", outputs=outputs)])
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": states}}
    return notebook


@pytest.fixture
def live(load_tool):
    return load_tool("live")


@pytest.fixture
def book(load_tool):
    return load_tool("book")


def test_a_board_brings_its_state_and_its_still_picture(live):
    board = Small()
    notebook = executed(board)
    (output,) = live.for_pages(notebook).cells[1].outputs
    html = output.data["text/html"]
    assert html.count("</script>") == 1, "a tag within the state does not end it"
    state = json.loads(re.search(r"<script[^>]*>(.*)</script>", html)[1])
    assert state["state"]["value"] == 3
    assert state["state"]["_esm"] == Small._esm
    (weights,) = state["buffers"]
    assert (weights["path"], base64.b64decode(weights["data"])) == (["weights"], b"\x00\x3c")
    assert 'alt="a &lt;small&gt; &quot;board&quot;"' in html
    assert "widgets" in notebook.metadata, "the notebook that was given stays as it was"


def test_what_needs_a_kernel_says_so(live):
    slider = IntSlider()
    (output,) = live.for_pages(executed(slider)).cells[1].outputs
    html = output.data["text/html"]
    assert "<script" not in html and "make lab" in html and PIXEL in html


def test_a_figure_carries_its_words(live):
    data = {"image/png": PIXEL[:4] + "\n" + PIXEL[4:], "text/plain": "words"}
    output = new_output("display_data", data, metadata={"image/png": {"alt": "A curve that falls."}})
    (page,) = live.for_pages(new_notebook(cells=[new_code_cell("", outputs=[output])])).cells
    html = page.outputs[0].data["text/html"]
    assert f'alt="A curve that falls." src="data:image/png;base64,{PIXEL}"' in html


def test_a_lesson_says_where_else_it_can_be_had(book):
    cells = [
        new_markdown_cell("# Title"),
        new_code_cell("%pip install it"),
        new_code_cell("profile = 'smoke'"),
    ]
    cells += [new_code_cell("# NBVAL_CHECK_OUTPUT\n1 + 1")]
    cells[1].id, cells[2].metadata["tags"] = "colab", ["injected-parameters"]
    page = book.lesson("01_basic_vae", new_notebook(cells=cells))
    _, links, code = page.cells
    owner_and_name = book.repository().split("/", 3)[3]
    assert f"/github/{owner_and_name}/blob/main/notebooks/01_basic_vae.ipynb" in links.source
    assert 'href="notebooks/01_basic_vae.ipynb"' in links.source
    assert 'href="solutions/01_basic_vae_solutions.html"' in links.source
    assert "solutions" not in book.elsewhere("00_start_here"), "it has none"
    assert code.source == "1 + 1"


def test_every_number_of_the_study_is_on_the_page(book):
    page = book.ledger_page()
    rows = ledger.study()
    assert sum(int(cells[6]) for cells in table_lines(page)) == len(rows)
    for notebook in {row["notebook"] for row in rows}:
        assert f"## {notebook}" in page


def table_lines(page: str) -> list[list[str]]:
    lines = [re.split(r"(?<!\\)\|", line) for line in page.splitlines() if line.startswith("| `")]
    assert lines
    return lines


def test_no_book_without_its_lessons(book, tmp_path, capsys):
    assert book.main(["--keep", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "No book was built" in said and "01_basic_vae" in said and "--keep" in said
    assert list(tmp_path.iterdir()) == []


def test_a_lesson_that_stopped_halfway_is_none(book, tmp_path, capsys):
    """Its log is still beside it."""
    series = tmp_path / "series"
    series.mkdir()
    for lesson in book.find_notebooks(book.NOTEBOOKS):
        shutil.copy(lesson, series)
    (series / "06_coco_inpainting.log").write_text("")
    assert book.main(["--keep", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "06_coco_inpainting did not run to the end" in said and "01_basic_vae" not in said


def test_ctrl_c_ends_all_of_it(book, tmp_path, monkeypatch):
    """Also the lessons that run on other data than the one that it stopped."""
    started = []

    class Interrupted:
        def __init__(self, folder, out, profile, data, jobs):
            self.report = []

        def run(self, lessons):
            started.extend(path.stem for path in lessons)
            return book.INTERRUPTED

    monkeypatch.setenv("COURSE_LEDGER", "")  # put back afterwards
    monkeypatch.setattr(book, "Series", Interrupted)
    assert book.main(["--data", "auto", "--out", str(tmp_path)]) == book.INTERRUPTED
    assert started and "06_coco_inpainting" not in started


def test_a_failed_build_leaves_the_book_that_was(book, tmp_path, capfd):
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    site.mkdir()
    (site / "index.html").write_text("the book before")
    (source / "conf.py").write_text('extensions = ["there_is_no_such_extension"]')
    (source / "index.md").write_text("# Title")
    assert book.build(source, site) != 0
    assert (site / "index.html").read_text() == "the book before"
    assert "No book was built" in capfd.readouterr().err
