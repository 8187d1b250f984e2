"""Where to draw the line between pictures like those of training and others (`walk/look.py`, `FAR_LOOK`).

    python benchmarks/look.py --data episodes [--split val] [--weights WORLD] [--json FILE]

Prints the look distance of recorded frames of worlds that were not trained on, and of every picture that scikit-image
ships. The threshold belongs between the largest of the first and the smallest of the second.
"""

import argparse
from pathlib import Path

import numpy as np
import skimage.data

from context_as_memory.data.episode import list_episodes
from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.formats.pictures import fit_frame
from context_as_memory.walk.look import look_distance, training_look
from context_as_memory.world import World

PICTURES = (
    *("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "hubble_deep_field", "moon"),
    *("immunohistochemistry", "page", "retina", "rocket", "text"),
)


def photograph(name: str, width: int, height: int) -> np.ndarray:
    """A picture that scikit-image ships, uint8 [height, width, 3]."""
    picture = np.asarray(getattr(skimage.data, name)())
    picture = np.repeat(picture[..., None], 3, axis=2) if picture.ndim == 2 else picture[..., :3]
    return fit_frame(np.ascontiguousarray(picture), width, height)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--frames", type=int, default=8, help="of every episode")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world = World.from_pretrained(options.weights, device="cpu")
    size = world.config.width, world.config.height
    training, found = training_look(world), {}
    for episode in list_episodes(options.data, options.split):
        frames = episode.frames()
        for row in np.linspace(0, len(frames) - 1, options.frames).round().astype(int):
            frame = fit_frame(frames[row], *size)[0]
            found[f"recorded/{episode.name}/{row}"] = look_distance(world, frame, training)
    for name in PICTURES:
        found[f"picture/{name}"] = look_distance(world, photograph(name, *size), training)
    for name, distance in found.items():
        print(f"{name:40s} {distance:.3f}")
    ends = {
        "largest_recorded": max(value for name, value in found.items() if name.startswith("recorded")),
        "smallest_picture": min(value for name, value in found.items() if name.startswith("picture")),
    }
    print(ends)
    if options.json:
        write_json(options.json, found | ends | environment())


if __name__ == "__main__":
    main()
