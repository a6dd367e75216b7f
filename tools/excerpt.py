"""What a slide says of a text of the lesson; slides.py gives the rule."""

import re
from html import escape

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode
from mdit_py_plugins.dollarmath import dollarmath_plugin

ASIDE = ("**References.", "Next:")  # paragraphs that are for the notes
WORDS = 4  # a bold label is shorter than that, and brings the sentence that it stands in front of
SHORT = 45  # characters: a sentence so short brings the next
LEAD = 200  # a first sentence that is longer stays in the notes


def formula(tex: str, options: dict) -> str:
    """A formula as MathJax looks for it."""
    return rf"\[{escape(tex)}\]" if options["display_mode"] else rf"\({escape(tex)}\)"


MARKDOWN = MarkdownIt().enable("table").use(dollarmath_plugin, renderer=formula)


def rendered(text: str) -> str:
    return linked(MARKDOWN.render(text))


def linked(html: str) -> str:
    """With links to slides and figures as they lie beside the pages."""
    html = re.sub(r'href="(\d\d_\w+)\.ipynb"', r'href="\1.html"', html)
    html = re.sub(r'<a href="solutions/.*?">(.*?)</a>', r"\1", html)  # no slides
    return html.replace('src="figures/', 'src="_static/figures/')


def said(source: str, tags: list[str]) -> list[tuple[str, str]]:
    """The parts of a text that are shown, each (kind, html)."""
    blocks = SyntaxTreeNode(MARKDOWN.parse(source)).children
    blocks = [
        node for block in blocks for node in (block.children if block.type == "blockquote" else [block])
    ]
    parts, is_first, is_title = [], True, source.startswith("# ")
    for node in blocks:
        whole = "".join(source.splitlines(keepends=True)[slice(*node.map)])
        if node.type == "heading":
            parts.append(("heading", rendered(whole)))
        elif node.type == "math_block":
            parts.append(("formula", rendered(re.sub(r"^> ?", "", whole, flags=re.MULTILINE))))
        elif node.type == "table" and "slide-table" in tags:
            parts.append(("table", rendered(whole)))
        elif node.type in ("bullet_list", "ordered_list"):
            items = [sentences(item.children[0].children[0].content)[0] for item in node.children]
            points = "".join(f"<li>{inline(item)}</li>" for item in items)
            parts.append(("list", f"<{node.tag}>{points}</{node.tag}>"))
        elif node.type == "paragraph":
            text = node.children[0].content
            if text.startswith("!["):
                is_first = False
                parts.append(("picture", f'<div class="picture">{inline(text)}</div>'))
                continue
            if is_title:
                return [*parts, ("point", f"<p>{inline(text)}</p>")]
            points = [] if text.startswith(ASIDE) else told(sentences(text), is_first)
            parts += [("point", f"<p>{inline(point)}</p>") for point in points]
            is_first = False
    return parts


def inline(text: str) -> str:
    return linked(MARKDOWN.renderInline(text))


def told(paragraph: list[str], lead: bool) -> list[str]:
    """Of a paragraph the sentences with something bold; before them the first, if it is to lead."""
    points = []
    for i, sentence in enumerate(paragraph):
        bold = [text for text in re.findall(r"\*\*(.+?)\*\*", sentence) if len(text.split()) >= WORDS]
        whole = [f"**{text[0].upper()}{text[1:]}**" for text in bold if text[-1] in ".?!"]
        if sentence.startswith("**Try:**"):  # what a board is for, all of it
            return [*points, " ".join(paragraph[i:])]
        if i and points and points[-1].endswith(sentence):  # said already, after a short one
            points += whole
        elif "**" in sentence or (i == 0 and lead and len(sentence) <= LEAD):
            point = (whole or [sentence])[0]
            both = " ".join([point, *paragraph[i + 1 : i + 2]])
            short = len(point) < SHORT and not point.endswith(("?", "?**"))
            points.append(both if short and len(both) <= LEAD else point)
    return points


def sentences(text: str) -> list[str]:
    """A paragraph, sentence by sentence. A bold label ("**Try:**") and a number belong to what follows."""
    atom = r"\*\*.+?\*\*|\$.+?\$|`.+?`|\[.*?\]\(.*?\)|."
    found = [""]
    for piece in re.findall(atom, " ".join(text.split())):
        end = re.search(r"(?<!\bal)[.?!][\"”)*_]*\s$", found[-1])
        label = re.search(r"^\*\*[^*]+\*\*\s$", found[-1]) and found[-1].count(" ") < WORDS
        number = re.search(r"(^|[.?!:*]\s)\d\.\s$", "".join(found))
        if end and not label and not number and not piece[0].islower():
            found.append("")
        found[-1] += piece
    return [sentence.strip() for sentence in found]
