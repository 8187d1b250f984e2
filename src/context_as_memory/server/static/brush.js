// Painting on a remembered frame: brush or rectangle, undo, and the painted picture as a PNG file.

const find = (id) => document.getElementById(id);

export class Brush {
  // send: takes the number of the frame and the painted picture.
  constructor(send) {
    this.canvas = find("paint");
    this.past = []; // the picture before each stroke
    this.frame = 0;
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, () => { this.from = null; });
    find("paint-undo").addEventListener("click", () => {
      if (this.past.length) this.pen.putImageData(this.past.pop(), 0, 0);
    });
    find("paint-apply").addEventListener("click", async () => {
      if (!this.past.length) return this.say("Paint something first.");
      this.say("The view is being changed …");
      const file = await new Promise((resolve) => this.canvas.toBlob(resolve, "image/png"));
      send(this.frame, new Uint8Array(await file.arrayBuffer()));
    });
  }

  get pen() { return this.canvas.getContext("2d", { willReadFrequently: true }); }

  get open() { return find("painting").open; }

  say(text) { find("paint-say").textContent = text; }

  // The frame as the server keeps it, exact; false where it does not come.
  async show(share, frame) {
    const answer = await fetch(`v1/walks/${share}/frames.png?numbers=${frame}`).catch(() => null);
    if (!answer?.ok) return false;
    const picture = await createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
    [this.canvas.width, this.canvas.height] = [picture.width, picture.height];
    this.pen.drawImage(picture, 0, 0);
    this.past = [];
    this.frame = frame;
    this.say("The world then remembers the place as you painted it.");
    find("paint-frame").textContent = frame;
    if (!this.open) find("painting").showModal();
    return true;
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.canvas.width, ((event.clientY - box.top) / box.height) * this.canvas.height];
  }

  begin(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.past.push(this.pen.getImageData(0, 0, this.canvas.width, this.canvas.height));
    this.say("The world then remembers the place as you painted it.");
    this.from = this.at(event);
    this.move(event);
  }

  move(event) {
    if (!this.from) return;
    const to = this.at(event), pen = this.pen;
    pen.fillStyle = pen.strokeStyle = find("paint-colour").value;
    if (find("paint-tool").value === "box") {
      pen.putImageData(this.past.at(-1), 0, 0);
      pen.fillRect(...this.from, to[0] - this.from[0], to[1] - this.from[1]);
      return;
    }
    [pen.lineCap, pen.lineJoin, pen.lineWidth] = ["round", "round", Number(find("paint-size").value) * this.canvas.width / 320];
    pen.beginPath();
    pen.moveTo(...this.from);
    pen.lineTo(...to);
    pen.stroke();
    this.from = to;
  }
}
