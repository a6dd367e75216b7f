// What every board shares: its elements, one drawing a frame, pixels, and the row of controls.

// The elements that `html` describes: { node, and each one that has a data-name under that name }.
export function build(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  const node = template.content.firstElementChild;
  for (const focusable of node.parentNode.querySelectorAll("button, input, select, [tabindex]")) {
    // JupyterLab and Notebook take arrows and letters for themselves unless the focused element itself says:
    focusable.dataset.lmSuppressShortcuts = "true";
  }
  const named = [...node.querySelectorAll("[data-name]")].map((child) => [child.dataset.name, child]);
  return { node, ...Object.fromEntries(named) };
}

export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
}

// Ask as often as you like: `draw` runs once in the next frame, and finds the latest state. Nothing queues.
export function oncePerFrame(draw) {
  let asked = 0;
  return () => {
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      draw();
    });
  };
}

// Runs `act` when nothing has asked for it for 0.4 s.
export function whenIdle(act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, 400);
  };
}

// The model takes the values, and Python hears of them at once: the echo of an older message, which ipywidgets drops if
// a newer one is on its way, would undo what is not yet sent. A drag makes no queue: the latest values wait for the
// answer to those before.
export function keep(model, values) {
  for (const [name, value] of Object.entries(values)) model.set(name, value);
  model.save_changes();
}

// An image, channels first and in [0, 1], on a canvas; grey if it has one channel.
export function paint(canvas, values, [channels, height, width], left = 0, top = 0) {
  const image = new ImageData(width, height);
  const n = height * width;
  const colour = channels === 3 ? [0, n, 2 * n] : [0, 0, 0];
  for (let i = 0; i < n; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = 255 * values[i + colour[c]];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, left, top);
}

// The n images that Python sent as bytes, one after the other, each as numbers in [0, 1].
export function imagesOf(view, n) {
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const size = bytes.length / n;
  const image = (_, i) => Float32Array.from(bytes.subarray(i * size, (i + 1) * size), (v) => v / 255);
  return Array.from({ length: n }, image);
}

let groups = 0; // radio buttons of one name belong together, all over the page

export const radioName = () => `vae-${groups++}`;

// The images as radio buttons, whose values are `prefix` and their names. Returns what all these buttons are called.
export function addPicks(group, names, images, shape, choose, prefix = "") {
  const radio = radioName();
  group.style.setProperty("--columns", Math.min(names.length, 10));
  names.forEach((name, i) => {
    const value = prefix + name;
    const { node, button, thumb } = build(`
      <label class="vae-pick" title="${name}">
        <input type="radio" name="${radio}" value="${value}" aria-label="${value}" data-name="button">
        <canvas width="${shape[2]}" height="${shape[1]}" data-name="thumb"></canvas>
      </label>`);
    paint(thumb, images[i], shape);
    button.addEventListener("change", () => choose(name));
    group.append(node);
  });
  return radio;
}

// A `.vae-slider` at a value, filled from `from` to there.
export function slideTo(slider, value, from = slider.min) {
  const share = (v) => (v - slider.min) / (slider.max - slider.min);
  slider.value = value;
  slider.style.setProperty("--from", share(Math.min(from, value)));
  slider.style.setProperty("--to", share(Math.max(from, value)));
}

const CONTROLS = `
  <div>
    <div class="vae-controls">
      <input class="vae-state" type="text" spellcheck="false" autocomplete="off" data-name="field"
             aria-label="The state of the board as text, to copy or to paste">
      <button type="button" data-name="copy">Copy</button>
      <button type="button" data-name="back">Reset</button>
      <button type="button" data-name="size">Large</button>
    </div>
    <p class="vae-message" role="alert" data-name="message"></p>
  </div>`;

// The state as a line of text to copy and paste, and buttons. `write()` gives the line; `read(line)` takes one or
// throws what is wrong with it. Returns the node, and `show()`, to be called when the state has changed.
export function controls(model, { write, read, reset }) {
  const { node, field, copy, back, size, message } = build(CONTROLS);
  const say = (text) => {
    message.textContent = text;
    set(field, { "aria-invalid": Boolean(text) });
  };
  const show = () => {
    field.value = write();
    say("");
  };
  const accept = () => {
    try {
      if (field.value !== write()) read(field.value);
      say("");
    } catch (error) {
      say(error.message);
    }
  };
  field.addEventListener("focus", () => field.select());
  field.addEventListener("change", accept);
  field.addEventListener("input", (event) => event.inputType === "insertFromPaste" && accept());
  field.addEventListener("keydown", (event) => event.key === "Escape" && show());
  copy.addEventListener("click", async () => {
    await copyText(write(), field);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1200);
  });
  back.addEventListener("click", reset);
  size.addEventListener("click", () => keep(model, { large: !model.get("large") }));
  return { node, show };
}

async function copyText(text, field) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    field.value = text; // a page without https has no clipboard to write to: select and copy, as by hand
    field.select();
    document.execCommand("copy");
  }
}

// `large`, as the whole board shows it.
export function showSize(board, large) {
  board.classList.toggle("vae-large", large);
  set(board.querySelector("[data-name=size]"), { "aria-pressed": large });
}

// Runs each view now, and whenever what it shows changes: `views` maps an event of the model to its view.
// Returns a function that ends it.
export function follow(model, views) {
  for (const [event, view] of Object.entries(views)) model.on(event, view);
  for (const view of new Set(Object.values(views))) view();
  return () => {
    for (const [event, view] of Object.entries(views)) model.off(event, view);
  };
}
