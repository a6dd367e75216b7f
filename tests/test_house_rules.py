"""STYLE.md, as far as a script can check it.

A rule is a function that takes a text, a module's tree or a notebook and returns what is wrong with it, one
sentence for each fault. The last section gives every rule something bad to find.
"""

import ast
import builtins
import json
import re
import subprocess
import symtable
import sys
from itertools import takewhile
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "course_utils"
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PYTHON = sorted(
    file for folder in ("course_utils", "tools", "tests") for file in (ROOT / folder).rglob("*.py")
)

# The order of course_utils/__init__.py: a module may import only from those above it.
ORDER = [
    *("strokes", "scenes", "fetching", "captions", "developing", "photographs", "data"),
    *("distributions", "models", "holes", "objectives", "optim", "processes", "train"),
    *("evaluate", "baselines", "fillings", "recipes", "ledger", "plots", "widgets", "checks", "doctor"),
]
# What boards share, and lessons' checks: each of these, too, may import only those before it.
SHARED = {"widgets": ["widgets", "widgets.shared", "widgets.layers"], "checks": ["checks", "checks.verdict"]}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# The package ------------------------------------------------------------------------------------


def imported_modules(tree: ast.AST) -> set[str]:
    """The modules of course_utils that a module imports, as "data" or "models.vae"."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    inside = {name.removeprefix("course_utils.") for name in found if name.startswith("course_utils.")}
    modules = {".".join(path.with_suffix("").relative_to(PACKAGE).parts) for path in PACKAGE.rglob("*.py")}
    return inside & (modules | {"models"} | set(ORDER))


def import_direction(module: str, tree: ast.AST) -> list[str]:
    """Imports that point upwards. Since the order is total, no cycle can pass."""
    if any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)):
        return ["imports relatively; write course_utils.name"]
    if module.split(".")[0] not in ORDER:
        return [f"{module} is not in the order of course_utils/__init__.py"]
    if module in ("models.__init__", "widgets.__init__", "checks.__init__"):
        package = module.removesuffix("__init__")
        allowed = {name for name in imported_modules(tree) if name.startswith(package)}
    elif module.startswith("models."):
        allowed = {"distributions"} | ({"models", "models.common"} - {module})
    else:  # a board may also import what boards share, a lesson's checks what all checks share
        package = module.split(".")[0]
        above = ORDER[: ORDER.index(package)]
        allowed = {name for name in imported_modules(tree) if name.split(".")[0] in above}
        allowed |= set(takewhile(lambda name: name != module, SHARED.get(package, [])))
    return [f"{module} imports {name}, which is not above it" for name in imported_modules(tree) - allowed]


def long_functions(tree: ast.AST, limit: int = 40) -> list[str]:
    """Counted without signature and docstring, which a reader may want to be long."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = {}
    for node in functions:
        first = node.body[1:2] if ast.get_docstring(node) else node.body
        lengths[node.name] = node.end_lineno - first[0].lineno + 1 if first else 0
    return [f"{name} has {n} lines, more than {limit}" for name, n in lengths.items() if n > limit]


def open_arguments(tree: ast.AST) -> list[str]:
    """**kwargs hide what a function takes; _repr_mimebundle_ alone must pass on what Jupyter gives it."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    named = [(node.name, node.args.kwarg.arg) for node in functions if node.args.kwarg]
    return [f"{name} takes **kwargs" for name, word in named if word == "kwargs" and name[:1] != "_"]


def forbidden_names(tree: ast.AST) -> list[str]:
    """Other names for the log of the variance than log_var."""
    names = set()
    for node in ast.walk(tree):
        names |= {getattr(node, part, None) for part in ("id", "arg", "attr", "name")}
    bad = re.compile(r"(^|_)(logvar|logsigma|log_sigma|lv)(_|\d|$)")
    return [f"the name {name}; it is log_var" for name in names if isinstance(name, str) and bad.search(name)]


def pickles(tree: ast.AST) -> list[str]:
    """Loading a pickle runs whatever is in it."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            found += names & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
        elif isinstance(node, ast.Call):
            found += [word.arg for word in node.keywords if word.arg == "allow_pickle"]
            found += ["torch.load"] * (ast.unparse(node.func) == "torch.load")
    return [f"{name} loads pickles" for name in found]


