// The layer board: a row for each layer of a hierarchy, which holds its code, takes its mean or samples, and what
// then comes out at the pixels. Layers are counted from 1, next to the pixels; arrays of layers start there too.

import { networks } from "./decoder.js";
import {
  addPicks, build, controls, follow, imagesOf, oncePerFrame, paint, radioName, set, showSize, slideTo, whenIdle,
} from "./board.js";

const GAP = 2; // pixels between pictures
const BUDGET = 14; // milliseconds of a frame in which pictures are decoded; the others come in the next
const PATIENCE = 4000; // milliseconds until a kernel that does not answer is asked again
const MODES = { hold: "Hold", mean: "Mean", sample: "Sample" };

const BOARD = `
  <div class="vae-board layer-board">
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

const rowOf = (name, size, place) => `
  <div class="lb-row" role="group" aria-label="${name}">
    <div class="lb-name">
      <strong>${name}</strong><span>${size}</span><span class="lb-place">${place}</span>
      <span class="lb-cut">does not reach the pixels</span>
    </div>
    <div class="lb-mode">
      <div class="lb-modes" role="radiogroup" aria-label="${name}: its code" data-name="modes"></div>
      <button type="button" aria-label="${name}: only this one samples" data-name="only">Only this one</button>
    </div>
    <div class="lb-turn">
      <span data-name="warmth">Temperature</span>
      <input class="vae-slider" type="range" min="0" max="2" step="0.05" aria-label="${name}: temperature" data-name="temperature">
      <output data-name="temperatureText"></output>
      <button type="button" aria-label="${name}: resample" data-name="resample">Resample</button>
      <select aria-label="${name}: direction of the shift" data-name="along"></select>
      <input class="vae-slider" type="range" min="-3" max="3" step="0.05" aria-label="${name}: shift" data-name="shift">
      <output data-name="shiftText"></output>
      <button type="button" aria-label="${name}: no shift" data-name="zero">Zero</button>
    </div>
    <div class="lb-kl" role="img" data-name="kl">
      <span>KL <b data-name="klText"></b> nats</span>
      <div class="lb-bar"><i data-name="bar"></i><i class="lb-mark" data-name="mark"></i></div>
      <span class="lb-own-kl" data-name="ownKl"></span>
    </div>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const its = contents(model);
  const state = () => read(model.get("line"), its);

  const save = whenIdle(() => model.save_changes());
  const go = (next) => {
    model.set("line", write(next, its));
    draw();
    save();
  };
  const row = controls(model, {
    write: () => model.get("line"),
    read: (text) => go(read(text, its)),
    reset: () => go(first(its)),
  });

  const rows = addRows(page, its, (change) => go(change(state())), save.flush);
  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel), 400);
  const board = { page, its, rows, shown: [], started: "" };
  const done = (now) => {
    const spread = now.varies ? spreadOf(board.shown) : 0;
    page.spread.textContent = now.varies ? `spread ${spread.toFixed(0)} grey levels` : "";
    page.picture.ariaLabel = `${now.note} Drawn: ${now.line}.${now.varies ? ` Spread ${spread.toFixed(0)} grey levels.` : ""}`;
    page.node.dataset.shows = now.line;
    speak();
  };
  const look = () => {
    const now = seen(state(), its);
    row.show();
    dressRows(board, now);
    return now;
  };
  const draw = model.get("in_page") ? drawHere(model, board, look, done) : drawThere(model, board, look, done);
  const dress = () => showSize(page.node, model.get("large"));

  addStarts(page, its, (change) => go(change(state())));
  for (const [button, mode] of [["allSample", "sample"], ["allHold", "hold"], ["allMean", "mean"]]) {
    page[button].addEventListener("click", () => go(all(state(), mode)));
  }
  page.foot.append(row.node);
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:line": draw });
  return () => {
    save.flush();
    draw.end();
    unfollow();
  };
}

export default { render };

// The rule, as in LayersState of widgets/layer_board.py ----------------------------------------------------------
//
// A state is { start, rows }, a row { along, mode, temperature, seed, shift }; `its` has the names that are there.

const cents = (v) => Math.floor(100 * Number(v) + 0.5) / 100;
const isImage = (start) => start.startsWith("image");

export function first(its) {
  const start = `image ${its.names.includes("3") ? "3" : its.names[0]}`;
  const rows = its.levels.map(({ directions: [[along]] }) => ({ along, mode: "mean", temperature: 1, seed: 1, shift: 0 }));
  return only({ start, rows }, Math.floor(rows.length / 2) + 1);
}

