// Batch norm: a digit, whose statistics normalise it, and its batch; how it comes back, and what it is worth.
//
// Nothing is computed here. The table comes from course_utils/widgets/batch_norm.py: for each digit its rows,
// first those of the fixed statistics, then those of the batches, size by size.

import { build, controls, follow, keep, oncePerFrame, paint, set, showSize, whenIdle } from "./board.js";

const N_THUMBS = 20; // the digit and the first 19 of its mates

const BOARD = `
  <div class="vae-board batch-norm">
    <div class="vae-panels">
      <section>
        <header>
          <strong>One digit</strong>
          <span class="bn-versus" data-name="versus"></span>
        </header>
        <div class="bn-pictures">
          <figure>
            <canvas class="vae-picture bn-held" role="img" data-name="held"></canvas>
            <figcaption>goes in</figcaption>
          </figure>
          <figure>
            <canvas class="vae-picture bn-back" role="img" data-name="back"></canvas>
            <figcaption>comes back</figcaption>
          </figure>
        </div>
        <div class="bn-worth">
          <p><span class="bn-number" data-name="bound"></span> nats</p>
          <div class="bn-terms">
            <span>log p(x|z)</span><b data-name="logPx"></b>
            <span>− KL</span><b data-name="kl"></b>
          </div>
        </div>
        <div data-name="groups"></div>
      </section>
      <section>
        <header>
          <strong>Its bound</strong>
          <span class="bn-key"><i class="bn-path"></i><b data-name="pathName"></b><i></i>other mates</span>
        </header>
        <svg class="bn-strip" role="img" data-name="strip"></svg>
        <header class="bn-batch-head">
          <strong>Its batch</strong>
          <span data-name="batchName"></span>
        </header>
        <div class="bn-batch" role="img" data-name="batch"></div>
        <footer data-name="foot"></footer>
      </section>
    </div>
    <p class="vae-hint">
      Choose above, or press a dot. Keys: <kbd>Tab</kbd> goes from group to group, <kbd>←</kbd> <kbd>→</kbd> choose.
      A batch has two images or more: one image alone has no variance to divide by.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const choices = model.get("choices");
  const shape = model.get("image_shape");
  const size = shape.reduce((product, n) => product * n);
  const digits = pictures(model.get("digits"), size);
  const backs = pictures(model.get("pictures"), size);
  const company = companies(pictures(model.get("beside"), size), choices);
  const table = model.get("table");

  const go = (chosen) => {
    keep(model, { chosen });
    draw();
  };
  const change = (place, value) => go(model.get("chosen").map((old, i) => (i === place ? value : old)));
  const row = controls(model, {
    write: () => write(model.get("chosen"), choices),
    read: (text) => go(read(text, choices)),
    reset: () => go(model.get("start")),
  });
  const groups = [
    radios("Digit", choices.digits, (place) => change(0, place)),
    radios("Statistics", choices.statistics, (place) => change(1, choices.statistics[place])),
    radios("Images in the batch", choices.sizes, (place) => change(2, choices.sizes[place])),
    radios("Its mates", choices.mates, (place) => change(3, choices.mates[place])),
  ];

  const speak = whenIdle(() => (page.spoken.textContent = page.back.ariaLabel));
  const draw = oncePerFrame(() => {
    const chosen = model.get("chosen");
    const [digit, statistics, , mates] = chosen;
    const its = table[digit];
    const here = rowOf(chosen, choices);
    const [bound, kl] = its[here];
    paint(page.held, digits(digit), shape);
    paint(page.back, backs(digit * its.length + here), shape);
    page.bound.textContent = number(bound, 1);
    page.logPx.textContent = number(bound + kl, 2);
    page.kl.textContent = number(-kl, 2);
    page.versus.textContent = versus(chosen, its, choices);
    page.held.ariaLabel = `The digit ${choices.digits[digit]}`;
    page.back.ariaLabel = `Comes back at ${write(chosen, choices)}. Its bound is ${number(bound, 1)} nats.`;
    page.pathName.textContent = mates;
    page.strip.innerHTML = strip(chosen, its, model.get("spans")[digit], choices);
    page.strip.ariaLabel = stripLabel(its, choices);
    drawBatch(page, chosen, choices, digits(digit), company(mates), shape);
    page.node.classList.toggle("bn-fixed", isFixed(statistics, choices));
    places(chosen, choices).forEach((place, i) => groups[i].show(place));
    row.show();
    speak();
  });
  const dress = () => showSize(page.node, model.get("large"));

  const [, height, width] = shape;
  for (const canvas of [page.held, page.back]) set(canvas, { width, height });
  const thumb = () => build(`<canvas width="${width}" height="${height}"></canvas>`).node;
  for (let i = 0; i < N_THUMBS; i++) page.batch.append(thumb());
  groups[0].options.forEach((option, place) => {
    const canvas = thumb();
    paint(canvas, digits(place), shape);
    option.append(canvas);
  });
  groups[0].node.classList.add("bn-digits");
  page.groups.append(...groups.map(({ node }) => node));
  page.foot.append(row.node);
  set(page.strip, { viewBox: `0 0 ${STRIP.width} ${batchesEnd(choices) + STRIP.axis}` });
  listen(page.strip, (place) => go(stateOf(place, model.get("chosen"), choices)));
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:chosen": draw });
  return () => {
    unfollow();
  };
}

export default { render };

// The rule, as in NormState of widgets/batch_norm.py: [digit, statistics, size, mates] ------------------------

export const isFixed = (statistics, choices) => choices.fixed.includes(statistics);

// Where the four lists have what is chosen.
function places([digit, statistics, size, mates], choices) {
  return [
    digit,
    choices.statistics.indexOf(statistics),
    choices.sizes.indexOf(size),
    choices.mates.indexOf(mates),
  ];
}

// Which of the digit's rows in the table.
export function rowOf(chosen, choices) {
  const [, statistics, size, mates] = places(chosen, choices);
  if (isFixed(chosen[1], choices)) return statistics - 1;
  return choices.fixed.length + size * choices.mates.length + mates;
}

// The other way: the state whose row it is. A row of fixed statistics keeps the batch.
export function stateOf(row, [digit, , size, mates], choices) {
  if (row < choices.fixed.length) return [digit, choices.fixed[row], size, mates];
  const place = row - choices.fixed.length;
  const n = choices.mates.length;
  return [digit, choices.statistics[0], choices.sizes[Math.floor(place / n)], choices.mates[place % n]];
}

const line = (digit, statistics, size, mates) => `digit ${digit} · ${statistics} · ${size} images · ${mates}`;

export const write = ([digit, ...rest], choices) => line(choices.digits[digit], ...rest);

export function read(text, choices) {
  const options = [choices.digits, choices.statistics, choices.sizes.map(String), choices.mates];
  const parts = text
    .replaceAll(",", "·")
    .split("·")
    .map((part) => part.trim().replaceAll(/\s+/g, " ").toLowerCase());
  parts[0] = parts[0].replace(/^digit /, "");
  if (parts.length > 2) parts[2] = parts[2].replace(/ images$/, "");
  const found = options.map((names, i) => names.findIndex((name) => name.toLowerCase() === parts[i]));
  if (parts.length === 4 && !found.includes(-1)) {
    const [digit, statistics, size, mates] = found;
    return [digit, choices.statistics[statistics], choices.sizes[size], choices.mates[mates]];
  }
  const [digits, statistics, sizes, mates] = options.map((names) => names.join(", "));
  throw new Error(
    `“${text}” is not a state of this board. Write a digit (${digits}), its statistics (${statistics}), ` +
      `the images in the batch (${sizes}) and its mates (${mates}), ` +
      `such as ${line(...options.map((names) => names[0]))}`,
  );
}

// Words and pictures ----------------------------------------------------------------------------------------

const number = (value, decimals) => value.toFixed(decimals).replace("-", "−");

// The bytes of a DataView as pictures: `its(i)` is the i-th of them, in [0, 1].
function pictures(view, size) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  return (i) => Float32Array.from(bytes.subarray(i * size, (i + 1) * size), (level) => level / 255);
}

// `company(mates)(i)` is the i-th image under that name; of copies there is none, since it is the digit itself.
function companies(images, { mates, copies }) {
  const sets = mates.filter((name) => !copies.includes(name));
  return (name) => (i) => (copies.includes(name) ? null : images(sets.indexOf(name) * (N_THUMBS - 1) + i));
}

// The bound beside that of the first of the fixed statistics.
function versus(chosen, its, choices) {
  if (isFixed(chosen[1], choices)) return "the same in every batch";
  const [name] = choices.fixed;
  const more = its[rowOf(chosen, choices)][0] - its[0][0];
  return `${number(Math.abs(more), 1)} nats ${more < 0 ? "below" : "above"} ${name}`;
}

function drawBatch(page, [, statistics, size, mates], choices, digit, its, shape) {
  [...page.batch.children].forEach((canvas, i) => {
    canvas.hidden = i >= size;
    if (i < size) paint(canvas, (i && its(i - 1)) || digit, shape);
  });
  const more = size > N_THUMBS ? `, ${N_THUMBS} of them here` : "";
  const used = isFixed(statistics, choices) ? "not asked: the statistics are fixed" : `${size} images${more}`;
  page.batchName.textContent = used;
  page.batch.ariaLabel = `The digit and its mates, ${mates}: ${used}`;
}

// A group of radio buttons: `show(place)` checks one of them, `pick(place)` is called when the reader does.
function radios(title, names, pick) {
  const own = `bn-${Math.random().toString(36).slice(2)}`; // a second view of the board has groups of its own
  const option = (name, i) =>
    `<label><input type="radio" name="${own}" value="${i}" aria-label="${name}"><span>${name}</span></label>`;
  const { node } = build(`
    <fieldset class="bn-group">
      <legend>${title}</legend>
      <div>${names.map((name, i) => option(escape(name), i)).join("")}</div>
    </fieldset>`);
  const inputs = [...node.querySelectorAll("input")];
  node.addEventListener("change", (event) => pick(Number(event.target.value)));
  return {
    node,
    options: inputs.map((input) => input.nextElementSibling),
    show: (place) => inputs.forEach((input, i) => (input.checked = i === place)),
  };
}

function escape(text) {
  const named = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return String(text).replaceAll(/[&<>"]/g, (sign) => named[sign]);
}

// The strip ---------------------------------------------------------------------------------------------------
//
// Along it nats, higher to the right. Above, a mark for each of the fixed statistics, whose line runs down through
// the batches; below, for each batch size a row with a dot for each of the mates.

const STRIP = { width: 400, left: 66, right: 392, fixed: 21, batch: 40, axis: 34, radius: 5 };
const MARKS = ["M-5-5h10v10h-10z", "M0-6.5L6.5 0L0 6.5L-6.5 0z", "M0-6L6 5H-6z", "M0 6L6-5H-6z"];

const batchesStart = (choices) => 20 + choices.fixed.length * STRIP.fixed + 16;
const batchesEnd = (choices) => batchesStart(choices) + choices.sizes.length * STRIP.batch;

function strip(chosen, its, [worst, best], choices) {
  const { left, right, fixed, batch, radius } = STRIP;
  const toX = (bound) => left + ((right - left) * (bound - worst)) / (best - worst);
  const here = rowOf(chosen, choices);
  const n = choices.fixed.length;
  const top = batchesStart(choices);
  const bottom = batchesEnd(choices);
  const middle = (left + right) / 2;

  const ranked = choices.fixed.map((_, i) => i).sort((a, b) => its[b][0] - its[a][0]);
  const lines = choices.fixed.map((name, i) => {
    // The best at the top, so that no line runs through a name below it.
    const [x, y] = [toX(its[i][0]), 20 + (ranked.indexOf(i) + 0.5) * fixed];
    const [side, anchor] = x > middle ? [-12, "end"] : [12, "start"];
    return `
      <g class="bn-mark bn-mark-${i % 4} ${i === here ? "bn-now" : ""}" data-row="${i}" data-x="${x}" data-y="${y}">
        <path class="bn-line" d="M${x} ${y}V${bottom}"></path>
        <path class="bn-shape" d="${MARKS[i % 4]}" transform="translate(${x} ${y})"></path>
        <text x="${x + side}" y="${y + 4}" text-anchor="${anchor}">${escape(name)}</text>
        <title>${escape(name)}: ${number(its[i][0], 1)} nats</title>
      </g>`;
  });

  const dots = []; // [row of the table, x, y, is it outside the span]
  choices.sizes.forEach((_, s) => {
    const rows = choices.mates.map((_, m) => n + s * choices.mates.length + m);
    dots.push(...swarm(rows, its, toX, left, top + (s + 0.5) * batch, radius));
  });
  const path = dots.filter(([row]) => stateOf(row, chosen, choices)[3] === chosen[3]);
  const now = dots.find(([row]) => row === here);

  const rules = choices.sizes.map((size, s) => {
    const y = top + (s + 0.5) * batch;
    return `
      <path class="bn-rule" d="M${left - 18} ${y}H${right + 6}"></path>
      <text x="34" y="${y + 4}" text-anchor="end">${size}</text>`;
  });
  return `
    <g class="bn-heads">
      <text x="0" y="12">fixed statistics</text><text x="0" y="${top - 3}">this batch, of</text>
    </g>
    <g class="bn-rows">${rules.join("")}</g>
    <g class="bn-axis">${ticks(worst, best, toX, bottom)}
      ${dots.some((dot) => dot[3]) ? `<text x="${left - 18}" y="${bottom + 31}">◂ off the axis</text>` : ""}
      <text x="${right + 6}" y="${bottom + 31}" text-anchor="end">nats, higher is better →</text></g>
    ${now && !now[3] ? `<path class="bn-cross" d="M${now[1]} ${top}V${bottom}"></path>` : ""}
    ${lines.join("")}
    <polyline class="bn-path" points="${path.map(([, x, y]) => `${x},${y}`).join(" ")}"></polyline>
    ${[...dots.filter((dot) => !path.includes(dot)), ...path].map((dot) => mark(dot)).join("")}`;

  function mark([row, x, y, outside]) {
    const [, , size, mates] = stateOf(row, chosen, choices);
    const kind = row === here ? "bn-now" : mates === chosen[3] ? "bn-mine" : "";
    const r = row === here ? radius + 2.5 : radius;
    const shape = outside
      ? `<path d="M${x - r - 1} ${y}l${1.8 * r} ${-r}v${2 * r}z"></path>`
      : `<circle cx="${x}" cy="${y}" r="${r}"></circle>`;
    return `
      <g class="bn-dot ${kind}" data-row="${row}" data-x="${x}" data-y="${y}">
        ${shape}<title>${size} images, ${escape(mates)}: ${number(its[row][0], 1)} nats</title>
      </g>`;
  }
}

// Dots of one row, each as near to the middle of the row as the others let it; what is outside waits at the edge.
function swarm(rows, its, toX, left, y, radius) {
  const placed = [];
  const lanes = [0, -1, 1, -2, 2].map((lane) => lane * 1.25 * radius);
  for (const row of [...rows].sort((a, b) => its[b][0] - its[a][0])) {
    const outside = toX(its[row][0]) < left;
    const x = outside ? left - 12 : toX(its[row][0]);
    const free = (lane) => placed.every(([, x2, y2]) => Math.hypot(x - x2, y + lane - y2) >= 2 * radius);
    placed.push([row, x, y + (lanes.find(free) ?? 0), outside]);
  }
  return placed;
}

function ticks(worst, best, toX, bottom) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((s) => (best - worst) / s <= 6) ?? 5000;
  let marks = "";
  for (let v = Math.ceil(worst / step) * step; v <= best; v += step) {
    marks += `<path d="M${toX(v)} ${bottom}v4"></path>`;
    marks += `<text x="${toX(v)}" y="${bottom + 16}" text-anchor="middle">${number(v, 0)}</text>`;
  }
  return marks;
}

function stripLabel(its, choices) {
  const n = choices.fixed.length;
  const fixed = choices.fixed.map((name, i) => `${name} ${number(its[i][0], 1)}`).join(", ");
  const batches = choices.sizes.map((size, s) => {
    const bounds = its.slice(n + s * choices.mates.length).slice(0, choices.mates.length).map(([bound]) => bound);
    return `of ${size}: ${number(Math.min(...bounds), 1)} to ${number(Math.max(...bounds), 1)}`;
  });
  return `The bound in nats. Fixed statistics: ${fixed}. This batch ${batches.join("; ")}.`;
}

// A press chooses the nearest mark, if there is one near.
function listen(svg, choose) {
  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = STRIP.width / box.width;
    const [x, y] = [scale * (event.clientX - box.left), scale * (event.clientY - box.top)];
    const far = (mark) => Math.hypot(mark.dataset.x - x, mark.dataset.y - y);
    const marks = [...svg.querySelectorAll("[data-row]")].sort((a, b) => far(a) - far(b));
    return far(marks[0]) < 16 ? marks[0] : event.target.closest("[data-row]");
  };
  svg.addEventListener("click", (event) => {
    const mark = nearest(event);
    if (mark) choose(Number(mark.dataset.row));
  });
  svg.addEventListener("pointermove", (event) => svg.classList.toggle("bn-near", Boolean(nearest(event))));
}
