// The reader's own photograph: a hole to drag over it, and what the model draws there. The kernel opens the file and
// fills the hole; the page shows the photograph with each filling.

import {
  addPicks, build, controls, follow, imagesOf, oncePerFrame, paint, set, showSize, slideTo, whenIdle,
} from "./board.js";

const OWN = "your photograph";
const LEAST = 16; // pixels of the photograph: the side of the smallest hole
const FILLING = 32; // pixels along each side of what the model draws
const PART = 1 << 20; // bytes of a file in one message: Jupyter takes no message of more than 10 MB
const PATIENCE = 4000; // milliseconds until a kernel that does not answer is asked again
const LATE = 300; // milliseconds for which the last fillings stand in for those that are due
const NO_ANSWER = "No answer from the kernel yet: it is busy, or not there. Without one, run the cell of this board.";
const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const VIEWS = { hole: "Hole", filled: "Filled", original: "Original" };

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
          Your photograph goes to the kernel that runs this notebook and nowhere else. It is not saved with the
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
  const shown = { view: "filled", chosen: 0, answer: null, silent: false };
  const board = { page, model, photos: givenPhotos(model), ...shown };

  const save = whenIdle(() => model.save_changes());
  const go = (next) => {
    model.set("line", write(next));
    draw();
    save();
  };
  const row = controls(model, {
    write: () => model.get("line"),
    read: (text) => go(read(text, model.get("photographs"))),
    reset: () => go(reset(state())),
  });
  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel), 400);

  const kernel = talk(board, () => draw());
  const draw = oncePerFrame(() => {
    const now = state();
    row.show();
    dress(board, now);
    const photo = board.photos.get(now.name);
    if (!photo) return kernel.askPhotograph();
    const late = kernel.askFillings(now);
    paintStage(board, now, photo, late);
    if (board.answer?.line !== model.get("line") || late) return;
    page.node.dataset.shows = board.answer.line;
    speak();
  });

  const again = () => go({ ...state(), seed: (state().seed % 9999) + 1 });
  const choose = (nth) => {
    if (nth >= model.get("n_fillings")) return;
    [board.chosen, board.view] = [nth, "filled"];
    draw();
  };
  addViews(board, draw);
  addTiles(board, choose);
  page.again.addEventListener("click", again);
  page.side.addEventListener("input", () => go(grown(state(), page.side.value - state().hole[2])));
  page.side.addEventListener("change", save.flush);
  listen(page, state, { go, again, choose, done: save.flush });
  const send = (file) => {
    save.flush(); // or the hole that it moved last would come after the new photograph
    kernel.send(file);
  };
  takeFiles(page, send);
  const dressPicks = () => addPhotographs(board, (name) => go(reset({ ...state(), name })));

  page.foot.append(row.node);
  el.append(page.node);
  const size = () => showSize(page.node, model.get("large"));
  const renew = () => {
    board.photos.delete(OWN);
    board.answer = null;
    draw();
  };
  const unfollow = follow(model, {
    "change:large": size,
    "change:line": draw,
    "change:photographs": dressPicks,
    "change:n_uploads": renew,
  });
  return () => {
    save.flush();
    kernel.end();
    unfollow();
  };
}

export default { render };

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

// The kernel -----------------------------------------------------------------------------------------------------
//
// One question at a time, and after an answer the latest.

function talk(board, draw) {
  const { page, model } = board;
  let [asked, timer, late, failed, wanted, number] = ["", 0, false, "", 0, 0];
  const uploads = () => model.get("n_uploads");
  const key = (line, upload) => (line.startsWith(OWN) ? `${line} #${upload}` : line);

  const isLate = whenIdle(() => {
    if (!asked) return;
    late = true;
    draw();
  }, LATE);
  const ask = () => {
    asked = model.get("line");
    model.send({ kind: "fill", line: asked, upload: uploads() });
    isLate();
    clearTimeout(timer);
    timer = setTimeout(() => {
      board.silent = true;
      draw();
      ask();
    }, PATIENCE);
  };
  const answered = () => {
    [asked, late, board.silent] = ["", false, false];
    clearTimeout(timer);
  };
  const askPhotograph = () => {
    if (wanted === uploads()) return;
    wanted = uploads();
    model.send({ kind: "photograph" });
  };

  const heard = {
    filled({ line, upload }, [bytes]) {
      answered();
      if (key(line, upload) !== key(line, uploads())) return; // of the upload before
      const its = read(line, model.get("photographs"));
      const fillings = canvasesOf(bytes, model.get("n_fillings"));
      board.answer = { line, key: key(line, upload), name: its.name, fillings };
      paintTiles(board, its);
    },
    failed({ line, upload, message }) {
      answered();
      if (line !== model.get("line")) return;
      failed = key(line, upload); // it is not asked again
      tell(page, `The model did not fill the hole: ${message}`);
    },
    async photograph({ upload }, [bytes]) {
      const photo = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
      if (upload !== uploads()) return;
      board.photos.set(OWN, photo);
      paintThumb(board);
    },
    taken: (its) => its.number === number && tell(page, ""),
    refused: (its) => its.number === number && tell(page, its.message),
  };
  const hear = async (content, buffers) => {
    await heard[content.kind](content, buffers);
    draw();
  };
  model.on("msg:custom", hear);
  return {
    askPhotograph,
    // Whether the answer is late; asks unless there is a question that waits, or the answer is there.
    askFillings(now) {
      const its = key(write(now), uploads());
      if (failed && failed !== its) tell(page, (failed = ""));
      if (!asked && its !== board.answer?.key && its !== failed) ask();
      return late;
    },
    // A file, part by part; the kernel says what is wrong with it.
    async send(file) {
      const its = ++number;
      const about = { kind: "upload", number: its, name: file.name, size: file.size };
      tell(page, "", true);
      const sent = file.size <= model.get("max_bytes") ? file.size : 0; // what is too large is only told of
      setTimeout(() => its === number && page.upload.ariaBusy === "true" && tell(page, NO_ANSWER, true), PATIENCE);
      for (let from = 0; from === 0 || from < sent; from += PART) {
        const part = await file.slice(from, Math.min(sent, from + PART)).arrayBuffer();
        if (its !== number) return; // another was chosen meanwhile
        model.send({ ...about, first: from === 0 }, undefined, [part]);
      }
    },
    end() {
      clearTimeout(timer);
      asked = "";
      model.off("msg:custom", hear);
    },
  };
}