def prints(tree: ast.AST) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [f"line {call.lineno} prints" for call in calls if ast.unparse(call.func) == "print"]


def pyplot_state(tree: ast.AST) -> list[str]:
    """pyplot may make, style and close figures; drawing goes through the axes that it made."""
    allowed = {"subplots", "subplot_mosaic", "figure", "close", "rc_context", "Figure", "Axes"}
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    uses = {ast.unparse(use) for use in uses if ast.unparse(use.value) in ("plt", "pyplot")}
    return [f"{use} acts on pyplot's current figure" for use in uses if use.split(".")[1] not in allowed]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_the_package_imports_nothing():
    assert [type(node) for node in parse(PACKAGE / "__init__.py").body] == [ast.Expr]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_point_one_way(path):
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    assert not import_direction(module, parse(path))


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_functions_are_short_and_closed(path):
    tree = parse(path)
    assert not long_functions(tree) + open_arguments(tree)


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").glob("*.py")), ids=name_of)
def test_models_are_short_and_silent(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150
    assert not prints(parse(path))


@pytest.mark.parametrize("path", [path for path in modules() if path.stem == "plots"], ids=name_of)
def test_plots_leave_pyplot_alone(path):
    assert not pyplot_state(parse(path))


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_names_and_pickles(path):
    tree = parse(path)
    assert not forbidden_names(tree) + pickles(tree)


def test_training_needs_no_notebook():
    """`python -m course_utils.recipes` runs on machines without Jupyter and without a display."""
    code = "import course_utils.recipes, sys; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"matplotlib", "anywidget", "ipywidgets", "IPython"} & set(loaded.stdout.split())


# Notebooks --------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def own_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """Without the cell for Colab, which is not for a reader to read and has a rule of its own."""
    return [cell for cell in code_cells(notebook) if cell.get("id") != "colab"]


def label(cell: NotebookNode) -> str:
    """A cell, as a reader finds it: its number and first line."""
    first = next(iter(cell.source.strip().splitlines()), "")
    return f"cell [{cell.get('execution_count')}] {first[:50]!r}"


def incomplete(notebook: NotebookNode) -> list[str]:
    """Run from the first cell to the last in one go, without an error, and with something in it."""
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    problems = (
        [] if counts == list(range(1, len(cells) + 1)) and cells else [f"execution counts are {counts}"]
    )
    problems += [f"{label(cell)} is empty" for cell in notebook.cells if not cell.source.strip()]
    failed = [cell for cell in cells if any(output.output_type == "error" for output in cell.outputs)]
    return problems + [f"{label(cell)} stores an error" for cell in failed]


def parameters(notebook: NotebookNode) -> list[str]:
    """papermill, nbval and `make notebooks` all set the parameters; this is what they rely on."""
    lines = [
        'profile = os.environ.get("COURSE_PROFILE", "quick")',
        'data = os.environ.get("COURSE_DATA_KIND", "auto")',
        "seed = 0",
    ]
    tagged = [cell for cell in code_cells(notebook) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        return [f"{len(tagged)} cells are tagged `parameters`, not 1"]
    there = tagged[0].source.splitlines()
    return [f"the parameters cell lacks the line {line}" for line in lines if line not in there]


def long_cells(notebook: NotebookNode, limit: int = 40, setup_limit: int = 8) -> list[str]:
    """Set-up is every code cell up to the first one after the parameters cell, that one not counted."""
    cells = own_cells(notebook)
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    setup = sum((n_lines(cell) for cell in cells[: (tagged or [0])[0] + 2]), 0)
    setup -= n_lines(cells[tagged[0]]) if tagged else 0
    problems = [f"{label(cell)} has more than {limit} lines" for cell in cells if n_lines(cell) > limit]
    return problems + ([f"set-up has {setup} lines, more than {setup_limit}"] if setup > setup_limit else [])


def n_lines(cell: NotebookNode) -> int:
    return len([line for line in cell.source.splitlines() if line.strip()])


def not_plain_python(notebook: NotebookNode) -> list[str]:
    """No shell, no pip, no absolute path, no warning filter."""
    forbidden = {
        r"^\s*[!%]|get_ipython\(": "uses the shell or a magic",
        r"\bpip3? install\b": "installs packages",
        r"""["'](/\w+(/|["'])|~/|[A-Z]:\\(\\|Users))""": "has an absolute path",
        r"filterwarnings|simplefilter|catch_warnings": "filters warnings",
    }
    cells = own_cells(notebook)
    return [
        f"{label(cell)} {fault}"
        for pattern, fault in forbidden.items()
        for cell in cells
        if re.search(pattern, cell.source, re.MULTILINE)
    ]


def bad_names(notebook: NotebookNode) -> list[str]:
    tree = tree_of(notebook)
    return forbidden_names(tree) + pickles(tree)


def images_without_alt(notebook: NotebookNode) -> list[str]:
    problems = []
    for cell in code_cells(notebook):
        for output in cell.outputs:
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
                alt = output.metadata.get(kind, {}).get("alt", "")
                problems += [f"{label(cell)}: {kind} without alt text of 20 characters"] * (len(alt) < 20)
    return problems


def check_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in code_cells(notebook) if "# NBVAL_CHECK_OUTPUT" in cell.source]


def vacuous_checks(notebook: NotebookNode) -> list[str]:
    """nbval passes over a marked cell that stores nothing."""
    cells = check_cells(notebook)
    return [
        f"{label(cell)} has nothing to compare"
        for cell in cells
        if not cell.execution_count or not cell.outputs
    ]


def few_checks(notebook: NotebookNode, wanted: int = 5) -> list[str]:
    n = len(check_cells(notebook))
    return [f"{n} cells are marked # NBVAL_CHECK_OUTPUT, fewer than {wanted}"] if n < wanted else []


TAGS = {"parameters", "injected-parameters", "slide", "slide-more", "slide-code", "slide-table"}


def unknown_tags(notebook: NotebookNode) -> list[str]:
    """A tag that nothing reads, or that says how a slide is to show a cell which is on none."""
    problems = []
    for cell in notebook.cells:
        tags = set(cell.metadata.get("tags", []))
        problems += [f"{label(cell)} is tagged {tag!r}" for tag in sorted(tags - TAGS)]
        if tags & {"slide-code", "slide-table"} and not tags & {"slide", "slide-more"}:
            problems.append(f"{label(cell)} is on no slide")
    return problems


def few_slides(notebook: NotebookNode, wanted: int = 8) -> list[str]:
    """A lesson can be shown: enough slides, every board on one, and nothing that only runs it."""
    cells = [(cell, set(cell.metadata.get("tags", []))) for cell in notebook.cells]
    n = sum("slide" in tags for _, tags in cells)
    problems = [f"{n} cells are tagged `slide`, fewer than {wanted}"] if n < wanted else []
    for cell, tags in cells:
        shown = tags & {"slide", "slide-more"}
        if (
            cell.cell_type == "code"
            and re.search(r"^widgets\.[A-Z]", cell.source, re.MULTILINE)
            and not shown
        ):
            problems.append(f"{label(cell)} has a board that no slide shows")
        if shown and (cell.get("id") in ("colab", "set-up") or "parameters" in tags):
            problems.append(f"{label(cell)} is for no slide")
    return problems


def leftovers(notebook: NotebookNode) -> list[str]:
    """Widget state and traces of papermill; cells without an id, which nbval and diffs rely on."""
    problems = [f"metadata.{key}" for key in ("widgets", "papermill") if key in notebook.metadata]
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    problems += ["a cell that papermill injected"] * ("injected-parameters" in tags)
    ids = [cell.get("id") for cell in notebook.cells]
    return problems + ["cells without an id of their own"] * (None in ids or len(set(ids)) < len(ids))


def hidden_globals(notebook: NotebookNode) -> list[str]:
    """A function reads its arguments, constants, imports and other functions, not the notebook's state."""
    tree = tree_of(notebook)
    known = set(dir(builtins)) | {"display"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            known |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            known.add(node.name)
    problems, waiting = [], [(symtable.symtable(ast.unparse(tree), "notebook", "exec"), "")]
    while waiting:
        table, function = waiting.pop()
        if table.get_type() == "function" and (function or table.get_name().isidentifier()):
            function = function or table.get_name() * (table.get_name() not in INLINE)
        if function:
            reads = [s.get_name() for s in table.get_symbols() if s.is_global() and s.is_referenced()]
            hidden = sorted(name for name in reads if name not in known and not name.isupper())
            problems += [f"{function} reads the notebook's variable {name}" for name in hidden]
        waiting += [(child, function) for child in table.get_children()]
    return problems


INLINE = ("lambda", "listcomp", "setcomp", "dictcomp", "genexpr")  # these are part of the line they stand in


def tree_of(notebook: NotebookNode) -> ast.Module:
    return ast.parse("\n".join(cell.source for cell in own_cells(notebook)))


def definitions(notebook: NotebookNode) -> dict[str, str]:
    """name -> syntax tree of every function and class, without docstrings."""
    found = {}
    for node in tree_of(notebook).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            for part in ast.walk(node):
                if isinstance(part, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(part) is not None:
                    part.body = part.body[1:]
            found[node.name] = ast.dump(node)
    return found


def copies(notebooks: dict[str, NotebookNode]) -> list[str]:
    """A definition is spelled out in one lesson; the package may have it too, and later lessons import it."""
    first, problems = {}, []
    for lesson, notebook in notebooks.items():
        for name, tree in definitions(notebook).items():
            if first.setdefault(tree, lesson) != lesson:
                problems.append(f"{lesson} copies {name} from {first[tree]}; import it")
    return problems


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)  # as it is: converting would invent cell ids


RULES = [incomplete, parameters, long_cells, not_plain_python, bad_names, images_without_alt]
RULES += [vacuous_checks, leftovers, hidden_globals, unknown_tags]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name_of)
def test_notebook(path, rule):
    assert not rule(read(path))


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name_of)
def test_notebook_is_small(path):
    assert path.stat().st_size <= 500_000


