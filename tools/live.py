"""An executed notebook for pages without a kernel: boards as HTML that lives, figures with their words.

What the book and the slides share. A board that decodes in the page needs no more than its state, which the
executed notebook holds; pages/live.js starts it.
"""

import copy
import json
from html import escape

from nbformat import NotebookNode

STATE = "application/vnd.jupyter.widget-state+json"
VIEW = "application/vnd.jupyter.widget-view+json"
NOT_A_BOARD = "This slider tests your own Jupyter: <code>make lab</code>, then run the cell there."


def for_pages(notebook: NotebookNode) -> NotebookNode:
    """A copy whose figures carry their alternative texts, and whose boards need no kernel."""
    notebook = copy.deepcopy(notebook)
    models = notebook.metadata.pop("widgets", {}).get(STATE, {}).get("state", {})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if (
                html := board(output, models)
                if VIEW in data
                else figure(output)
                if "image/png" in data
                else ""
            ):
                output["data"] = NotebookNode({"text/html": html})
                output["metadata"] = NotebookNode()
    return notebook


def figure(output: NotebookNode) -> str:
    """The picture of an output, with its alternative text; "" if it has none."""
    if "image/png" not in output.data:
        return ""
    alt = output.metadata.get("image/png", {}).get("alt", "")
    source = "".join(output.data["image/png"].split())
    return f'<img class="figure" alt="{escape(alt)}" src="data:image/png;base64,{source}">'


def board(output: NotebookNode, models: dict) -> str:
    """A board as its still picture and its state; lesson 00's slider, which is none, as a word why."""
    model = models[output.data[VIEW]["model_id"]]
    name = model["state"].get("_anywidget_id", "").rpartition(".")[2]
    if not name:
        return f'<div class="live-still">{figure(output)}<p class="live-note">{NOT_A_BOARD}</p></div>'
    state = {key: value for key, value in model["state"].items() if key in ("_esm", "_css") or key[0] != "_"}
    text = json.dumps({"state": state, "buffers": model.get("buffers", [])}, ensure_ascii=False)
    text = text.replace("</", "<\\/")  # or the first tag in it would end it
    script = f'<script type="application/json">{text}</script>'
    return f'<div class="live-board" data-board="{name}">{figure(output)}{script}</div>'