const put = (state, layer, change) => ({
  ...state,
  rows: state.rows.map((row, i) => (i === layer - 1 ? { ...row, ...change } : row)),
});

export function only({ start, rows }, layer) {
  const above = isImage(start) ? "hold" : "mean";
  const mode = (n) => (n < layer ? "mean" : n === layer ? "sample" : above);
  return { start, rows: rows.map((row, i) => ({ ...row, mode: mode(i + 1), shift: 0 })) };
}

export const all = ({ start, rows }, mode) => ({ start, rows: rows.map((row) => ({ ...row, mode, shift: 0 })) });

// Whether a layer reaches the pixels: without skip paths, nothing passes a held layer below it.
export const isReached = ({ rows }, layer, skip) => skip || rows.slice(0, layer - 1).every(({ mode }) => mode !== "hold");

const isDrawn = ({ mode, temperature }) => mode === "sample" && temperature > 0;

export const varies = (state, skip) => state.rows.some((row, i) => isDrawn(row) && isReached(state, i + 1, skip));

const signed = (v) => (v < 0 ? "" : "+") + v.toFixed(2);

export function write({ start, rows }, { levels }) {
  const lines = rows.map(({ along, mode, temperature, seed, shift }, i) => {
    let line = `${i + 1} ${mode}`;
    if (temperature !== 1) line += ` T=${temperature.toFixed(2)}`;
    if (seed !== 1) line += ` seed ${seed}`;
    if (shift || along !== levels[i].directions[0][0]) line += ` ${signed(shift)} along ${along}`;
    return line;
  });
  return [start, ...lines.reverse()].join(" · ");
}

export function read(text, its) {
  const plain = text.trim().toLowerCase().replaceAll("−", "-").replace(/\s+/g, " ");
  const [start, ...lines] = plain.split(/ ?[·,;] ?/);
  const rows = [];
  for (const line of lines) {
    const [layer, row] = readRow(line, its);
    if (row) rows[layer - 1] = row;
  }
  const n = its.levels.length;
  const known = its.names.some((name) => start === `image ${name}`) || /^prior draw [1-9][0-9]{0,3}$/.test(start);
  if (known && lines.length === n && Object.keys(rows).length === n) return { start, rows };
  throw new Error(
    `“${text}” is not on this board. Write a start, image ${its.names.join(", ")} or prior draw 1 to 9999, then each ` +
      `layer from ${n} to 1 with hold, mean or sample: ${write(first(its), its)}. A layer may add T=0.50 (0 to 2), ` +
      `seed 4, +1.50 along ${its.levels[0].directions[0][0]} (-3 to 3)`,
  );
}

function readRow(line, { levels }) {
  const number = String.raw`([0-9]{1,4}\.?[0-9]*|\.[0-9]+)`;
  const pattern =
    String.raw`^([0-9]{1,2}) (hold|mean|sample)(?: t ?= ?${number})?(?: seed ([0-9]{1,4}))?` +
    String.raw`(?: ([+-]?) ?${number} along ([a-z]+ [0-9]+))?$`;
  const [found, layer, mode, temperature = 1, seed = 1, sign, shift = 0, along] = line.match(new RegExp(pattern)) ?? [];
  if (!found || !levels[layer - 1]) return [];
  const names = levels[layer - 1].directions.map(([name]) => name);
  const way = along ?? names[0];
  if (temperature > 2 || !Number(seed) || shift > 3 || !names.includes(way)) return [];
  const moved = cents(sign === "-" ? -shift : shift);
  return [Number(layer), { along: way, mode, temperature: cents(temperature), seed: Number(seed), shift: moved }];
}

// The draws, as in widgets/layer_board.py: each number has its own address and no other state --------------------

function mix(h) {
  h = Math.imul(h ^ (h >>> 17), 0xed5ad4bb);
  h = Math.imul(h ^ (h >>> 11), 0xac4c1b51);
  h = Math.imul(h ^ (h >>> 15), 0x31848bab);
  return (h ^ (h >>> 14)) >>> 0;
}

// n draws of N(0, 1) that belong to this address, by Box and Muller.
export function noise(seed, layer, picture, n) {
  const stream = [seed, layer, picture].reduce((h, part) => (mix(h ^ part) + 0x9e3779b9) >>> 0, 0);
  return Float32Array.from({ length: n }, (_, i) => {
    const a = mix((stream + i) >>> 0);
    const b = mix(a ^ 0x85ebca6b);
    return Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32)) * Math.cos((2 * Math.PI * b) / 2 ** 32);
  });
}

