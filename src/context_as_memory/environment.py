"""A world as an environment of gymnasium: keys or poses in, frames out.

    import gymnasium
    env = gymnasium.make("context_as_memory.environment:context_as_memory/Walk-v0")
    frames, info = env.reset(seed=0, options={"start": "courtyard"})
    frames, reward, terminated, truncated, info = env.step([1, 0, 0, 0, 0, 0, 0, 0])   # W is held for one chunk

One step is one chunk. A world has no goal: the reward is always 0 and no step ends an episode; wrappers add both, or
`max_steps` ends it. Importing this module registers the environment, as gymnasium expects of its plugins.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces

from context_as_memory.camera import Z_UP, Cameras, cameras_from_actions, look
from context_as_memory.errors import UserError
from context_as_memory.front_door import first_view
from context_as_memory.storage import MAIN, create_world, open_world
from context_as_memory.world import Chunk, World

ID = "context_as_memory/Walk-v0"
KEYS = "wsadjlik"
"""The keys of an action, in the order of its numbers: ahead, back, left, right; turn left, right; look up, down."""
OPTIONS = ("start", "world_file", "branch")
MAX_PLACE_M, MAX_YAW_RAD = 1e6, 1e3  # an action space of gymnasium wants limits
Observation = np.ndarray
Info = dict[str, Any]


class WalkEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """Walk in a generated world.

    observation: the frames of a chunk, uint8 [chunk_frames, H, W, 3], the newest last. After `reset` it is the frame
    that one stands on, repeated.

    action, `action="keys"`: which of `KEYS` are held for a chunk, int8 [8] of 0 and 1. `action="poses"`: where each new
    frame is seen from, float64 [chunk_frames, 5]: x, y, z in metres with z up, the heading counter-clockwise from x and
    the pitch upwards in radians. With both, `chunk_frames` `Cameras` are an action too.

    info: `c2w` of the frames, float64 [chunk_frames, 4, 4], camera to world, OpenCV axes, metres; `frame_ids` of them;
    `context`, the frames that the model was given, by number.

    weights: `default` or a model folder. start: a picture file, a picture uint8 [H, W, 3] or the name of a start place.
    world_file: a folder that keeps the walk; it is made if it is not there, and gone on with if it is. `reset` takes
    `start`, `world_file` and `branch` as options too. Without a seed every episode has the noise of a new one. A world
    file that is gone on with keeps its seed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self,
        weights: str | Path = "default",
        *,
        action: str = "keys",
        start: str | Path | np.ndarray | None = None,
        world_file: str | Path | None = None,
        max_steps: int | None = None,
        render_mode: str | None = None,
        device: str = "auto",
        world: World | None = None,
        **changes: Any,
    ) -> None:
        """max_steps: after so many steps an episode is truncated. world: one whose networks are shared instead of
        loading `weights` again. changes: fields of `WorldConfig`, such as `num_steps=2`."""
        if action not in ("keys", "poses"):
            raise UserError(f"action {action!r} is not one of keys, poses")
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"render mode {render_mode!r} is not made here; give rgb_array or None")
        self._base = world or World.from_pretrained(weights, device=device)
        self.weights, self.start, self.world_file, self.max_steps = weights, start, world_file, max_steps
        self.render_mode, self._changes = render_mode, changes
        self.world: World | None = None
        self._last: Observation | None = None
        self._steps = 0
        width, height, frames = self._base.config.width, self._base.config.height, self._base.chunk_frames
        self.observation_space = spaces.Box(0, 255, (frames, height, width, 3), np.uint8)
        if action == "keys":
            self.action_space = spaces.MultiBinary(len(KEYS))
        else:
            most = np.tile([MAX_PLACE_M] * 3 + [MAX_YAW_RAD, np.pi / 2], (frames, 1))
            self.action_space = spaces.Box(-most, most, dtype=np.float64)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin anew, or where a world file ends. `UserError` for options that are not known or cannot be."""
        super().reset(seed=seed)
        options = dict(options or {})
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise UserError(f"option {unknown[0]!r} is not one of {', '.join(OPTIONS)}")
        chosen = int(self.np_random.integers(2**31)) if seed is None else seed
        start, file = options.get("start", self.start), options.get("world_file", self.world_file)
        world = self._begun(chosen, start, None if file is None else Path(file), options.get("branch"))
        self.close()
        self.world, self._steps = world, 0
        size, last = world.chunk_frames, len(world.bank) - 1
        self._last = np.repeat(world.bank.frames_u8(last), size, axis=0)
        c2w = np.repeat(world.bank.cameras.c2w[[last]], size, axis=0)
        return self._last, {"c2w": c2w, "frame_ids": np.full(size, last), "context": np.empty(0, np.int64)}

    def _begun(self, seed: int, start: Any, file: Path | None, branch: str | None) -> World:
        base = self._base
        if file is not None and file.exists():
            return open_world(file, branch or MAIN, networks=base)
        if branch is not None:
            raise UserError(f"branch {branch!r} of what? Give the world_file that has it")
        # What is wrong with the start shows before a file is made.
        first = first_view(start, base.config.width, base.config.height)
        if file is None:
            world = World(base.model, base.codec, replace(base.config, seed=seed, **self._changes), str(base.device))
        else:
            world = create_world(file, self.weights, networks=base, seed=seed, **self._changes)
        world.reset(*first)
        return world

    def step(self, action: Any) -> tuple[Observation, SupportsFloat, bool, bool, Info]:
        """Walk on by one chunk."""
        world = self._walking()
        chunk = world.step(self.path(action))
        self._steps += 1
        self._last = chunk.frames_u8
        ended = self.max_steps is not None and self._steps >= self.max_steps
        return chunk.frames_u8, 0.0, False, ended, told(world, chunk)

    def _walking(self) -> World:
        if self.world is None:
            raise UserError("the environment is closed or new; call reset first")
        return self.world

    def path(self, action: Any) -> Cameras:
        """The cameras of the next chunk, for an action."""
        bank, size = self._walking().bank, self._walking().chunk_frames
        here = bank.cameras[-1]
        if isinstance(action, Cameras):
            if len(action) != size:
                raise UserError(f"{len(action)} cameras; a step of this world takes {size}")
            return action
        if not self.action_space.contains(action):
            action = np.asarray(action, self.action_space.dtype)
            if not self.action_space.contains(action):
                raise UserError(f"the action is not in {self.action_space}: {str(action)[:80]}")
        if isinstance(self.action_space, spaces.MultiBinary):
            held = "".join(key for key, is_held in zip(KEYS, action, strict=True) if is_held)
            return cameras_from_actions(here, f"{held or 'none'}-{size}", up=Z_UP)
        return look(action[:, :3], action[:, 3], here.K[0], here.width, here.height, pitch_rad=action[:, 4])

    def fork(self) -> "WalkEnv":
        """A second environment that stands where this one does. Both go on as if the other were not."""
        twin = WalkEnv(
            self.weights,
            action="keys" if isinstance(self.action_space, spaces.MultiBinary) else "poses",
            start=self.start,
            max_steps=self.max_steps,
            render_mode=self.render_mode,
            world=self._base,
            **self._changes,
        )
        twin.world, twin._last, twin._steps = self._walking().fork(), self._last, self._steps
        return twin

    def render(self) -> np.ndarray | None:
        """The newest frame, uint8 [H, W, 3]."""
        if self.render_mode is None or self._last is None:
            return None
        return self._last[-1]

    def close(self) -> None:
        """Close the world file, if there is one; closing twice does nothing."""
        world, self.world = self.world, None
        if world is not None:
            world.close()


def told(world: World, chunk: Chunk) -> Info:
    """What is known of a chunk beside its frames."""
    count = len(chunk.frames_u8)
    return {
        "c2w": chunk.cameras.c2w,
        "frame_ids": np.arange(len(world.bank) - count, len(world.bank)),
        "context": chunk.retrieval.indices,
    }


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point="context_as_memory.environment:WalkEnv")
