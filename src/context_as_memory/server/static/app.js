// The page: what is said to the server, and what is shown of its answers. docs/protocol.md lists the messages.

import { drawMap } from "./map.js";
import { decode, encode } from "./msgpack.js";
import { chooseFormat, Player } from "./player.js";
import { drawTimeline, frameAt } from "./timeline.js";

const find = (id) => document.getElementById(id);
const ARROWS = { ArrowLeft: "j", ArrowRight: "l", ArrowUp: "w", ArrowDown: "s", PageUp: "i", PageDown: "k" };
const OTHERS = { r: "i", f: "k" }; // beside the hand that walks
const LOST = [1006, 1011, 1012], RETRIES = 6, HEARTBEAT_MS = 60_000, DRAG_PX = 14;
const query = new URLSearchParams(location.search);

const world = { poses: [], chunks: [], chosen: [], pictures: new Map(), halfWidthTan: 1, uploadBytes: 0, name: null, share: "" };
const players = { with_memory: new Player(find("view")), without_memory: new Player(find("without")) };
const held = new Set(), pressed = new Map(); // keys; when each event was sent
let socket, format, eventId = 0, latencyMs = null;
let retries = 0, retry; // of the connection, and the timer of the next one
let wanted = null; // what was asked for and does not stand yet
let standing = false; // whether this connection has a world
let explained = false; // whether the page says already why the connection ends
let besideChunk = -1; // the last chunk that was shown with memory off

// -- connection ------------------------------------------------------------------------------------------------------

const token = query.has("token") ? { token: query.get("token") } : {};

