// Starts a deck: the formulas are set and the boards alive before reveal.js hides the slides, so that all have been
// measured. Then it fits each board to its slide, and shares the keys between the two.

const WIDTH = 1280;
const HEIGHT = 720;

// Scale a board to the room that its slide has. Its own layout does not change, so all of it stays where it is.
function fit(room) {
  const board = room.firstElementChild;
  const { offsetWidth: width, offsetHeight: height } = board.querySelector(".vae-board") ?? board;
  if (!width || !room.clientHeight) return; // on a hidden slide
  const scale = Math.min(room.clientWidth / width, room.clientHeight / height, 1.7);
  board.style.transform = `translateX(-50%) scale(${scale})`;
}

// To reveal.js every <section> is a slide, also one inside a board.
function unsection(board) {
  for (const section of board.querySelectorAll("section")) {
    const group = document.createElement("div");
    group.className = section.className;
    group.append(...section.childNodes);
    section.replaceWith(group);
  }
}

// A board's slider or field keeps its keys; on a board's button the arrows turn the slides, Space and Enter press.
function forSlides(event) {
  const at = document.activeElement;
  if (!at.closest(".board, a")) return true;
  return at.matches("button") && ![" ", "Enter"].includes(event.key);
}

// Before anybody else: a presenter's buttons turn the slides always, Escape leaves a board.
function first(event) {
  const at = document.activeElement;
  const turn = { PageDown: "next", PageUp: "prev" }[event.key];
  if (!at.closest(".board") || (!turn && event.key !== "Escape")) return;
  at.blur();
  if (!turn) return;
  event.preventDefault();
  event.stopPropagation();
  Reveal[turn]();
}

async function start() {
  await MathJax.startup.promise;
  const boards = [...document.querySelectorAll(".live-board")];
  const alive = new MutationObserver(() => boards.every((board) => board.dataset.live) && ready());
  let ready;
  await new Promise((go) => {
    ready = go;
    for (const board of boards) alive.observe(board, { attributes: true });
    if (boards.every((board) => board.dataset.live)) go();
    setTimeout(go, 10_000); // a board that cannot start has said so on the console
  });
  boards.forEach(unsection);
  document.addEventListener("keydown", first, true);
  await Reveal.initialize({
    width: WIDTH,
    height: HEIGHT,
    margin: 0,
    minScale: 0.1,
    maxScale: 4,
    center: false,
    display: "flex",
    hash: true,
    slideNumber: "c/t",
    controlsTutorial: false,
    transition: "none",
    keyboardCondition: forSlides,
    plugins: [RevealNotes],
  });
  const sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => fit(target.closest(".board"))));
  for (const room of document.querySelectorAll(".board")) {
    sizes.observe(room);
    sizes.observe(room.firstElementChild);
  }
  document.body.dataset.ready = "yes";
}

start();