// What Python sent -----------------------------------------------------------------------------------------------

const copyOf = (view) => view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);

function contents(model) {
  const [names, levels, shape] = ["names", "levels", "image_shape"].map((name) => model.get(name));
  return {
    names,
    levels,
    shape,
    images: imagesOf(model.get("pixels"), names.length),
    n_pictures: model.get("n_pictures"),
    n_images: model.get("n_images"),
    skip: model.get("skip"),
  };
}

// What the board says of a state.
function seen(state, its) {
  const n = state.rows.length;
  const held = state.rows.findIndex(({ mode }) => mode === "hold") + 1; // the lowest
  const above = state.rows.slice(held).some(({ mode, shift }) => mode !== "hold" || shift);
  const differs = varies(state, its.skip);
  const drawn = state.rows.map((row, i) => (isDrawn(row) && isReached(state, i + 1, its.skip) ? i + 1 : 0)).filter(Boolean);
  let note = `No layer samples: there is one picture.`;
  if (differs) {
    const which = drawn.length === n ? "All layers sample" : drawn.length > 1
      ? `Layers ${drawn.reverse().join(", ").replace(/, (\d+)$/, " and $1")} sample` : `Only layer ${drawn[0]} samples`;
    note = `${which}: ${its.n_pictures} pictures.`;
  } else if (state.rows.every(({ mode, shift }) => mode === "hold" && !shift)) {
    note = isImage(state.start) ? "All layers are held: the reconstruction." : "All layers are held: the draw itself.";
  } else if (state.rows.every(({ mode }) => mode === "mean")) note = "All layers are at their mean.";
  if (held && above && held < n && !its.skip) {
    note = `Layer ${held} is held: nothing above it reaches the pixels. ${differs ? note : ""}`.trim();
  }
  return { ...state, line: write(state, its), varies: differs, note };
}

// The walk from the top to the pixels ----------------------------------------------------------------------------
//
// Of each layer there is { n, z, told }: the codes of n pictures one after the other, or n = 1 if all are equal, and
// what the layer below is told. It is kept until something changes there or above, so a held code stays as it is.

function hierarchy(model, its) {
  const nets = networks(model.get("networks"), model.get("weights"));
  const decode = nets.pop();
  const [codes, vectors, topPrior] = ["codes", "vectors", "top"].map((name) => new Float32Array(copyOf(model.get(name))));
  const sizes = its.levels.map(({ shape }) => shape.reduce((a, b) => a * b));
  const total = sizes.reduce((a, b) => a + b);
  const top = sizes.length - 1;
  const before = sizes.map((_, level) => sizes.slice(0, level).reduce((a, b) => a + b, 0));
  const waysBefore = its.levels.map((_, level) =>
    its.levels.slice(0, level).reduce((sum, { directions }, i) => sum + directions.length * sizes[i], 0),
  );

  // shift * the chosen direction
  const moveOf = (level, { along, shift }) => {
    const nth = its.levels[level].directions.findIndex(([name]) => name === along);
    const from = waysBefore[level] + nth * sizes[level];
    return vectors.subarray(from, from + sizes[level]).map((v) => shift * v);
  };

  // One layer of some pictures, given the layer above.
  const layer = (level, row, reference, above, pictures) => {
    const [size, { mode, temperature, seed }] = [sizes[level], row];
    const [down, head] = level < top ? nets.slice(2 * (top - 1 - level)) : [];
    const h = above && down(above.told);
    const both = mode === "hold" ? null : h ? head(h) : topPrior;
    const n = isDrawn(row) ? pictures.length : h ? above.n : 1;
    const move = row.shift ? moveOf(level, row) : null;
    const z = new Float32Array(n * size);
    for (let i = 0; i < n; i++) {
      const from = h && above.n > 1 ? 2 * size * i : 0;
      const eps = isDrawn(row) && noise(seed, level + 1, pictures[i], size);
      for (let d = 0; d < size; d++) {
        let v = both ? both[from + d] : reference[d];
        if (eps) v += temperature * Math.exp(0.5 * both[from + size + d]) * eps[d];
        z[i * size + d] = move ? v + move[d] : v;
      }
    }
    return { n, z, told: its.skip && h ? beside(h, above.n, z, n) : z };
  };

  let [start, held] = ["", null];
  const reference = (wanted) => {
    if (wanted === start) return held;
    start = wanted;
    const name = wanted.split(" ").pop();
    if (isImage(wanted)) {
      const from = its.names.indexOf(name) * total;
      held = sizes.map((size, level) => ({ z: codes.subarray(from + before[level], from + before[level] + size) }));
    } else {
      held = [];
      const row = { mode: "sample", temperature: 1, seed: Number(name), shift: 0 };
      for (let level = top; level >= 0; level--) held[level] = layer(level, row, null, held[level + 1], [0]);
    }
    return held;
  };

  const each = picturesAtOnce(model.get("networks"));
  const numbers = Array.from({ length: its.n_pictures }, (_, i) => i + 1);
  const groups = numbers.filter((_, i) => i % each === 0).map((p) => numbers.slice(p - 1, p - 1 + each));
  const kept = sizes.map(() => ({ key: "" }));
  let now, differs;
  const at = (level, group) => {
    const alone = !differs[level];
    const memo = kept[level].found;
    const which = alone ? "all" : group;
    if (!memo[which]) {
      const row = now.rows[level];
      const asks = level < top && (its.skip || row.mode !== "hold");
      memo[which] = layer(level, row, reference(now.start)[level].z, asks && at(level + 1, group), alone ? [1] : groups[group]);
    }
    return memo[which];
  };
  return {
    groups,
    show(state) {
      now = state;
      differs = [];
      for (let level = top; level >= 0; level--) {
        const { mode } = state.rows[level];
        differs[level] = isDrawn(state.rows[level]) || ((mode !== "hold" || its.skip) && Boolean(differs[level + 1]));
        const key = JSON.stringify([state.start, ...state.rows.slice(level)]);
        if (key !== kept[level].key) kept[level] = { key, found: {} };
      }
    },
    pixels: (group) => decode(at(0, group).told),
    own: (wanted) => decode(reference(wanted)[0].told),
    // Layer by layer, the code of each picture of a group.
    codes: (group) =>
      sizes.map((size, level) => {
        const { n, z } = at(level, group);
        return Array.from({ length: n }, (_, i) => z.slice(i * size, (i + 1) * size));
      }),
  };
}

