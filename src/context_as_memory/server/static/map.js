// The walk from above: every frame a dot, the frames that were given to the model as wedges, the camera as a wedge.

const REACH_M = 6; // length of a drawn wedge

export function drawMap(canvas, world) {
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!world.poses.length) return;
  const box = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [x, y] of world.poses) {
    [box[0], box[1], box[2], box[3]] = [Math.min(box[0], x), Math.max(box[1], x), Math.min(box[2], y), Math.max(box[3], y)];
  }
  const half = Math.atan(world.halfWidthTan);
  const reach = REACH_M / Math.cos(half);
  const [left, right, low, high] = [box[0] - reach, box[1] + reach, box[2] - reach, box[3] + reach];
  const scale = Math.min(canvas.width / (right - left), canvas.height / (high - low));
  const place = (x, y) => [
    canvas.width / 2 + (x - (left + right) / 2) * scale,
    canvas.height / 2 - (y - (low + high) / 2) * scale,
  ];
  const wedge = (pose, fill, alpha) => {
    pen.beginPath();
    pen.moveTo(...place(pose[0], pose[1]));
    for (const side of [-half, half]) {
      pen.lineTo(...place(pose[0] + reach * Math.cos(pose[2] + side), pose[1] + reach * Math.sin(pose[2] + side)));
    }
    pen.closePath();
    pen.globalAlpha = alpha;
    pen.fillStyle = fill;
    pen.fill();
    pen.globalAlpha = 1;
  };
  const dot = (pose, fill, size) => {
    pen.beginPath();
    pen.arc(...place(pose[0], pose[1]), size, 0, 2 * Math.PI);
    pen.fillStyle = fill;
    pen.fill();
  };
  pen.fillStyle = colour("--path");
  for (const pose of world.poses) pen.fillRect(...place(pose[0], pose[1]).map((at) => at - 1), 2.5, 2.5);
  const chosen = world.chosen.filter((frame) => frame < world.poses.length);
  for (const frame of chosen) wedge(world.poses[frame], colour("--chosen"), 0.16);
  for (const frame of chosen) dot(world.poses[frame], colour("--chosen"), 4);
  const now = world.poses[world.poses.length - 1];
  wedge(now, colour("--now"), 0.25);
  dot(now, colour("--now"), 5);
  const metres = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].findLast((long) => long * scale < canvas.width / 3) ?? 0.5;
  pen.fillStyle = colour("--ink");
  pen.fillRect(12, canvas.height - 14, metres * scale, 3);
  pen.font = "13px system-ui, sans-serif";
  pen.fillText(`${metres} m`, 12, canvas.height - 20);
}
