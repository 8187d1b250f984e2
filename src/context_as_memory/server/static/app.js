// The page: what is said to the server, and what is shown of its answers. docs/protocol.md lists the messages.

import { Brush } from "./brush.js";
import { drawMap } from "./map.js";
import { decode, encode } from "./msgpack.js";
import { chooseFormat, Player } from "./player.js";
import { furnish, inDialog, showWorlds, stateOf } from "./shell.js";
import { Strip } from "./strip.js";
import { drawTimeline, frameAt, peek } from "./timeline.js";

const find = (id) => document.getElementById(id);
// Keys by their place on the keyboard, whatever stands on them; by what stands on them where no place is told.
const ARROWS = { ArrowLeft: "j", ArrowRight: "l", ArrowUp: "w", ArrowDown: "s", PageUp: "i", PageDown: "k" };
const PLACES = { KeyW: "w", KeyA: "a", KeyS: "s", KeyD: "d", KeyJ: "j", KeyL: "l", KeyI: "i", KeyK: "k", KeyR: "i", KeyF: "k", ...ARROWS };
const LETTERS = { r: "i", f: "k" };
const LOST = [1006, 1011, 1012, 1013], LONGEST_WAIT_MS = 30_000, DRAG_PX = 14;
const RULES = { coverage: "what they show of the next view (coverage)", visible: "the same, where depth is known (visible)",
  frustum: "the same in space (frustum)", paper: "the paper's rule (paper)", recent: "the newest (recent)", random: "by chance (random)",
  first: "the oldest (first)" };
const TAP_MS = 300; // of a key that was let go of already, and of one that nothing lets go of
const QUIET_MS = 4000, DEAD_MS = 10_000, BEGIN_MS = 60_000; // then the server is asked; then the line is dead
const query = new URLSearchParams(location.search);

const world = { poses: [], chunks: [], chosen: [], edits: [], branches: [], halfWidthTan: 1, uploadBytes: 0, name: null, share: "" };
const players = { with_memory: new Player(find("view")), without_memory: new Player(find("without")) };
const held = new Set(), pressed = new Map(); // keys; when each event was sent
let socket, format, eventId = 0, latencyMs = null;
let retries = 0, retry; // of the connection, and the timer of the next one
let wanted = null; // what was asked for and does not stand yet
let standing = false; // whether this connection has a world
let explained = ""; // why the connection ends, in the server's words
let reached = false; // whether the server has ever answered
let mine = null; // the world that this page walks in: it may be taken back from a dead line
let busy = 0; // how often it was told that somebody walks there
let lastWord = 0, askedAt = 0; // when the server spoke last, and when it was asked whether it is there
let version = null; // of the server
let promptId = null; // of the event that told the prompt, until it is applied
let failed = false; // whether the last word was that something cannot be done
let chunkAt = -Infinity; // when the last chunk came
let wentBack = false; // whether the next scene follows a step back
let besideChunk = -1; // the last chunk that was shown with memory off

// -- connection ------------------------------------------------------------------------------------------------------

const token = query.has("token") ? { token: query.get("token") } : {};
const watches = () => query.has("watch");

// One line at a time: a page with two would be refused its own world.
function connect(what = wanted ?? inAddress()) {
  clearTimeout(retry);
  retry = undefined;
  if (socket) {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }
  standing = false;
  explained = "";
  askedAt = performance.now();
  // Of several servers over the same worlds the one is asked that has this walk open.
  const at = (watches() ? world.share || query.get("watch") : what?.world) ?? "";
  const address = new URL(`v1/realtime_video/generate?${new URLSearchParams(at ? { ...token, walk: at } : token)}`, location.href); // also behind a prefix
  address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  address.hash = "";
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => begin(what);
  socket.onmessage = (packet) => {
    lastWord = performance.now();
    askedAt = 0;
    reached = true;
    receive(decode(packet.data));
  };
  socket.onclose = closed;
}

// The world and the branch that stand in the address.
function inAddress() {
  const [name, branch] = location.hash.slice(1).split("/");
  return name ? { world: name, branch: decodeURIComponent(branch ?? "main") } : {};
}

