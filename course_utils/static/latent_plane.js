// The latent plane: on the left a point to drag, on the right what the decoder draws there.

import { decoder } from "./decoder.js";
import { build, controls, follow, keep, oncePerFrame, paint, set, showSize, whenIdle } from "./board.js";

const SIDE = 400; // the plane, in units of its drawing; the drawing scales with the page
const TILES = 15; // decoded pictures along each side of the map; odd, so that one sits at z = 0
const STEP = 0.1; // an arrow key; with Shift it goes five times as far
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const BOARD = `
  <div class="vae-board latent-plane">
    <div class="vae-panels">
      <section>
        <header>
          <strong>Latent plane</strong>
          <div class="vae-switch">
            <button type="button" data-name="toCodes">Test images</button>
            <button type="button" data-name="toMap">Pictures</button>
          </div>
        </header>
        <div class="lp-plane" tabindex="0" role="application" data-name="plane"
             aria-label="Latent plane. Arrows move the point, Shift and an arrow move it further, Home puts it back.">
          <canvas class="lp-map" data-name="map"></canvas>
          <svg viewBox="0 0 ${SIDE} ${SIDE}" aria-hidden="true">
            <g class="lp-grid" data-name="grid"></g>
            <g data-name="cloud"></g>
            <g class="lp-cross"><line data-name="upright"></line><line data-name="level"></line></g>
            <circle class="lp-point" r="9" data-name="point"></circle>
          </svg>
        </div>
        <footer class="lp-chips" role="group" aria-label="Highlight a class" data-name="chips">Highlight</footer>
      </section>
      <section>
        <header>
          <strong>Decoded picture</strong>
          <span>nearest test image: <b data-name="nearest"></b></span>
        </header>
        <canvas class="vae-picture" role="img" data-name="picture"></canvas>
        <footer data-name="foot"></footer>
      </section>
    </div>
    <p class="vae-hint">
      Drag the orange point. Keys: <kbd>←</kbd> <kbd>↑</kbd> <kbd>↓</kbd> <kbd>→</kbd> move it, with
      <kbd>Shift</kbd> further; <kbd>Home</kbd> puts it back.
    </p>
    <p class="vae-spoken" aria-live="polite" data-name="spoken"></p>
  </div>`;

// The state is held by the model, so that Python, and a second view of the board, always agree with this one.
function render({ model, el }) {
  const page = build(BOARD);
  const decode = decoder(model.get("layers"), model.get("weights"));
  const shape = model.get("image_shape");
  const extent = model.get("extent");
  const codes = model.get("codes");

  const go = (z) => {
    keep(model, { z: at(z, extent) });
    draw();
  };
  const reset = () => go(model.get("start"));
  const row = controls(model, {
    write: () => write(model.get("z")),
    read: (text) => go(read(text, extent)),
    reset,
  });

  const speak = whenIdle(() => (page.spoken.textContent = page.picture.ariaLabel));
  const draw = oncePerFrame(() => {
    const z = model.get("z");
    const [x, y] = toDrawing(z, extent);
    set(page.point, { cx: x, cy: y });
    set(page.upright, { x1: x, x2: x, y1: 0, y2: SIDE });
    set(page.level, { x1: 0, x2: SIDE, y1: y, y2: y });
    paint(page.picture, decode(z), shape);
    page.nearest.textContent = nearestLabel(codes, z);
    page.picture.ariaLabel = `Decoded at ${write(z)}. The nearest test image is a ${page.nearest.textContent}.`;
    row.show();
    speak();
  });

  let open = true;
  let mapped = false;
  const dress = () => {
    const pictures = model.get("pictures");
    showSize(page.node, model.get("large"));
    page.plane.classList.toggle("lp-pictures", pictures);
    set(page.toMap, { "aria-pressed": pictures });
    set(page.toCodes, { "aria-pressed": !pictures });
    if (pictures && !mapped) drawMap(page.map, decode, extent, shape, () => open);
    mapped ||= pictures;
  };
  for (const [button, pictures] of [[page.toMap, true], [page.toCodes, false]]) {
    button.addEventListener("click", () => keep(model, { pictures }));
  }

  const [, height, width] = shape;
  set(page.picture, { width, height });
  set(page.map, { width: TILES * width, height: TILES * height });
  page.grid.innerHTML = gridLines(extent);
  addClasses(page, codes, model.get("colours"), extent);
  listen(page.plane, extent, () => model.get("z"), { go, reset });
  page.foot.append(row.node);
  el.append(page.node);

  const unfollow = follow(model, { "change:large": dress, "change:pictures": dress, "change:z": draw });
  return () => {
    open = false;
    unfollow();
  };
}

export default { render };

// The rule, as in PlaneState of widgets/latent_plane.py: two numbers of two decimals, inside the plane -------------------

export function at(z, extent) {
  return z.map((v) => Math.round(100 * Math.min(extent, Math.max(-extent, v))) / 100 + 0);
}

