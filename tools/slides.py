"""The slides: each lesson as a deck, its boards alive without a kernel. What `make slides` does.

    python tools/slides.py --profile quick --data auto    runs the lessons, then builds build/slides
    python tools/slides.py --keep                         from the lessons as they ran the last time

The tags of a cell say what is shown. With `slide` it begins a slide, with `slide-more` it is added to one:

  a text   its heading, its displayed formulas and pictures, the first sentence of its first paragraph, all
           sentences with something in **bold**, and the first one of each point of a list; its tables if it
           is also tagged `slide-table`. A heading further down in it begins a slide of its own.
  a code   its outputs, after a question in bold only when a key is pressed; if it is also tagged
           `slide-code`, the definitions in it, or all of it where there is none.

The whole text of a slide, and what the lesson says up to the next one, is in its notes: press S.
"""

import ast
import re
import shutil
import sys
from html import escape
from pathlib import Path

import nbformat
from book import copy_scripts, filled, injected, packaged, parse, provide_lessons, title_of
from excerpt import rendered, said
from live import for_pages
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from series import NOTEBOOKS, ROOT, find_notebooks

SERIES = ROOT / "build" / "book" / "series"  # the lessons as they ran; the book shows the same
OURS = ("live.js", "slides.js", "slides.css")
REVEAL = ("dist/reveal.js", "dist/reveal.css", "plugin/notes/notes.js")
QUESTION = re.compile(r"<strong>Predict|\?</strong></p>$")  # in bold: the answer waits for a key
LATE = 'data-fragment-index="0" class="fragment '  # all that is late comes at once
# The window of the notes has a style of its own, which does not know MathJax.
NOTES = "<style>.speaker-controls-notes mjx-assistive-mml { display: none }</style>"
PAPER = HtmlFormatter(style="a11y-high-contrast-light", noclasses=True, nobackground=True)


def main(arguments: list[str] | None = None) -> int:
    options = parse("Build the slides.", ROOT / "build" / "slides", arguments)
    if status := provide_lessons(SERIES, options, "slides were"):
        return status
    sources = find_notebooks(NOTEBOOKS)
    read = [(nbformat.read(SERIES / path.name, 4), nbformat.read(path, 4)) for path in sources]
    decks = {path.stem: tagged(*both) for path, both in zip(sources, read, strict=True)}
    write(decks, options.out)
    print(f"The slides: {options.out / 'index.html'}")
    return 0


def tagged(notebook: NotebookNode, lesson: NotebookNode) -> NotebookNode:
    """What ran, with the tags that the lesson has today."""
    tags = {cell.id: cell.metadata.get("tags", []) for cell in lesson.cells}
    notebook.cells = [cell for cell in notebook.cells if not injected(cell)]
    for cell in notebook.cells:
        cell.metadata["tags"] = tags.get(cell.id, [])
    return notebook


def write(decks: dict[str, NotebookNode], out: Path) -> None:
    """The pages and what they need, built beside `out`; then the one takes the place of the other."""
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    static = beside / "_static"
    shutil.copytree(NOTEBOOKS / "figures", static / "figures")
    copy_scripts(OURS, static)
    for name in REVEAL:
        shutil.copy(packaged("sphinx-revealjs", name), static)
    links = []
    for name, notebook in decks.items():
        title = escape(title_of(notebook))
        page = filled("slides.html", {"title": title, "slides": "\n".join(slides(notebook))})
        (beside / f"{name}.html").write_text(page, encoding="utf-8")
        links.append(f'<li><a href="{name}.html">{title}</a></li>')
    index = filled("slides_index.html", {"links": "\n".join(links)})
    (beside / "index.html").write_text(index, encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    beside.rename(out)


# Slides -----------------------------------------------------------------------------------------


def slides(notebook: NotebookNode) -> list[str]:
    """The sections of a deck. A slide that begins without a heading repeats the one before."""
    found, heading = [], ""
    for cell in for_pages(notebook).cells:
        tags, text = cell.metadata.get("tags", []), cell.cell_type == "markdown"
        shown = "slide" in tags or "slide-more" in tags
        parts = (said(cell.source, tags) if text else ran(cell, tags)) if shown or text else []
        if shown and "slide" in tags:
            found.append({"heading": heading, "parts": [], "notes": []})
        for kind, html in parts:
            if kind == "heading":
                heading = html
            if shown and kind == "heading":
                if found[-1]["parts"]:
                    found.append({"heading": heading, "parts": [], "notes": []})
                found[-1]["heading"] = heading
            elif shown:
                asked = any(QUESTION.search(part) for part in found[-1]["parts"])
                late = asked and kind in ("picture", "says", "numbers")
                found[-1]["parts"].append(html.replace('class="', LATE, 1) if late else html)
        if text and found:
            found[-1]["notes"].append(rendered(re.sub(r"!\[.*?\]\(.*?\)", "", cell.source)))
    return [section(**slide) for slide in found]


def section(heading: str, parts: list[str], notes: list[str]) -> str:
    body, words = "\n".join(parts), NOTES + "\n".join(notes)
    return f'<section>\n{heading}\n{body}\n<aside class="notes">{words}</aside>\n</section>'


def ran(cell: NotebookNode, tags: list[str]) -> list[tuple[str, str]]:
    """What a code cell shows: its definitions if it is tagged so, and its outputs."""
    parts = [("code", code(cell.source))] if "slide-code" in tags else []
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            said_before = parts.pop()[1] if parts and parts[-1][0] == "says" else ""
            parts.append(("says", said_before + escape(output.text)))
        elif "text/html" in data:
            kind = "board" if "live-board" in data["text/html"] else "picture"
            parts.append((kind, f'<div class="{kind}">{data["text/html"]}</div>'))
        elif "text/markdown" in data:
            parts.append(("numbers", f'<div class="numbers">{rendered(data["text/markdown"])}</div>'))
    framed = '<pre class="says">{}</pre>'
    return [(kind, framed.format(html.strip()) if kind == "says" else html) for kind, html in parts]


def code(source: str) -> str:
    """The functions and classes of a cell, coloured; all of it where there is none."""
    lines = source.removeprefix("# NBVAL_CHECK_OUTPUT\n").splitlines()
    nodes = [n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    definitions = ["\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in nodes]
    shown = "\n\n".join(definitions) or "\n".join(lines)
    lines = shown.splitlines()
    size = " long" if len(lines) > 18 or max(map(len, lines)) > 98 else ""
    return f'<div class="code{size}">{highlight(shown, PythonLexer(), PAPER)}</div>'


if __name__ == "__main__":
    sys.exit(main())
