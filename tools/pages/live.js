// Boards that live without a kernel: each gets a stand-in for the model that Jupyter would hand to `render`.
//
// tools/live.py has put a board's state beside its still picture; a state carries the board's own script (anywidget's
// `_esm`) and style. A board decodes in the page, so nothing is ever asked of anybody.

const bytesOf = (text) => new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function standIn(values) {
  const listeners = [];
  return {
    get: (name) => values[name],
    set(name, value) {
      if (JSON.stringify(values[name]) === JSON.stringify(value)) return;
      values[name] = value;
      for (const [event, act] of [...listeners]) if (event === `change:${name}`) act();
    },
    on: (event, act) => listeners.push([event, act]),
    off: (event, act) => listeners.splice(listeners.findIndex((l) => l[0] === event && l[1] === act), 1),
    save_changes() {},
    send() {},
  };
}

function dress(css) {
  if ([...document.querySelectorAll("style.live-style")].some((style) => style.textContent === css)) return;
  const style = Object.assign(document.createElement("style"), { className: "live-style", textContent: css });
  document.head.append(style);
}

async function enliven(place) {
  const { state, buffers } = JSON.parse(place.querySelector("script").textContent);
  const { _esm, _css, ...values } = state;
  for (const { path, data } of buffers) values[path[0]] = bytesOf(data);
  const address = URL.createObjectURL(new Blob([_esm], { type: "text/javascript" }));
  const board = await import(address);
  URL.revokeObjectURL(address);
  dress(_css);
  const el = document.createElement("div");
  place.append(el);
  await board.default.render({ model: standIn(values), el });
  place.querySelector("img")?.remove(); // the still picture, until now
  place.dataset.live = "yes";
}

function start(place) {
  enliven(place).catch((error) => console.error("A board could not start:", error)); // its still picture stays
}

// A board of the book starts when the reader is two screens away, so that a page with several opens at once. Slides
// start all of theirs: reveal.js hides them, and what is hidden comes near to nobody.
const near = new IntersectionObserver(
  (places) => {
    for (const { isIntersecting, target } of places) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      start(target);
    }
  },
  { rootMargin: "200%" },
);
const isDeck = Boolean(document.querySelector(".reveal"));
for (const place of document.querySelectorAll(".live-board")) isDeck ? start(place) : near.observe(place);
