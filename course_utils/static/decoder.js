// A decoder in the page: unpacks the weights once, then turns a latent into numbers in [0, 1].
//
// The description comes from course_utils/widgets/shared.py: a list of operations, and the weights of all of them in
// order, as little-endian 16-bit floats or as 8-bit numbers. A new operation is one more function here, and one more
// case there. Each takes its own entry of the list and `take(n)`, which hands out the next n weights; it returns
// x => y, both as flat arrays, an image channel by channel and row by row. `shape` is that of x: channels, rows,
// columns. Several x may come one after the other in one array; their y then leave in the same order.

const BLOCK = 16; // weights that share a step

export const operations = {
  linear({ n_in, n_out }, take) {
    const weight = take(n_out * n_in);
    const bias = take(n_out);
    return (x) => transposed(product(weight, bias, x), n_out);
  },
  conv(entry, take) {
    const [n_in, height, width] = entry.shape;
    const weight = take(entry.n_out * n_in * entry.kernel[0] * entry.kernel[1]);
    const bias = take(entry.n_out);
    const sizes = [...entry.kernel, ...entry.padding, ...entry.stride, height % 2, width % 2].join(" ");
    const one = (sizes === "3 3 1 1 1 1 0 0" ? inTiles : inPatches)(entry, weight, bias);
    return (x) => oneByOne(x, n_in * height * width, one);
  },
  residual({ layers }, take) {
    const block = chain(layers, take);
    return (x) => {
      const y = block(x);
      for (let i = 0; i < x.length; i++) y[i] += x[i];
      return y;
    };
  },
  // Each pixel becomes 2 x 2 of the same.
  upsample: ({ shape: [, , width] }) => {
    return (x) => {
      const y = new Float32Array(4 * x.length);
      for (let row = 0, i = 0; i < y.length; row++) {
        for (let column = 0; column < 2 * width; column++, i++) y[i] = x[(row >> 1) * width + (column >> 1)];
      }
      return y;
    };
  },
  // The same, but each of the four leans a quarter of the way to the pixel beside it, across and down.
  blend: ({ shape: [, height, width] }) => {
    const [rows, columns] = [leaning(height), leaning(width)];
    return (x) => {
      const y = new Float32Array(4 * x.length);
      for (let channel = 0, i = 0; i < y.length; channel += height * width) {
        for (const [row, near] of rows) {
          const [at, beside] = [channel + row * width, channel + near * width];
          for (const [column, next] of columns) {
            const here = 0.75 * x[at + column] + 0.25 * x[at + next];
            y[i++] = 0.75 * here + 0.25 * (0.75 * x[beside + column] + 0.25 * x[beside + next]);
          }
        }
      }
      return y;
    };
  },
  // Four channels become one of twice the size: the first gives the upper left of each 2 x 2 pixels.
  shuffle: ({ shape: [, height, width] }) => {
    return (x) => {
      const y = new Float32Array(x.length);
      for (let channel = 0, i = 0; i < x.length; channel++) {
        const [down, right] = [(channel >> 1) & 1, channel & 1];
        for (let row = 0; row < height; row++) {
          const to = (((channel >> 2) * height + row) * 2 + down) * 2 * width + right;
          for (let column = 0; column < width; column++, i++) y[to + 2 * column] = x[i];
        }
      }
      return y;
    };
  },
  silu: () => (x) => {
    const y = new Float32Array(x.length);
    for (let i = 0; i < x.length; i++) y[i] = x[i] / (1 + Math.exp(-x[i]));
    return y;
  },
  sigmoid: () => (x) => x.map((v) => 1 / (1 + Math.exp(-v))),
  shift: ({ by }) => (x) => x.map((v) => v + by),
  clamp: () => (x) => x.map((v) => Math.min(1, Math.max(0, v))),
  // Of each x the second half of the channels, nearly as it is where it is small, and never beyond the limit.
  bounded: ({ shape, limit }) => {
    const size = shape.reduce((a, b) => a * b);
    return (x) => x.map((v, i) => (2 * (i % size) < size ? v : limit * Math.tanh(v / limit)));
  },
};

// Of each of 2n places along a side that had n: the old place, and the one it leans to. At an edge that is itself.
function leaning(n) {
  const inside = (i) => Math.min(n - 1, Math.max(0, i));
  return Array.from({ length: 2 * n }, (_, i) => [i >> 1, inside((i >> 1) + (i % 2 ? 1 : -1))]);
}

