"""Walk in a generated world: look left, look back, and save the film. Works on an ordinary CPU, in about a minute.

python examples/01_walk.py                # from a start place that is shipped with the package
python examples/01_walk.py photo.jpg      # from a picture of yours
python examples/01_walk.py photo.jpg "w-20,j-30"
"""

import sys

from context_as_memory import World


def main(
    picture: str | None = None, actions: str = "j-30,l-30", weights: str = "default", film: str = "walk.mp4"
) -> None:
    world = World.from_pretrained(weights)
    world.start(picture)
    walk = world.walk(actions)
    walk.save(film)
    print(f"{len(walk.frames)} frames in {film}; the last one was made from frames {list(walk.contexts[-1])}")


if __name__ == "__main__":
    main(*sys.argv[1:])