@pytest.mark.parametrize("path", LESSONS + SOLUTIONS, ids=name_of)
def test_a_lesson_begins_with_the_cell_for_colab(path, load_tool):
    """As pyproject.toml's address makes it, after the title; a solution has none."""
    cells, colab = read(path).cells, load_tool("notebooks").colab_source()
    there = [(i, cell.source, cell.outputs) for i, cell in enumerate(cells) if cell.get("id") == "colab"]
    assert there == ([(1, colab, [])] if path in LESSONS else []), "run tools/notebooks.py address"


@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_lesson_has_enough_checks(path):
    assert not few_checks(read(path))


@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_lesson_has_slides(path):
    assert not few_slides(read(path))


@pytest.mark.parametrize("path", LESSONS, ids=name_of)
def test_exercises_have_solutions(path):
    notebook = read(path)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    if re.search(r"^#+ .*Exercises", text, re.MULTILINE):
        assert (path.parent / "solutions" / f"{path.stem}_solutions.ipynb").exists()


def test_no_definition_is_copied_into_a_second_lesson():
    assert LESSONS, "there are no lessons"
    assert not copies({path.stem: read(path) for path in LESSONS})


# The repository ---------------------------------------------------------------------------------


def repository() -> list[Path]:
    """What is committed, or would be by `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


def addresses(text: str) -> list[str]:
    """Web addresses other than a namespace and this machine."""
    return re.findall(r"https?://(?!www\.w3\.org/|127\.0\.0\.1|localhost)[^\s\"')]*", text)


def machine_paths(text: str) -> list[str]:
    """Paths that exist only on the machine of whoever wrote them."""
    return re.findall(r"(?<![\w.])/(?:root|work|home/\w+|Users/\w+)/[\w.]*", text)


def index_addresses(text: str) -> list[str]:
    """Package registries: where packages come from is for each reader's own settings to say."""
    return re.findall(r"pythonhosted|pypi\.org/simple|--(?:extra-)?index-url|--find-links", text)