// A convolution: each place's surroundings become one row of `patches`; then it is the same product at every place.
function inPatches({ shape: [n_channels, height, width], kernel, padding, stride }, weight, bias) {
  const n_in = n_channels * kernel[0] * kernel[1];
  const [rows, columns] = [height, width].map((n, i) => Math.floor((n + 2 * padding[i] - kernel[i]) / stride[i]) + 1);
  const patches = new Float32Array(rows * columns * n_in); // what lies outside of the image stays 0
  return (x) => {
    let at = 0; // the position in a patch
    for (let channel = 0; channel < n_channels; channel++) {
      for (let down = -padding[0]; down < kernel[0] - padding[0]; down++) {
        for (let right = -padding[1]; right < kernel[1] - padding[1]; right++, at++) {
          const firstRow = Math.max(0, Math.ceil(-down / stride[0]));
          const firstColumn = Math.max(0, Math.ceil(-right / stride[1]));
          const lastRow = Math.min(rows, Math.ceil((height - down) / stride[0]));
          const lastColumn = Math.min(columns, Math.ceil((width - right) / stride[1]));
          for (let row = firstRow; row < lastRow; row++) {
            const from = (channel * height + row * stride[0] + down) * width + right;
            for (let column = firstColumn; column < lastColumn; column++) {
              patches[(row * columns + column) * n_in + at] = x[from + column * stride[1]];
            }
          }
        }
      }
    }
    return product(weight, bias, patches);
  };
}

// A 3x3 convolution with a border of zeros, tile by tile of 2x2 places (Lavin & Gray 2016, where it is F(2x2, 3x3)).
// With sums and differences of the 4x4 values that a tile sees, and of the weights, the convolution is one product for
// each of 16 positions: 16 multiplications for 4 places instead of 36, and the page decodes twice as fast.
function inTiles({ shape: [n_in, height, width], n_out }, weight, bias) {
  const [down, right] = [height / 2, width / 2];
  const n_tiles = down * right;
  const none = new Float32Array(n_out);
  const weights = Array.from({ length: 16 }, () => new Float32Array(n_out * n_in));
  const turned = (a, b, c) => [a, (a + b + c) / 2, (a - b + c) / 2, c];
  for (let pair = 0; pair < n_out * n_in; pair++) {
    const [top, middle, low] = [0, 3, 6].map((i) => turned(...weight.subarray(9 * pair + i, 9 * pair + i + 3)));
    for (let j = 0; j < 4; j++) {
      turned(top[j], middle[j], low[j]).forEach((v, i) => (weights[4 * i + j][pair] = v));
    }
  }
  const [wide, four] = [width + 2, new Float32Array(16)];
  const framed = new Float32Array((height + 2) * wide); // one channel, its border 0
  const patches = new Float32Array(16 * n_tiles * n_in);
  const at = Array.from({ length: 16 }, (_, i) => patches.subarray(i * n_tiles * n_in, (i + 1) * n_tiles * n_in));

  const see = (x) => {
    for (let channel = 0; channel < n_in; channel++) {
      for (let row = 0; row < height; row++) {
        const from = (channel * height + row) * width;
        for (let column = 0; column < width; column++) framed[(row + 1) * wide + column + 1] = x[from + column];
      }
      for (let tile = 0; tile < n_tiles; tile++) {
        const corner = 2 * (Math.floor(tile / right) * wide + (tile % right));
        for (let j = 0; j < 4; j++) {
          const i = corner + j;
          const [a, b] = [framed[i], framed[i + wide]];
          const [c, d] = [framed[i + 2 * wide], framed[i + 3 * wide]];
          four[j] = a - c;
          four[4 + j] = b + c;
          four[8 + j] = c - b;
          four[12 + j] = b - d;
        }
        for (let i = 0, to = tile * n_in + channel; i < 16; i += 4, to += 4 * n_tiles * n_in) {
          patches[to] = four[i] - four[i + 2];
          patches[to + n_tiles * n_in] = four[i + 1] + four[i + 2];
          patches[to + 2 * n_tiles * n_in] = four[i + 2] - four[i + 1];
          patches[to + 3 * n_tiles * n_in] = four[i + 1] - four[i + 3];
        }
      }
    }
  };

  const step = n_out * n_tiles;
  const answer = new Float32Array(16 * step);
  return (x) => {
    see(x);
    for (let i = 0; i < 16; i++) product(weights[i], none, at[i], answer.subarray(i * step, (i + 1) * step));
    const y = new Float32Array(n_out * height * width);
    for (let i = 0; i < step; i++) {
      for (let j = 0; j < 4; j++) {
        const from = i + j * step;
        const [a, b] = [answer[from], answer[from + 4 * step]];
        const [c, d] = [answer[from + 8 * step], answer[from + 12 * step]];
        four[j] = a + b + c;
        four[4 + j] = b - c - d;
      }
      const [channel, tile] = [Math.floor(i / n_tiles), i % n_tiles];
      const to = (channel * height + 2 * Math.floor(tile / right)) * width + 2 * (tile % right);
      y[to] = bias[channel] + four[0] + four[1] + four[2];
      y[to + 1] = bias[channel] + four[1] - four[2] - four[3];
      y[to + width] = bias[channel] + four[4] + four[5] + four[6];
      y[to + width + 1] = bias[channel] + four[5] - four[6] - four[7];
    }
    return y;
  };
}

