"""Keep a world in a folder: walk, close it, open it again, try another way from an earlier moment.

python examples/03_world_file.py
"""

import sys
import tempfile
from pathlib import Path

from context_as_memory.storage import create_world, file_of, open_world, verify


def main(weights: str = "default") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "vault"
        world = create_world(folder, weights)
        world.start("vault")
        world.walk("j-8")
        world.close()  # every finished chunk is in the folder already; closing lets others write

        world = open_world(folder)  # goes on with the frames that an uninterrupted walk would have had
        world.walk("l-8")
        file = file_of(world)
        assert file is not None
        fork = file.fork("other", at=1)  # a second future after the first chunk; no frame is copied
        world.close()

        other = open_world(folder, branch="other")
        other.walk("w-8")
        file = file_of(other)
        assert file is not None
        print(f"fork {fork.name!r}: {len(other.bank)} frames; sound: {verify(file).sound}")
        other.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