# Links for readers, and the places where the data and the tools of the trade are.
MAY_LINK = re.compile(
    r".*\.(md|ipynb|svg)|CITATION\.cff|LICENSE|pyproject\.toml"
    r"|\.github/.*|\.pre-commit-config\.yaml|.*/data\.py|tools/book\.py"
)


def test_repository_holds_nothing_big_and_no_data():
    for path in repository():
        assert path.stat().st_size <= 8e6, f"{name_of(path)} is over 8 MB"
        assert path.suffix not in (".npy", ".npz", ".pt", ".pth", ".pkl", ".gz", ".zip", ".jpg", ".jpeg"), (
            path
        )


def test_repository_names_no_registry_and_no_machine():
    for path in repository():
        if path.suffix in (".safetensors", ".png", ".ico") or path == Path(__file__):
            continue
        text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        assert not machine_paths(text) + index_addresses(text), name
        assert MAY_LINK.fullmatch(name) or not addresses(text), name


def test_checkpoints_are_small():
    files = [path for path in (ROOT / "data" / "checkpoints").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    for path in files:
        assert path.suffix == ".safetensors" or path.name == ".gitkeep", f"{path.name} is no checkpoint"
        assert path.stat().st_size <= 4e6, f"{path.name} is over 4 MB"


# The rules themselves: each finds what it is there to find ---------------------------------------


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (long_functions, "def f():\n" + " a\n" * 40, "def f():\n" + " a\n" * 41),
        (long_functions, "def f(\n a,\n):\n '''a\nb'''\n" + " a\n" * 40, "def f():\n 'a'\n" + " a\n" * 41),
        (open_arguments, "def f(*, a=1): g(**a)", "def f(**kwargs): 0"),
        (open_arguments, "def _repr_mimebundle_(self, **kwargs): 0", "class A:\n def f(self, **kwargs): 0"),
        (forbidden_names, "log_var = log_var_q", "def f(mu, logvar): 0"),
        (forbidden_names, "solve = sleeve.lvl", "q.lv_1"),
        (pickles, "safetensors.torch.load(b)\nnp.load(f)", "torch.load(f)"),
        (pickles, "import pickled", "from pickle import loads"),
        (pickles, "import io", "np.load(f, allow_pickle=True)"),
        (prints, "imprint(1)", "def f(): print(1)"),
        (pyplot_state, "f, ax = plt.subplots()\nax.plot(x)\nplt.close(f)", "plt.show()"),
        (pyplot_state, "import matplotlib.pyplot as plt", "plt.plot(x)"),
    ],
)
def test_rules_for_modules(rule, good, bad):
    assert not rule(ast.parse(good)) and rule(ast.parse(bad))


