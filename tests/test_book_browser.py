"""The book as a reader has it: opened from disk with the network off, its boards in their hands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from board_page import CHANGED, PICTURES, load_axe, stay_within, watch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
from series import has_run  # noqa: E402

SERIES = ROOT / "build" / "test" / "series"  # where `make test` has run the lessons in the smoke profile
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.ipynb"))
BOARDS = {
    "index": ["LayerBoard"],
    "01_basic_vae": ["LatentPlane"],
    "02_batch_norm_vae": ["BatchNormBoard"],
    "03_conv_vae": ["LatentWalk", "FeatureViewer"],
    "04_hierarchical_vae": ["LayerBoard"],
    "05_semi_supervised_vae": ["ClassBoard"],
    "06_coco_inpainting": ["PhotoBoard", "OwnPhotograph"],
}
# A board has drawn, and says what.
LIVE = "(board) => board.dataset.live && !board.querySelector('[role=img]:not([aria-label])')"
# axe-core, on what repeats only the first few times: one code cell, formula, row of a table is like another.
AXE = """async (rules) => {
  for (const often of ["div.highlight", "mjx-container"]) {
    [...document.querySelectorAll(often)].slice(3).forEach((its) => its.remove());
  }
  document.querySelectorAll("tbody tr:nth-child(n+4)").forEach((row) => row.remove());
  const found = await axe.run(document, { resultTypes: ["violations"], ...rules });
  return found.violations.filter(({ impact }) => impact === "serious" || impact === "critical");
}"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The book of the lessons in the smoke profile."""
    if not all(is_there(SERIES / f"{name}.ipynb", ROOT / "notebooks" / f"{name}.ipynb") for name in LESSONS):
        run("series.py", "--profile", "smoke", "--out", SERIES)
    out = tmp_path_factory.mktemp("book")
    shutil.copytree(SERIES, out / "series")
    run("book.py", "--keep", "--out", out)
    return out / "site"


def is_there(path: Path, source: Path) -> bool:
    """Whether the lesson has run to its end, as it is today."""
    return has_run(path) and path.stat().st_mtime > source.stat().st_mtime


def run(tool: str, *options) -> None:
    """One of the course's commands; its words if it fails."""
    command = [sys.executable, ROOT / "tools" / tool, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def book(page, site):
    """book(name) opens a page; its boards live. `page.problems` gathers errors and requests that leave."""
    watch(page)
    stay_within(page, site)

    def open_page(name: str):
        page.goto((site / f"{name}.html").as_uri())
        for board in page.locator(".live-board").all():
            board.scroll_into_view_if_needed()
            page.wait_for_function(LIVE, arg=board.element_handle())
        return page

    return open_page


def names_of(site: Path) -> list[str]:
    """All pages; what the theme keeps under _static is none."""
    found = (path.relative_to(site).with_suffix("") for path in site.rglob("*.html"))
    return sorted(str(path) for path in found if path.parts[0] != "_static")


def test_every_page_opens_with_the_network_off(book, site):
    names = names_of(site)
    assert {"index", "ledger", *LESSONS} <= set(names)
    for name in names:
        page = book(name)
        assert page.problems == [], name
        boards = page.locator(".live-board").evaluate_all(
            "(boards) => boards.map((its) => its.dataset.board)"
        )
        assert boards == BOARDS.get(name, []), name
        assert page.locator("img:not([alt]), img[alt='']").count() == 0, f"{name}: a picture without words"
        assert (site / f"{name}.html").stat().st_size < 5e6, name


def test_mathematics_is_set(book):
    page = book("01_basic_vae")
    page.wait_for_selector("mjx-container svg")
    page.wait_for_function("document.querySelectorAll('.math mjx-container').length >= 20")
    assert page.locator("mjx-merror, .math:not(:has(mjx-container))").count() == 0


@pytest.mark.parametrize("name", BOARDS)
def test_boards_live(book, name):
    """Drag a slider, or what the board has in place of one: its pictures change."""
    page = book(name)
    for board in page.locator(".live-board").all():
        page.wait_for_timeout(100)  # its first pictures
        before = board.evaluate(PICTURES)
        move(page, board)
        page.wait_for_function(CHANGED, arg=[board.element_handle(), before])
    assert page.problems == []


def test_a_board_starts_when_the_reader_comes_near(page, site):
    watch(page)
    page.goto((site / "06_coco_inpainting.html").as_uri())
    page.wait_for_load_state()
    page.wait_for_timeout(500)
    boards = page.locator(".live-board")
    assert [board.get_attribute("data-live") for board in boards.all()] == [None, None]
    boards.last.scroll_into_view_if_needed()
    page.wait_for_function(LIVE, arg=boards.last.element_handle())
    assert page.problems == []


def move(page, board) -> None:
    """What a hand does first on a board: drag its slider, its plane, or choose another picture."""
    sliders = board.locator("input[type=range]:enabled")
    plane, choices = board.locator(".lp-plane"), board.locator("input[type=radio]:not(:checked)")
    if sliders.count():
        drag(page, sliders.first, 0.5 if board.get_attribute("data-board") != "LatentWalk" else 0.02, 0.8)
    elif plane.count():
        drag(page, plane.first, 0.5, 0.2)
    elif choices.count():
        choices.first.check(force=True)
    else:
        board.locator("[tabindex]").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")


def drag(page, part, start: float, end: float) -> None:
    """With the mouse, along the middle of it."""
    part.scroll_into_view_if_needed()
    box = part.bounding_box()
    height = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], height)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], height, steps=8)
    page.mouse.up()


@pytest.mark.parametrize(("scheme", "rules"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})])
def test_no_barrier(book, site, page, scheme, rules):
    """axe-core finds nothing serious on any page: names, roles, keyboard, and contrast by day and night."""
    page.emulate_media(color_scheme=scheme)
    found = []
    for name in names_of(site):
        page = book(name)
        load_axe(page)
        for violation in page.evaluate(AXE, rules):
            found += [(name, violation["id"], node["html"][:400]) for node in violation["nodes"]]
    assert found == []
