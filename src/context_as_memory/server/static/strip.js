// Pictures of any frame of the walk, asked from the server when they are needed: also after a reload, and for watchers.

const MOST = 32, HELD = 800, WAIT_MS = 120, DEAD_MS = 10_000;

export class Strip {
  constructor(onNew) {
    this.onNew = onNew;
    this.clear("");
  }

  // Another walk, or another version of it.
  clear(share) {
    this.share = share;
    this.pictures = new Map();
    this.asked = new Set();
    this.waiting = [];
    this.round = (this.round ?? 0) + 1;
  }

  // The picture of a frame; undefined until it has come.
  get(frame) {
    const found = this.pictures.get(frame);
    if (!found && this.share && !this.asked.has(frame)) {
      this.asked.add(frame);
      this.waiting.push(frame);
      this.timer ??= setTimeout(() => this.fetch(), WAIT_MS);
    }
    return found;
  }

  async fetch() {
    this.timer = undefined;
    const frames = this.waiting.splice(0, MOST), round = this.round;
    if (!frames.length) return;
    const answer = await fetch(`v1/walks/${this.share}/frames.jpeg?numbers=${frames.join(",")}`, { signal: AbortSignal.timeout(DEAD_MS) }).catch(() => null);
    if (this.round !== round) return;
    if (answer?.status !== 200) return void setTimeout(() => { for (const frame of frames) this.asked.delete(frame); }, 3000);
    const all = await createImageBitmap(await answer.blob());
    const high = all.height / frames.length;
    for (const [row, frame] of frames.entries()) {
      const picture = await createImageBitmap(all, 0, row * high, all.width, high);
      if (this.round !== round) return;
      this.pictures.set(frame, picture);
    }
    for (const frame of this.pictures.keys()) {
      if (this.pictures.size <= HELD) break;
      this.pictures.delete(frame);
      this.asked.delete(frame);
    }
    if (this.waiting.length) this.timer ??= setTimeout(() => this.fetch(), WAIT_MS);
    this.onNew();
  }
}
