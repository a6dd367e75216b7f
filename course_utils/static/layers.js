// Rows of layers: what the reader asks of each layer of a hierarchy, and what then comes out at the pixels. The layer
// board and the photo board have them. Layers are counted from 1, next to the pixels; arrays of layers start there too.

import { plus } from "./decoder.js";
import { noise } from "./draws.js";
import { build, controls, follow, imagesOf, keep, oncePerFrame, radioName, set, showSize, slideTo, whenIdle } from "./board.js";

const BUDGET = 14; // milliseconds in which pictures are decoded, until the page may do something else
const MODES = { hold: "Hold", mean: "Mean", sample: "Sample" };

// What Python sent that both boards have.
export function contents(model) {
  const names = model.get("names");
  return {
    names,
    levels: model.get("levels"),
    images: imagesOf(model.get("pixels"), names.length),
    n_pictures: model.get("n_pictures"),
    n_images: model.get("n_images"),
  };
}

// Runs a board in `el` until the function that comes back ends it. `board` holds its page, what Python sent, and the
// pictures that are shown. `addStarts(go)` makes what it starts from, where `go(change)` takes a state to the next;
// `seen(state)` adds its line, a note, and whether its pictures vary; `dress(now)` shows all that is no picture and no
// row; `draws(look, done)` draws whenever it is asked: `look()` dresses the board in the latest state and returns it,
// `done(now)` hears that its pictures are there. The state is held by the model, so that Python, and a second view of
// the board, always agree with this one.
export function run({ model, el }, board, { addStarts, seen, dress, draws }) {
  const { page, its } = board;
  const state = () => read(model.get("line"), its);
  const go = (change) => {
    keep(model, { line: write(change(state()), its) });
    draw();
  };
  const row = controls(model, {
    write: () => model.get("line"),
    read: (text) => go(() => read(text, its)),
    reset: () => go(() => first(its)),
  });

  const rows = addRows(page.rows, its, go);
  page.many.textContent = `the mean of ${its.n_images.toLocaleString("en")} as a bar, this one as a mark`;
  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel));
  const done = (now) => {
    const spread = now.varies ? `spread ${spreadOf(board.shown).toFixed(0)} grey levels` : "";
    page.spread.textContent = spread;
    page.picture.ariaLabel = `${now.note} Drawn: ${now.line}.${spread && ` S${spread.slice(1)}.`}`;
    page.node.dataset.shows = now.line;
    speak();
  };
  const look = () => {
    const now = seen(state());
    row.show();
    page.note.textContent = now.note;
    dress(now);
    dressRows(rows, now, its);
    return now;
  };
  const draw = draws(look, done);

  addStarts(go);
  for (const [button, mode] of [["allSample", "sample"], ["allHold", "hold"], ["allMean", "mean"]]) {
    page[button].addEventListener("click", () => go((now) => all(now, mode)));
  }
  page.foot.append(row.node);
  el.append(page.node);

  const size = () => showSize(page.node, model.get("large"));
  const unfollow = follow(model, { "change:large": size, "change:line": draw });
  return () => {
    draw.end();
    unfollow();
  };
}

// The rule, as in LayersState of widgets/layers.py ---------------------------------------------------------------
//
// A state is { start, rows }, a row { along, mode, temperature, seed, shift }; `its` has the names of the images and
// of the directions that are there, and `in_hole`: the layers fill the hole of a photograph.

const cents = (v) => Math.floor(100 * Number(v) + 0.5) / 100;
export const isImage = (start) => start.startsWith("image");

// Which of its images a state starts from, -1 if it starts from a draw.
export const imageOf = (start, its) => its.names.findIndex((name) => start === `image ${name}`);

export function first(its) {
  const start = `image ${its.names.includes("3") && !its.in_hole ? "3" : its.names[0]}`;
  const rows = its.levels.map(({ directions: [[along]] }) => ({ along, mode: "mean", temperature: 1, seed: 1, shift: 0 }));
  return its.in_hole ? all({ start, rows }, "sample") : only({ start, rows }, Math.floor(rows.length / 2) + 1, its);
}

const put = (state, layer, change) => ({
  ...state,
  rows: state.rows.map((row, i) => (i === layer - 1 ? { ...row, ...change } : row)),
});

