// The reader's own photograph: a hole to drag over it, and what the model draws there. The page opens the file and fills
// the hole itself, so the photograph stays in it.

import {
  addPicks, build, controls, follow, imagesOf, keep, oncePerFrame, paint, set, showSize, slideTo, whenIdle,
} from "./board.js";
import { FILLING, contextOf, fitted, painter } from "./holes.js";

const OWN = "your photograph";
const LEAST = 16; // pixels of the photograph: the side of the smallest hole
const SMALLEST = 64; // pixels across a photograph
const LONGEST = 1024; // pixels: a longer photograph is shrunk
const MAX_RATIO = 16; // of the sides, so that what is shrunk keeps 64 pixels across
const MAX_MB = 20; // of a file
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const VIEWS = { hole: "Hole", filled: "Filled", original: "Original" };

let own = null; // the photograph that the reader has chosen: it is in no trait, so it leaves neither page nor browser
let opened = 0; // photographs so far

const BOARD = `
  <div class="vae-board own-photograph">
    <div class="op-starts">
      <button type="button" class="op-upload" data-name="upload">Upload your photograph…</button>
      <input type="file" accept="image/*,.tif,.tiff" hidden data-name="file">
      <span class="op-soft">or drop it here, or take one of these</span>
      <div class="op-picks" role="radiogroup" aria-label="Photograph" data-name="picks"></div>
    </div>
    <p class="vae-message op-refusal" role="alert" data-name="refusal"></p>
    <div class="vae-panels">
      <section>
        <header>
          <strong data-name="title"></strong>
          <div class="vae-switch op-switch" role="group" aria-label="What the photograph shows" data-name="views"></div>
        </header>
        <div class="op-place">
          <div class="op-stage" tabindex="0" role="application" data-name="stage"
               aria-label="The hole. Arrows move it, plus and minus size it, Enter fills it again, Home puts it back.">
            <canvas class="vae-picture" role="img" data-name="picture"></canvas>
            <div class="op-clip"><div class="op-window"></div></div>
            <div class="op-hole"></div>
            <div class="op-grip"></div>
          </div>
        </div>
        <footer class="op-size">
          <span>Side of the hole</span>
          <input class="vae-slider" type="range" step="1" aria-label="Side of the hole, in pixels" data-name="side">
          <output data-name="sideText"></output>
        </footer>
        <p class="op-note" role="status" data-name="note"></p>
      </section>
      <section>
        <header>
          <strong data-name="count"></strong>
          <button type="button" data-name="again">Fill again</button>
        </header>
        <div class="op-tiles" role="radiogroup" aria-label="Filling that the photograph shows" data-name="tiles"></div>
        <p class="vae-hint op-keys">
          Drag the hole, or its corner. Keys: <kbd>←</kbd> <kbd>↑</kbd> <kbd>↓</kbd> <kbd>→</kbd> move it, with
          <kbd>Shift</kbd> further; <kbd>+</kbd> <kbd>−</kbd> size it; <kbd>Enter</kbd> fills it again; digits
          choose a filling; <kbd>Home</kbd> puts the hole back.
        </p>
        <p class="vae-hint op-keys">
          Your photograph stays in this page, which fills the hole itself. It is sent nowhere, and not saved with the
          notebook.
        </p>
      </section>
    </div>
    <footer data-name="foot"></footer>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const state = () => read(model.get("line"), model.get("photographs"));
  const board = { page, model, photos: givenPhotos(model), view: "filled", chosen: 0, fillings: [] };
  forgetLost(model);

  const go = (next) => {
    keep(model, { line: write(next) });
    draw();
  };
  const row = controls(model, {
    write: () => model.get("line"),
    read: (text) => go(read(text, model.get("photographs"))),
    reset: () => go(reset(state())),
  });
  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel));

  const look = () => {
    const now = state();
    return { ...now, photo: now.name === OWN ? own : board.photos.get(now.name) };
  };
  const filler = fillInTurn(board, look, (now) => {
    page.node.dataset.shows = write(now);
    speak();
  });
  const draw = oncePerFrame(() => {
    row.show();
    dress(board, state());
    paintStage(board, look());
    filler.ask();
  });

  const again = () => go({ ...state(), seed: (state().seed % 9999) + 1 });
  const choose = (nth) => {
    if (nth >= model.get("n_fillings")) return;
    [board.chosen, board.view] = [nth, "filled"];
    draw();
  };
  const dressPicks = () => addPhotographs(board, (name) => go(reset({ ...state(), name })));
  addViews(board, draw);
  addTiles(board, choose);
  page.again.addEventListener("click", again);
  page.side.addEventListener("input", () => go(grown(state(), page.side.value - state().hole[2])));
  listen(page, state, { go, again, choose });
  takeFiles(page, (photo) => {
    own = photo;
    const its = [OWN, photo.height, photo.width];
    model.set("photographs", [...givenIn(model), its]);
    dressPicks();
    go(on(its));
  });

  page.foot.append(row.node);
  el.append(page.node);
  const size = () => showSize(page.node, model.get("large"));
  const unfollow = follow(model, { "change:large": size, "change:line": draw, "change:photographs": dressPicks });
  return () => {
    filler.end();
    unfollow();
  };
}

export default { render };

const givenIn = (model) => model.get("photographs").filter(([name]) => name !== OWN);

// A notebook that is opened again has kept the line of the reader's photograph, but not the photograph.
function forgetLost(model) {
  const given = givenIn(model);
  const lost = model.get("photographs").slice(given.length);
  if (lost.every(([, height, width]) => own?.height === height && own.width === width)) return;
  const line = model.get("line");
  keep(model, { photographs: given, line: line.startsWith(OWN) ? write(on(given[0])) : line });
}

// The rule, as in HoleState of widgets/own_photograph.py ----------------------------------------------------------
//
// A state is { name, height, width, hole: [top, left, side], seed }; `photographs` holds [name, height, width] each.

const clamped = (value, low, high) => Math.min(high, Math.max(low, Math.floor(value + 0.5)));
const most = ({ height, width }) => Math.floor(Math.min(height, width) / 2);

export function at(state, [top, left, side]) {
  const { height, width } = state;
  side = clamped(side, LEAST, most(state));
  return { ...state, hole: [clamped(top, 0, height - side), clamped(left, 0, width - side), side] };
}

export function grown(state, by) {
  const [top, left, side] = state.hole;
  const now = clamped(side + by, LEAST, most(state));
  return at(state, [top + (side - now) / 2, left + (side - now) / 2, now]);
}

export function on([name, height, width]) {
  const side = Math.max(FILLING, Math.floor(Math.min(height, width) / 3));
  return at({ name, height, width, seed: 1 }, [(height - side) / 2, (width - side) / 2, side]);
}

export function write({ name, height, width, hole: [top, left, side], seed }) {
  return `${name} · hole ${side}×${side} of ${width}×${height} at row ${top}, column ${left} · seed ${seed}`;
}

export function read(text, photographs) {
  const plain = text.trim().toLowerCase().replaceAll("×", "x").replace(/\s+/g, " ");
  const number = "([0-9]{1,5})";
  const line =
    String.raw`^(.*[^\s·,;])[\s·,;]+hole ${number} ?x ?\2 of ${number} ?x ?${number} at row ${number}[\s,;]+` +
    String.raw`column ${number}[\s·,;]+seed ${number}$`;
  const [found, name, ...numbers] = plain.match(new RegExp(line)) ?? [];
  const [side, width, height, top, left, seed] = numbers.map(Number);
  if (found && photographs.some((its) => String(its) === String([name, height, width])) && seed >= 1 && seed <= 9999) {
    const state = { name, height, width, hole: [top, left, side], seed };
    if (write(at(state, state.hole)) === write(state)) return state;
  }
  const there = photographs.map(([its, high, wide]) => `${its} of ${wide}×${high}`).join(", ");
  throw new Error(
    `“${text}” is not on this board. Write a line such as ${write(on(photographs[0]))}. The board has ${there}; ` +
      `a hole lies within and is ${LEAST} pixels to half the shorter side wide; seeds are 1 to 9999`,
  );
}

// The share of what the model looks at that lies beyond the photograph.
export function beyond({ height, width, hole: [top, left, side] }) {
  const within = (first, n) => Math.min(n, first + 1.5 * side) - Math.max(0, first - side / 2);
  return 1 - (within(top, height) * within(left, width)) / (2 * side) ** 2;
}

// The fillings ---------------------------------------------------------------------------------------------------

// Step by step, the chosen filling first, so that the page can do something else in between. A hole that moves on waits
// until that filling is there: a drag shows fillings all along, and the latest hole wins. `look()` says what is wanted,
// `done(now)` hears that all fillings of it are there.
function fillInTurn(board, look, done) {
  const { page, model } = board;
  const { look: see, draw } = painter(model.get("networks"), model.get("weights"), model.get("stages"));
  const every = Array.from({ length: model.get("n_fillings") }, (_, i) => i);
  let [now, seen, timer] = [{ due: [], isShown: true }, {}, 0];
  const differ = () => {
    const { photo, hole, seed } = look();
    return [photo.nth, ...hole, seed].join(" ") !== now.key;
  };
  const begin = () => {
    const wanted = look();
    const place = [wanted.photo.nth, ...wanted.hole].join(" ");
    const due = [board.chosen, ...every.filter((nth) => nth !== board.chosen)];
    delete page.node.dataset.shows;
    return { ...wanted, place, key: `${place} ${wanted.seed}`, due, isShown: false };
  };
  const step = () => {
    timer = 0;
    if (now.isShown && differ()) now = begin();
    if (seen.place !== now.place) seen = { place: now.place, ...see(contextOf(now.photo, now.hole)) };
    else if (now.due.length) {
      const nth = now.due.shift();
      const values = draw(seen, now.seed, nth + 1);
      const side = now.hole[2];
      board.fillings[nth] = { values, photo: now.photo, canvas: canvasOf(fitted(values, side), [3, side, side]) };
      now.isShown = true;
      paintTile(board, now, nth);
      if (nth === board.chosen) paintStage(board, look());
    }
    if (now.due.length || differ()) timer = setTimeout(step);
    else done(now);
  };
  page.node.fillings = () => board.fillings.map(({ values }) => values); // for tests, and for a curious console
  return {
    ask() {
      if (differ()) timer ||= setTimeout(step);
    },
    end: () => clearTimeout(timer),
  };
}

// A file as a photograph, upright and at most 1024 pixels long, transparent parts on white. Throws what is wrong with it.
async function photographOf(file) {
  if (file.size > 1e6 * MAX_MB) throw new Error(`${(file.size / 1e6).toFixed(1)} MB, more than ${MAX_MB}`);
  const image = await createImageBitmap(file, { imageOrientation: "from-image" }).catch(() => {
    throw new Error("this browser finds no picture in it that it can read");
  });
  const sides = [image.width, image.height];
  if (Math.min(...sides) < SMALLEST) throw new Error(`${sides.join("x")} pixels, smaller than ${SMALLEST}x${SMALLEST}`);
  if (Math.max(...sides) > MAX_RATIO * Math.min(...sides)) throw new Error(`more than ${MAX_RATIO} times as long as wide`);
  const [width, height] = sides.map((side) => Math.round(side * Math.min(1, LONGEST / Math.max(...sides))));
  const canvas = document.createElement("canvas");
  set(canvas, { width, height });
  const ctx = smooth(canvas);
  ctx.fillStyle = "white";
  ctx.fillRect(0, 0, width, height);
  ctx.drawImage(image, 0, 0, width, height);
  image.close();
  const { data } = ctx.getImageData(0, 0, width, height);
  const size = width * height;
  const pixels = new Uint8Array(3 * size);
  for (let i = 0; i < size; i++) {
    for (let channel = 0; channel < 3; channel++) pixels[channel * size + i] = data[4 * i + channel];
  }
  return { pixels, height, width, canvas, nth: ++opened };
}

function tell(page, message, waiting = false) {
  page.refusal.textContent = message;
  page.upload.textContent = waiting ? "Opening…" : "Upload your photograph…";
  set(page.upload, { "aria-busy": waiting });
}

// Hands ----------------------------------------------------------------------------------------------------------

// Mouse, pen, finger and keys on the photograph. A finger beside the hole scrolls the page, and a tap there moves it.
function listen({ node, stage }, state, { go, again, choose }) {
  let held = null; // what a move of the pointer does
  const place = (event) => {
    const { left, top, width, height } = stage.getBoundingClientRect();
    const now = state();
    return [((event.clientY - top) / height) * now.height, ((event.clientX - left) / width) * now.width];
  };
  const jump = (y, x) => {
    const now = state();
    const side = now.hole[2];
    go(at(now, [y - side / 2, x - side / 2, side]));
  };
  const drag = (y, x) => {
    const [top, left] = state().hole;
    return (y2, x2) => go(at(state(), [top + y2 - y, left + x2 - x, state().hole[2]]));
  };
  const size = (y, x) => {
    const [top, left, side] = state().hole;
    const room = Math.min(state().height - top, state().width - left); // its upper left corner stays
    return (y2, x2) => go(at(state(), [top, left, Math.min(room, side + Math.max(y2 - y, x2 - x))]));
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !event.isPrimary) return;
    const [y, x] = place(event);
    const beside = event.target.closest(".op-hole, .op-grip") === null;
    stage.focus({ preventScroll: true });
    if (beside && event.pointerType === "touch") return;
    event.preventDefault(); // a drag selects no text
    if (beside) jump(y, x);
    held = event.target.closest(".op-grip") ? size(y, x) : drag(y, x);
    stage.setPointerCapture(event.pointerId);
    node.classList.add("op-held");
  });
  stage.addEventListener("pointermove", (event) => held?.(...place(event)));
  stage.addEventListener("lostpointercapture", () => {
    held = null;
    node.classList.remove("op-held");
  });
  stage.addEventListener("click", (event) => {
    if (event.pointerType === "touch" && !event.target.closest(".op-hole, .op-grip")) jump(...place(event));
  });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const now = state();
    const [top, left, side] = now.hole;
    const step = Math.max(1, Math.round(Math.max(now.height, now.width) / 64)) * (event.shiftKey ? 5 : 1);
    if (event.key in ARROWS) {
      const [down, right] = ARROWS[event.key];
      go(at(now, [top + step * down, left + step * right, side]));
    } else if (["+", "=", "*"].includes(event.key)) go(grown(now, 2 * step));
    else if (["-", "_"].includes(event.key)) go(grown(now, -2 * step));
    else if (event.key === "Enter") again();
    else if (event.key === "Home") go(reset(now));
    else if (/^[1-9]$/.test(event.key)) choose(event.key - 1);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

const reset = ({ name, height, width }) => on([name, height, width]);

// A file from the button, or dropped anywhere on the board; of two the later one.
function takeFiles(page, take) {
  const { node, upload, file } = page;
  let latest = null;
  const send = async (chosen) => {
    latest = chosen;
    tell(page, "", true);
    try {
      const photo = await photographOf(chosen);
      if (latest !== chosen) return;
      take(photo);
      tell(page, "");
    } catch ({ message }) {
      const what = `a JPEG, PNG or WebP of at least ${SMALLEST}x${SMALLEST} pixels and at most ${MAX_MB} MB`;
      if (latest === chosen) tell(page, `“${chosen.name}” was not taken: ${message}. Choose ${what}`);
    }
  };
  upload.addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) send(file.files[0]);
    file.value = ""; // the same one may be chosen again
  });
  const over = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // or the browser would leave the notebook for the picture
    event.stopPropagation();
    node.classList.toggle("op-dragged-over", event.type === "dragover");
    if (event.type === "drop" && event.dataTransfer.files.length) send(event.dataTransfer.files[0]);
  };
  for (const name of ["dragover", "dragleave", "drop"]) node.addEventListener(name, over);
}

// Drawing --------------------------------------------------------------------------------------------------------

function canvasOf(values, shape) {
  const canvas = document.createElement("canvas");
  set(canvas, { width: shape[2], height: shape[1] });
  paint(canvas, values, shape);
  return canvas;
}

// name -> photograph, of those that were given.
function givenPhotos(model) {
  const [given, view] = [givenIn(model), model.get("pixels")];
  const [, height, width] = given[0];
  const size = 3 * height * width;
  const images = imagesOf(view, given.length);
  const photo = (i) => ({
    pixels: new Uint8Array(view.buffer, view.byteOffset + i * size, size),
    ...{ height, width, canvas: canvasOf(images[i], [3, height, width]), nth: ++opened },
  });
  return new Map(given.map(([name], i) => [name, photo(i)]));
}

// The photographs as radio buttons.
function addPhotographs(board, choose) {
  const { page, model } = board;
  const given = givenIn(model);
  const [, height, width] = given[0];
  page.picks.replaceChildren();
  const names = given.map(([name]) => name);
  const radio = addPicks(page.picks, names, imagesOf(model.get("pixels"), names.length), [3, height, width], choose);
  if (given.length === model.get("photographs").length) return;
  const { node, button } = build(`
    <label class="vae-pick op-own" title="${OWN}">
      <input type="radio" name="${radio}" value="${OWN}" aria-label="${OWN}" data-name="button">
      <canvas width="96" height="96"></canvas>
    </label>`);
  button.addEventListener("change", () => choose(OWN));
  page.picks.append(node);
  const side = Math.min(own.width, own.height);
  const from = [(own.width - side) / 2, (own.height - side) / 2];
  smooth(node.querySelector("canvas")).drawImage(own.canvas, ...from, side, side, 0, 0, 96, 96);
}

function addViews(board, draw) {
  for (const [view, word] of Object.entries(VIEWS)) {
    const { node } = build(`<button type="button" value="${view}">${word}</button>`);
    node.addEventListener("click", () => {
      board.view = view;
      draw();
    });
    board.page.views.append(node);
  }
}

function addTiles(board, choose) {
  const { page, model } = board;
  const n = model.get("n_fillings");
  const blank = Array.from({ length: n }, () => new Float32Array(3));
  const names = blank.map((_, i) => `filling ${i + 1}`);
  addPicks(page.tiles, names, blank, [3, 1, 1], (name) => choose(names.indexOf(name)));
  for (const tile of page.tiles.querySelectorAll("canvas")) tile.classList.add("vae-picture");
  page.count.textContent = n === 1 ? "One filling" : `${n} fillings`;
}

// All but the pictures.
function dress({ page, view, chosen, model }, now) {
  const [top, left, side] = now.hole;
  const share = (part, whole) => `${(100 * part) / whole}%`;
  const lengths = {
    ...{ top: share(top, now.height), high: share(side, now.height) },
    ...{ left: share(left, now.width), wide: share(side, now.width) },
  };
  page.stage.style.setProperty("--ratio", now.width / now.height);
  for (const [name, length] of Object.entries(lengths)) page.stage.style.setProperty(`--${name}`, length);
  page.node.classList.toggle("op-coarse", Math.max(now.height, now.width) <= 128); // so few pixels are shown as they are
  page.title.textContent = now.name === OWN ? "Your photograph" : `Picture ${now.name.split(" ")[1]}`;
  set(page.side, { min: LEAST, max: most(now) });
  slideTo(page.side, side);
  page.sideText.textContent = `${side} px`;
  for (const pick of page.picks.querySelectorAll("input")) pick.checked = pick.value === now.name;
  page.tiles.querySelectorAll("input").forEach((tile, i) => (tile.checked = i === chosen));
  for (const button of page.views.children) set(button, { "aria-pressed": button.value === view });
  const unknown = Math.round(100 * beyond(now));
  const dashed = "Dashed: all that the model sees, as 64×64 pixels. In the hole it sees nothing.";
  const edge = unknown ? ` ${unknown}\u00a0% of the dashed square lies beyond the edge and is unknown.` : "";
  page.note.textContent = dashed + edge;
  const shown = { hole: "an empty hole", original: "nothing replaced" }[view];
  const what = shown ?? `filling ${chosen + 1} of ${model.get("n_fillings")} in the hole`;
  page.picture.ariaLabel = `${page.title.textContent} with ${what}: ${write(now)}.`;
}

// The photograph; in its hole what the reader wants to see there. Until there is a filling, that of the last hole.
function paintStage({ page, view, chosen, fillings }, { height, width, hole: [top, left, side], photo }) {
  if (page.picture.width !== width || page.picture.height !== height) set(page.picture, { width, height });
  const ctx = smooth(page.picture);
  ctx.drawImage(photo.canvas, 0, 0);
  const isEmpty = view === "hole" || (view === "filled" && fillings[chosen]?.photo !== photo);
  if (isEmpty) ctx.clearRect(left, top, side, side);
  else if (view === "filled") ctx.drawImage(fillings[chosen].canvas, left, top, side, side);
  page.node.classList.toggle("op-empty", isEmpty);
}

// What the model looked at, with a filling.
function paintTile({ page, fillings }, { photo, hole: [top, left, side] }, nth) {
  const tile = page.tiles.querySelectorAll("canvas")[nth];
  const width = 4 * Math.ceil(Math.min(256, Math.max(64, 2 * side)) / 4);
  set(tile, { width, height: width }); // empties it too
  const ctx = smooth(tile);
  ctx.drawImage(photo.canvas, left - side / 2, top - side / 2, 2 * side, 2 * side, 0, 0, width, width);
  ctx.drawImage(fillings[nth].canvas, width / 4, width / 4, width / 2, width / 2);
}

function smooth(canvas) {
  const ctx = canvas.getContext("2d");
  ctx.imageSmoothingQuality = "high";
  return ctx;
}
