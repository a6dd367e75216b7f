// The draws of a hierarchy, as in widgets/layers.py: each number has its own address and no other state.

function mix(h) {
  h = Math.imul(h ^ (h >>> 17), 0xed5ad4bb);
  h = Math.imul(h ^ (h >>> 11), 0xac4c1b51);
  h = Math.imul(h ^ (h >>> 15), 0x31848bab);
  return (h ^ (h >>> 14)) >>> 0;
}

// n draws of N(0, 1) that belong to this address, by Box and Muller.
export function noise(seed, layer, picture, n) {
  const stream = [seed, layer, picture].reduce((h, part) => (mix(h ^ part) + 0x9e3779b9) >>> 0, 0);
  const eps = new Float32Array(n);
  for (let i = 0; i < n; i++) {
    const a = mix((stream + i) >>> 0);
    const b = mix(a ^ 0x85ebca6b);
    eps[i] = Math.sqrt(-2 * Math.log((a + 0.5) / 2 ** 32)) * Math.cos((2 * Math.PI * b) / 2 ** 32);
  }
  return eps;
}
