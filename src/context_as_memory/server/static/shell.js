// What stands around the walk: dialogs, the panel that folds, dark and light, help.

const find = (id) => document.getElementById(id);
const keep = (name, value) => { try { localStorage.setItem(name, value); } catch { /* it is not kept then */ } };
const kept = (name) => { try { return localStorage.getItem(name); } catch { return null; } };

export const inDialog = () => document.querySelector("dialog[open]") !== null;

export function furnish(redraw) {
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  find("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
    keep("theme", document.documentElement.dataset.theme);
    redraw();
  });
  dark.addEventListener("change", redraw);
  const fold = (folded) => {
    document.body.toggleAttribute("data-folded", folded);
    find("fold").setAttribute("aria-expanded", String(!folded));
    keep("folded", folded ? "1" : "");
    redraw();
  };
  find("fold").addEventListener("click", () => fold(!document.body.hasAttribute("data-folded")));
  fold(kept("folded") === "1");
  find("asks").addEventListener("click", () => find("help").showModal());
  addEventListener("keydown", (event) => {
    if (event.key !== "?" || inDialog() || event.target.matches("input[type=text]")) return;
    event.preventDefault();
    find("help").showModal();
  });
}

// What is so now, in one word: from messages and the age of the last one, never from what the page hopes.
export function stateOf({ state, open, standing, failed, askedMs, chunkMs, keys }) {
  if (state === "refused") return "error";
  if (state === "closed") return "disconnected";
  if (!standing || !open) return "connecting";
  if (askedMs > 3000) return "no answer";
  if (failed) return "error";
  if (chunkMs < 700 || keys) return "generating";
  return state === "watching" ? "watching" : "ready";
}

// The stored worlds as pictures with a date and a length.
export function showWorlds(worlds, now, token, open) {
  find("stored-none").hidden = worlds.length > 0;
  find("worlds").replaceChildren(...worlds.map((one) => {
    const [item, button, image, words] = ["li", "button", "img", "span"].map((kind) => document.createElement(kind));
    button.dataset.world = one.name;
    image.src = `v1/worlds/${one.name}/picture.jpg?${new URLSearchParams(token)}`;
    image.loading = "lazy";
    image.alt = "";
    const when = one.walked_s ? new Date(1000 * one.walked_s).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "cannot be read";
    const versions = one.branches > 1 ? `, ${one.branches} versions` : "";
    words.textContent = `${when}\n${one.frames} frames${versions}${one.name === now ? "\nyou are here" : ""}`;
    button.append(image, words);
    button.addEventListener("click", () => { find("stored").close(); open(one.name); });
    item.append(button);
    return item;
  }));
}