export const write = (z) => `z = ${z.map((v) => v.toFixed(2)).join(", ")}`;

export function read(text, extent) {
  const number = "([-+]?(?:[0-9]+\\.?[0-9]*|\\.[0-9]+))";
  const line = `^(?:z\\s*=)?\\s*[\\[(]?\\s*${number}\\s*[,;\\s]\\s*${number}\\s*[\\])]?$`;
  const found = text.trim().replaceAll("−", "-").match(line);
  const z = found?.slice(1).map(Number);
  if (z?.every((v) => Math.abs(v) <= extent)) return at(z, extent);
  throw new Error(
    `“${text}” is not a point of this plane. ` +
      `Write two numbers from −${extent} to ${extent}, such as z = 0.50, -1.25`,
  );
}

// Hands ---------------------------------------------------------------------------------------------------

// Mouse, pen, finger and keys on the plane: `go(z)` on every move.
function listen(plane, extent, where, { go, reset }) {
  const goTo = (event) => {
    const box = plane.getBoundingClientRect();
    const right = (event.clientX - box.left) / box.width; // 0 ... 1
    const down = (event.clientY - box.top) / box.height;
    go([extent * (2 * right - 1), extent * (1 - 2 * down)]);
  };
  plane.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault(); // a drag selects no text
    plane.focus({ preventScroll: true });
    plane.setPointerCapture(event.pointerId);
    goTo(event);
  });
  plane.addEventListener("pointermove", (event) => plane.hasPointerCapture(event.pointerId) && goTo(event));
  plane.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ARROWS) {
      const step = event.shiftKey ? 5 * STEP : STEP;
      go(where().map((v, i) => v + step * ARROWS[event.key][i]));
    } else if (["Home", "r", "R"].includes(event.key)) reset();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}

// Drawing -------------------------------------------------------------------------------------------------

function toDrawing([z1, z2], extent) {
  return [(SIDE / 2) * (1 + z1 / extent), (SIDE / 2) * (1 - z2 / extent)];
}

// A line at each whole number, and the number along the lower and the left edge.
function gridLines(extent) {
  let lines = "";
  let numbers = "";
  for (let v = Math.floor(-extent) + 1; v < extent; v++) {
    const [x, y] = toDrawing([v, v], extent);
    const style = v === 0 ? "lp-zero" : "";
    const number = String(v).replace("-", "−");
    lines += `<line class="${style}" x1="${x}" x2="${x}" y2="${SIDE}"></line>`;
    lines += `<line class="${style}" x2="${SIDE}" y1="${y}" y2="${y}"></line>`;
    numbers += `<text x="${x}" y="${SIDE - 7}">${number}</text><text x="12" y="${y + 4}">${number}</text>`;
  }
  return lines + numbers;
}

// Each test image as its digit, at its code; and below the plane a button for each digit, which brings it forward.
function addClasses({ plane, cloud, chips }, codes, colours, extent) {
  const choose = (label) => {
    const chosen = chips.children[label].ariaPressed === "true" ? -1 : label;
    plane.classList.toggle("lp-choice", chosen >= 0);
    colours.forEach((_, other) => {
      cloud.children[other].classList.toggle("lp-chosen", other === chosen);
      set(chips.children[other], { "aria-pressed": other === chosen });
    });
  };
  colours.forEach((colour, label) => {
    const marks = codes
      .filter(([, , its]) => its === label)
      .map((code) => toDrawing(code, extent))
      .map(([x, y]) => `<text x="${x}" y="${y + 3.5}">${label}</text>`);
    cloud.innerHTML += `<g class="lp-marks" style="--colour: ${colour}">${marks.join("")}</g>`;
    const { node: chip } = build(`<button type="button" class="lp-chip" aria-pressed="false">${label}</button>`);
    chip.style.setProperty("--colour", colour);
    chip.addEventListener("click", () => choose(label));
    chips.append(chip);
  });
}

function nearestLabel(codes, [z1, z2]) {
  const far = (code) => (code[0] - z1) ** 2 + (code[1] - z2) ** 2;
  return String(codes.reduce((best, code) => (far(code) < far(best) ? code : best), codes[0] ?? [])[2] ?? "");
}

// Decodes the middle of each tile, a few tiles a frame, so that the point stays quick meanwhile.
function drawMap(canvas, decode, extent, shape, wanted) {
  const [, height, width] = shape;
  let tile = 0;
  const some = () => {
    const until = performance.now() + 8;
    while (wanted() && tile < TILES ** 2 && performance.now() < until) {
      const column = tile % TILES;
      const row = Math.floor(tile / TILES);
      const z = [extent * ((2 * column + 1) / TILES - 1), extent * (1 - (2 * row + 1) / TILES)];
      paint(canvas, decode(z), shape, column * width, row * height);
      tile++;
    }
    canvas.dataset.tiles = tile;
    if (wanted() && tile < TILES ** 2) requestAnimationFrame(some);
  };
  some();
}