function closed(event) {
  document.body.dataset.state = "closed";
  standing = false;
  askedAt = 0;
  const left = watches() && world.share && [1001, 1008].includes(event.code); // the visitor may come back
  if (!left && !LOST.includes(event.code)) {
    return say(`${explained || `connection closed (${event.code})`}; hold a key to go on`, true);
  }
  retries += 1; // the server was restarted, or the network failed: the world is stored, go on with it
  const why = left ? "the visitor has left" : explained || (reached ? "connection lost"
    : "the server cannot be reached; a proxy in between must pass WebSockets on");
  say(`${why}; trying again (${retries})`, true);
  retry = setTimeout(connect, Math.min(500 * 2 ** Math.min(retries, 8), LONGEST_WAIT_MS) * (0.8 + 0.4 * Math.random()));
}

// Somebody is there: what waits for a better time is tried now.
function wake() {
  if (!socket || document.body.dataset.state !== "closed" || socket.readyState === WebSocket.CONNECTING) return;
  connect();
}

// A line can be dead without a word: ask, and go on without it if nothing comes back.
function watchLine() {
  showState();
  if (!socket || retry !== undefined || socket.readyState > WebSocket.OPEN) return;
  const now = performance.now();
  if (askedAt && now - askedAt > (standing ? DEAD_MS : BEGIN_MS)) {
    say("the line is dead; connecting again", true);
    retries += 1;
    connect();
  } else if (!askedAt && now - lastWord > QUIET_MS) ask();
}

// One word for what is so now, by messages and their age.
function showState() {
  const now = performance.now();
  const word = stateOf({ state: document.body.dataset.state, open: socket?.readyState === WebSocket.OPEN, standing, failed,
    askedMs: askedAt ? now - askedAt : 0, chunkMs: now - chunkAt, keys: held.size > 0 });
  if (find("state").textContent === word) return;
  find("state").textContent = word;
  document.body.dataset.show = word.replace(" ", "-");
}

function ask() {
  if (socket.readyState !== WebSocket.OPEN) return;
  askedAt ||= performance.now();
  send({ type: "event", kind: "heartbeat" });
}

function send(message) {
  if (!standing && !["init", "event"].includes(message.type)) return say("there is no world yet; wait a moment, or begin one");
  if (socket.readyState === WebSocket.OPEN) socket.send(encode(message));
}

const whole = (id) => {
  const box = find(id), value = Math.round(Number(box.value)) || 0;
  return (box.value = Math.min(Math.max(value, Number(box.min)), Number(box.max)));
};

function begin(what = {}) {
  wanted = what;
  find("choice").hidden = true;
  if (socket.readyState !== WebSocket.OPEN) return connect(what);
  say("beginning");
  send({
    type: "init", realtime_output_format: format, seed: Number(whole("seed")),
    watch: watches() ? world.share || query.get("watch") : null, take: Boolean(what.world) && what.world === mine, start: find("start").value || null, known: find("known").checked, strategy: find("strategy").value || "coverage",
    max_context: world.share ? Number(whole("context")) : null, compare: find("compare").checked,
    prompt: find("tell").hidden ? null : find("prompt").value, ...what,
  });
}

function receive(message) {
  const handlers = { ready, alive: () => {}, frame_batch: frames, context, chunk_stats: stats, edited, error: refused };
  failed = message.type === "error" || (failed && message.type !== "ready" && message.type !== "chunk_stats");
  handlers[message.type]?.(message);
  showState();
}

function refused(message) {
  if (brush.open) brush.say(message.content);
  if (!["refused", "busy"].includes(message.code)) {
    explained = message.content;
    if (message.code === "taken") mine = null;
    return say(message.content, true);
  }
  const asked = standing ? null : wanted?.world;
  if (message.code === "busy" && asked && busy < 3) {
    busy += 1; // the server may not have noticed yet that the line before is dead
    say("the world is still open elsewhere; trying again", true);
    retry = setTimeout(() => { retry = undefined; begin(wanted); }, 250 * 2 ** busy);
  } else if (message.code === "busy" && asked) {
    busy = 0;
    find("choice").hidden = false;
    find("look").hidden = !message.share;
    find("look").dataset.share = message.share ?? "";
    document.body.dataset.state = "refused";
    say(message.content, true);
  } else if (asked) { // another world would take its place in the address: that is for the visitor to say
    document.body.dataset.state = "refused";
    say(`${message.content}. The address keeps it: load the page again when it is back, or begin a New world`, true);
  } else {
    if (!standing) document.body.dataset.state = "refused";
    say(message.content, true);
  }
}