// One line at a time: a page with two would be refused its own world.
function connect(what = wanted ?? inAddress()) {
  clearTimeout(retry);
  if (socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  standing = explained = false;
  socket = new WebSocket(`${scheme}://${location.host}/v1/realtime_video/generate?${new URLSearchParams(token)}`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => begin(what);
  socket.onmessage = (packet) => receive(decode(packet.data));
  socket.onclose = closed;
}

// The world and the branch that stand in the address.
function inAddress() {
  const [name, branch] = location.hash.slice(1).split("/");
  return name ? { world: name, branch: decodeURIComponent(branch ?? "main") } : {};
}

function closed(event) {
  document.body.dataset.state = "closed";
  const left = query.has("watch") && world.share && [1001, 1008].includes(event.code); // the visitor may come back
  if ((left || LOST.includes(event.code)) && retries < RETRIES) {
    retries += 1; // the server was restarted, or the network failed: the world is stored, go on with it
    say(left ? "the visitor has left; looking again" : `connection lost; trying again (${retries})`, true);
    retry = setTimeout(connect, 500 * 2 ** retries);
  } else if (!explained) {
    say(`connection closed (${event.code}); load the page again to go on`, true);
  }
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(encode(message));
}

const whole = (id) => {
  const box = find(id), value = Math.round(Number(box.value)) || 0;
  return (box.value = Math.min(Math.max(value, Number(box.min)), Number(box.max)));
};

function begin(what = {}) {
  wanted = what;
  if (socket.readyState !== WebSocket.OPEN) return connect(what);
  say("beginning");
  send({
    type: "init", realtime_output_format: format, seed: Number(whole("seed")),
    watch: query.has("watch") ? world.share || query.get("watch") : null, start: find("start").value || null, known: find("known").checked, strategy: find("strategy").value || "coverage",
    max_context: world.share ? Number(whole("context")) : null, compare: find("compare").checked, ...what,
  });
}

function receive(message) {
  const handlers = { ready, frame_batch: frames, context, chunk_stats: stats, error: refused };
  handlers[message.type]?.(message);
}

function refused(message) {
  say(message.content, true);
  if (!["refused", "busy"].includes(message.code)) explained = true;
  if (standing || !inAddress().world) return;
  if (message.code === "busy" && retries < RETRIES) {
    retries += 1; // the server has not noticed yet that the line before is dead
    retry = setTimeout(() => begin(inAddress()), 250 * 2 ** retries);
  } else if (message.code === "refused") {
    history.replaceState(null, "", location.pathname + location.search); // it is gone: begin another
    begin();
  }
}

function say(text, bad = false) {
  if (find("status").textContent === text) return;
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

// -- what the server says --------------------------------------------------------------------------------------------

function ready(message) {
  Object.assign(world, { poses: message.poses, chunks: message.chunks, chosen: [], pictures: new Map(),
    halfWidthTan: message.half_width_tan, uploadBytes: message.upload_bytes, name: message.world, share: message.share });
  retries = 0;
  standing = true;
  wanted = null;
  besideChunk = -1;
  find("frame").max = world.poses.length; // the last pose comes with the picture
  find("frame").value = find("frame").max; // no larger value is taken before the limit is
  if (message.driver) {
    // The name of the world and its branch stand in the address: loading the page again goes on with them.
    const place = `#${message.world}/${encodeURIComponent(message.branch)}`;
    history.replaceState(null, "", location.pathname + location.search + place);
    const at = (what) => `v1/worlds/${message.world}/${what}?${new URLSearchParams({ branch: message.branch, ...token })}`;
    find("film").href = at("walk.mp4");
    find("archive").href = at("world.tar");
  }
  if (message.driver) listWorlds();
  if (message.driver && held.size) tellKeys(); // the server forgot them when it stood the world up
  for (const id of ["controls", "history"]) find(id).disabled = !message.driver;
  document.querySelector(".exports").hidden = find("pad").hidden = !message.driver;
  const truth = message.truth;
  find("truth").hidden = !truth;
  find("truth-name").textContent = truth ?? "";
  document.body.toggleAttribute("data-truth", Boolean(truth));
  if (truth) document.title = `True world ${truth}`;
  fill(find("start"), message.starts);
  fill(find("strategy"), message.strategies, message.strategy);
  fill(find("branch"), message.branches, message.branch);
  find("context").value = message.max_context;
  find("compare").checked = message.compare;
  find("beside").hidden = !message.compare;
  find("memories").replaceChildren();
  if (document.activeElement === document.body) find("view").focus();
  document.body.dataset.state = message.driver ? "ready" : "watching";
  say(message.driver ? "ready: hold a key" : "watching; only the visitor can walk");
}

// The worlds that are stored here, the last one walked in first.
async function listWorlds() {
  const names = await (await fetch(`v1/worlds?${new URLSearchParams(token)}`)).json();
  find("stored").hidden = names.length === 0;
  fill(find("world"), names, world.name);
}

function fill(select, names, chosen) {
  const selected = chosen ?? select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === selected)));
}

function frames(message) {
  const sent = pressed.get(message.event_id);
  const seen = () => {
    if (sent !== undefined && pressed.delete(message.event_id)) latencyMs = performance.now() - sent;
  };
  players[message.view].show(message, message.chunk_index < 0 ? undefined : seen);
  if (message.view === "with_memory" && message.chunk_index >= 0) shown(message.chunk_index);
  if (message.view !== "with_memory") {
    find("beside").hidden = false;
    besideChunk = message.chunk_index;
    return;
  }
  const wasAtEnd = find("frame").value === find("frame").max;
  world.poses.length = Math.min(world.poses.length, message.first);
  world.poses.push(...message.poses);
  if (message.chunk_index >= 0) {
    world.chunks.push(message.first);
    keepPicture(message.first);
  }
  find("frame").max = world.poses.length - 1;
  if (wasAtEnd) find("frame").value = world.poses.length - 1;
  redraw();
}

// Tell the server when a chunk is on the screen: it stays only a few chunks ahead.
function shown(chunk) {
  if (query.has("watch")) return;
  const origin = socket; // answers go where the chunk came from
  players.with_memory.drawn.then(() => origin === socket && send({ type: "event", kind: "shown", payload: chunk }));
}

