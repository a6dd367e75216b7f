// A decoder in the page: unpacks the weights once, then turns a latent into numbers in [0, 1].
//
// The description comes from course_utils/widgets/shared.py: a list of operations, and the weights of all of them in
// order, as little-endian 16-bit floats. A new operation is one more function here, and one more case there. Each
// takes its own entry of the list and `take(n)`, which hands out the next n weights; it returns x => y, both as flat
// arrays, an image channel by channel and row by row. `shape` is that of x: channels, rows, columns. Several x may
// come one after the other in one array; their y then leave in the same order.

export const operations = {
  linear({ n_in, n_out }, take) {
    const weight = take(n_out * n_in);
    const bias = take(n_out);
    return (x) => transposed(product(weight, bias, x), n_out);
  },
  // Each place's surroundings become one row of `patches`; then a convolution is the same product at every place.
  conv({ shape: [n_channels, height, width], n_out, kernel, padding }, take) {
    const n_in = n_channels * kernel[0] * kernel[1];
    const weight = take(n_out * n_in);
    const bias = take(n_out);
    const rows = height + 2 * padding[0] - kernel[0] + 1;
    const columns = width + 2 * padding[1] - kernel[1] + 1;
    const patches = new Float32Array(rows * columns * n_in); // what lies outside of the image stays 0
    const one = (x) => {
      let at = 0; // the position in a patch
      for (let channel = 0; channel < n_channels; channel++) {
        for (let down = -padding[0]; down < kernel[0] - padding[0]; down++) {
          for (let right = -padding[1]; right < kernel[1] - padding[1]; right++, at++) {
            const lastRow = Math.min(rows, height - down);
            const lastColumn = Math.min(columns, width - right);
            for (let row = Math.max(0, -down); row < lastRow; row++) {
              const from = (channel * height + row + down) * width + right;
              for (let column = Math.max(0, -right); column < lastColumn; column++) {
                patches[(row * columns + column) * n_in + at] = x[from + column];
              }
            }
          }
        }
      }
      return product(weight, bias, patches);
    };
    return (x) => oneByOne(x, n_channels * height * width, one);
  },
  residual({ layers }, take) {
    const block = chain(layers, take);
    return (x) => {
      const change = block(x);
      return x.map((v, i) => v + change[i]);
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
  silu: () => (x) => x.map((v) => v / (1 + Math.exp(-v))),
  sigmoid: () => (x) => x.map((v) => 1 / (1 + Math.exp(-v))),
  shift: ({ by }) => (x) => x.map((v) => v + by),
  clamp: () => (x) => x.map((v) => Math.min(1, Math.max(0, v))),
};

// weight · patch + bias for each patch, one patch after the other in `patches`: (n_out, n_patches). Four rows of the
// weights and two patches at a time, so that eight sums run side by side; there the time goes.
function product(weight, bias, patches) {
  const n_out = bias.length;
  const n_in = weight.length / n_out;
  const n_patches = patches.length / n_in;
  const y = new Float32Array(n_out * n_patches);
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

// One function z => Float32Array for each list of operations; they take their weights (a DataView) in this order.
export function networks(lists, weights) {
  const floats = unpack(weights);
  let taken = 0;
  return lists.map((layers) => {
    const run = chain(layers, (n) => floats.subarray(taken, (taken += n)));
    return (z) => run(Float32Array.from(z));
  });
}

// The function z => Float32Array that `layers` and `weights` (a DataView) describe.
export function decoder(layers, weights) {
  return networks([layers], weights)[0];
}