function tell(page, message, waiting = false) {
  page.refusal.textContent = message;
  page.upload.textContent = waiting ? "Opening…" : "Upload your photograph…";
  set(page.upload, { "aria-busy": waiting });
}

// Hands ----------------------------------------------------------------------------------------------------------

// Mouse, pen, finger and keys on the photograph. A finger beside the hole scrolls the page, and a tap there moves it.
function listen({ node, stage }, state, { go, again, choose, done }) {
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
    done();
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

// A file from the button, or dropped anywhere on the board.
function takeFiles({ node, upload, file }, send) {
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

const canvasesOf = (view, n) => imagesOf(view, n).map((values) => canvasOf(values, [3, FILLING, FILLING]));

// name -> what to draw of it; an uploaded one comes when it is asked for.
function givenPhotos(model) {
  const given = model.get("photographs").filter(([name]) => name !== OWN);
  const [, height, width] = given[0];
  const images = imagesOf(model.get("pixels"), given.length);
  return new Map(given.map(([name], i) => [name, canvasOf(images[i], [3, height, width])]));
}

// The photographs as radio buttons; the reader's own has its picture when the kernel has sent it.
function addPhotographs(board, choose) {
  const { page, model } = board;
  const given = model.get("photographs").filter(([name]) => name !== OWN);
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
  paintThumb(board);
}

function paintThumb({ page, photos }) {
  const [thumb, photo] = [page.picks.querySelector(".op-own canvas"), photos.get(OWN)];
  if (!thumb || !photo) return;
  const side = Math.min(photo.width, photo.height);
  const from = [(photo.width - side) / 2, (photo.height - side) / 2];
  smooth(thumb).drawImage(photo, ...from, side, side, 0, 0, 96, 96);
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
function dress({ page, view, chosen, photos, model, silent }, now) {
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
  page.note.textContent = silent ? NO_ANSWER : dashed + edge;
  const shown = { hole: "an empty hole", original: "nothing replaced" }[view];
  const what = shown ?? `filling ${chosen + 1} of ${model.get("n_fillings")} in the hole`;
  const waits = photos.has(now.name) ? "" : " It is on its way.";
  page.picture.ariaLabel = `${page.title.textContent} with ${what}: ${write(now)}.${waits}`;
}

// The photograph; in its hole what the reader wants to see there.
function paintStage({ page, view, chosen, answer }, now, photo, late) {
  const [top, left, side] = now.hole;
  const size = { width: now.width, height: now.height };
  if (page.picture.width !== size.width || page.picture.height !== size.height) set(page.picture, size);
  const ctx = smooth(page.picture);
  ctx.clearRect(0, 0, size.width, size.height);
  ctx.drawImage(photo, 0, 0, size.width, size.height);
  const waits = view === "filled" && (late || answer?.name !== now.name);
  if (view === "hole" || waits) ctx.clearRect(left, top, side, side);
  else if (view === "filled") ctx.drawImage(answer.fillings[chosen], left, top, side, side);
  page.node.classList.toggle("op-empty", view === "hole" || waits);
  page.node.classList.toggle("op-late", late);
}

// What the model looked at, with each filling.
function paintTiles({ page, photos, answer }, { name, hole: [top, left, side] }) {
  const photo = photos.get(name);
  const width = 4 * Math.ceil(Math.min(256, Math.max(64, 2 * side)) / 4);
  page.tiles.querySelectorAll("canvas").forEach((tile, i) => {
    set(tile, { width, height: width }); // empties it too
    const ctx = smooth(tile);
    if (photo) ctx.drawImage(photo, left - side / 2, top - side / 2, 2 * side, 2 * side, 0, 0, width, width);
    ctx.drawImage(answer.fillings[i], width / 4, width / 4, width / 2, width / 2);
  });
}

function smooth(canvas) {
  const ctx = canvas.getContext("2d");
  ctx.imageSmoothingQuality = "high";
  return ctx;
}