@pytest.mark.parametrize(
    "module, code, ok",
    [
        ("train", "from course_utils import data, objectives", True),
        ("train", "def f():\n    from course_utils import plots", False),
        ("data", "import course_utils.train", False),
        ("data", "from . import strokes", False),
        ("data", "from course_utils.data import mnist", False),
        ("models.vae", "from course_utils.models.common import Output", True),
        ("models.vae", "from course_utils.data import mnist", False),
        ("models.common", "from course_utils.models.vae import VAE", False),
        ("objectives", "from course_utils.models.vae import VAE", True),
        ("distributions", "from course_utils.models.vae import VAE", False),
        ("checks.lesson_02", "from course_utils.checks.verdict import judge", True),
        ("checks.lesson_02", "from course_utils.checks.lesson_01 import check_kl", False),
        ("widgets.photo_board", "from course_utils.widgets.layers import LayersState", True),
        ("widgets.photo_board", "from course_utils.widgets.layer_board import LayerBoard", False),
        ("widgets.shared", "from course_utils.widgets.layers import LayersState", False),
        ("helpers", "import torch", False),
    ],
)
def test_import_direction(module, code, ok):
    assert (not import_direction(module, ast.parse(code))) == ok


PARAMETERS = """import os

profile = os.environ.get("COURSE_PROFILE", "quick")
data = os.environ.get("COURSE_DATA_KIND", "auto")
seed = 0"""


