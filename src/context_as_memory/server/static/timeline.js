// The walk as a row of pictures: which frames were remembered last, which were painted, where one would go back to.

const TILE = 80;

export function drawTimeline(canvas, world, selected, strip) {
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const frames = world.poses.length;
  if (!frames) return;
  const x = (frame) => (frame / frames) * canvas.width;
  const high = canvas.height - 12;
  let step = 1; // a power of two: as the walk grows, the pictures that are needed are there already
  while (frames / step > canvas.width / TILE) step *= 2;
  for (let frame = 0; frame < frames; frame += step) {
    const width = x(Math.min(frame + step, frames)) - x(frame);
    const picture = strip.get(frame);
    pen.fillStyle = colour("--line");
    pen.fillRect(x(frame), 0, width - 1, high);
    if (picture) {
      const part = Math.min(picture.width, (picture.height * width) / high), tall = (part * high) / width;
      pen.drawImage(picture, (picture.width - part) / 2, (picture.height - tall) / 2, part, tall, x(frame), 0, width - 1, high);
    }
  }
  const mark = (frame, name) => {
    pen.fillStyle = colour(name);
    pen.fillRect(x(frame), high + 2, Math.max(3, x(frame + 1) - x(frame)), 9);
  };
  for (const frame of world.edits) mark(frame, "--painted");
  for (const frame of world.chosen) mark(frame, "--chosen");
  mark(frames - 1, "--now");
  if (selected < frames - 1) {
    pen.strokeStyle = colour("--ink");
    pen.lineWidth = 2;
    pen.strokeRect(x(selected), 1, Math.max(3, x(selected + 1) - x(selected)), canvas.height - 2);
  }
}

// The frame under a pointer.
export function frameAt(canvas, world, event) {
  const box = canvas.getBoundingClientRect();
  const share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 0.9999);
  return Math.floor(share * world.poses.length);
}

// A frame in a small window above its place on the time line; null hides it.
export function peek(box, canvas, world, frame, strip) {
  box.hidden = frame === null || !world.poses.length;
  if (box.hidden) return;
  const picture = strip.get(frame), small = box.querySelector("canvas");
  if (picture) {
    [small.width, small.height] = [picture.width, picture.height];
    small.getContext("2d").drawImage(picture, 0, 0);
  }
  box.querySelector("small").textContent = `frame ${frame} of ${world.poses.length - 1}`;
  const room = canvas.clientWidth - box.offsetWidth;
  box.style.left = `${Math.max(0, Math.min(room, (frame / world.poses.length) * canvas.clientWidth - box.offsetWidth / 2))}px`;
}