// A small picture of a chunk for the time line, once it is on the canvas.
function keepPicture(first) {
  const pictures = world.pictures; // another walk has another map
  players.with_memory.drawn.then(async () => {
    pictures.set(first, await createImageBitmap(find("view"), { resizeWidth: 80, resizeHeight: 48 }));
    redraw();
  });
}

function context(message) {
  world.chosen = message.frames;
  redraw();
  for (const image of find("memories").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  find("memories").replaceChildren(...message.frames.map((frame, row) => {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = URL.createObjectURL(new Blob([message.jpegs[row]], { type: "image/jpeg" }));
    image.alt = `remembered frame ${frame}`;
    const recent = row === message.frames.length - 1;
    item.className = recent ? "recent" : "";
    const note = document.createElement("small");
    const age = recent ? "most recent" : `${message.ages[row]} ago, ${Math.round(100 * message.scores[row])} %`;
    note.textContent = `frame ${frame}\n${age}`;
    note.title = recent ? "the frame before the chunk" : "frames ago; share of the view that it was the first to show";
    item.append(image, note);
    return item;
  }));
}

// Frames per second of this walk over its last chunks; with others on the server it is less than the model makes.
const arrivals = [];
function shownPerSecond(frames) {
  const now = performance.now();
  if (arrivals.length && now - arrivals.at(-1) > 3000) arrivals.length = 0; // one stood still
  arrivals.push(now);
  if (arrivals.length > 12) arrivals.shift();
  return arrivals.length < 3 ? "-" : ((1000 * frames * (arrivals.length - 1)) / (now - arrivals[0])).toFixed(1);
}

function stats(message) {
  const rows = {
    "frames remembered": message.frames,
    "frames per second": `${message.frames_per_second.toFixed(1)} made, ${shownPerSecond(message.num_frames)} here`,
    "key to picture": latencyMs === null ? "-" : `${latencyMs.toFixed(0)} ms`,
    "last chunk": Object.entries(message.seconds).map(([name, s]) => `${name} ${(1000 * s).toFixed(0)} ms`).join(", "),
    "keys received / applied": `${message.received_event_id ?? "-"} / ${message.event_id ?? "-"}`,
    "server's memory": message.resident_mb === null ? "-" : `${message.resident_mb} MB`,
    "pictures": players.with_memory.contentType,
  };
  find("beside").hidden = besideChunk !== message.chunk_index;
  find("stats").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  document.body.dataset.chunks = Number(document.body.dataset.chunks) + 1;
  if (document.body.dataset.state !== "watching") say("walking");
}

// Once for all that changes before the next picture.
let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const selected = Number(find("frame").value);
  find("frame-number").textContent = selected;
  drawMap(find("map"), world);
  drawTimeline(find("timeline"), world, selected);
}

// -- keys, mouse and touch -------------------------------------------------------------------------------------------

function press(key, down) {
  if (down === held.has(key)) return;
  down ? held.add(key) : held.delete(key);
  tellKeys();
}

function tellKeys() {
  eventId += 1;
  pressed.set(eventId, performance.now());
  if (pressed.size > 32) pressed.delete(pressed.keys().next().value);
  const transitions = [{ actions: [...held], client_ts_ms: Math.round(performance.now()) }];
  send({ type: "event", kind: "camera_actions", event_id: eventId, payload: { mode: "state", transitions } });
}

const releaseAll = () => {
  dragged.clear();
  [...held].forEach((key) => press(key, false));
};

const keyOf = (event) => {
  const key = ARROWS[event.key] ?? event.key.toLowerCase();
  return OTHERS[key] ?? key;
};
const isKey = (key) => key.length === 1 && "wasdijkl".includes(key);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !isKey(keyOf(event))) return;
  if (event.target.matches("input[type=text], input[readonly]")) return; // one writes
  if (event.target.matches("select, input[type=number], input[type=range]") && event.key in ARROWS) return; // one chooses
  event.preventDefault();
  press(keyOf(event), true);
});
addEventListener("keyup", (event) => isKey(keyOf(event)) && press(keyOf(event), false)); // wherever the focus is by now
addEventListener("blur", releaseAll);
addEventListener("pagehide", releaseAll);

