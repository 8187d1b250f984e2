import { decode, encode } from "./msgpack.js";
import { drawMap } from "./map.js";

const find = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "j", ArrowRight: "l", ArrowUp: "w", ArrowDown: "s" };
const world = { poses: [], chosen: [], halfWidthTan: 1 };
const held = new Set();
let socket, seq = 0, shown = Promise.resolve();

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/v1/realtime_video/generate${location.search}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => begin(location.hash.slice(1) || null);
  socket.onmessage = (packet) => receive(decode(packet.data));
  socket.onclose = (event) => say(event.reason || `connection closed (${event.code})`, true);
}

const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(encode(message));

function begin(kept = null) {
  held.clear();
  const start = find("start").value || null;
  const memory = find("memory").value || "coverage";
  send({ type: "init", world: kept, start, seed: Number(find("seed").value), memory, max_context: Number(find("context").value) });
  say("beginning");
}

function say(text, bad = false) {
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

function receive(message) {
  const handlers = { ready, frame_batch: frames, memory, chunk_stats: stats, error: (m) => say(m.message, true) };
  handlers[message.type]?.(message);
}

function ready(message) {
  Object.assign(world, { poses: message.poses, chosen: [], halfWidthTan: message.half_width_tan });
  // The name of a kept world stands in the address: loading the page again goes on with it.
  history.replaceState(null, "", message.world ? `#${message.world}` : location.pathname + location.search);
  find("frame").disabled = find("rewind").disabled = !message.world;
  fill(find("start"), message.starts);
  fill(find("memory"), message.strategies, message.memory);
  find("context").value = message.max_context;
  Object.assign(find("view"), { width: message.width, height: message.height });
  find("memories").replaceChildren();
  find("view").focus();
  say("ready: hold a key");
}

function fill(select, names, chosen) {
  const kept = chosen ?? select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === kept)));
}

function frames(message) {
  world.poses.push(...message.poses);
  find("frame").max = find("frame").value = world.poses.length - 1;
  find("frame-number").textContent = world.poses.length - 1;
  drawMap(find("map"), world);
  // One after the other, at the pace of a walk; the next batch waits for this one.
  for (const jpeg of message.jpegs) {
    shown = shown.then(async () => {
      const picture = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
      find("view").getContext("2d").drawImage(picture, 0, 0);
      await new Promise((resolve) => setTimeout(resolve, 1000 / 30));
    });
  }
}

function memory(message) {
  world.chosen = message.frames;
  drawMap(find("map"), world);
  for (const image of find("memories").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  find("memories").replaceChildren(...message.frames.map((frame, row) => {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = URL.createObjectURL(new Blob([message.jpegs[row]], { type: "image/jpeg" }));
    image.alt = `remembered frame ${frame}`;
    const recent = row === message.frames.length - 1;
    item.className = recent ? "recent" : "";
    const note = document.createElement("small");
    note.textContent = recent ? `frame ${frame}, most recent` :
      `frame ${frame}, ${message.ages[row]} ago, shows ${Math.round(100 * message.scores[row])} %`;
    item.append(image, note);
    return item;
  }));
}

function stats(message) {
  const rows = {
    "frames remembered": message.frames,
    "frames per second": message.frames_per_second.toFixed(1),
    "last chunk": Object.entries(message.seconds).map(([name, s]) => `${name} ${(1000 * s).toFixed(0)} ms`).join(", "),
    "keys received / applied": `${message.received} / ${message.applied}`,
  };
  find("stats").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  say("walking");
}

function press(key, down) {
  if (down === held.has(key)) return;
  down ? held.add(key) : held.delete(key);
  send({ type: "event", seq: ++seq, keys: [...held] });
}

for (const [name, down] of [["keydown", true], ["keyup", false]]) {
  addEventListener(name, (event) => {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey) return;
    const key = KEYS[event.key] ?? event.key.toLowerCase();
    if (!"wasdijkl".includes(key) || key.length !== 1) return;
    event.preventDefault();
    press(key, down);
  });
}
addEventListener("blur", () => [...held].forEach((key) => press(key, false)));
for (const button of find("pad").children) {
  button.addEventListener("pointerdown", () => press(button.dataset.key, true));
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
    button.addEventListener(end, () => press(button.dataset.key, false));
  }
}
find("begin").addEventListener("click", () => begin());
find("frame").addEventListener("input", () => { find("frame-number").textContent = find("frame").value; });
find("rewind").addEventListener("click", () => send({ type: "rewind", frame: Number(find("frame").value) }));
for (const id of ["memory", "context"]) {
  find(id).addEventListener("change", () =>
    send({ type: "settings", memory: find("memory").value, max_context: Number(find("context").value) }));
}
find("shot").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = find("view").toDataURL("image/png");
  link.download = `frame-${world.poses.length - 1}.png`;
  link.click();
});
connect();