// weight · patch + bias for each patch, one patch after the other in `patches`: (n_out, n_patches). Four rows of the
// weights and two patches at a time, so that eight sums run side by side; there the time goes.
function product(weight, bias, patches, into) {
  const n_out = bias.length;
  const n_in = weight.length / n_out;
  const n_patches = patches.length / n_in;
  const y = into ?? new Float32Array(n_out * n_patches);
  for (let row = 0; row < n_out; row += 4) {
    const [a, b, c, d] = [row, row + 1, row + 2, row + 3].map((its) => Math.min(its, n_out - 1));
    const [toB, toC, toD] = [n_in * (b - a), n_in * (c - a), n_in * (d - a)];
    for (let patch = 0; patch < n_patches; patch += 2) {
      const next = Math.min(patch + 1, n_patches - 1);
      const toNext = n_in * (next - patch);
      let [sumA, sumB, sumC, sumD] = [bias[a], bias[b], bias[c], bias[d]];
      let [nextA, nextB, nextC, nextD] = [sumA, sumB, sumC, sumD];
      for (let p = patch * n_in, w = a * n_in; w < (a + 1) * n_in; p++, w++) {
        const v = patches[p];
        const u = patches[p + toNext];
        const wA = weight[w];
        const wB = weight[w + toB];
        const wC = weight[w + toC];
        const wD = weight[w + toD];
        sumA += wA * v;
        sumB += wB * v;
        sumC += wC * v;
        sumD += wD * v;
        nextA += wA * u;
        nextB += wB * u;
        nextC += wC * u;
        nextD += wD * u;
      }
      y[a * n_patches + patch] = sumA;
      y[b * n_patches + patch] = sumB;
      y[c * n_patches + patch] = sumC;
      y[d * n_patches + patch] = sumD;
      y[a * n_patches + next] = nextA;
      y[b * n_patches + next] = nextB;
      y[c * n_patches + next] = nextC;
      y[d * n_patches + next] = nextD;
    }
  }
  return y;
}

// (n, m) -> (m, n)
function transposed(x, n) {
  const m = x.length / n;
  if (m === 1) return x;
  const y = new Float32Array(x.length);
  for (let row = 0, i = 0; row < n; row++) {
    for (let column = 0; column < m; column++, i++) y[column * n + row] = x[i];
  }
  return y;
}

// f of each piece of `size` numbers, one after the other.
function oneByOne(x, size, f) {
  if (x.length === size) return f(x);
  const parts = Array.from({ length: x.length / size }, (_, i) => f(x.subarray(i * size, (i + 1) * size)));
  const y = new Float32Array(parts.length * parts[0].length);
  parts.forEach((part, i) => y.set(part, i * part.length));
  return y;
}

// The 16-bit floats of a DataView as a Float32Array.
export function unpack(view) {
  const floats = new Float32Array(view.byteLength / 2);
  for (let i = 0; i < floats.length; i++) {
    const bits = view.getUint16(2 * i, true);
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = (bits & 1023) / 1024;
    floats[i] = sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
  }
  return floats;
}

// The operations one after the other, as one function.
function chain(layers, take) {
  const steps = layers.map((layer) => operations[layer.op](layer, take));
  return (x) => steps.reduce((y, step) => step(y), x);
}

// Hands out the next n weights, of 16-bit floats.
export function fromHalves(view) {
  const floats = unpack(view);
  let taken = 0;
  return (n) => floats.subarray(taken, (taken += n));
}

// The same of 8-bit numbers, as `pack_small` writes them: for each tensor the steps of its blocks, then its multiples.
export function fromSmall(view) {
  const part = (n) => new DataView(view.buffer, view.byteOffset + taken, n);
  let taken = 0;
  return (n) => {
    const steps = unpack(part(2 * Math.ceil(n / BLOCK)));
    taken += 2 * steps.length;
    const multiples = part(n);
    taken += n;
    return Float32Array.from({ length: n }, (_, i) => steps[Math.floor(i / BLOCK)] * multiples.getInt8(i));
  };
}

// One function z => Float32Array for each list of operations, which take their weights in this order.
export function networks(lists, take) {
  return lists.map((layers) => {
    const run = chain(layers, take);
    return (z) => run(Float32Array.from(z));
  });
}

// The function z => Float32Array that `layers` and `weights`, 16-bit floats, describe.
export function decoder(layers, weights) {
  return networks([layers], fromHalves(weights))[0];
}

// The networks of a walk down, as `page_walk` of widgets/shared.py orders them: of each layer { down, prior }, the top
// one without `down`, and the pixels of a guess that the walk adds to.
export function walkDown(found) {
  const [decode, mean] = found.splice(-2);
  const nets = [{ prior: found.shift() }];
  while (found.length) {
    const [down, prior] = found.splice(0, 2);
    nets.unshift({ down, prior });
  }
  return { nets, pixels: (told, guess) => mean(plus(decode(told), guess)) };
}

// h of some pictures, one after the other, and to each of them what is added, if anything is.
export function plus(h, added) {
  return added ? h.map((v, i) => v + added[i % added.length]) : h;
}
