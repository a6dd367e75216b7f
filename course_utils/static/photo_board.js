// The photo board: a photograph with a hole, what a hierarchy makes of what is around it, and a row for each layer.

import { fromHalves, networks, unpack, walkDown } from "./decoder.js";
import { addPicks, build, paint } from "./board.js";
import { contents, drawHere, hierarchy, imageOf, run, varies, whoSamples, write } from "./layers.js";

const PHOTO = [3, 64, 64];
const HOLE = [3, 32, 32];
const CORNER = 16; // of the hole, from the left and from the top

const BOARD = `
  <div class="vae-board vae-layers photo-board">
    <header>
      <strong>What could be in the hole?</strong>
      <div class="lb-presets" role="group" aria-label="All layers">
        <button type="button" data-name="allSample">All sample</button>
        <button type="button" data-name="allMean">All at their mean</button>
        <button type="button" data-name="allHold">All held</button>
      </div>
    </header>
    <div class="lb-starts">
      <div class="lb-picks" role="radiogroup" aria-label="Photograph" data-name="picks"></div>
      <button type="button" aria-pressed="false" data-name="whole">Show them whole</button>
    </div>
    <div class="pb-look">
      <div class="lb-caption lb-of">
        <b data-name="start"></b><button type="button" aria-pressed="false" data-name="reveal">Reveal</button>
      </div>
      <div class="lb-caption lb-says"><span role="status" data-name="note"></span><span class="lb-spread" data-name="spread"
        title="Standard deviation over the fillings, root mean square over the pixels of the hole"></span></div>
      <div class="pb-frame pb-own"><canvas width="64" height="64" role="img" data-name="own"></canvas></div>
      <div class="pb-fillings" role="img" data-name="picture">
        <p class="lb-aside" data-name="aside">All fillings would be equal, so there is one. Let a layer sample, and
          see what it decides.</p>
      </div>
    </div>
    <div class="lb-rows" data-name="rows"></div>
    <footer data-name="foot"></footer>
    <p class="vae-hint">
      <b>Sample</b> draws a layer's code from its prior, for each filling anew; <b>Mean</b> takes what the surroundings
      and the layers above expect; <b>Hold</b> keeps the code of this picture, which <b>has been told what was
      there</b>. The lower slider moves the code along a direction, in standard deviations. <b>KL</b>: how much the
      layer has to be told of a hole, <span data-name="many"></span>. Keys: <kbd>Tab</kbd> leads on, arrows choose and
      turn.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

function render({ model, el }) {
  const its = { ...contents(model), skip: true, in_hole: true };
  const board = { page: build(BOARD), its, shown: [], started: "" };
  return run({ model, el }, board, {
    addStarts: (go) => addStarts(board, go),
    seen: (state) => seen(state, its),
    dress: (now) => dressStart(board, now),
    draws: (look, done) => draws(model, board, look, done),
  });
}

export default { render };

// What the board says of a state.
function seen(state, its) {
  const is = (mode) => state.rows.every((row) => row.mode === mode && !row.shift);
  const differs = varies(state, true);
  let note = "No layer samples: there is one filling.";
  if (differs) note = `${whoSamples(state, true)}: ${its.n_pictures} fillings.`;
  else if (is("mean")) note = "All layers are at their mean: one filling.";
  else if (is("hold")) note = "All layers are held: what the codes kept of what was there.";
  if (!is("hold") && state.rows.some(({ mode }) => mode === "hold")) note += " Held layers were told what was there.";
  return { ...state, line: write(state, its), varies: differs, note };
}

// The walk, with what Python sent.
function walkOf(model, its) {
  const { nets, pixels } = walkDown(networks(model.get("networks"), fromHalves(model.get("weights"))));
  const [codes, vectors, around] = ["codes", "vectors", "context"].map((name) => unpack(model.get(name)));
  const size = around.length / its.names.length;
  const guess = HOLE[0] * HOLE[1] * HOLE[2];
  const of = (start) => around.subarray(imageOf(start, its) * size, (imageOf(start, its) + 1) * size);
  const context = (start) => {
    let at = guess;
    return its.levels.map(({ told }) => of(start).subarray(at, (at += told)));
  };
  const decode = (told, start) => pixels(told, of(start).subarray(0, guess));
  return hierarchy({ nets, decode, codes, vectors, context }, its);
}

// Drawing --------------------------------------------------------------------------------------------------------

function draws(model, board, look, done) {
  const walk = walkOf(model, board.its);
  const begin = () => {
    const now = look();
    fit(board, now.varies ? board.its.n_pictures : 1);
    return now;
  };
  board.page.node.codes = (picture = 0) => walk.codes(picture); // for tests, and for a curious console
  return drawHere(walk, { line: () => model.get("line"), begin, put: (values, i) => paintFilling(board, values, i), done });
}

// Room for n fillings, in two rows if there are many.
function fit({ page: { picture, aside }, shown }, n) {
  const rows = Math.max(1, Math.floor(Math.sqrt(n / 2)));
  const frames = [...picture.querySelectorAll(".pb-frame")];
  for (let i = frames.length; i < n; i++) {
    aside.before(build(`<div class="pb-frame"><canvas class="vae-picture" width="64" height="64"></canvas></div>`).node);
  }
  for (const frame of frames.slice(n)) frame.remove();
  picture.style.setProperty("--columns", Math.max(2, Math.ceil(n / rows)));
  picture.classList.toggle("pb-alone", n === 1);
  shown.length = n;
}

// The photograph with a filling in its hole. It changes as a whole, so no filling is seen in another photograph.
function paintFilling({ page, its, image, shown }, values, i) {
  const canvas = page.picture.querySelectorAll("canvas")[i];
  shown[i] = values;
  paint(canvas, its.images[image], PHOTO);
  paint(canvas, values, HOLE, CORNER, CORNER);
}

function paintPhotograph(canvas, pixels, whole) {
  paint(canvas, pixels, PHOTO);
  if (!whole) canvas.getContext("2d").clearRect(CORNER, CORNER, HOLE[2], HOLE[1]);
}

// Starts ---------------------------------------------------------------------------------------------------------

function addStarts(board, go) {
  const { page, its } = board;
  addPicks(page.picks, its.names, its.images, PHOTO, (name) => go((now) => ({ ...now, start: `image ${name}` })), "image ");
  const isPressed = (button) => button.ariaPressed === "true";
  const thumbs = () => {
    const whole = isPressed(page.whole);
    page.picks.querySelectorAll("canvas").forEach((thumb, i) => paintPhotograph(thumb, its.images[i], whole));
  };
  page.whole.addEventListener("click", () => {
    page.whole.ariaPressed = !isPressed(page.whole);
    thumbs();
  });
  page.reveal.addEventListener("click", () => reveal(board, !isPressed(page.reveal)));
  thumbs();
}

// What was there, or the hole.
function reveal({ page, its, image }, whole) {
  page.reveal.ariaPressed = whole;
  page.reveal.textContent = whole ? "Hide" : "Reveal";
  page.start.textContent = `image ${its.names[image]}${whole ? ": what was there" : ""}`;
  page.own.ariaLabel = `The image ${its.names[image]}, ${whole ? "as it was" : "its middle missing"}`;
  paintPhotograph(page.own, its.images[image], whole);
}

// Another photograph comes with its hole, whatever was revealed of the last.
function dressStart(board, now) {
  if (now.start === board.started) return;
  board.started = now.start;
  board.image = imageOf(now.start, board.its);
  for (const button of board.page.picks.querySelectorAll("input")) button.checked = button.value === now.start;
  reveal(board, false);
}
