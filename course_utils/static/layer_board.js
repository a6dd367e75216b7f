// The layer board: a row for each layer of a hierarchy, which holds its code, takes its mean or samples, and the
// pictures that then come out. Where an image is not to be had, it starts from a draw of the prior.

import { fromHalves, networks } from "./decoder.js";
import { addPicks, build, oncePerFrame, paint, set } from "./board.js";
import {
  contents, drawHere, hierarchy, imageOf, isImage, read, run, varies, whoSamples, write,
} from "./layers.js";

const GAP = 2; // pixels between pictures
const PATIENCE = 4000; // milliseconds until a kernel that does not answer is asked again

const BOARD = `
  <div class="vae-board vae-layers layer-board">
    <header>
      <strong>Layer board</strong>
      <div class="lb-presets" role="group" aria-label="All layers">
        <button type="button" data-name="allSample">All from the prior</button>
        <button type="button" data-name="allHold">All held</button>
        <button type="button" data-name="allMean">All at their mean</button>
      </div>
    </header>
    <div class="lb-starts">
      <span class="lb-soft">Start from</span>
      <div class="lb-picks" role="radiogroup" aria-label="Start from" data-name="picks"></div>
      <div class="lb-draw">
        <label class="lb-pill">
          <input type="radio" value="prior draw" data-name="prior"><span>prior draw</span>
        </label>
        <input type="number" min="1" max="9999" value="1" aria-label="Number of the prior draw" data-name="number">
        <button type="button" data-name="another">Another draw</button>
      </div>
    </div>
    <div class="lb-look">
      <div class="lb-caption lb-of"><b data-name="start"></b></div>
      <div class="lb-caption lb-says"><span role="status" data-name="note"></span><span class="lb-spread" data-name="spread"
        title="Standard deviation over the pictures, root mean square over their pixels"></span></div>
      <canvas class="lb-own" role="img" data-name="own"></canvas>
      <div class="lb-frame" data-name="frame">
        <canvas class="vae-picture" role="img" data-name="picture"></canvas>
        <p class="lb-aside">All pictures would be equal, so there is one. Let a layer sample that reaches the pixels,
          and see what it decides.</p>
      </div>
    </div>
    <div class="lb-rows" data-name="rows"></div>
    <footer data-name="foot"></footer>
    <p class="vae-hint">
      <b>Hold</b> keeps a layer's code as it is in the start, <b>Mean</b> takes what the layers above expect,
      <b>Sample</b> draws around that, for each picture anew. The lower slider moves the code along a direction, in
      standard deviations. <b>KL</b>: what the layer says of an image, <span data-name="many"></span>. Keys:
      <kbd>Tab</kbd> leads on, arrows choose and turn.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

function render({ model, el }) {
  const its = { ...contents(model), shape: model.get("image_shape"), skip: model.get("skip") };
  const board = { page: build(BOARD), its, shown: [], started: "" };
  return run({ model, el }, board, {
    addStarts: (go) => addStarts(board, go),
    seen: (state) => seen(state, its),
    dress: (now) => dressStarts(board, now),
    draws: (look, done) => (model.get("in_page") ? draws : drawThere)(model, board, look, done),
  });
}

export default { render };

// What the board says of a state.
function seen(state, its) {
  const n = state.rows.length;
  const held = state.rows.findIndex(({ mode }) => mode === "hold") + 1; // the lowest
  const above = state.rows.slice(held).some(({ mode, shift }) => mode !== "hold" || shift);
  const differs = varies(state, its.skip);
  let note = `No layer samples: there is one picture.`;
  if (differs) {
    note = `${whoSamples(state, its.skip)}: ${its.n_pictures} pictures.`;
  } else if (state.rows.every(({ mode, shift }) => mode === "hold" && !shift)) {
    note = isImage(state.start) ? "All layers are held: the reconstruction." : "All layers are held: the draw itself.";
  } else if (state.rows.every(({ mode }) => mode === "mean")) note = "All layers are at their mean.";
  if (held && above && held < n && !its.skip) {
    note = `Layer ${held} is held: nothing above it reaches the pixels. ${differs ? note : ""}`.trim();
  }
  return { ...state, line: write(state, its), varies: differs, note };
}

const copyOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);

// The walk, with what Python sent: down and prior of each layer but the top one, and the decoder.
function walkOf(model, its) {
  const lists = model.get("networks");
  const found = networks(lists, fromHalves(model.get("weights")));
  const decode = found.pop();
  const [codes, vectors, top] = ["codes", "vectors", "top"].map((name) => new Float32Array(copyOf(model.get(name))));
  const nets = [{ prior: () => top }];
  while (found.length) {
    const [down, prior] = found.splice(0, 2);
    nets.unshift({ down, prior });
  }
  return hierarchy({ nets, decode, codes, vectors, each: picturesAtOnce(lists) }, its);
}

// So many that they take some milliseconds: a network is quicker with a few pictures at once than one by one.
function picturesAtOnce(lists) {
  const cost = (layers) =>
    layers.reduce((sum, { op, n_in, n_out, shape, kernel, layers: block }) => {
      if (op === "linear") return sum + n_in * n_out;
      if (op === "conv") return sum + shape[0] * kernel[0] * kernel[1] * n_out * shape[1] * shape[2];
      return sum + (block ? cost(block) : 0);
    }, 0);
  return Math.max(1, Math.min(12, 2 * Math.floor(3e6 / lists.reduce((sum, list) => sum + cost(list), 0))));
}

// Drawing --------------------------------------------------------------------------------------------------------

// In the page.
function draws(model, board, look, done) {
  const walk = walkOf(model, board.its);
  const begin = () => {
    const now = look();
    if (now.start !== board.started) place(board, now.start, isImage(now.start) ? null : walk.own(now.start));
    fit(board, now.varies ? board.its.n_pictures : 1);
    return now;
  };
  board.page.node.codes = (group = 0) => walk.codes(group); // for tests, and for a curious console
  const put = (values, at) => paintPictures(board, values, at);
  return drawHere(walk, { line: () => model.get("line"), begin, put, done });
}

// By the kernel: one question at a time, and after an answer the latest.
function drawThere(model, board, look, done) {
  let [asked, now, timer] = ["", null, 0];
  const ask = () => {
    asked = now.line;
    model.send({ line: asked });
    clearTimeout(timer);
    timer = setTimeout(() => {
      board.page.note.textContent = "No answer from the kernel yet: it is busy, or not there.";
      ask();
    }, PATIENCE);
  };
  const draw = oncePerFrame(() => {
    if (model.get("line") !== now?.line) now = look();
    if (!asked) ask();
  });
  const hear = ({ line }, buffers) => {
    if (!asked) return;
    clearTimeout(timer);
    asked = "";
    const levels = Float32Array.from(new Uint8Array(copyOf(buffers[0])), (v) => v / 255);
    const then = seen(read(line, board.its), board.its);
    const size = board.its.images[0].length;
    place(board, then.start, isImage(then.start) ? null : levels.subarray(0, size));
    fit(board, levels.length / size - 1);
    paintPictures(board, levels.subarray(size), 0);
    if (line !== now.line) return ask();
    board.page.note.textContent = now.note;
    done(now);
  };
  model.on("msg:custom", hear);
  draw.end = () => {
    clearTimeout(timer);
    model.off("msg:custom", hear);
  };
  return draw;
}

// The picture that all starts from; of an image the page has it.
function place(board, start, drawn) {
  const { page, its } = board;
  set(page.own, { width: its.shape[2], height: its.shape[1] });
  paint(page.own, drawn ?? its.images[imageOf(start, its)], its.shape);
  page.own.ariaLabel = drawn ? `What the model draws: ${start}` : `The ${start}`;
  board.started = start;
}

// Room for n pictures, in two rows at least if there are many.
function fit(board, n) {
  const [, height, width] = board.its.shape;
  const columns = n > 4 ? Math.ceil(n / Math.ceil(n / 6)) : n;
  const rows = Math.ceil(n / columns);
  const size = { width: columns * (width + GAP) - GAP, height: rows * (height + GAP) - GAP };
  const { picture, frame } = board.page;
  board.columns = columns;
  board.shown.length = n;
  if (picture.width !== size.width || picture.height !== size.height) set(picture, size);
  frame.classList.toggle("lb-alone", n === 1);
}

function paintPictures(board, values, at) {
  const { its, page, columns, shown } = board;
  const [, height, width] = its.shape;
  const size = its.images[0].length;
  for (let i = 0; i < values.length / size; i++) {
    const [column, row] = [(at + i) % columns, Math.floor((at + i) / columns)];
    shown[at + i] = values.subarray(i * size, (i + 1) * size);
    paint(page.picture, shown[at + i], its.shape, column * (width + GAP), row * (height + GAP));
  }
}

// Starts ---------------------------------------------------------------------------------------------------------

function addStarts({ page: { picks, prior, number, another }, its }, go) {
  const choose = (name) => go((state) => ({ ...state, start: `image ${name}` }));
  prior.name = addPicks(picks, its.names, its.images, its.shape, choose, "image ");
  const draw = (n) => go((state) => ({ ...state, start: `prior draw ${n}` }));
  const chosen = () => Math.min(9999, Math.max(1, Math.floor(Number(number.value)) || 1));
  prior.addEventListener("change", () => draw(chosen()));
  number.addEventListener("change", () => draw(chosen()));
  another.addEventListener("click", () => draw(prior.checked ? (chosen() % 9999) + 1 : chosen()));
}

function dressStarts({ page }, now) {
  const image = isImage(now.start);
  page.start.textContent = now.start;
  if (!image) page.number.value = now.start.split(" ").pop();
  for (const button of page.node.querySelectorAll(".lb-starts [type=radio]")) {
    button.checked = image ? button.value === now.start : button.value === "prior draw";
  }
}