function say(text, bad = false) {
  if (find("status").textContent === text) return;
  find("status").textContent = text;
  find("status").classList.toggle("bad", bad);
}

// -- what the server says --------------------------------------------------------------------------------------------

function ready(message) {
  if (version !== null && version !== message.version) return location.reload(); // another server, with a page of its own
  version = message.version;
  const kept = message.branches.find((name) => !world.branches.includes(name));
  Object.assign(world, { poses: message.poses, chunks: message.chunks, chosen: [], edits: message.edits, branches: message.branches,
    halfWidthTan: message.half_width_tan, uploadBytes: message.upload_bytes, name: message.world, share: message.share });
  strip.clear(message.share);
  offer(wentBack && kept ? `You went back. What came after is kept as the version “${kept}”.` : "", "Undo",
    () => send({ type: "switch", branch: kept }));
  wentBack = false;
  retries = 0;
  standing = true;
  wanted = null;
  busy = 0;
  find("choice").hidden = true;
  besideChunk = -1;
  find("frame").max = world.poses.length; // the last pose comes with the picture
  find("frame").value = find("frame").max; // no larger value is taken before the limit is
  if (message.driver) {
    mine = message.world;
    place = `#${message.world}/${encodeURIComponent(message.branch)}`;
    // A world that nobody walked in is not stored: only from the first step on it has an address.
    keepPlace(message.chunks.length > 1 ? place : "");
    const at = (what) => `v1/worlds/${message.world}/${what}?${new URLSearchParams({ branch: message.branch, ...token })}`;
    find("film").href = at("walk.mp4");
    find("archive").href = at("world.tar");
  }
  if (message.driver) listWorlds();
  if (message.driver) stepWith(early); // also what is held: the server forgot it when it stood the world up
  early.clear();
  for (const control of [find("controls"), find("new"), find("begin")]) control.disabled = !message.driver;
  document.body.toggleAttribute("data-watching", !message.driver);
  find("pad").hidden = !message.driver;
  const truth = message.truth;
  find("truth").hidden = !truth;
  find("truth-name").textContent = truth ?? "";
  document.body.toggleAttribute("data-truth", Boolean(truth));
  if (truth) document.title = `True world ${truth}`;
  fill(find("start"), message.starts);
  fill(find("strategy"), message.strategies, message.strategy);
  for (const option of find("strategy").options) option.text = RULES[option.value] ?? option.value;
  fill(find("branch"), message.branches, message.branch);
  find("context").value = message.max_context;
  find("compare").checked = message.compare;
  find("tell").hidden = message.prompt === null || message.prompt === undefined;
  if (document.activeElement !== find("prompt") && promptId === null) find("prompt").value = message.prompt ?? "";
  find("beside").hidden = !message.compare;
  find("memories").replaceChildren();
  if (document.activeElement === document.body) find("view").focus();
  document.body.dataset.state = message.driver ? "ready" : "watching";
  say(message.driver ? "ready: hold a key" : "watching; only the visitor can walk");
}

// The name of the world and its branch stand in the address: loading the page again goes on with them.
let place = "";
function keepPlace(hash) {
  if (location.hash !== hash) history.replaceState(null, "", location.pathname + location.search + hash);
}

// The worlds that are stored here, the last one walked in first.
async function listWorlds() {
  const answer = await fetch(`v1/worlds?${new URLSearchParams(token)}`).catch(() => null);
  if (!answer?.ok) return; // the list is a help, the walk does not need it
  const names = await answer.json();
  showWorlds(names, world.name, token, (name) => begin({ world: name }));
  const gone = await (await fetch(`v1/removed?${new URLSearchParams(token)}`)).json().catch(() => []);
  const when = gone.length && new Date(1000 * gone[0].removed_s).toLocaleDateString();
  find("stored-gone").textContent = gone.length ? `Removed to make room, least recently walked first: ${gone.length}, the last on ${when}.` : "";
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
    chunkAt = performance.now();
  }
  find("frame").max = world.poses.length - 1;
  if (wasAtEnd) find("frame").value = world.poses.length - 1;
  redraw();
}

