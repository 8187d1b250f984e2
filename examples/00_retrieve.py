"""Cameras in, frame numbers out: which old frames help to draw what a camera will see next? No model, no pictures.

python examples/00_retrieve.py
"""

from context_as_memory.camera import look, pinhole
from context_as_memory.formats.actions import cameras_from_actions
from context_as_memory.retrieval import RetrievalConfig, retrieve

WIDTH, HEIGHT = 640, 360


def main() -> None:
    here = look([0.0, 0.0, 1.6], 0.0, pinhole(90, WIDTH, HEIGHT), WIDTH, HEIGHT)
    walked = cameras_from_actions(here, "l-60,w-40,l-30")  # turn right, walk, turn right: 130 frames are behind us
    ahead = cameras_from_actions(walked[-1], "j-4")  # the next four frames turn left again
    for strategy in ("coverage", "recent"):
        rule = RetrievalConfig(strategy=strategy, max_context=6)
        found = retrieve(walked, ahead, rule, recent=len(walked) - 1)
        print(f"{strategy:9} gives the model frames {found.frame_ids.tolist()}")


if __name__ == "__main__":
    main()