def example(*sources: str, **changes) -> NotebookNode:
    """A good notebook with these cells, the last of them changed."""
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell("import torch")]
    cells += [new_code_cell(source) for source in sources]
    for count, cell in enumerate(cells, start=1):
        cell.execution_count = count
    for key, value in changes.items():
        cells[-1][key] = value
    return new_notebook(cells=[new_markdown_cell("# Lesson"), *cells])


def shown(source: str, **changes) -> NotebookNode:
    """An example whose last cell is on a slide, the last of eight, unless it is changed."""
    notebook = example(source, **{"metadata": {"tags": ["slide-more"]}, **changes})
    slides = [new_markdown_cell("a", metadata={"tags": ["slide"]}) for _ in range(8)]
    return NotebookNode({**notebook, "cells": slides + notebook.cells})


def image(**metadata) -> list[NotebookNode]:
    return [new_output("display_data", {"image/png": "AA"}, metadata={"image/png": metadata})]


WELL = {"outputs": [new_output("stream", text="4\n")]}
NOTEBOOK_EXAMPLES = [
    (incomplete, example("a"), example("a", execution_count=7)),
    (incomplete, example("a"), example("a", execution_count=None)),
    (incomplete, example("a"), example(" ")),
    (incomplete, example("a"), example("a", outputs=[new_output("error", ename="E", evalue="e")])),
    (incomplete, example("a"), new_notebook()),
    (parameters, example("a"), new_notebook(cells=[new_code_cell(PARAMETERS)])),
    (parameters, example("a"), example("a", metadata={"tags": ["parameters"]})),
    (long_cells, example("a\n" * 40), example("a\n" * 41)),
    (long_cells, example("a\n" * 9), new_notebook(cells=[new_code_cell("a\n" * 9)])),
    (not_plain_python, example("1 % 2\n"), example("!ls")),
    (not_plain_python, example("a != b"), example("for a in b:\n    %time f(a)")),
    (not_plain_python, example("%pip list", id="colab"), example("%pip list", id="colab-2")),
    (not_plain_python, example("'pip'"), example("os.system('pip install torch')")),
    (not_plain_python, example("Path('data/x')"), example("open('/tmp/x')")),
    (not_plain_python, example("'nats/image'"), example("Path('~/x')")),
    (not_plain_python, example("import warnings"), example("warnings.filterwarnings('ignore')")),
    (bad_names, example("log_var = 0"), example("logvar = 0")),
    (
        images_without_alt,
        example("a", outputs=image(alt="two curves, and a gap")),
        example("a", outputs=image()),
    ),
    (images_without_alt, example("a", **WELL), example("a", outputs=image(alt="a figure"))),
    (vacuous_checks, example("# NBVAL_CHECK_OUTPUT", **WELL), example("# NBVAL_CHECK_OUTPUT")),
    (
        vacuous_checks,
        example("a"),
        example("# NBVAL_CHECK_OUTPUT", outputs=WELL["outputs"], execution_count=None),
    ),
    (few_checks, example(*["# NBVAL_CHECK_OUTPUT"] * 5), example(*["# NBVAL_CHECK_OUTPUT"] * 4)),
    (
        unknown_tags,
        example("a", metadata={"tags": ["slide", "slide-code"]}),
        example("a", metadata={"tags": ["slides"]}),
    ),
    (unknown_tags, example("a"), example("a", metadata={"tags": ["slide-code"]})),
    (few_slides, shown("widgets.Board(x)"), example("a")),
    (few_slides, shown("widgets.Board(x)"), shown("widgets.Board(x)", metadata={})),
    (few_slides, shown("a"), shown("a", id="set-up")),
    (leftovers, example("a"), example("a", metadata={"tags": ["injected-parameters"]})),
    (leftovers, example("a"), NotebookNode(cells=[new_code_cell(id="same")] * 2, metadata={})),
    (leftovers, example("a"), new_notebook(metadata={"widgets": {}})),
    (
        hidden_globals,
        example("def f(x): return x + SIZE + torch.pi"),
        example("model = 1\ndef f(): return model"),
    ),
    (
        hidden_globals,
        example("x = 1\nprint(max(y + x for y in [x]))"),
        example("class A:\n def f(self): seed"),
    ),
    (
        hidden_globals,
        example("x = 1\nf = lambda: x"),
        example("x = 1\ndef f(): return [x for _ in range(2)]"),
    ),
    (
        hidden_globals,
        example("def g(): 0\ndef f(x): return [g() + y for y in x]"),
        example("def f(): profile"),
    ),
]