// Tell the server when a chunk is on the screen: it stays only a few chunks ahead.
function shown(chunk) {
  if (watches()) return;
  const origin = socket; // answers go where the chunk came from
  players.with_memory.drawn.then(() => origin === socket && send({ type: "event", kind: "shown", payload: chunk }));
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
    "last step": Object.entries(message.seconds).map(([name, s]) => `${name} ${(1000 * s).toFixed(0)} ms`).join(", "),
    "keys received / applied": `${message.received_event_id ?? "-"} / ${message.event_id ?? "-"}`,
    "server's memory": message.resident_mb === null ? "-" : `${message.resident_mb} MB`,
    "pictures": players.with_memory.contentType,
  };
  find("beside").hidden = besideChunk !== message.chunk_index;
  if (promptId !== null && message.event_id >= promptId) {
    promptId = null;
    find("prompt").dataset.state = "applied";
  }
  find("stats").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    return [term, text];
  }));
  document.body.dataset.chunks = Number(document.body.dataset.chunks) + 1;
  if (document.body.dataset.state === "watching") return;
  keepPlace(place);
  say(held.size ? "walking" : "standing: hold a key");
}

// Once for all that changes before the next picture.
let drawing = false;
let pointed = null; // the frame that is shown above the time line
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
  drawTimeline(find("timeline"), world, selected, strip);
  if (pointed !== null) peek(find("peek"), find("timeline"), world, pointed, strip);
}

// -- keys, mouse and touch -------------------------------------------------------------------------------------------

function press(key, down) {
  if (down === held.has(key)) return;
  down ? held.add(key) : held.delete(key);
  if (down && !standing) early.add(key);
  tellKeys();
}

// Keys that were pressed before a world stood, some let go again by now: a short step when it stands.
const early = new Set();
function stepWith(keys) {
  const tapped = [...keys].filter((key) => !held.has(key));
  tapped.forEach((key) => held.add(key));
  if (held.size) tellKeys();
  if (tapped.length) setTimeout(() => tapped.forEach((key) => press(key, false)), TAP_MS);
}

function tellKeys() {
  if (!standing) {
    if (document.body.dataset.state === "connecting" && held.size) say("the world is being made ready; then you walk");
    return wake();
  } // the keys that are held then are told when the world stands
  if (performance.now() - lastWord > QUIET_MS) ask();
  eventId += 1;
  pressed.set(eventId, performance.now());
  if (pressed.size > 32) pressed.delete(pressed.keys().next().value);
  const transitions = [{ actions: [...held], client_ts_ms: Math.round(performance.now()) }];
  send({ type: "event", kind: "camera_actions", event_id: eventId, payload: { mode: "state", transitions } });
}

const releaseAll = () => {
  down.clear();
  dragged.clear();
  early.clear();
  [...held].forEach((key) => press(key, false));
};

const keyOf = (event) => PLACES[event.code] ?? ARROWS[event.key] ?? LETTERS[event.key.toLowerCase()] ?? event.key.toLowerCase();
const isKey = (key) => key.length === 1 && "wasdijkl".includes(key);
const down = new Map(); // what each key was when it went down: it goes up as the same, whatever is held beside it by then
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !isKey(keyOf(event)) || inDialog() || watches()) return;
  if (event.target.matches("input[type=text], input[readonly]")) return; // one writes
  if (event.target.matches("select, input[type=number], input[type=range]") && event.code in ARROWS) return; // one chooses
  event.preventDefault();
  down.set(event.code || event.key, keyOf(event));
  press(keyOf(event), true);
});
addEventListener("keyup", (event) => { // wherever the focus is by now
  const key = down.get(event.code || event.key) ?? keyOf(event);
  down.delete(event.code || event.key);
  if (isKey(key) && ![...down.values()].includes(key)) press(key, false);
});
addEventListener("blur", releaseAll);
addEventListener("pagehide", releaseAll);

