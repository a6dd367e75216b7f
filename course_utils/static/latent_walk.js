// The latent walk: two digits, a slider from one to the other, and what the decoder draws on the way.

import { decoder } from "./decoder.js";
import { addPicks, build, controls, follow, imagesOf, keep, oncePerFrame, paint, set, showSize, whenIdle } from "./board.js";

const STEPS = 11; // pictures in a film strip
const CHART = { width: 400, height: 196, left: 26, right: 10, top: 24, bottom: 22 };

const BOARD = `
  <div class="vae-board latent-walk">
    <div class="vae-panels">
      <section>
        <header>
          <strong>Latent walk</strong>
          <div class="vae-switch" role="group" aria-label="The way">
            <button type="button" data-name="toLine">Straight</button>
            <button type="button" data-name="toSphere">On the sphere</button>
          </div>
        </header>
        <p class="lw-caption">From</p>
        <div class="lw-picks" role="radiogroup" aria-label="From" data-name="from"></div>
        <p class="lw-caption">To</p>
        <div class="lw-picks" role="radiogroup" aria-label="To" data-name="to"></div>
        <svg class="lw-chart" viewBox="0 0 ${CHART.width} ${CHART.height}" role="img" data-name="chart">
          <g data-name="curves"></g>
          <line class="lw-now" data-name="now"></line>
          <circle class="lw-dot" r="6" data-name="dot"></circle>
        </svg>
        <p class="lw-why" data-name="why"></p>
      </section>
      <section>
        <header>
          <strong>Decoded picture</strong>
          <span>t = <b data-name="time"></b>, length |z| = <b data-name="size_of_z"></b></span>
        </header>
        <canvas class="vae-picture" role="img" data-name="picture"></canvas>
        <footer data-name="foot"></footer>
      </section>
    </div>
    <section class="lw-way">
      <input class="lw-slider" type="range" min="0" max="1" step="0.01" data-name="slider"
             aria-label="t, how far along the way">
      <div class="lw-strip" data-name="strip">
        <canvas class="lw-decoded" role="img" data-name="decoded"></canvas><i class="lw-gate"></i>
      </div>
      <p class="lw-caption"><b>The codes mixed</b>, then decoded: one digit turns into the other</p>
      <div class="lw-strip" data-name="strip2">
        <canvas class="lw-mixed" role="img" data-name="mixed"></canvas><i class="lw-gate"></i>
      </div>
      <p class="lw-caption"><b>The pixels mixed</b>: one image fades out, the other in</p>
    </section>
    <p class="vae-hint">
      Drag the slider or a strip. Keys on the slider: <kbd>←</kbd> <kbd>→</kbd> a small step, <kbd>PgUp</kbd>
      <kbd>PgDn</kbd> a picture, <kbd>Home</kbd> <kbd>End</kbd> the ends; <kbd>Tab</kbd> leads to the digits, arrows
      choose one.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const decode = decoder(model.get("layers"), model.get("weights"));
  const shape = model.get("image_shape");
  const names = model.get("names");
  const images = imagesOf(model.get("pixels"), names.length);
  const state = () => ({ ends: model.get("ends"), sphere: model.get("sphere"), t: model.get("t") });
  const way = ({ ends, sphere }) => {
    const [a, b] = ends.map((name) => model.get("codes")[names.indexOf(name)]);
    return (t) => along(a, b, t, sphere);
  };

  const go = (change) => {
    keep(model, change);
    draw();
  };
  const row = controls(model, {
    write: () => write(state()),
    read: (text) => go(read(text, names, model.get("start"))),
    reset: () => go({ ends: model.get("start"), sphere: false, t: 0.5 }),
  });

  let open = true;
  let shown = ""; // the walk that strips and chart show
  let heightOf; // a length, in the chart
  const walkOf = ({ ends, sphere }) => JSON.stringify([ends, sphere]);
  const drawWalk = () => {
    const its = state();
    shown = walkOf(its);
    check(page.from, its.ends[0]);
    check(page.to, its.ends[1]);
    set(page.toLine, { "aria-pressed": !its.sphere });
    set(page.toSphere, { "aria-pressed": its.sphere });
    const [first, last] = its.ends.map((name) => images[names.indexOf(name)]);
    for (let i = 0; i < STEPS; i++) paint(page.mixed, mix(first, last, i / (STEPS - 1)), shape, i * shape[2]);
    page.mixed.ariaLabel = `The image of a ${its.ends[0]} fades into that of a ${its.ends[1]}.`;
    page.decoded.ariaLabel = `What is decoded on the way ${write(its).split(" · t")[0]}.`;
    const z = way(its);
    const here = shown;
    fill(page.decoded, (i) => decode(z(i / (STEPS - 1))), shape, () => open && here === shown);
    heightOf = drawChart(page, its.sphere, [false, true].map((sphere) => way({ ...its, sphere })));
    page.why.innerHTML = why(its.sphere, z);
  };

  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel));
  const draw = oncePerFrame(() => {
    const its = state();
    if (walkOf(its) !== shown) drawWalk();
    const z = way(its)(its.t);
    paint(page.picture, decode(z), shape);
    page.slider.value = its.t;
    set(page.slider, { "aria-valuetext": `t = ${its.t.toFixed(2)}` });
    page.node.style.setProperty("--t", its.t);
    page.time.textContent = its.t.toFixed(2);
    page.size_of_z.textContent = length(z).toFixed(2);
    moveDot(page, its.t, heightOf(length(z)));
    page.picture.ariaLabel = `Decoded ${write(its)}. The length of z is ${length(z).toFixed(2)}.`;
    row.show();
    speak();
  });
  const dress = () => showSize(page.node, model.get("large"));

  addPicks(page.from, names, images, shape, (name) => go({ ends: [name, model.get("ends")[1]] }));
  addPicks(page.to, names, images, shape, (name) => go({ ends: [model.get("ends")[0], name] }));
  page.toLine.addEventListener("click", () => go({ sphere: false }));
  page.toSphere.addEventListener("click", () => go({ sphere: true }));
  page.slider.addEventListener("input", () => go({ t: at(page.slider.value) }));
  for (const strip of [page.strip, page.strip2]) listen(strip, (t) => go({ t: at(t) }));

  const [, height, width] = shape;
  set(page.picture, { width, height });
  for (const strip of [page.decoded, page.mixed]) set(strip, { width: STEPS * width, height });
  page.foot.append(row.node);
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:t": draw, "change:ends": draw, "change:sphere": draw });
  return () => {
    open = false;
    unfollow();
  };
}

export default { render };

// The rule, as in WalkState of widgets/latent_walk.py: two pictures, a way, and t of two decimals -----------

export function at(t) {
  return Math.round(100 * Math.min(1, Math.max(0, t))) / 100;
}

export function write({ ends, sphere, t }) {
  return `from ${ends[0]} to ${ends[1]} · ${sphere ? "on the sphere" : "straight"} · t = ${t.toFixed(2)}`;
}

export function read(text, names, start) {
  const name = "([0-9]+[a-z]?)";
  const gap = "\\s*[·,;]?\\s*";
  const number = "([0-9]+\\.?[0-9]*|\\.[0-9]+)";
  const line = `^(?:from\\s+)?${name}\\s+to\\s+${name}${gap}(straight|on the sphere)${gap}(?:t\\s*=)?\\s*${number}$`;
  const [, first, last, way, t] = text.trim().toLowerCase().match(line) ?? [];
  if (names.includes(first) && names.includes(last) && Number(t) <= 1) {
    return { ends: [first, last], sphere: way === "on the sphere", t: at(t) };
  }
  throw new Error(
    `“${text}” is not a walk on this board. Write two of ${names.join(", ")}, the way and t ` +
      `from 0 to 1, such as from ${start[0]} to ${start[1]} · straight · t = 0.40`,
  );
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const length = (z) => Math.sqrt(dot(z, z));
const mix = (a, b, t) => a.map((v, i) => (1 - t) * v + t * b[i]);

// The point at t of the way from a to b. On the sphere the direction turns evenly, the length goes evenly from end to
// end; between two equal or opposite directions there is no arc to turn along.
export function along(a, b, t, sphere) {
  const [sizeA, sizeB] = [a, b].map((z) => Math.max(1e-12, length(z)));
  const angle = Math.acos(Math.min(1, Math.max(-1, dot(a, b) / (sizeA * sizeB))));
  if (!sphere || Math.sin(angle) < 1e-6) return mix(a, b, t);
  const size = ((1 - t) * sizeA + t * sizeB) / Math.sin(angle);
  const [ofA, ofB] = [Math.sin((1 - t) * angle) / sizeA, Math.sin(t * angle) / sizeB];
  return a.map((v, i) => size * (ofA * v + ofB * b[i]));
}

// Hands ---------------------------------------------------------------------------------------------------

function check(group, name) {
  for (const button of group.querySelectorAll("input")) button.checked = button.value === name;
}

// Mouse, pen and finger on a strip; for the keys there is the slider.
function listen(strip, go) {
  const goTo = (event) => {
    const box = strip.getBoundingClientRect();
    go((STEPS * ((event.clientX - box.left) / box.width) - 0.5) / (STEPS - 1));
  };
  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    strip.setPointerCapture(event.pointerId);
    goTo(event);
  });
  strip.addEventListener("pointermove", (event) => strip.hasPointerCapture(event.pointerId) && goTo(event));
}

// Drawing -------------------------------------------------------------------------------------------------

// Decodes the pictures of a strip, a few a frame, so that the slider stays quick meanwhile.
function fill(canvas, picture, shape, wanted) {
  let i = 0;
  const some = () => {
    if (!wanted()) return;
    const until = performance.now() + 8;
    do paint(canvas, picture(i), shape, i++ * shape[2]);
    while (i < STEPS && performance.now() < until);
    canvas.dataset.pictures = i;
    if (i < STEPS) requestAnimationFrame(some);
  };
  some();
}

// Lengths of draws of N(0, I): nearly normal around √(D - 1/2), with a deviation of √(1/2) (Fisher 1922).
function shell(n_dims) {
  const middle = Math.sqrt(n_dims - 0.5);
  return [middle - 1.96 * Math.SQRT1_2, middle + 1.96 * Math.SQRT1_2].map((v) => Math.max(0, v));
}

function why(sphere, z) {
  const [a, half, b] = [0, 0.5, 1].map((t) => length(z(t)).toFixed(1));
  const [low, high] = shell(z(0).length).map((v) => v.toFixed(1));
  const way = sphere
    ? `<b>On the sphere</b> the direction of z turns while its length goes evenly from ${a} to ${b}.`
    : `<b>Straight</b> is the shortest way: at its ends z has the lengths ${a} and ${b}, half-way ${half}.`;
  return `${way} A Gaussian in many dimensions lives near a shell: of draws of the prior in ${z(0).length} dimensions,
    95 in 100 have a length from ${low} to ${high}.`;
}

const rightOf = (t) => CHART.left + t * (CHART.width - CHART.left - CHART.right);

// The lengths along both ways, the straight one first, and the shell of the prior. Returns length => its place.
function drawChart({ chart, curves }, sphere, ways) {
  const [a, b] = [0, 1].map((t) => length(ways[0](t)));
  const [low, high] = shell(ways[0](0).length);
  const highest = Math.max(high, a, b) + 0.4;
  const up = (v) => CHART.height - CHART.bottom - (v / highest) * (CHART.height - CHART.top - CHART.bottom);
  const [left, right] = [rightOf(0), rightOf(1)];
  const text = (words, x, y, style) => `<text class="${style}" x="${x}" y="${y}">${words}</text>`;
  const band = `x="${left}" y="${up(high)}" width="${right - left}" height="${up(low) - up(high)}"`;
  let svg = `<rect class="lw-shell" ${band}/>`;
  svg += text("length |z|", 6, 14, "") + text("95 % of draws of the prior", right, up(high) - 5, "lw-end");
  for (let v = 0; v < highest; v += highest > 12 ? 5 : 2) {
    svg += `<line x1="${left}" x2="${right}" y1="${up(v)}" y2="${up(v)}"/>` + text(v, left - 6, up(v) + 4, "lw-end");
  }
  for (const [words, t, style] of [["t = 0", 0, ""], ["0.5", 0.5, "lw-mid"], ["1", 1, "lw-end"]]) {
    svg += text(words, rightOf(t), CHART.height - 6, style);
  }
  ways.forEach((z, i) => {
    const points = Array.from({ length: 51 }, (_, n) => `${rightOf(n / 50)},${up(length(z(n / 50)))}`);
    const style = sphere === Boolean(i) ? "lw-chosen" : "";
    const [name, beside] = i ? ["on the sphere", -9] : ["straight", 18];
    svg += `<polyline class="${style}" points="${points.join(" ")}"/>`;
    svg += text(name, rightOf(0.5), up(length(z(0.5))) + beside, `lw-mid ${style}`);
  });
  curves.innerHTML = svg;
  const half = ways.map((z) => length(z(0.5)).toFixed(1));
  chart.ariaLabel =
    `The length of z along the way, from ${a.toFixed(1)} to ${b.toFixed(1)}: half-way it is ${half[0]} on the ` +
    `straight line and ${half[1]} on the sphere. 95 % of draws of the prior have a length from ${low.toFixed(1)} to ` +
    `${high.toFixed(1)}.`;
  return up;
}

function moveDot({ dot, now }, t, y) {
  set(dot, { cx: rightOf(t), cy: y });
  set(now, { x1: rightOf(t), x2: rightOf(t), y1: CHART.top - 6, y2: CHART.height - CHART.bottom });
}
