// A hole anywhere on a photograph as the one that the model knows, the middle 32x32 of 64x64, and what the model makes
// of it: as in widgets/own_photograph.py, holes.py, models/unet.py and models/inpainting_vae.py.
//
// A photograph is { pixels, height, width }, its pixels levels from 0 to 255; a hole is [top, left, side]. Pictures are
// flat arrays, channel by channel and row by row.

import { noise } from "./draws.js";
import { fromSmall, networks, plus, walkDown } from "./decoder.js";

const SIDE = 64; // of what the model looks at
export const FILLING = 32; // of what it draws
const CORNER = (SIDE - FILLING) / 2;
const SWEEPS = 80; // after which the smooth fill is within a hundredth of a grey level
const OVERSHOOT = 2 / (1 + Math.sin(Math.PI / (FILLING + 1))); // at which each sweep goes farthest
const LOBES = 3; // of the Lanczos filter

// What the model may look at: the window, its hole filled smoothly, in [0, 1], and 1 where it is known: (4, 64, 64).
export function contextOf(photo, hole) {
  const size = SIDE * SIDE;
  const context = new Float32Array(4 * size);
  const pixels = windowOf({ ...photo, pixels: bridged(photo, hole) }, hole);
  for (let i = 0; i < 3 * size; i++) context[i] = pixels[i] / 255;
  fillSmoothly(context);

  const [top, left, side] = hole;
  const at = (i) => ((i + 0.5) * 2 * side) / SIDE - side / 2; // the middle of each pixel, from the hole's corner
  const within = (first, n) => Array.from({ length: SIDE }, (_, i) => at(i) + first >= 0 && at(i) + first < n);
  const [rows, columns] = [within(top, photo.height), within(left, photo.width)];
  const isHole = (i) => i >= CORNER && i < CORNER + FILLING;
  for (let row = 0, i = 3 * size; row < SIDE; row++) {
    for (let column = 0; column < SIDE; column++, i++) {
      context[i] = rows[row] && columns[column] && !(isHole(row) && isHole(column));
    }
  }
  return context;
}

// The photograph with its hole painted over: each pixel the mean of those of the rim that face it, the nearer the heavier.
function bridged({ pixels, height, width }, [top, left, side]) {
  const painted = pixels.slice();
  const step = [
    ...[top > 0 && -width, top + side < height && width], // to the next pixel up, down, left, right; 0 at the edge
    ...[left > 0 && -1, left + side < width && 1],
  ].map(Number);
  for (let channel = 0; channel < 3; channel++) {
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const at = (channel * height + top + row) * width + left + column;
        const far = [row + 1, side - row, column + 1, side - column];
        let total = 0;
        let weight = 0;
        for (let i = 0; i < 4; i++) {
          if (!step[i]) continue;
          total += pixels[at + far[i] * step[i]] / far[i];
          weight += 1 / far[i];
        }
        painted[at] = Math.round(total / weight);
      }
    }
  }
  return painted;
}

// The square of twice the hole's side around it, what lies beyond the photograph repeating its edge: (3, 64, 64).
function windowOf({ pixels, height, width }, [top, left, side]) {
  const margin = Math.ceil(side / 2);
  const wide = side + 2 * margin;
  const cut = new Uint8Array(3 * wide * wide);
  const inside = (v, n) => Math.min(n - 1, Math.max(0, v));
  for (let channel = 0, i = 0; channel < 3; channel++) {
    for (let row = top - margin; row < top + side + margin; row++) {
      const from = (channel * height + inside(row, height)) * width;
      for (let column = left - margin; column < left + side + margin; column++, i++) {
        cut[i] = pixels[from + inside(column, width)];
      }
    }
  }
  return resized(cut, wide, SIDE, margin - side / 2); // half a pixel further in if the side is odd
}

// A filling in [0, 1] as one of the hole's size: (3, 32, 32) -> (3, side, side).
export function fitted(filling, side) {
  const levels = Uint8ClampedArray.from(filling.map((v) => 255 * v));
  return Float32Array.from(resized(levels, FILLING, side)).map((v) => v / 255);
}

// Three square channels of n pixels across, but for a margin, as levels of so many: as Pillow does it, along the rows,
// to whole levels, then along the columns.
function resized(pixels, n, side, margin = 0) {
  const filter = lanczos(n, side, margin);
  return along(along(pixels, n, filter, 1), n, filter, side);
}