for (const button of find("pad").children) {
  button.addEventListener("pointerdown", () => press(button.dataset.key, true));
  button.addEventListener("click", (event) => {
    if (event.detail !== 0) return; // a pointer has come already
    stepWith([button.dataset.key]); // from a keyboard or a switch
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

const strip = new Strip(redraw);
const brush = new Brush((frame, picture) => send({ type: "edit", frame, picture }));

// A sentence with a button that takes it back; none: nothing is offered.
function offer(text, label, act) {
  find("notice").hidden = !text;
  find("notice-text").textContent = text;
  find("undo").textContent = label;
  find("undo").onclick = () => { find("notice").hidden = true; act(); };
}

function edited(message) {
  find("painting").close();
  const looks = message.still_seen ? " You still look at it as it was: turn away and come back." : "";
  const also = message.carried ? `${message.carried} of them are changed too, the others` : "they";
  offer(`The view is changed. ${message.withdrawn} of ${message.of} frames showed it as it was: ${also} are not remembered any more.${looks}`,
    "Undo", () => send({ type: "rewind", frame: message.before }));
}

find("brush").addEventListener("click", async () => {
  releaseAll();
  if (!standing || !(await brush.show(world.share, Number(find("frame").value)))) say("the frame cannot be fetched now; try again", true);
});
find("new").addEventListener("click", () => { showStart(); find("beginning").showModal(); });
find("mine").addEventListener("click", async () => { await listWorlds(); find("stored").showModal(); });
const showStart = () => { find("start-picture").src = find("start").value ? `v1/starts/${find("start").value}.png` : "data:,"; };
find("start").addEventListener("change", showStart);
find("begin").addEventListener("click", () => { find("beginning").close(); begin(); });
find("photo").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  find("beginning").close();
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
find("prompt").addEventListener("change", () => {
  promptId = eventId += 1;
  find("prompt").dataset.state = "sent";
  send({ type: "event", kind: "prompt", event_id: eventId, payload: find("prompt").value });
});
const point = (frame) => { pointed = frame; peek(find("peek"), find("timeline"), world, frame, strip); };
find("frame").addEventListener("input", () => { point(Number(find("frame").value)); redraw(); });
find("frame").addEventListener("blur", () => point(null));
find("timeline").addEventListener("pointermove", (event) => point(frameAt(find("timeline"), world, event)));
find("timeline").addEventListener("pointerleave", () => point(null));
find("timeline").addEventListener("pointerdown", (event) => {
  find("frame").value = frameAt(find("timeline"), world, event);
  redraw();
});
find("rewind").addEventListener("click", () => {
  const frame = Number(find("frame").value), after = world.poses.length - 1 - frame;
  if (!after) return say("you stand on this frame; choose an earlier one on the time line");
  find("sure-text").textContent = `You will stand where you saw frame ${frame}. The ${after} frames after it are kept as another version of this world; you can return to it.`;
  find("sure").showModal();
});
find("sure-yes").addEventListener("click", () => {
  find("sure").close();
  wentBack = true;
  send({ type: "rewind", frame: Number(find("frame").value) });
});
find("fork").addEventListener("click", () => {
  const name = find("fork-name").value.trim();
  if (!name) return say("give the new version a name", true);
  send({ type: "fork", frame: Number(find("frame").value), name });
  find("fork-name").value = "";
});
find("switch").addEventListener("click", () => send({ type: "switch", branch: find("branch").value }));
find("take").addEventListener("click", () => {
  mine = wanted?.world ?? null;
  begin(wanted ?? {});
});
find("look").addEventListener("click", () => {
  location.href = `${location.pathname}?${new URLSearchParams({ watch: find("look").dataset.share })}`;
});
find("shot").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = find("view").toDataURL("image/png");
  link.download = `frame-${world.poses.length - 1}.png`;
  link.click();
});
find("share").addEventListener("click", () => {
  find("link").value = `${location.origin}${location.pathname}?${new URLSearchParams({ watch: world.share })}`;
  const here = location.hostname === "localhost" || location.hostname === "[::1]" || location.hostname.startsWith("127.");
  find("link-note").textContent = here ? "This link works on this computer only. Others need the address under which they reach this server."
    : "Whoever has it sees what you see, and can change nothing.";
  navigator.clipboard?.writeText(find("link").value).catch(() => {}); // else it is there to be copied by hand
});

furnish(redraw);
setInterval(watchLine, 2000);
setInterval(showState, 250);
for (const [target, name] of [[window, "online"], [window, "focus"], [document, "visibilitychange"]]) {
  target.addEventListener(name, () => document.visibilityState === "visible" && retry !== undefined && wake());
}
find("known").checked = query.get("known") !== "0";
format = await chooseFormat();
for (const player of Object.values(players)) {
  player.onBroken = () => { // this browser cannot decode what it said it could
    if (format === "jpeg") return;
    format = "jpeg";
    connect(standing && mine && location.hash ? inAddress() : wanted ?? inAddress());
  };
}
if (!watches()) listWorlds(); // also where no new one can be begun
connect();
