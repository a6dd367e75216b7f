// The feature maps: on the left every channel's answer to a digit, on the right what excites one channel most.

import { build, controls, follow, keep, oncePerFrame, paint, set, showSize, whenIdle } from "./board.js";

const BOARD = `
  <div class="vae-board feature-maps">
    <div class="vae-panels">
      <section>
        <header>
          <strong>Feature maps</strong>
          <span data-name="shape"></span>
        </header>
        <div class="fm-look">
          <div class="fm-picture">
            <canvas class="vae-picture" role="img" data-name="picture"></canvas>
            <svg aria-hidden="true" data-name="drawing">
              <path class="fm-outline" data-name="outline"></path>
              <rect class="fm-box" data-name="box"></rect>
            </svg>
            <span class="fm-never">never excited</span>
          </div>
          <div class="fm-digits" role="group" aria-label="Digit" data-name="digits"></div>
        </div>
        <div class="fm-scale">
          <span data-name="low"></span><i class="fm-ramp" aria-hidden="true"></i><span data-name="high"></span>
        </div>
        <div class="vae-switch fm-stages" role="group" aria-label="Stage" data-name="stages"></div>
        <div class="fm-maps" role="group" aria-label="Channels" data-name="maps"></div>
      </section>
      <section>
        <header><strong data-name="title"></strong></header>
        <div class="fm-tops" role="img" data-name="tops"></div>
        <p class="fm-caption" data-name="caption"></p>
        <p class="fm-counted">Classes of the <span data-name="counted"></span> images that excite it most</p>
        <div class="fm-classes" role="img" data-name="classes"></div>
        <footer data-name="foot"></footer>
      </section>
    </div>
    <p class="vae-hint">
      In a map, black is the channel's lowest value in the example digits and white its highest. Blue: the outline of
      the digit. Orange box: all pixels that the channel sees where its value is highest.
    </p>
    <p class="vae-hint">
      Keys: <kbd>←</kbd> <kbd>↑</kbd> <kbd>↓</kbd> <kbd>→</kbd> choose a channel, <kbd>0</kbd> … <kbd>9</kbd> a digit,
      <kbd>Page&nbsp;↑</kbd> <kbd>Page&nbsp;↓</kbd> a stage.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const its = contents(model);

  const go = (chosen) => {
    keep(model, { chosen });
    draw();
  };
  const row = controls(model, {
    write: () => write(model.get("chosen")),
    read: (text) => go(read(text, its.stages, its.digits, model.get("start"))),
    reset: () => go(model.get("start")),
  });
  const change = (which, value) => go(at(model.get("chosen").map((v, i) => (i === which ? value : v)), its.stages));
  const to = {
    stage: (name) => change(0, name),
    channel: (channel) => change(1, channel),
    digit: (digit) => change(2, digit),
  };

  const speak = whenIdle(() => (page.spoken.textContent = page.node.dataset.says));
  const draw = oncePerFrame(() => {
    const [name, channel, digit] = model.get("chosen");
    const stage = its.stages.find((stage) => stage.name === name);
    drawMaps(page, its, stage, channel, digit, to);
    drawLook(page, its, stage, channel, digit);
    drawTops(page, its, stage, channel);
    for (const [i, button] of [...page.stages.children].entries()) {
      set(button, { "aria-pressed": its.stages[i] === stage });
    }
    const text = write(model.get("chosen"));
    page.node.dataset.says = `${text}. ${page.title.textContent}. ${page.classes.ariaLabel}`;
    page.node.dataset.shows = text;
    row.show();
    speak();
  });
  const dress = () => showSize(page.node, model.get("large"));

  addStages(page, its, to);
  addDigits(page, its, to);
  listen(page, its, () => model.get("chosen"), to);
  page.foot.append(row.node);
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:chosen": draw });
  return () => {
    unfollow();
  };
}

export default { render };

// The rule, as in FeatureState of widgets/features.py: a channel of a stage, and a digit that has an example ------

export function at([name, channel, digit], stages) {
  const last = stages.find((stage) => stage.name === name).shape[0] - 1;
  return [name, Math.min(last, Math.max(0, channel)), digit];
}

export const write = ([name, channel, digit]) => `${name} · channel ${channel} · digit ${digit}`;

const plain = (text) => text.trim().toLowerCase().replaceAll("×", "x").replace(/\s+/g, " ");

export function read(text, stages, digits, start) {
  const line = /^(.*[^\s·,;])[\s·,;]+channel\s+([0-9]{1,4})[\s·,;]+digit\s+([0-9]{1,4})$/;
  const [, name, channel, digit] = plain(text).match(line) ?? [];
  const stage = stages.find((stage) => plain(stage.name) === name);
  if (stage && Number(channel) < stage.shape[0] && digits.includes(Number(digit))) {
    return [stage.name, Number(channel), Number(digit)];
  }
  const all = stages.map(({ name, shape }) => `${name} · channel 0 to ${shape[0] - 1}`).join(" | ");
  throw new Error(
    `“${text}” is not on this board. Write a line such as ${write(start)}. ` +
      `The board has ${all}, and digit ${digits.join(", ")}`,
  );
}

// What Python sent ------------------------------------------------------------------------------------------------

// Pictures as arrays of 0 and 1, and each stage with functions that find its maps, its images and its counts.
function contents(model) {
  const bytes = (name) => {
    const view = model.get(name);
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  };
  const [, height, width] = model.get("image_shape");
  const labels = model.get("labels");
  const examples = model.get("examples");
  const [packed, maps, tops, counts] = ["pictures", "maps", "tops", "counts"].map(bytes);
  const each = Math.ceil((height * width) / 8); // bytes a picture
  const picture = (i) =>
    Float32Array.from({ length: height * width }, (_, p) => (packed[i * each + (p >> 3)] >> (7 - (p & 7))) & 1);

  const n_channels = model.get("stages").reduce((sum, { shape }) => sum + shape[0], 0);
  const n_shown = tops.length / (6 * n_channels);
  let before = { maps: 0, channels: 0 };
  const stages = model.get("stages").map((stage) => {
    const [n, h, w] = stage.shape;
    const from = before;
    before = { maps: from.maps + examples.length * n * h * w, channels: from.channels + n };
    return {
      ...stage,
      map: (digit, channel) => {
        const example = examples.findIndex(([label]) => label === digit);
        const first = from.maps + (example * n + channel) * h * w;
        return Float32Array.from(maps.subarray(first, first + h * w), (v) => v / 255);
      },
      tops: (channel) =>
        Array.from({ length: n_shown }, (_, i) => {
          const first = 6 * ((from.channels + channel) * n_shown + i);
          const [image, row, column] = [0, 2, 4].map((b) => tops[first + b] + 256 * tops[first + b + 1]);
          return { label: labels[image], values: picture(image), row, column };
        }),
      counts: (channel) => [...counts.subarray(10 * (from.channels + channel), 10 * (from.channels + channel + 1))],
    };
  });
  return {
    stages,
    digits: examples.map(([label]) => label),
    example: (digit) => picture(examples.find(([label]) => label === digit)[1]),
    height,
    width,
    n_images: model.get("n_images"),
    n_counted: model.get("n_counted"),
  };
}

// What a unit sees, as the attributes of a <rect>: a frame just inside of it.
function frame({ rows, columns }, row, column, thick) {
  const [[top, bottom], [left, right]] = [rows[row], columns[column]];
  return {
    x: left + thick / 2,
    y: top + thick / 2,
    width: Math.max(0, right - left - thick),
    height: Math.max(0, bottom - top - thick),
    "stroke-width": thick,
    "data-sees": [top, bottom, left, right],
  };
}

// Hands -----------------------------------------------------------------------------------------------------------

function addStages({ stages: node }, its, to) {
  for (const { name } of its.stages) {
    const { node: button } = build(`<button type="button"></button>`);
    button.textContent = name;
    button.addEventListener("click", () => to.stage(name));
    node.append(button);
  }
}

function addDigits({ digits: node }, its, to) {
  for (const digit of its.digits) {
    const { node: button, canvas } = build(
      `<button type="button" class="fm-digit" aria-label="digit ${digit}"><canvas data-name="canvas"></canvas></button>`,
    );
    set(canvas, { width: its.width, height: its.height });
    paint(canvas, its.example(digit), [1, its.height, its.width]);
    button.addEventListener("click", () => to.digit(digit));
    node.append(button);
  }
}

const columnsOf = (node) => getComputedStyle(node).gridTemplateColumns.split(" ").length;

// Where an arrow, Home or End leads in a grid of `n` things; undefined for other keys.
function led(key, from, n, n_columns) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n_columns, ArrowDown: n_columns };
  if (key === "Home") return 0;
  if (key === "End") return n - 1;
  if (!(key in steps)) return undefined;
  const next = from + steps[key];
  return next < 0 || next >= n ? from : next;
}

// Keys: arrows among the maps and among the digits; the number of a digit and the keys for pages in both.
function listen(page, its, where, to) {
  const key = (grid, current, n, choose) => (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const stage = its.stages.findIndex(({ name }) => name === where()[0]);
    const next = led(event.key, current(), n(stage), columnsOf(grid));
    const other = its.stages[stage + { PageUp: -1, PageDown: 1 }[event.key]];
    if (next !== undefined) choose(next);
    else if (/^[0-9]$/.test(event.key) && its.digits.includes(Number(event.key))) to.digit(Number(event.key));
    else if (other) to.stage(other.name);
    else if (!["PageUp", "PageDown"].includes(event.key)) return;
    event.preventDefault();
    event.stopPropagation();
  };
  const channel = key(page.maps, () => where()[1], (stage) => its.stages[stage].shape[0], to.channel);
  page.maps.addEventListener("keydown", channel);
  const index = () => its.digits.indexOf(where()[2]);
  const digit = key(page.digits, index, () => its.digits.length, (i) => to.digit(its.digits[i]));
  page.digits.addEventListener("keydown", digit);
}

// One of the buttons is the chosen one: it alone is reached with Tab, and the focus goes with the choice.
function choose(group, button) {
  const follow = group.contains(document.activeElement);
  for (const other of group.children) {
    set(other, { "aria-pressed": other === button, tabindex: other === button ? 0 : -1 });
  }
  if (follow && document.activeElement !== button) button.focus({ preventScroll: true });
}

// Drawing ---------------------------------------------------------------------------------------------------------

function drawMaps({ maps: node, digits }, its, stage, channel, digit, to) {
  const [, height, width] = stage.shape;
  const follow = node.contains(document.activeElement);
  if (node.dataset.stage !== stage.name) {
    node.dataset.stage = stage.name;
    node.replaceChildren(...stage.flat.map((flat, i) => mapButton(i, flat, height, width, to)));
  }
  for (const [i, button] of [...node.children].entries()) {
    if (!stage.flat[i]) paint(button.firstElementChild, stage.map(digit, i), [1, height, width]);
  }
  choose(node, node.children[channel]);
  if (follow) node.children[channel].focus({ preventScroll: true });
  choose(digits, digits.children[its.digits.indexOf(digit)]);
}

function mapButton(channel, flat, height, width, to) {
  const { node, canvas } = build(
    `<button type="button" class="fm-map"><canvas data-name="canvas"></canvas></button>`,
  );
  set(node, { "aria-label": `channel ${channel}${flat ? ", never excited" : ""}`, title: `channel ${channel}` });
  set(canvas, { width, height });
  node.classList.toggle("fm-flat", flat);
  node.addEventListener("click", () => to.channel(channel));
  return node;
}

// The chosen map, the outline of the digit over it, and what the unit of its maximum sees.
function drawLook(page, its, stage, channel, digit) {
  const [n, height, width] = stage.shape;
  const map = stage.map(digit, channel);
  const flat = stage.flat[channel];
  const highest = map.reduce((best, v, i) => (v > map[best] ? i : best), 0);
  const varies = map.some((v) => v !== map[0]);
  set(page.picture, { width, height });
  paint(page.picture, map, [1, height, width]);
  page.picture.parentNode.classList.toggle("fm-flat", flat);
  set(page.drawing, { viewBox: `0 0 ${its.width} ${its.height}` });
  set(page.outline, { d: outline(its.example(digit), its.height, its.width) });
  set(page.box, frame(stage, Math.floor(highest / width), highest % width, 0.4));
  set(page.box, { visibility: varies && !flat ? "visible" : "hidden" });
  page.shape.textContent = `${n} channels of ${height} × ${width}`;
  page.low.textContent = number(stage.black[channel]);
  page.high.textContent = number(stage.white[channel]);
  page.picture.ariaLabel = `The map of channel ${channel} for a ${digit}${flat ? ": never excited" : ""}`;
}

const number = (v) => v.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", "−");

// The edges between the white pixels and the black, as the path of an SVG.
function outline(values, height, width) {
  const inside = (row, column) => row >= 0 && column >= 0 && row < height && column < width;
  const white = (row, column) => inside(row, column) && values[row * width + column] > 0;
  let path = "";
  for (let row = 0; row <= height; row++) {
    for (let column = 0; column <= width; column++) {
      if (white(row, column) !== white(row - 1, column)) path += `M${column} ${row}h1`;
      if (white(row, column) !== white(row, column - 1)) path += `M${column} ${row}v1`;
    }
  }
  return path;
}

function drawTops(page, its, stage, channel) {
  const flat = stage.flat[channel];
  const tops = stage.tops(channel);
  page.title.textContent = flat ? `Channel ${channel} is never excited` : `What excites channel ${channel} most`;
  page.node.classList.toggle("fm-silent", flat);
  page.tops.replaceChildren(...tops.map((top) => drawTop(top, stage, its)));
  const labels = tops.map(({ label }) => label).join(", ");
  page.tops.ariaLabel = flat ? "No image excites it" : `The images, strongest first: ${labels}`;
  page.caption.textContent = caption(stage, channel, tops, its);
  page.counted.textContent = its.n_counted;
  drawCounts(page.classes, flat ? Array(10).fill(0) : stage.counts(channel), its.n_counted);
}

function drawTop({ values, row, column }, stage, { height, width }) {
  const { node, canvas, box } = build(
    `<span class="fm-top">
      <canvas data-name="canvas"></canvas>
      <svg viewBox="0 0 ${width} ${height}"><rect class="fm-box" data-name="box"></rect></svg>
    </span>`,
  );
  set(canvas, { width, height });
  paint(canvas, values, [1, height, width]);
  set(box, frame(stage, row, column, 0.9));
  return node;
}

// How strong the images are, and how much the box holds where no border cuts it.
function caption(stage, channel, tops, its) {
  const all = `${its.n_images.toLocaleString("en")} test images`;
  const [high, least] = [number(stage.high[channel]), number(stage.least[channel])];
  if (stage.flat[channel]) return `It stays at ${high} in all ${all}.`;
  const size = (ranges) => Math.max(...ranges.map(([first, end]) => end - first));
  const box = `Box: what it sees there, up to ${size(stage.columns)}\u00a0×\u00a0${size(stage.rows)} pixels.`;
  const shared = stage.ties[channel] > tops.length;
  if (shared) return `${stage.ties[channel]} of ${all} share its maximum, ${high}; the first of them. ${box}`;
  return `The strongest of ${all}, from ${high} down to ${least}. ${box}`;
}

// A column for each class: how many of the images counted are of it. Half of them reach the top.
function drawCounts(node, counts, n_counted) {
  const full = Math.max(n_counted / 2, ...counts);
  node.innerHTML = counts
    .map((count, label) => `<span style="--share: ${count / full}"><b>${count || ""}</b><i></i>${label}</span>`)
    .join("");
  const named = counts.map((count, label) => [count, label]).filter(([count]) => count);
  const list = named.sort((a, b) => b[0] - a[0]).map(([count, label]) => `${count} of class ${label}`);
  node.ariaLabel = `Of the ${n_counted} images that excite it most: ${list.join(", ") || "none"}.`;
}
