// The walk as a row of chunks: what was seen in each, which were remembered last, and where one would go back to.

export function drawTimeline(canvas, world, selected) {
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const frames = world.poses.length;
  const x = (frame) => (frame / Math.max(1, frames)) * canvas.width;
  const high = canvas.height - 12;
  for (const [row, first] of world.chunks.entries()) {
    const width = x(world.chunks[row + 1] ?? frames) - x(first);
    const picture = world.pictures.get(first);
    pen.fillStyle = colour("--line");
    pen.fillRect(x(first), 0, Math.max(1, width - 1), high);
    if (picture && width > 6) {
      const part = Math.min(picture.width, (picture.height * width) / high); // the middle of the picture, undistorted
      pen.drawImage(picture, (picture.width - part) / 2, 0, part, picture.height, x(first), 0, width - 1, high);
    }
  }
  const mark = (frame, name) => {
    pen.fillStyle = colour(name);
    pen.fillRect(x(frame), high + 2, Math.max(3, x(frame + 1) - x(frame)), 9);
  };
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