// What each of `side` places sees of n pixels: the first, and the weights of all from there on. Three lobes, as wide as
// the places are apart.
function lanczos(n, side, margin) {
  const apart = (n - 2 * margin) / side;
  const wide = Math.max(1, apart);
  const sinc = (v) => (v === 0 ? 1 : Math.sin(Math.PI * v) / (Math.PI * v));
  return Array.from({ length: side }, (_, place) => {
    const middle = margin + (place + 0.5) * apart;
    const from = Math.max(0, Math.floor(middle - LOBES * wide + 0.5));
    const to = Math.min(n, Math.floor(middle + LOBES * wide + 0.5));
    const weights = Array.from({ length: to - from }, (_, i) => {
      const v = (from + i + 0.5 - middle) / wide;
      return Math.abs(v) < LOBES ? sinc(v) * sinc(v / LOBES) : 0;
    });
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    return [from, Float64Array.from(weights, (weight) => weight / total)];
  });
}

// The filter along a side of n pixels that are `step` apart: 1 in a row, in a column as many as there are columns.
function along(pixels, n, filter, step) {
  const blocks = pixels.length / (n * step);
  const to = new Uint8ClampedArray(blocks * filter.length * step);
  for (let block = 0; block < blocks; block++) {
    for (let place = 0; place < filter.length; place++) {
      const [from, weights] = filter[place];
      for (let column = 0; column < step; column++) {
        let sum = 0;
        let at = (block * n + from) * step + column;
        for (let i = 0; i < weights.length; i++, at += step) sum += weights[i] * pixels[at];
        to[(block * filter.length + place) * step + column] = sum;
      }
    }
  }
  return to;
}

// Laplace's equation in the hole, by sweeps that go on in the direction in which they go: "over-relaxation".
function fillSmoothly(x) {
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    for (let channel = 0; channel < 3; channel++) {
      for (let row = CORNER; row < CORNER + FILLING; row++) {
        let at = (channel * SIDE + row) * SIDE + CORNER;
        for (let column = 0; column < FILLING; column++, at++) {
          const mean = (x[at - SIDE] + x[at + SIDE] + x[at - 1] + x[at + 1]) / 4;
          x[at] += OVERSHOOT * (mean - x[at]);
        }
      }
    }
  }
}

// The model ------------------------------------------------------------------------------------------------------

// With the networks that Python sent, as `page_unet` and `page_walk` order them: `look(context)` is what the U-Net says
// of it, `draw(seen, seed, nth)` one filling.
export function painter(lists, weights, stages) {
  const found = networks(lists, fromSmall(weights));
  const next = () => found.shift();
  const scales = Array.from({ length: 5 }, () => ({ down: next(), across: next() }));
  const rises = Array.from({ length: 4 }, () => ({ up: next(), refine: next() }));
  const [correction, location] = [next(), next()];
  const tell = stages.map(next);
  const { nets, pixels } = walkDown(found);

  const look = (context) => {
    const smooth = centre(context, SIDE).subarray(0, 3 * FILLING * FILLING);
    let h = unshuffled(context.map((v, i) => (i < 3 * SIDE * SIDE ? 2 * v - 1 : v)));
    const features = scales.map(({ down, across }, i) => {
      h = down(h);
      return across(i < 4 ? centre(h, FILLING >> i) : h);
    });
    rises.forEach(({ up, refine }, i) => {
      features[3 - i] = refine(plus(features[3 - i], up(features[4 - i])));
    });
    const guess = location(plus(smooth, correction(features[0]).map((v) => 0.25 * v)));
    return { guess, told: stages.map((stage, level) => tell[level](features[stage])) };
  };

  const draw = ({ guess, told }, seed, nth) => {
    let above;
    for (let level = told.length - 1; level >= 0; level--) {
      const h = above ? plus(told[level], nets[level].down(above)) : told[level];
      const both = nets[level].prior(h);
      const size = both.length / 2; // mu, then log_var
      const z = noise(seed, level + 1, nth, size).map((eps, i) => both[i] + Math.exp(0.5 * both[size + i]) * eps);
      above = Float32Array.from([...h, ...z]);
    }
    return pixels(above, guess);
  };
  return { look, draw };
}

// The middle half of maps of this side.
function centre(x, side) {
  const [first, n] = [side / 4, side / 2];
  return x.filter((_, i) => {
    const [row, column] = [Math.floor(i / side) % side, i % side];
    return row >= first && row < first + n && column >= first && column < first + n;
  });
}

// Each 2x2 pixels of a channel as four channels: (4, 64, 64) -> (16, 32, 32).
function unshuffled(x) {
  return x.map((_, i) => {
    const [channel, row, column] = [i >> 10, (i >> 5) & 31, i & 31];
    return x[((channel >> 2) * SIDE + 2 * row + ((channel >> 1) & 1)) * SIDE + 2 * column + (channel & 1)];
  });
}