for (const button of find("pad").children) {
  button.addEventListener("pointerdown", () => press(button.dataset.key, true));
  button.addEventListener("click", (event) => {
    if (event.detail !== 0) return; // a pointer has come already
    press(button.dataset.key, true); // from a keyboard or a switch: a short step
    setTimeout(() => press(button.dataset.key, false), 300);
  });
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
    button.addEventListener(end, () => press(button.dataset.key, false));
  }
}

// Dragging in the picture: sideways turns, up and down walks, or looks up and down while Shift is held. Keys that are
// held beside it stay held.
let grip = null;
const dragged = new Set();
const drag = (key, on) => {
  if (on === dragged.has(key)) return;
  on ? dragged.add(key) : dragged.delete(key);
  press(key, on);
};
find("view").addEventListener("pointerdown", (event) => {
  grip = [event.clientX, event.clientY];
  event.target.setPointerCapture(event.pointerId);
});
find("view").addEventListener("pointermove", (event) => {
  if (!grip) return;
  const [x, y] = [event.clientX - grip[0], event.clientY - grip[1]];
  const [up, down] = [y < -DRAG_PX, y > DRAG_PX], look = event.shiftKey;
  for (const [key, on] of [["j", x < -DRAG_PX], ["l", x > DRAG_PX]]) drag(key, on);
  for (const [key, on] of [["w", up && !look], ["s", down && !look], ["i", up && look], ["k", down && look]]) drag(key, on);
});
for (const end of ["pointerup", "pointercancel"]) {
  find("view").addEventListener(end, () => { grip = null; [...dragged].forEach((key) => drag(key, false)); });
}

// -- buttons ---------------------------------------------------------------------------------------------------------

find("begin").addEventListener("click", () => begin());
find("open").addEventListener("click", () => begin({ world: find("world").value }));
find("photo").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (!file) return;
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  if (file.size > world.uploadBytes) {
    return say(`the picture has ${megabytes(file.size)} MB; ${megabytes(world.uploadBytes)} MB are taken`, true);
  }
  begin({ first_frame: new Uint8Array(await file.arrayBuffer()) });
});
for (const id of ["strategy", "context", "compare"]) {
  find(id).addEventListener("change", () => {
    send({ type: "settings", strategy: find("strategy").value, max_context: Number(whole("context")),
      compare: find("compare").checked });
  });
}
find("frame").addEventListener("input", redraw);
find("timeline").addEventListener("pointerdown", (event) => {
  find("frame").value = frameAt(find("timeline"), world, event);
  redraw();
});
find("rewind").addEventListener("click", () => send({ type: "rewind", frame: Number(find("frame").value) }));
find("fork").addEventListener("click", () => {
  const name = find("fork-name").value.trim();
  if (!name) return say("give the new branch a name", true);
  send({ type: "fork", frame: Number(find("frame").value), name });
  find("fork-name").value = "";
});
find("switch").addEventListener("click", () => send({ type: "switch", branch: find("branch").value }));
find("shot").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = find("view").toDataURL("image/png");
  link.download = `frame-${world.poses.length - 1}.png`;
  link.click();
});
find("share").addEventListener("click", () => {
  find("link").value = `${location.origin}${location.pathname}?${new URLSearchParams({ watch: world.share })}`;
  find("link").hidden = false;
  navigator.clipboard?.writeText(find("link").value).catch(() => {}); // else it is there to be copied by hand
});

setInterval(() => !query.has("watch") && send({ type: "event", kind: "heartbeat" }), HEARTBEAT_MS);
find("known").checked = query.get("known") !== "0";
format = await chooseFormat();
if (!query.has("watch")) listWorlds(); // also where no new one can be begun
connect();
