"""The slides that the tags of the lessons choose, from what the notebooks store: no browser."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"
LIMIT, LIST_LIMIT = 450, 650  # characters of running text; of a list, or beside a board


@pytest.fixture
def tool(load_tool):
    return load_tool("slides")


@pytest.fixture
def excerpt(load_tool):
    return load_tool("excerpt")


def stored(path: Path):
    """A lesson without the widgets, whose state is not stored."""
    notebook = nbformat.read(path, as_version=4)
    for output in [output for cell in notebook.cells for output in cell.get("outputs", [])]:
        output.get("data", {}).pop(VIEW, None)
    return notebook


def words(section: str) -> str:
    """The running text of a slide."""
    section = re.sub(r"<(aside|pre|table|style)\b.*?</\1>|\\\[.*?\\\]", "", section, flags=re.DOTALL)
    section = re.sub(r"\\\(.*?\\\)", "formula", section)
    return " ".join(re.sub(r"<[^>]+>", " ", section).split())


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_is_some_slides_and_none_is_empty_or_full(tool, path):
    sections = tool.slides(stored(path))
    assert 8 <= len(sections) <= 20
    assert "<h1>" in sections[0] and "<h1>" not in "".join(sections[1:])
    for section in sections:
        heading, _, rest = section.partition("\n")[2].partition("\n")
        assert re.match(r"<h[123]>.+", heading), section[:200]
        assert rest.split("<aside")[0].strip(), f"nothing below {heading}"
        wide = re.search(r"<[ou]l>", section.split("<aside")[0]) or "Try:" in section
        assert len(words(section)) <= (LIST_LIMIT if wide else LIMIT), words(section)
    assert "colab" not in "".join(sections)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_notes_hold_the_whole_text(tool, path):
    """Of all that the lesson says after its title, slide or not."""
    notebook = stored(path)
    sections = "".join(tool.slides(notebook))
    notes = "".join(re.findall(r'<aside class="notes">(.*?)</aside>', sections, re.DOTALL))
    for cell in [cell for cell in notebook.cells if cell.cell_type == "markdown"]:
        plain = re.sub(r"!\[.*?\]\(.*?\)|\$.*?\$|`.*?`", "", cell.source)
        missing = [word for word in re.findall(r"(?<!\S)[A-Za-z]{6,}(?!\S)", plain) if word not in notes]
        assert not missing


def test_a_text_says_its_heading_its_lead_and_what_is_bold(excerpt):
    text = """## 2 · Idea

First *things* stay together with what they are of. Second things, not. **Third things, in bold.** Fourth.

Not this. But **this** word.

$$a = b$$

- **one**: first. Second.
- two

| a | b |
|---|---|
| 1 | 2 |

**References.** Somebody (2014)."""
    kinds, html = zip(*excerpt.said(text, []), strict=True)
    assert kinds == ("heading", "point", "point", "point", "formula", "list")
    assert html[1] == "<p>First <em>things</em> stay together with what they are of.</p>"
    assert html[2] == "<p><strong>Third things, in bold.</strong> Fourth.</p>"
    assert html[3] == "<p>But <strong>this</strong> word.</p>"
    assert r"\[a = b\]" in html[4]
    assert html[5] == "<ul><li><strong>one</strong>: first.</li><li>two</li></ul>"
    assert [kind for kind, _ in excerpt.said(text, ["slide-table"])].count("table") == 1


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("It is 0. It is *more*. `a. B` c?", ["It is 0.", "It is *more*.", "`a. B` c?"]),
        ("By Burda et al. 2016, $x. Y$ is. So", ["By Burda et al. 2016, $x. Y$ is.", "So"]),
        ("**Try:** 1. Walk. 2. Run.", ["**Try:** 1. Walk.", "2. Run."]),
        ("**A walk.** Choose two. **Now. What?** And", ["**A walk.** Choose two.", "**Now. What?** And"]),
    ],
)
def test_sentences(excerpt, text, parts):
    assert excerpt.sentences(text) == parts


def test_a_board_brings_all_there_is_to_try(excerpt):
    paragraph = excerpt.sentences("A board that decodes a point. **Try:** walk. Is there a 4? And 5?")
    assert excerpt.told(paragraph, lead=True)[-1] == "**Try:** walk. Is there a 4? And 5?"


def test_tags_choose_and_notes_have_the_rest(tool):
    def cell(new, source, *tags, **more):
        return new(source, metadata={"tags": list(tags)}, **more)

    says = [new_output("stream", text="a < b\n"), new_output("stream", text="c\n")]
    notebook = new_notebook(
        cells=[
            cell(new_markdown_cell, "# Title\n\n*Two sentences. Of a lead.*\n\nMore **bold**.", "slide"),
            cell(new_code_cell, "hidden = 1"),
            cell(new_markdown_cell, "## Model\n\nNot shown, but noted."),
            cell(new_code_cell, "def f():\n    return\n\n\nprint(f())", "slide", "slide-code", outputs=says),
            cell(new_markdown_cell, "Said.\n\n### Below\n\nOther.", "slide-more"),
        ]
    )
    title, model, below = tool.slides(notebook)
    assert "<p><em>Two sentences. Of a lead.</em></p>" in title and "bold" not in words(title)
    assert "Not shown, but noted." in title.split("<aside")[1] and "hidden" not in title
    assert "<h2>Model</h2>" in model and "print" not in model
    assert '<pre class="says">a &lt; b\nc</pre>' in model
    assert "<p>Said.</p>" in model and "<h3>Below</h3>" in below


def test_an_answer_waits_for_its_question(tool):
    def section(text):
        told = new_markdown_cell(text, metadata={"tags": ["slide"]})
        says = [new_output("stream", text="7\n")]
        ran = new_code_cell("print(7)", metadata={"tags": ["slide-more"]}, outputs=says)
        return "".join(tool.slides(new_notebook(cells=[told, ran])))

    assert 'class="fragment says"' in section("## A\n\nThis. **Predict: what comes back from it?**")
    assert 'class="fragment says"' in section("## A\n\n**What will come back from it?**")
    assert "fragment" not in section("## A\n\n**This is what comes back.** Is it?")


def test_todays_tags_are_put_on_what_ran(tool):
    ran = new_notebook(cells=[new_markdown_cell("a", id="a"), new_code_cell("p = 1", id="p")])
    ran.cells[1].metadata["tags"] = ["injected-parameters"]
    lesson = new_notebook(cells=[new_markdown_cell("a", id="a", metadata={"tags": ["slide"]})])
    (cell,) = tool.tagged(ran, lesson).cells
    assert cell.metadata["tags"] == ["slide"]


def test_nothing_is_built_without_a_run(tool, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tool, "SERIES", tmp_path)
    assert tool.main(["--keep", "--out", str(tmp_path / "out")]) == 2
    assert "Leave out --keep" in capsys.readouterr().err and not (tmp_path / "out").exists()
