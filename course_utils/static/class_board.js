// The class board: an image is read as a class, what is left of its code is its style, and this is written as all ten.

import { decoder } from "./decoder.js";
import {
  addPicks, build, controls, follow, imagesOf, keep, oncePerFrame, paint, radioName, set, showSize, slideTo, whenIdle,
} from "./board.js";

const CLASSES = Array.from({ length: 10 }, (_, label) => String(label));
const MEAN = "class mean";
const WIDEST = 3; // the largest shift, in standard deviations

const BOARD = `
  <div class="vae-board class-board">
    <header>
      <strong>Class × style</strong>
      <span>Read a digit as a class: what is left is its style. Write this style as any class.</span>
    </header>
    <div class="cb-starts">
      <span class="cb-soft">Start from</span>
      <div class="cb-picks" role="radiogroup" aria-label="Start from" data-name="picks"></div>
    </div>
    <div class="vae-panels">
      <section>
        <p class="cb-title"><b>Read it as</b><span class="cb-soft" data-name="reading"></span></p>
        <div class="cb-reading">
          <p class="cb-none">A class mean is no image:<br>there is nothing to read, and no price.</p>
          <div class="cb-price cb-heads" aria-hidden="true">
            <span></span><span>price in nats</span><span>q(y|x)</span><span></span>
          </div>
          <div class="cb-prices" role="radiogroup" aria-label="Read it as" data-name="prices"></div>
        </div>
        <p class="cb-cost" role="status" data-name="cost"></p>
        <div class="cb-length">
          <p>Style length <i>|ε|</i> = <b data-name="length"></b><span class="cb-soft" data-name="verdict"></span></p>
          <div class="cb-gauge" role="img" data-name="gauge">
            <i data-name="usual"></i><i class="cb-mark" data-name="mark"></i>
          </div>
          <p class="cb-soft" data-name="typical"></p>
        </div>
      </section>
      <section>
        <p class="cb-title"><b>Write it as</b><span class="cb-soft" data-name="writing"></span></p>
        <div class="cb-pictures">
          <div>
            <canvas class="cb-own" role="img" data-name="own"></canvas>
            <p class="cb-none">no image</p>
            <p class="cb-soft" data-name="start"></p>
          </div>
          <div>
            <canvas class="vae-picture" role="img" data-name="picture"></canvas>
            <p class="cb-soft">written as <b data-name="write"></b></p>
          </div>
        </div>
        <div class="cb-written" role="radiogroup" aria-label="Write it as" data-name="written"></div>
        <div class="cb-move">
          <p class="cb-title">
            <b>Move the style</b>
            <button type="button" data-name="zero">Styles to 0</button>
          </p>
          <div class="cb-styles" data-name="styles"></div>
        </div>
      </section>
    </div>
    <footer data-name="foot"></footer>
    <p class="vae-hint">
      The <b>price</b> of a class is KL(q(z|x) ‖ p(z|y)): what the code costs if the class is y; orange is what it
      costs beyond the cheapest. A ring marks the label. <kbd>Tab</kbd> leads on, arrows choose and turn.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const its = contents(model);
  const decode = decoder(model.get("layers"), model.get("weights"));
  const state = () => read(model.get("line"), its);

  const go = (next) => {
    keep(model, { line: write(next) });
    draw();
  };
  const change = (by) => go({ ...state(), ...by });
  const row = controls(model, {
    write: () => model.get("line"),
    read: (text) => go(read(text, its)),
    reset: () => go(first(its)),
  });

  const starts = addStarts(page, its, (name) => go(name === MEAN ? fromMean(state()) : fromImage(state(), name, its)));
  const prices = addPrices(page, (label) => change({ read_as: label }));
  const blank = CLASSES.map(() => its.images[0]); // drawn over at once
  addPicks(page.written, CLASSES, blank, its.shape, (label) => change({ write: Number(label) }), "written as ");
  const sliders = addSliders(page, its, (nth, shift) => go(shifted(state(), nth, shift)));
  page.zero.addEventListener("click", () => go(unshifted(state())));
  for (const canvas of [page.own, page.picture]) set(canvas, { width: its.shape[2], height: its.shape[1] });
  const written = [...page.written.querySelectorAll(".vae-pick")].map((pick) => pick.querySelectorAll("input, canvas"));
  const board = { page, its, starts, prices, sliders, written, read: "" };

  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel));
  const draw = oncePerFrame(() => {
    const now = state();
    const eps = style(now, its);
    const size = Math.hypot(...eps);
    const pixels = decode(codes(eps, its));
    if (board.read !== `${now.start} ${now.read_as}`) dressReading(board, now);
    dressLength(board, size);
    dressWriting(board, now, pixels);
    row.show();
    page.picture.ariaLabel = `Drawn: ${write(now)}. The length of the style is ${size.toFixed(1)}.`;
    page.node.dataset.shows = write(now);
    speak();
  });
  const dress = () => showSize(page.node, model.get("large"));

  page.foot.append(row.node);
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:line": draw });
  return () => {
    unfollow();
  };
}

export default { render };

// The rule, as in ClassState of widgets/class_board.py -----------------------------------------------------------
//
// A state is { start, read_as, write, shifts }; `its` has the names that are there. `read_as` is null of a class mean.

const nameOf = (start) => start.replace(/^image /, "");

export const fromImage = (state, name, { names, cheapest }) => ({
  ...state,
  start: `image ${name}`,
  read_as: cheapest[names.indexOf(name)],
});

export const fromMean = (state) => ({ ...state, start: MEAN, read_as: null });

export const unshifted = (state) => ({ ...state, shifts: state.shifts.map(() => 0) });

// Along direction `nth`, from 0.
export function shifted(state, nth, shift) {
  const moved = Math.floor(100 * Math.min(WIDEST, Math.max(-WIDEST, Number(shift))) + 0.5) / 100;
  return { ...state, shifts: state.shifts.map((v, i) => (i === nth ? moved : v)) };
}

export function first(its) {
  const name = its.names.includes("3") ? "3" : its.names[0];
  const state = fromImage({ shifts: Array(its.n_styles).fill(0) }, name, its);
  return { ...state, write: state.read_as === 8 ? 3 : 8 };
}

const signed = (v) => (v < 0 ? "" : "+") + v.toFixed(2);

export function write(state) {
  const moved = state.shifts.map((v, i) => v && `${signed(v)} along style ${i + 1}`);
  const reading = state.read_as === null ? "" : `read as ${state.read_as}`;
  return [state.start, reading, `written as ${state.write}`, ...moved].filter(Boolean).join(" · ");
}

export function read(text, its) {
  const plain = text.trim().toLowerCase().replaceAll("−", "-").replace(/\s+/g, " ");
  const [start, ...parts] = plain.split(/ ?[·,;] ?/);
  const found = new Map(parts.map((part) => readPart(part, its)).filter(Boolean));
  const isImage = its.names.some((name) => start === `image ${name}`);
  const whole = found.size === parts.length && found.has("written") && found.has("read") === isImage;
  if (whole && (isImage || start === MEAN)) {
    let state = { start, read_as: found.get("read") ?? null, write: found.get("written") };
    state.shifts = Array(its.n_styles).fill(0);
    for (const [key, value] of found) if (Number.isInteger(key)) state = shifted(state, key - 1, value);
    return state;
  }
  throw new Error(
    `“${text}” is not on this board. Write a start, image ${its.names.join(", ")} or ${MEAN}; of an image then the ` +
      `class it is read as; and the class it is written as: ${write(first(its))}. There may follow ` +
      `+1.00 along style 1 (-3 to 3, style 1 to ${its.n_styles})`,
  );
}

// What a part of a text sets, "read", "written" or a style's number, and to what; or null.
function readPart(part, { n_styles }) {
  const [, verb, label] = part.match(/^(read|written) as ([0-9])$/) ?? [];
  if (verb) return [verb, Number(label)];
  const [, sign, shift, nth] = part.match(/^([+-]?) ?([0-9]{1,4}\.?[0-9]*|\.[0-9]+) along style ([0-9]{1,2})$/) ?? [];
  if (!nth || shift > WIDEST || nth < 1 || nth > n_styles) return null;
  return [Number(nth), Number(sign + shift)];
}

// What Python sent, and the codes --------------------------------------------------------------------------------

function contents(model) {
  const rows = (name, n) => {
    const view = model.get(name);
    const values = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    const size = values.length / n;
    return Array.from({ length: n }, (_, i) => values.subarray(i * size, (i + 1) * size));
  };
  const [names, labels, cheapest, shape] = ["names", "labels", "cheapest", "image_shape"].map((its) => model.get(its));
  const images = imagesOf(model.get("pixels"), names.length);
  const [codes, prices] = ["codes", "prices"].map((name) => rows(name, names.length));
  const prior = rows("prior", 2 * CLASSES.length);
  const [mu, deviation] = [prior.slice(0, CLASSES.length), prior.slice(CLASSES.length)];
  const n_styles = Math.round(model.get("moves").byteLength / mu[0].byteLength);
  const moves = rows("moves", n_styles);
  return { names, labels, cheapest, shape, images, codes, prices, mu, deviation, n_styles, moves };
}

// What is left of the code once it is read as a class, in standard deviations of that class; and the shifts.
export function style({ start, read_as, shifts }, { names, codes, mu, deviation, moves }) {
  const code = codes[names.indexOf(nameOf(start))];
  return Array.from(mu[0], (_, d) => {
    const left = read_as === null ? 0 : (code[d] - mu[read_as][d]) / deviation[read_as][d];
    return moves.reduce((sum, move, nth) => sum + shifts[nth] * move[d], left);
  });
}

// The codes of the ten classes in one style, one after the other.
function codes(eps, { mu, deviation }) {
  return CLASSES.flatMap((label) => eps.map((v, d) => mu[label][d] + deviation[label][d] * v));
}

// The softmax of minus the prices.
export function shares(prices) {
  const least = Math.min(...prices);
  const weights = Array.from(prices, (price) => Math.exp(least - price));
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((v) => v / sum);
}

// Drawing --------------------------------------------------------------------------------------------------------

const percent = (v) => (v > 0.999 ? "> 99.9 %" : v < 0.001 ? "< 0.1 %" : `${(100 * v).toFixed(1)} %`);

// e^x in words.
function times(x) {
  const v = Math.exp(x);
  if (v < 10) return v.toFixed(1);
  if (v >= 1e15) return `10<sup>${Math.round(x / Math.LN10)}</sup>`;
  const words = { notation: "compact", compactDisplay: "long", maximumSignificantDigits: 2 };
  return v.toLocaleString("en", v < 1e6 ? { maximumSignificantDigits: 2 } : words);
}

// The ten prices of an image, and what it costs to read it as the chosen class.
function dressReading(board, now) {
  const { page, its, starts, prices } = board;
  const isImage = now.read_as !== null;
  const nth = its.names.indexOf(nameOf(now.start));
  page.node.classList.toggle("cb-without", !isImage);
  for (const button of starts) button.checked = button.value === now.start;
  page.start.textContent = isImage ? `${now.start}, label ${its.labels[nth]}` : now.start;
  page.cost.innerHTML = isImage
    ? costOf(its.prices[nth], now.read_as, its.cheapest[nth], its.labels[nth])
    : "The style of a class mean is 0: it is the middle of its class.";
  prices.forEach(({ button }, label) => {
    button.disabled = !isImage;
    button.checked = label === now.read_as;
  });
  board.read = `${now.start} ${now.read_as}`;
  if (!isImage) return;
  paint(page.own, its.images[nth], its.shape);
  page.own.ariaLabel = `The ${now.start}, its label is ${its.labels[nth]}`;
  const [least, most] = [Math.min(...its.prices[nth]), Math.max(...its.prices.map((row) => Math.max(...row)))];
  shares(its.prices[nth]).forEach((share, label) => {
    const price = its.prices[nth][label];
    const { node, button, base, more, nats, chance, best } = prices[label];
    const [isBest, isLabel] = [its.cheapest[nth] === label, its.labels[nth] === label];
    const marks = (isBest ? ", cheapest" : "") + (isLabel ? ", its label" : "");
    button.ariaLabel = `read as ${label}: ${price.toFixed(1)} nats, ${percent(share)}${marks}`;
    base.style.width = `${(100 * least) / most}%`;
    more.style.width = `${(100 * (price - least)) / most}%`;
    nats.textContent = price.toFixed(1);
    chance.textContent = percent(share);
    best.textContent = isBest ? "cheapest" : "";
    node.classList.toggle("cb-label", isLabel);
  });
}

function costOf(prices, read_as, cheapest, label) {
  const [price, least] = [prices[read_as], prices[cheapest]];
  const costs = `Read as <b>${read_as}</b> the code costs ${price.toFixed(1)} nats`;
  const wrong = label === cheapest ? "" : ` Its label is ${label}: the model would misread it.`;
  if (read_as === cheapest) return `${costs}: no class is cheaper.${wrong}`;
  const more = price - least;
  const often = `e<sup>${more.toFixed(1)}</sup>, about ${times(more)}, times as likely`;
  return `${costs} instead of ${least.toFixed(1)}: to the model, class ${cheapest} is ${often}.`;
}

// Lengths of draws of N(0, I) are nearly normal around √(D - 1/2), with a deviation of √(1/2) (Fisher 1922).
function dressLength({ page, its }, size) {
  const n = its.mu[0].length;
  const [low, high] = [-1.96, 1.96].map((v) => Math.max(0, Math.sqrt(n - 0.5) + v * Math.SQRT1_2));
  const end = Math.max(2.5 * Math.sqrt(n), high);
  const place = (v) => `${(100 * Math.min(v, end)) / end}%`;
  page.length.textContent = size.toFixed(1);
  page.verdict.textContent = size > high ? ", hardly ever drawn" : size < low ? ", short" : ", usual";
  page.mark.style.left = place(size);
  Object.assign(page.usual.style, { left: place(low), width: `calc(${place(high)} - ${place(low)})` });
  page.gauge.classList.toggle("cb-odd", size > high);
  page.typical.textContent =
    `√${n} = ${Number(Math.sqrt(n).toFixed(1))} is typical; ` +
    `95 in 100 draws of p(z|y) lie from ${low.toFixed(1)} to ${high.toFixed(1)}`;
  page.gauge.ariaLabel = `The length of the style is ${size.toFixed(1)}; ${page.typical.textContent}`;
}

function dressWriting({ page, its, sliders, written }, now, pixels) {
  const size = pixels.length / CLASSES.length;
  CLASSES.forEach((_, i) => {
    const [button, canvas] = written[i];
    const picture = pixels.subarray(i * size, (i + 1) * size);
    button.checked = i === now.write;
    paint(canvas, picture, its.shape);
    if (button.checked) paint(page.picture, picture, its.shape);
  });
  page.write.textContent = now.write;
  page.writing.innerHTML = `code = μ<sub>${now.write}</sub> + σ<sub>${now.write}</sub> · <i>ε</i>`;
  const [c, moved] = [now.read_as, now.shifts.some(Boolean)];
  page.reading.innerHTML =
    `<i>ε</i> = ${c === null ? "0" : `(code − μ<sub>${c}</sub>) ÷ σ<sub>${c}</sub>`}${moved ? " + moves" : ""}`;
  page.zero.disabled = !moved;
  sliders.forEach(({ slider, value }, nth) => {
    slideTo(slider, now.shifts[nth], 0);
    value.textContent = `${signed(now.shifts[nth])} sd`;
    set(slider, { "aria-valuetext": `${signed(now.shifts[nth])} standard deviations along style ${nth + 1}` });
  });
}

// What can be pressed --------------------------------------------------------------------------------------------

// The images, and behind them the class mean. Returns all these radio buttons.
function addStarts({ picks }, its, go) {
  const radio = addPicks(picks, its.names, its.images, its.shape, go, "image ");
  const { node, button } = build(`
    <label class="vae-pick cb-mean">
      <input type="radio" name="${radio}" value="${MEAN}" data-name="button"><span>${MEAN}</span>
    </label>`);
  button.addEventListener("change", () => go(MEAN));
  picks.append(node);
  return picks.querySelectorAll("input");
}

function addPrices({ prices }, go) {
  const radio = radioName();
  return CLASSES.map((label) => {
    const row = build(`
      <label class="vae-pick cb-price">
        <input type="radio" name="${radio}" value="${label}" data-name="button">
        <b>${label}</b>
        <span class="cb-bar">
          <i data-name="base"></i><i class="cb-more" data-name="more"></i><span data-name="nats"></span>
        </span>
        <span class="cb-chance" data-name="chance"></span>
        <span class="cb-soft" data-name="best"></span>
      </label>`);
    row.button.addEventListener("change", () => go(Number(label)));
    prices.append(row.node);
    return row;
  });
}

function addSliders({ styles }, { n_styles }, go) {
  return Array.from({ length: n_styles }, (_, nth) => {
    const row = build(`
      <label class="cb-style">
        <span>style ${nth + 1}</span>
        <input class="vae-slider" type="range" min="-3" max="3" step="0.05" aria-label="style ${nth + 1}"
               data-name="slider">
        <output data-name="value"></output>
      </label>`);
    row.slider.addEventListener("input", () => go(nth, row.slider.value));
    styles.append(row.node);
    return row;
  });
}
