"""A world as an environment of gymnasium: keys or poses in, frames out.

    import gymnasium
    env = gymnasium.make("context_as_memory.environment:context_as_memory/Walk-v0")
    frames, info = env.reset(seed=0, options={"start": "courtyard"})
    frames, reward, terminated, truncated, info = env.step([1, 0, 0, 0, 0, 0, 0, 0])   # W is held for one chunk

One step is one chunk. A world has no goal: the reward is always 0 and no step ends an episode; wrappers add both, or
`max_steps` ends it. Importing this module registers the environment, as gymnasium expects of its plugins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from context_as_memory.camera import Z_UP, Cameras, cameras_from_keys, look
from context_as_memory.errors import UserError
from context_as_memory.front_door import first_view
from context_as_memory.storage import MAIN, create_world, open_world
from context_as_memory.together import step_together
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
        path = self.path(action)
        return self.note(self.walking.step(path))

    def note(self, chunk: Chunk) -> tuple[Observation, SupportsFloat, bool, bool, Info]:
        """Take in the chunk that the world has made; what `step` returns."""
        self._steps += 1
        self._last = chunk.frames_u8
        ended = self.max_steps is not None and self._steps >= self.max_steps
        count, known = len(chunk.frames_u8), len(self.walking.bank)
        info = {
            "c2w": chunk.cameras.c2w,
            "frame_ids": np.arange(known - count, known),
            "context": chunk.retrieval.frame_ids,
        }
        return chunk.frames_u8, 0.0, False, ended, info

    @property
    def walking(self) -> World:
        """The world that is walked in; `UserError` before `reset` and after `close`."""
        if self.world is None:
            raise UserError("the environment is closed or new; call reset first")
        return self.world

    def path(self, action: Any) -> Cameras:
        """The cameras of the next chunk, for an action."""
        bank, size = self.walking.bank, self.walking.chunk_frames
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
            held = {key for key, is_held in zip(KEYS, action, strict=True) if is_held}
            return cameras_from_keys(here, [held] * size, up=Z_UP)
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
        twin.world, twin._last, twin._steps = self.walking.fork(), self._last, self._steps
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


class WalkVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Several `WalkEnv` that step in one batch, sharing their networks; arguments as for one.

    Observations are uint8 [num_envs, chunk_frames, H, W, 3]. An environment that `max_steps` ended begins anew at its
    next step, whatever its action (gymnasium's mode `NEXT_STEP`). A world file is for one walk: `WalkEnv` has it.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs: int = 1, weights: str | Path = "default", **more: Any) -> None:
        if num_envs < 1:
            raise UserError(f"num_envs is {num_envs}; give 1 or more")
        if "world_file" in more:
            raise UserError("a world file keeps one walk; give it to a WalkEnv, not to a vector of them")
        base = more.pop("world", None) or World.from_pretrained(weights, device=more.pop("device", "auto"))
        self.envs = [WalkEnv(weights, world=base, **more) for _ in range(num_envs)]
        self.num_envs, self.render_mode, one = num_envs, self.envs[0].render_mode, self.envs[0]
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._ended = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Info]:
        """Begin all anew: frames uint8 [E, ...] of E environments; a single seed counts up from one to the next."""
        if isinstance(seed, int):
            seed = range(seed, seed + self.num_envs)
        seeds = [None] * self.num_envs if seed is None else seed
        found = [env.reset(seed=one, options=options) for env, one in zip(self.envs, seeds, strict=True)]
        self._ended = np.zeros(self.num_envs, bool)
        return np.stack([frames for frames, _ in found]), self._joined([info for _, info in found])

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Walk on by one chunk each, in one batch. actions: [E, ...]; frames uint8 [E, ...], then rewards,
        ends and cuts [E]."""
        going = np.flatnonzero(~self._ended).tolist()
        paths = [self.envs[number].path(actions[number]) for number in going]
        chunks = step_together([self.envs[number].walking for number in going], paths)
        found: dict[int, tuple[np.ndarray, bool, Info]] = {}
        for number, chunk in zip(going, chunks, strict=True):
            frames, _, _, ended, info = self.envs[number].note(chunk)
            found[number] = frames, ended, info
        for number in np.flatnonzero(self._ended).tolist():
            frames, info = self.envs[number].reset()
            found[number] = frames, False, info
        each = [found[number] for number in range(self.num_envs)]
        self._ended = np.array([ended for _, ended, _ in each])
        nothing = np.zeros(self.num_envs)
        infos = self._joined([info for *_, info in each])
        return np.stack([frames for frames, *_ in each]), nothing, nothing.astype(bool), self._ended.copy(), infos

    def _joined(self, infos: list[Info]) -> Info:
        joined: Info = {}
        for number, info in enumerate(infos):
            joined = self._add_info(joined, info, number)
        return joined

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The newest frame of each, uint8 [H, W, 3]."""
        frames = [env.render() for env in self.envs]
        return None if self.render_mode is None else tuple(frame for frame in frames if frame is not None)

    def close_extras(self, **_: Any) -> None:
        for env in self.envs:
            env.close()


if ID not in gymnasium.registry:
    here = "context_as_memory.environment"
    gymnasium.register(ID, entry_point=f"{here}:WalkEnv", vector_entry_point=f"{here}:WalkVectorEnv")