// [h, z] of each picture; one h for all if there is but one.
function beside(h, n_h, z, n) {
  const [wide, size] = [h.length / n_h, z.length / n];
  const told = new Float32Array(n * (wide + size));
  for (let i = 0; i < n; i++) {
    told.set(h.subarray(n_h > 1 ? i * wide : 0, n_h > 1 ? (i + 1) * wide : wide), i * (wide + size));
    told.set(z.subarray(i * size, (i + 1) * size), i * (wide + size) + wide);
  }
  return told;
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

// In the page: as many pictures a frame as fit, and the next frame goes on where this one stopped.
function drawHere(model, board, look, done) {
  const walk = hierarchy(model, board.its);
  let [now, due, open] = [null, [], true];
  const draw = oncePerFrame(() => {
    if (!open) return;
    if (model.get("line") !== now?.line) {
      now = look();
      walk.show(now);
      if (now.start !== board.started) place(board, now.start, isImage(now.start) ? null : walk.own(now.start));
      const all = now.varies ? walk.groups.map((_, i) => i) : [0];
      const next = all.indexOf(due[0]); // those that were not drawn for long come first
      due = next > 0 ? [...all.slice(next), ...all.slice(0, next)] : all;
      fit(board, now.varies ? board.its.n_pictures : 1);
    }
    const until = performance.now() + BUDGET;
    while (due.length && performance.now() < until) {
      const group = due.shift();
      paintPictures(board, walk.pixels(group), now.varies ? walk.groups[group][0] - 1 : 0);
    }
    if (due.length) draw();
    else done(now);
  });
  draw.end = () => (open = false);
  board.page.node.codes = (group = 0) => walk.codes(group); // for tests, and for a curious console
  return draw;
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
  paint(page.own, drawn ?? its.images[its.names.indexOf(start.split(" ")[1])], its.shape);
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

// The standard deviation over the pictures, root mean square over the pixels, in grey levels.
export function spreadOf(pictures) {
  let sum = 0;
  for (let p = 0; p < pictures[0].length; p++) {
    const mean = pictures.reduce((total, picture) => total + picture[p], 0) / pictures.length;
    sum += pictures.reduce((total, picture) => total + (picture[p] - mean) ** 2, 0) / pictures.length;
  }
  return 255 * Math.sqrt(sum / pictures[0].length);
}

// Rows and starts ------------------------------------------------------------------------------------------------

function addStarts({ picks, prior, number, another }, its, go) {
  const choose = (name) => go((state) => ({ ...state, start: `image ${name}` }));
  prior.name = addPicks(picks, its.names, its.images, its.shape, choose, "image ");
  const draw = (n) => go((state) => ({ ...state, start: `prior draw ${n}` }));
  const chosen = () => Math.min(9999, Math.max(1, Math.floor(Number(number.value)) || 1));
  prior.addEventListener("change", () => draw(chosen()));
  number.addEventListener("change", () => draw(chosen()));
  another.addEventListener("click", () => draw(prior.checked ? (chosen() % 9999) + 1 : chosen()));
}

function addRows({ rows, many }, its, go, done) {
  const n = its.levels.length;
  many.textContent = `the mean of ${its.n_images.toLocaleString("en")} as a bar, this one as a mark`;
  const found = its.levels.map(({ shape, directions }, i) => {
    const [layer, name] = [i + 1, `Layer ${i + 1}`];
    const size = shape.length > 1 ? shape.join(" × ") : `${shape[0]} numbers`;
    const place = layer === n ? "the top" : layer === 1 ? "next to the pixels" : "";
    const row = build(rowOf(name, size, place));
    const radio = radioName();
    for (const [mode, word] of Object.entries(MODES)) {
      const { node, button } = build(`
        <label class="lb-pill">
          <input type="radio" name="${radio}" value="${mode}" data-name="button"><span>${word}</span>
        </label>`);
      button.addEventListener("change", () => go((state) => put(state, layer, { mode })));
      row.modes.append(node);
    }
    row.along.innerHTML = directions.map(([name, label]) => `<option value="${name}">${label}</option>`).join("");
    row.only.addEventListener("click", () => go((state) => only(state, layer)));
    row.resample.addEventListener("click", () =>
      go((state) => put(state, layer, { seed: (state.rows[i].seed % 9999) + 1 })),
    );
    for (const name of ["temperature", "shift"]) {
      row[name].addEventListener("input", () => go((state) => put(state, layer, { [name]: cents(row[name].value) })));
      row[name].addEventListener("change", done);
    }
    row.along.addEventListener("change", () => go((state) => put(state, layer, { along: row.along.value })));
    row.zero.addEventListener("click", () => go((state) => put(state, layer, { shift: 0 })));
    return row;
  });
  rows.append(...found.map(({ node }) => node).reverse());
  return found;
}

function dressRows({ page, its, rows }, now) {
  const [, name] = now.start.match(/(\S+)$/);
  const image = isImage(now.start);
  const most = Math.max(...its.levels.flatMap(({ kl, own_kl }) => [kl, ...own_kl]), 0.01);
  const share = (kl) => `${(100 * kl) / most}%`;
  page.start.textContent = now.start;
  page.note.textContent = now.note;
  if (!image) page.number.value = name;
  for (const button of page.node.querySelectorAll(".lb-starts [type=radio]")) {
    button.checked = image ? button.value === now.start : button.value === "prior draw";
  }
  rows.forEach((row, i) => {
    const [{ mode, temperature, shift, along }, { kl, own_kl }] = [now.rows[i], its.levels[i]];
    const reached = isReached(now, i + 1, its.skip);
    row.node.dataset.mode = mode;
    row.node.classList.toggle("lb-unreached", !reached);
    for (const button of row.modes.querySelectorAll("input")) button.checked = button.value === mode;
    slideTo(row.temperature, temperature);
    slideTo(row.shift, shift, 0);
    row.temperatureText.textContent = temperature.toFixed(2);
    row.shiftText.textContent = signed(shift);
    set(row.shift, { "aria-valuetext": `${signed(shift)} standard deviations along ${along}` });
    row.along.value = along;
    for (const node of [row.temperature, row.resample]) node.disabled = mode !== "sample";
    row.node.classList.toggle("lb-still", mode !== "sample");
    row.zero.disabled = !shift;
    const own = image ? own_kl[its.names.indexOf(name)] : null;
    row.klText.textContent = kl.toFixed(1);
    row.bar.style.width = share(kl);
    row.mark.hidden = !image;
    row.mark.style.left = share(own ?? 0);
    row.ownKl.textContent = image ? `this image ${own.toFixed(1)}` : "";
    const mean = `KL of layer ${i + 1}: ${kl.toFixed(1)} nats, the mean of ${its.n_images} images`;
    row.kl.ariaLabel = mean + (image ? `; ${own.toFixed(1)} for this image` : "");
  });
}
