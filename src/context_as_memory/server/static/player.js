// Pictures of frame batches onto a canvas: H.264 through WebCodecs where the browser can, JPEG else.

const FRAME_MS = 1000 / 30, DECODE_MS = 2000, BACKLOG = 8, MOST_BROKEN = 3; // with more frames than this waiting, they are shown without a pause
const H264 = { codec: "avc1.42E01E", optimizeForLatency: true };

// The format to ask for. WebCodecs needs a secure context: this machine or https. `?video=jpeg` asks for JPEG.
export async function chooseFormat() {
  if (new URLSearchParams(location.search).get("video") === "jpeg" || !("VideoDecoder" in window)) return "jpeg";
  try {
    return (await VideoDecoder.isConfigSupported(H264)).supported ? "h264" : "jpeg";
  } catch {
    return "jpeg";
  }
}

export class Player {
  constructor(canvas) {
    this.canvas = canvas;
    this.drawn = Promise.resolve();
    this.waiting = 0;
    this.contentType = "-";
    this.broken = 0; // batches in a row that lacked pictures
    this.onBroken = () => {};
  }

  // Queue the pictures of a batch; `onFirst` is called when the first of them is seen.
  show(batch, onFirst = () => {}) {
    Object.assign(this.canvas, sized(this.canvas, batch));
    const pictures = [];
    let at = 0;
    for (const length of batch.payload_lengths) pictures.push(batch.payload.slice(at, (at += length)));
    this.waiting += pictures.length;
    this.contentType = batch.content_type;
    let left = pictures.length;
    this.drawn = this.drawn.then(async () => {
      const images = await (batch.format === "h264" ? this.decodeVideo(pictures) : Promise.all(pictures.map(decodeJpeg)));
      for (const [row, image] of images.entries()) {
        this.canvas.getContext("2d").drawImage(image, 0, 0);
        image.close();
        if (row === 0) onFirst();
        this.waiting -= 1;
        left -= 1;
        if (this.waiting < BACKLOG) await new Promise((resolve) => setTimeout(resolve, FRAME_MS));
      }
    }).catch((error) => console.error("a batch could not be shown:", error)).finally(() => { this.waiting -= left; });
  }

  // Every batch begins with a key picture, so a decoder that failed is simply made anew.
  async decodeVideo(pictures) {
    const images = [];
    if (!this.decoder || this.decoder.state !== "configured") {
      this.decoder = new VideoDecoder({ output: (image) => this.images.push(image), error: (error) => console.error(error) });
      this.decoder.configure(H264);
    }
    this.images = images;
    for (const [row, data] of pictures.entries()) {
      this.decoder.decode(new EncodedVideoChunk({ type: row ? "delta" : "key", timestamp: row * 33_333, data }));
    }
    const late = new Promise((resolve) => setTimeout(resolve, DECODE_MS, "late"));
    if ((await Promise.race([this.decoder.flush(), late])) === "late") {
      this.decoder.close(); // it hangs: the next batch gets a new one
    }
    this.broken = images.length === pictures.length ? 0 : this.broken + 1;
    if (this.broken === MOST_BROKEN) this.onBroken();
    return images;
  }
}

const decodeJpeg = (data) => createImageBitmap(new Blob([data], { type: "image/jpeg" }));

// Setting a canvas's size clears it: only when it changes.
function sized(canvas, { width, height }) {
  return canvas.width === width && canvas.height === height ? {} : { width, height };
}