@pytest.mark.parametrize("rule, good, bad", NOTEBOOK_EXAMPLES)
def test_rules_for_notebooks(rule, good, bad):
    assert not rule(good) and rule(bad)


def test_every_notebook_rule_has_an_example():
    assert set(RULES) <= {rule for rule, _, _ in NOTEBOOK_EXAMPLES}


def test_copies_are_found():
    one = example('def f(x):\n    """Ours."""\n    return x + 1')
    two = example("import os\n\ndef f(x):  # mine\n    return x + 1")
    assert copies({"01": one, "02": two}) == ["02 copies f from 01; import it"]
    assert not copies({"01": one, "02": example("def f(x):\n    return x + 2")})


def test_rules_for_texts():
    home, root = "/home/" + "ada/x", "/ro" + "ot/x"
    assert machine_paths(f"open('{home}') {root}") and not machine_paths("a/work/b.c ./root/x /homes/x")
    assert addresses("see https://example.org") and not addresses(
        "http://www.w3.org/2000/svg http://127.0.0.1:8"
    )
    assert index_addresses("uv --index-url x") and not index_addresses("an index of urls")


def test_the_table_of_the_readme_is_that_of_the_ledger():
    command = [sys.executable, str(ROOT / "tools" / "readme_table.py"), "--check"]
    assert subprocess.run(command, cwd=ROOT).returncode == 0, "run make table"


def test_a_readme_without_the_marks_of_the_table_is_left_alone(load_tool, tmp_path, monkeypatch):
    tool, readme = load_tool("readme_table"), tmp_path / "README.md"
    readme.write_text(tool.MARKS[0])
    monkeypatch.setattr(tool, "README", readme)
    with pytest.raises(SystemExit, match="put back the lines"):
        tool.main()
    assert readme.read_text() == tool.MARKS[0]


def test_a_cell_without_id_is_found(tmp_path):
    """Written by hand, since nbformat would add the id."""
    cell = {"cell_type": "markdown", "metadata": {}, "source": "a"}
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    assert leftovers(read(path)) == ["cells without an id of their own"]
