// A decoder in the page: unpacks the weights once, then turns a latent into numbers in [0, 1].
//
// The description comes from course_utils/widgets.py: a flat list of operations, and the weights of all of them in
// order, as little-endian 16-bit floats. A new operation is one more function here, and one more case there. Each
// takes its own entry of the list and `take(n)`, which hands out the next n weights; it returns x => y.

export const operations = {
  linear({ n_in, n_out }, take) {
    const weight = take(n_out * n_in);
    const bias = take(n_out);
    return (x) =>
      bias.map((sum, row) => {
        for (let i = 0, w = row * n_in; i < n_in; i++, w++) sum += weight[w] * x[i];
        return sum;
      });
  },
  silu: () => (x) => x.map((v) => v / (1 + Math.exp(-v))),
  sigmoid: () => (x) => x.map((v) => 1 / (1 + Math.exp(-v))),
  shift: ({ by }) => (x) => x.map((v) => v + by),
  clamp: () => (x) => x.map((v) => Math.min(1, Math.max(0, v))),
};

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

// The function z => Float32Array that `layers` and `weights` (a DataView) describe.
export function decoder(layers, weights) {
  const floats = unpack(weights);
  let taken = 0;
  const take = (n) => floats.subarray(taken, (taken += n));
  const steps = layers.map((layer) => operations[layer.op](layer, take));
  return (z) => steps.reduce((x, step) => step(x), Float32Array.from(z));
}