export function only({ start, rows }, layer, its) {
  const above = isImage(start) && !its.in_hole ? "hold" : "mean";
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
  const known = imageOf(start, its) >= 0 || (!its.in_hole && /^prior draw [1-9][0-9]{0,3}$/.test(start));
  if (known && lines.length === n && Object.keys(rows).length === n) return { start, rows };
  throw new Error(
    `“${text}” is not on this board. Write a start, image ${its.names.join(", ")}` +
      `${its.in_hole ? "" : " or prior draw 1 to 9999"}, then each layer from ${n} to 1 with hold, mean or sample: ` +
      `${write(first(its), its)}. A layer may add T=0.50 (0 to 2), seed 4, ` +
      `+1.50 along ${its.levels[0].directions[0][0]} (-3 to 3)`,
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

// Which layers make the pictures differ, as words; "" if none does.
export function whoSamples(state, skip) {
  const drawn = state.rows.map((row, i) => (isDrawn(row) && isReached(state, i + 1, skip) ? i + 1 : 0)).filter(Boolean);
  if (drawn.length === state.rows.length) return "All layers sample";
  if (drawn.length > 1) return `Layers ${drawn.reverse().join(", ").replace(/, (\d+)$/, " and $1")} sample`;
  return drawn.length ? `Only layer ${drawn[0]} samples` : "";
}

// The walk from the top to the pixels ----------------------------------------------------------------------------
//
// Of each layer there is { n, z, told }: the codes of n pictures one after the other, or n = 1 if all are equal, and
// what the layer below is told. It is kept until something changes there or above, so a held code stays as it is; what
// a layer hears, until something changes above it.
//
// `nets[level]` is { down, prior }, networks of that layer: what the layer above tells it, and (mu, log_var) from
// that; the top one has no `down`. `decode(told, start)` gives the pixels. `codes` are those of the images, one after
// the other, `vectors` those of all directions. `context(start)` is what each layer is told beside, of a hole.

export function hierarchy({ nets, decode, codes, vectors, each = 1, context = () => [] }, its) {
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

  let [start, held, told] = ["", null, []];

  // What a layer hears from the one above, and from what is around a hole, in each of n pictures.
  const hear = (level, above) => {
    const h = above ? plus(nets[level].down(above.told), told[level]) : told[level];
    let both;
    return { n: above ? above.n : 1, h, prior: () => (both ??= nets[level].prior(h)) };
  };

  // One layer of some pictures, given what it hears; a layer that is held may be deaf.
  const layer = (level, row, reference, heard, pictures) => {
    const [size, { mode, temperature, seed }] = [sizes[level], row];
    const both = mode === "hold" ? null : heard.prior();
    const n = isDrawn(row) ? pictures.length : heard ? heard.n : 1;
    const move = row.shift ? moveOf(level, row) : null;
    const z = new Float32Array(n * size);
    for (let i = 0; i < n; i++) {
      const from = heard && heard.n > 1 ? 2 * size * i : 0;
      const eps = isDrawn(row) && noise(seed, level + 1, pictures[i], size);
      for (let d = 0; d < size; d++) {
        let v = both ? both[from + d] : reference[d];
        if (eps) v += temperature * Math.exp(0.5 * both[from + size + d]) * eps[d];
        z[i * size + d] = move ? v + move[d] : v;
      }
    }
    return { n, z, told: its.skip && heard?.h ? beside(heard.h, heard.n, z, n) : z };
  };

  const reference = (wanted) => {
    if (wanted === start) return held;
    start = wanted;
    told = context(wanted);
    if (isImage(wanted)) {
      const from = imageOf(wanted, its) * total;
      held = sizes.map((size, level) => ({ z: codes.subarray(from + before[level], from + before[level] + size) }));
    } else {
      held = [];
      const row = { mode: "sample", temperature: 1, seed: Number(wanted.split(" ").pop()), shift: 0 };
      for (let level = top; level >= 0; level--) held[level] = layer(level, row, null, hear(level, held[level + 1]), [0]);
    }
    return held;
  };

  const numbers = Array.from({ length: its.n_pictures }, (_, i) => i + 1);
  const groups = numbers.filter((_, i) => i % each === 0).map((p) => numbers.slice(p - 1, p - 1 + each));
  const [kept, keptHeard] = [sizes.map(() => ({})), sizes.map(() => ({}))];
  const fresh = (memo, { start, rows }, level) => {
    const key = JSON.stringify([start, ...rows.slice(level)]);
    return memo.key === key ? memo : { key, found: {} };
  };
  let now, differs;
  const at = (level, group) => {
    const row = now.rows[level];
    const listens = its.skip || row.mode !== "hold";
    const heard = () =>
      (keptHeard[level].found[differs[level + 1] ? group : "all"] ??= hear(level, level < top && at(level + 1, group)));
    const pictures = differs[level] ? groups[group] : [1];
    return (kept[level].found[differs[level] ? group : "all"] ??=
      layer(level, row, held[level].z, listens && heard(), pictures));
  };
  return {
    groups, // pictures that are decoded together, by their numbers
    show(state) {
      now = state;
      reference(state.start);
      differs = [];
      for (let level = top; level >= 0; level--) {
        const { mode } = state.rows[level];
        differs[level] = isDrawn(state.rows[level]) || ((mode !== "hold" || its.skip) && Boolean(differs[level + 1]));
        kept[level] = fresh(kept[level], state, level);
        keptHeard[level] = fresh(keptHeard[level], state, level + 1);
      }
    },
    pixels: (group) => decode(at(0, group).told, now.start),
    own: (wanted) => decode(reference(wanted)[0].told, wanted),
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

// Drawing --------------------------------------------------------------------------------------------------------

// In the page: some pictures, then whatever the page has to do besides, then the next. A state that has been overtaken
// is dropped. `line()` is the text of the latest; `begin()` dresses the board in it and returns it; `put(pixels, i)`
// puts pictures on it, the first of them at place i; `done(state)` hears that all are there.
export function drawHere(walk, { line, begin, put, done }) {
  let [now, due, open, later] = [null, [], true, 0];
  const step = () => {
    clearTimeout(later);
    if (!open) return;
    if (line() !== now?.line) {
      now = begin();
      walk.show(now);
      const every = now.varies ? walk.groups.map((_, i) => i) : [0];
      const next = every.indexOf(due[0]); // those that were not drawn for long come first
      due = next > 0 ? [...every.slice(next), ...every.slice(0, next)] : every;
    }
    const until = performance.now() + BUDGET;
    while (due.length && performance.now() < until) {
      const group = due.shift();
      put(walk.pixels(group), now.varies ? walk.groups[group][0] - 1 : 0);
    }
    if (due.length) later = setTimeout(step); // not in the next frame: a picture may take a little more than one
    else done(now);
  };
  const draw = oncePerFrame(step);
  draw.end = () => (open = false);
  return draw;
}

// The standard deviation over the pictures, root mean square over the pixels, in grey levels.
function spreadOf(pictures) {
  let sum = 0;
  for (let p = 0; p < pictures[0].length; p++) {
    const mean = pictures.reduce((total, picture) => total + picture[p], 0) / pictures.length;
    sum += pictures.reduce((total, picture) => total + (picture[p] - mean) ** 2, 0) / pictures.length;
  }
  return 255 * Math.sqrt(sum / pictures[0].length);
}

// The rows -------------------------------------------------------------------------------------------------------

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

// A row for each layer, the top one first in the page. `go(change)` takes a state to the next.
function addRows(into, its, go) {
  const n = its.levels.length;
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
    row.only.addEventListener("click", () => go((state) => only(state, layer, its)));
    row.resample.addEventListener("click", () =>
      go((state) => put(state, layer, { seed: (state.rows[i].seed % 9999) + 1 })),
    );
    for (const name of ["temperature", "shift"]) {
      row[name].addEventListener("input", () => go((state) => put(state, layer, { [name]: cents(row[name].value) })));
    }
    row.along.addEventListener("change", () => go((state) => put(state, layer, { along: row.along.value })));
    row.zero.addEventListener("click", () => go((state) => put(state, layer, { shift: 0 })));
    return row;
  });
  into.append(...found.map(({ node }) => node).reverse());
  return found;
}

// The rows as the state has them.
function dressRows(rows, now, its) {
  const most = Math.max(...its.levels.flatMap(({ kl, own_kl }) => [kl, ...own_kl]), 0.01);
  const share = (kl) => `${(100 * kl) / most}%`;
  rows.forEach((row, i) => {
    const [{ mode, temperature, shift, along }, { kl, own_kl }] = [now.rows[i], its.levels[i]];
    row.node.dataset.mode = mode;
    row.node.classList.toggle("lb-unreached", !isReached(now, i + 1, its.skip));
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
    const own = own_kl[imageOf(now.start, its)]; // of an image
    row.klText.textContent = kl.toFixed(1);
    row.bar.style.width = share(kl);
    row.mark.hidden = own === undefined;
    row.mark.style.left = share(own ?? 0);
    row.ownKl.textContent = own === undefined ? "" : `this image ${own.toFixed(1)}`;
    const mean = `KL of layer ${i + 1}: ${kl.toFixed(1)} nats, the mean of ${its.n_images} images`;
    row.kl.ariaLabel = mean + (own === undefined ? "" : `; ${own.toFixed(1)} for this image`);
  });
}
