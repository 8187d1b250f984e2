"""One visitor's world as a state machine. Knows nothing of sockets.

    new -> standing <-> walking        standing, walking -> closed        new -> closed

A session is new until `init`; it stands while no key is held and walks while one is. `receive` takes in what the
visitor says, `step` makes the next chunk; both return messages, and pictures that are in no format yet.
"""

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum

import numpy as np

from context_as_memory import __version__
from context_as_memory.adapters.text import Words
from context_as_memory.camera import Cameras, cameras_from_keys
from context_as_memory.edits import MOST_CARRIED, edit
from context_as_memory.engine.wanted import GivenUp, wanted_while
from context_as_memory.errors import UserError
from context_as_memory.formats.pictures import fit_frame
from context_as_memory.formats.places import known_place, start_frame, start_names
from context_as_memory.formats.vertical import measured_up
from context_as_memory.retrieval import STRATEGIES, RetrievalConfig
from context_as_memory.server.forgetful import forgetful
from context_as_memory.server.limits import Limits, resident_mb
from context_as_memory.server.outbox import NewFrames, Output, seen_from_above
from context_as_memory.server.pictures import CONTENT_TYPES, jpeg
from context_as_memory.server.protocol import (
    FORMATS,
    VIEWS,
    ChunkStats,
    ContextFrames,
    Edit,
    Edited,
    Event,
    Fork,
    Init,
    Message,
    Ready,
    Rewind,
    Settings,
    Switch,
    held_keys,
    poses_of,
    told_prompt,
)
from context_as_memory.server.store import WorldStore, check_branches, chunk_of, rewind
from context_as_memory.storage import MAIN, file_of
from context_as_memory.world import Chunk, World


class State(Enum):
    """Where a session stands."""

    NEW = "new"
    STANDING = "standing"
    WALKING = "walking"
    CLOSED = "closed"


LEGAL = {
    State.NEW: {State.STANDING, State.CLOSED},
    State.STANDING: {State.STANDING, State.WALKING, State.CLOSED},
    State.WALKING: {State.STANDING, State.WALKING, State.CLOSED},
    State.CLOSED: {State.CLOSED},
}


FRAME_S = 1 / 30  # for so long the page shows a frame
MARGIN_S = 0.05  # the next chunk is begun so much earlier than it must be
FORGOTTEN_AFTER = 512  # frames of the walk with memory off that are held in working memory


class Session:
    """`receive` what the visitor says, `step` to make the next chunk if keys are held."""

    def __init__(self, store: WorldStore, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.state = State.NEW
        self.format = FORMATS[0]  # of the visitor's frame batches
        # A world is used by one thread at a time; above all it is not closed while another one makes a chunk.
        self._alone = threading.RLock()
        self._holding = threading.Lock()  # events are received in another thread than chunks are made in
        self._store = store
        self._name, self._branch = "", MAIN
        self._world: World | None = None
        self._forgetful: World | None = None  # walks beside it with memory off
        self._rule = RetrievalConfig()
        self._says_what_is_shown = False
        self.last_chunk_s = 0.0  # from asking for the last chunk until it was sent
        self._rest()

    @property
    def share(self) -> str:
        """The word with which others may watch: the same when the visitor comes back, and not the world's name."""
        return hashlib.sha256(f"watch {self._name}".encode()).hexdigest()[:24]

    @property
    def holds_keys(self) -> bool:
        """Whether it walks along held keys, not along a script."""
        return bool(self._keys)

    def _rest(self) -> None:
        """No key is held and no event was received."""
        self._keys: frozenset[str] = frozenset()
        self._script: deque[frozenset[str] | np.ndarray] = deque()  # keys or poses of the coming frames
        self._event: int | None = None  # the newest event
        self._newest: dict[str, int] = {}  # of each kind
        self._prompt: str | None = None  # to be told with the next chunk
        self._chunks, self._chunks_left = 0, -1  # made since the world stands, and left to make (-1: no end)
        self._shown = -1  # the last of them that the visitor says to have shown
        self._all_shown_at = 0.0  # when all that was made will have been seen, by this machine's clock

    def _move(self, state: State) -> None:
        if state not in LEGAL[self.state]:
            raise UserError(f"a session that is {self.state.value} cannot become {state.value}")
        self.state = state

    # -- what the visitor says --------------------------------------------------------------------------------------

    @property
    def world_name(self) -> str | None:
        """The name of the world that is open; None where there is none."""
        return self._name if self._world is not None else None

    @property
    def branch(self) -> str:
        """The branch that one walks in."""
        return self._branch

    def receive(self, message: Message, picture: np.ndarray | None = None) -> list[Output]:
        """Take in a message of the visitor; returns the answers. `UserError` when it is not allowed in this state.

        picture: the one that came with the message, unpacked: uint8 [H, W, 3] of the size of the store's worlds. Files
        in messages are not read here (`Hub.receive` has them unpacked).

        Events are taken in at once, also while a chunk is being made in another thread; everything else waits for it.
        """
        if isinstance(message, Event):
            return self._receive(message, None)
        with self._alone:
            return self._receive(message, picture)

    def _receive(self, message: Message, picture: np.ndarray | None) -> list[Output]:
        if self.state is State.CLOSED:
            raise UserError("this session is closed; connect again")
        if isinstance(message, Init):
            return self._begin(message, picture)
        world = self._world
        if world is None:
            raise UserError("there is no world yet; begin one first")
        if isinstance(message, Event):
            self._take(message)
            return []
        if isinstance(message, Settings):
            self._rule = self._checked(self._rule, message.strategy, message.max_context)
            self._compare(message.compare)
            return []
        file = file_of(world)
        assert file is not None, "a store keeps its worlds in files"
        if isinstance(message, Rewind):
            rewind(file, self._branch, message.frame, self.limits.branches)
            return self._go_on(self._branch)
        if isinstance(message, Fork):
            check_branches(file, self.limits.branches)
            file.fork(message.name, self._branch, chunk_of(file, self._branch, message.frame))
            return self._go_on(message.name)
        if isinstance(message, Switch):
            file.branch(message.branch)  # says which there are
            return self._go_on(message.branch)
        if isinstance(message, Edit):
            return self._edit(world, message, picture)
        raise UserError(f"{message.type} is a message of the server")

    def _edit(self, world: World, message: Edit, picture: np.ndarray | None) -> list[Output]:
        """Replace a remembered view by an edited one, and stand where one stood."""
        if self._store.truth is not None:
            raise UserError("the true world is drawn, not remembered; change a generated one (cam explore)")
        self._check_length(world, MOST_CARRIED + 2)
        self._check_room()
        assert picture is not None, "whoever has the socket unpacks pictures"
        before = len(world.bank) - 1
        done = edit(world, message.frame, picture)
        self._move(State.STANDING)
        views = {"withdrawn": len(done.withdrawn), "carried": len(done.carried), "of": done.of}
        told = Edited(frame=done.frame, entry=done.entry, still_seen=done.still_seen, before=before, **views)
        return [*self._standing(self._forgetful is not None), told]

    def _take(self, event: Event) -> None:
        if event.kind == "heartbeat":
            return
        if event.kind == "shown":
            self._note_shown(event.payload)
            return
        heard: str | frozenset[str] | list[frozenset[str]] | np.ndarray
        if event.kind == "prompt":
            heard = self._readable(told_prompt(event.payload))
        elif event.kind == "camera_actions":
            heard = held_keys(event.payload)
        elif event.kind == "camera_poses":
            heard = poses_of(event.payload)
        else:
            raise UserError(
                f"events of kind {event.kind[:40]!r} mean nothing here; "
                "send camera_actions, camera_poses, prompt, shown or heartbeat"
            )
        kind = "prompt" if event.kind == "prompt" else "camera"
        if event.event_id is not None:
            if event.event_id < self._newest.get(kind, event.event_id):
                return  # latest wins, whatever order the network keeps
            self._newest[kind] = event.event_id
            self._event = max(event.event_id, self._event or 0)
        if isinstance(heard, str):
            self._prompt = heard
        else:
            self._hold(heard)

    def _readable(self, prompt: str) -> str:
        """A prompt that these weights can read; their text encoder begins to, while the chunk before is being made."""
        words = _words(self._world)
        if words is None:
            raise UserError("these weights read no text, so the prompt is not taken")
        if not words.knows(prompt):
            words.rows(prompt)  # says what is missing
        threading.Thread(target=_quietly, args=(words.rows, prompt), daemon=True).start()
        return prompt

    def _note_shown(self, chunk_index: object) -> None:
        """The visitor has shown this chunk. Whoever says so once is never far behind from then on: what was sent but
        not shown yet would pile up in the buffers of the network, and a key would show its effect after all of it."""
        if type(chunk_index) is not int:  # True is an int too
            raise UserError("shown: the payload is the chunk_index of the last chunk that was shown")
        self._says_what_is_shown = True
        if chunk_index < self._chunks:  # else it speaks of the walk before a rewind
            self._shown = max(self._shown, chunk_index)
            if self._shown == self._chunks - 1:
                self._all_shown_at = time.monotonic()

    def _hold(self, held: list[frozenset[str]] | frozenset[str] | np.ndarray) -> None:
        with self._holding:
            if isinstance(held, frozenset):
                self._keys, self._script = held, deque()
            else:
                self._keys, self._script = frozenset(), deque(held)
            self._move(State.WALKING if self._keys or self._script else State.STANDING)

    def _checked(self, rule: RetrievalConfig, strategy: str, max_context: int) -> RetrievalConfig:
        if not 1 <= max_context <= self.limits.max_context:
            raise UserError(f"max_context is {max_context}; give 1 to {self.limits.max_context}")
        return replace(rule, strategy=strategy, max_context=max_context)

    def _begin(self, init: Init, picture: np.ndarray | None) -> list[Output]:
        """A new world, or a stored one. Everything that can be wrong is looked at before anything is closed."""
        if init.watch is not None:
            raise UserError("who walks cannot watch; connect again")
        kind = picture_format(init)
        self._checked(self._rule, init.strategy, init.max_context or 1)
        script = held_keys((init.condition_inputs or {}).get("camera_actions", []))
        if not 0 <= init.seed < 2**32:
            raise UserError(f"seed is {init.seed}; give 0 to {2**32 - 1}")
        branch = init.branch or MAIN
        if init.world is None:
            name, world = self._new(init, picture)
            self._leave()
        elif init.world == self._name and self._world is not None:
            self._go_on(branch)
            name, world = self._name, self._world
        else:
            name, world = init.world, self._store.open(init.world, branch)
            self._leave()
        slots = init.max_context or min(world.config.retrieval.max_context, self.limits.max_context)
        self._rule = self._checked(world.config.retrieval, init.strategy, slots)
        self._name, self._branch, self._world, self.format = name, branch, world, kind
        self._move(State.STANDING)
        outputs = self._standing(init.compare)
        self._chunks_left = -1 if init.max_chunks is None else max(0, init.max_chunks)
        self._hold(script)
        if init.prompt is not None and init.world is None and _words(world) is not None:
            self._prompt = self._readable(told_prompt(init.prompt))
        return outputs

    def _new(self, init: Init, picture: np.ndarray | None) -> tuple[str, World]:
        """A world that has its start frames, or none at all."""
        assert init.first_frame is None, "whoever has the socket unpacks pictures"
        self._check_count()
        self._check_room()
        start = start_frame(init.start)
        name, world = self._store.create(init.seed)
        try:
            size = (world.config.width, world.config.height)
            if picture is not None:
                frames, cameras = picture[None], start.camera
            elif init.known:
                frames, cameras = known_place(init.start)
            else:
                frames, cameras = start.frame[None], start.camera
            world.reset(np.stack([fit_frame(frame, *size)[0] for frame in frames]), cameras.resized(*size))
        except BaseException:
            world.close()
            self._store.remove(name)
            raise
        return name, world

    def _check_count(self) -> None:
        if len(self._store.names()) >= self.limits.stored_worlds:
            raise UserError(f"{self.limits.stored_worlds} worlds are stored here, and no more; go on with one of them")

    def _check_length(self, world: World, more: int) -> None:
        file = file_of(world)
        stored = len(world.bank) if file is None else file.frames_in_all()
        if stored + more > self.limits.history_frames:
            self._hold(frozenset())
            raise UserError(
                f"this world has {stored} frames in all its branches, the most that is stored here; begin a new one"
            )

    def _check_room(self) -> None:
        if self._store.free_bytes() < self.limits.free_bytes:
            if self.state is not State.NEW:
                self._hold(frozenset())
            raise UserError("the disk of this server is nearly full; nothing more is stored, all before is safe")

    def _go_on(self, branch: str) -> list[Output]:
        """Stand at the end of a branch of this world; where one was if that cannot be."""
        compare, before = self._forgetful is not None, self._branch
        assert self._world is not None
        self._world.close()  # a world is written by one at a time
        try:
            self._world, self._branch = self._store.open(self._name, branch), branch
        except UserError:
            self._world = self._store.open(self._name, before)
            raise
        self._move(State.STANDING)
        return self._standing(compare)

    def _leave(self) -> None:
        """Close the world; one that nobody walked in is removed."""
        world, self._world, self._forgetful = self._world, None, None
        if world is not None:
            file = file_of(world)
            untouched = file is not None and len(file.chunks()) <= 1
            world.close()
            if untouched:
                self._store.remove(self._name)

    def _compare(self, wanted: bool) -> None:
        """Begin to walk with memory off beside the world, from where it is now, or stop it."""
        if not wanted:
            self._forgetful = None
        elif self._forgetful is None and self._world is not None:
            if self._store.truth is not None:
                raise UserError(
                    "the true world is the same with and without memory; compare generated ones (cam explore)"
                )
            self._forgetful = forgetful(self._world, self.limits.max_context)

    def _standing(self, compare: bool) -> list[Output]:
        self._rest()
        self._forgetful = None
        self._compare(compare)
        return self.scene()

    def scene(self, driver: bool = True) -> list[Output]:
        """What a viewer must know to stand where the world is now. driver: whether it is the visitor who asks."""
        with self._alone:
            return self._scene(driver)

    def _scene(self, driver: bool) -> list[Output]:
        world = self._world
        if world is None:
            return []
        file = file_of(world)
        assert file is not None
        cameras, last = world.bank.cameras, len(world.bank) - 1
        notes = world.bank.store.notes()
        firsts = np.cumsum([0] + [frames for frames, _ in notes])[:-1].tolist()
        poses = seen_from_above(cameras, self._up())
        ready = Ready(
            world=self._name if driver else None,
            branch=self._branch,
            branches=[branch.name for branch in file.branches()],
            share=self.share,
            driver=driver,
            poses=poses[:-1],
            chunks=firsts,
            edits=[first for first, (_, note) in zip(firsts, notes, strict=True) if "edit" in note],
            width=world.config.width,
            height=world.config.height,
            chunk_frames=world.chunk_frames,
            starts=start_names(),
            strategies=list(STRATEGIES),
            strategy=self._rule.strategy,
            max_context=self._rule.max_context,
            compare=self._forgetful is not None,
            half_width_tan=float(cameras.half_width_tan[0]),
            upload_bytes=self.limits.upload_bytes,
            version=__version__,
            truth=self._store.truth,
            prompt=None if _words(world) is None else world.prompt,
        )
        outputs: list[Output] = [ready, NewFrames(world.bank.frames_u8(last), last, poses[-1:], -1, self._event)]
        if self._forgetful is not None:
            end = self._forgetful.bank
            outputs.append(NewFrames(end.frames_u8(len(end) - 1), last, poses[-1:], -1, self._event, VIEWS[1]))
        return outputs

    def _up(self) -> np.ndarray:
        """Upwards in this world: as its file says, else as its first frame has it."""
        world = self._world
        file = None if world is None else file_of(world)
        known = None if file is None else file.up
        if known is not None or world is None:
            return np.array([0.0, 0.0, 1.0]) if known is None else known
        return measured_up(world.bank.cameras.c2w[:1])[0]

    # -- walking ---------------------------------------------------------------------------------------------------

    @property
    def wants_to_move(self) -> bool:
        """Whether `step` would make a chunk."""
        behind = self._chunks - 1 - self._shown if self._says_what_is_shown else 0
        moves = self.state is State.WALKING and self._world is not None and self._chunks_left != 0
        return moves and behind < self.limits.chunks_ahead

    @property
    def early_s(self) -> float:
        """How long the next chunk may still wait: it is begun just in time to follow what is shown, so that a key shows
        its effect soon. Not positive: begin now; so it is for visitors that do not say what they have shown."""
        left_s = self._all_shown_at - time.monotonic() if self._says_what_is_shown else 0.0
        return left_s - self.last_chunk_s - MARGIN_S

    def step(self) -> list[Output]:
        """Make the next chunk along the held keys; returns what the viewers are sent. Slow: it runs the model."""
        with self._alone:
            if self._world is None or not self.wants_to_move:
                return []
            return self._made(self._world, self._walked)

    def step_along(self, path: frozenset[str] | np.ndarray) -> list[Output]:
        """Make one chunk with these keys held, or along poses [n, 4, 4], one for each of its frames."""
        with self._alone:
            world = self._world
            if world is None:
                raise UserError("there is no world yet; begin one first")
            keys = [path] * world.chunk_frames if isinstance(path, frozenset) else path
            if len(keys) != world.chunk_frames:
                raise UserError(f"{len(keys)} poses; a chunk of this world has {world.chunk_frames} frames")
            self._tell(world)
            cameras = self._cameras(world, keys)
            return self._made(world, lambda _: (world.step(cameras, retrieval=self._rule), cameras, self._event))

    def _cameras(self, world: World, path: Sequence[frozenset[str]] | np.ndarray) -> Cameras:
        """Keys or poses of the next frames as cameras."""
        here = world.bank.cameras[-1]
        if isinstance(path, np.ndarray):
            return Cameras(path, here.K[0], here.width, here.height)
        return cameras_from_keys(here, path, up=self._up())

    def copied(self) -> str:
        """The name of a copy of this world, for another session. `UserError` where no more worlds are stored."""
        with self._alone:
            if self._world is None:
                raise UserError("there is no world yet; begin one first")
            self._check_count()
            self._check_room()
            return self._store.copy(self._name)

    def poses(self, first: int) -> np.ndarray:
        """Camera to world of the frames from `first` on, [n, 4, 4]."""
        with self._alone:
            return np.empty((0, 4, 4)) if self._world is None else self._world.bank.cameras.c2w[first:].copy()

    def _made(self, world: World, walked: Callable[[World], tuple[Chunk, Cameras, int | None]]) -> list[Output]:
        held = len(world.bank)
        self._check_length(world, world.chunk_frames)
        self._check_room()
        try:
            chunk, path, applied = walked(world)
        except UserError:
            self._hold(frozenset())  # or it would be tried again at once, and again
            raise
        chunk_index, self._chunks = self._chunks, self._chunks + 1
        self._all_shown_at = max(self._all_shown_at, time.monotonic()) + FRAME_S * len(chunk.frames_u8)
        self._chunks_left = max(-1, self._chunks_left - 1)
        poses, seconds = seen_from_above(chunk.cameras, self._up()), sum(chunk.seconds.values())
        outputs: list[Output] = [NewFrames(chunk.frames_u8, held, poses, chunk_index, applied)]
        if self._forgetful is not None:
            beside = self._forgetful.step(path, retrieval=replace(self._rule, strategy="recent"))
            if len(self._forgetful.bank) > FORGOTTEN_AFTER:
                self._forgetful = forgetful(self._forgetful, self.limits.max_context)
            outputs.append(NewFrames(beside.frames_u8, held, poses, chunk_index, applied, VIEWS[1]))
            seconds += sum(beside.seconds.values())
        outputs.append(self._remembered(world, chunk, held))
        outputs.append(
            ChunkStats(
                chunk_index=chunk_index,
                event_id=applied,
                received_event_id=self._event,
                num_frames=len(chunk.frames_u8),
                chunk_total_ms=round(1000 * seconds),
                content_type=CONTENT_TYPES[self.format],
                frames=len(world.bank),
                frames_per_second=len(chunk.frames_u8) / max(seconds, 1e-9),
                resident_mb=resident_mb(),
                seconds=chunk.seconds,
            )
        )
        return outputs

    def _walked(self, world: World) -> tuple[Chunk, Cameras, int | None]:
        """The next chunk, its cameras and the event that it obeys. When other keys are held before half of the work is
        done it is begun anew, once, so that they need not wait for its end."""
        for again in (False, True):
            applied, script, keys = self._event, len(self._script), self._keys
            self._tell(world)
            path = self._cameras(world, self._coming(world.chunk_frames))
            if again or script or self._store.truth is not None:
                break
            half = world.config.num_steps / 2
            with contextlib.suppress(GivenUp), wanted_while(world, self._still(keys, half)):
                return world.step(path, retrieval=self._rule), path, applied
        return world.step(path, retrieval=self._rule), path, applied

    def _tell(self, world: World) -> None:
        """A prompt that was heard is told to the world, and to the one beside it; it stays what it was if it cannot be
        read after all."""
        prompt, self._prompt = self._prompt, None
        words = _words(world)
        if prompt is None or words is None:
            return
        words.rows(prompt)
        for told in (world, self._forgetful):
            if told is not None:
                told.prompt = prompt

    def _still(self, keys: frozenset[str], half: float) -> Callable[[int], bool]:
        """Whether these keys are still what is wanted, by how many evaluations are done. A key that was pressed for a
        moment only has its chunk."""
        return lambda done: done > half or not self._keys or self._keys == keys

    def _coming(self, frames: int) -> list[frozenset[str]] | np.ndarray:
        """The keys, or the poses, of each of the next frames; a script that has ended stands still."""
        with self._holding:
            script = self._script
            if not script:
                return [self._keys] * frames
            last = frozenset[str]() if isinstance(script[0], frozenset) else script[-1]
            coming = [script.popleft() if script else last for _ in range(frames)]
            if not script:
                self._move(State.STANDING)
        keys = [one for one in coming if isinstance(one, frozenset)]
        return keys if keys else np.stack([one for one in coming if not isinstance(one, frozenset)])

    def _remembered(self, world: World, chunk: Chunk, held: int) -> ContextFrames:
        found = chunk.retrieval
        return ContextFrames(
            frames=found.frame_ids.tolist(),
            scores=[round(score, 4) for score in found.scores.tolist()],
            ages=(held - found.frame_ids).tolist(),
            jpegs=[jpeg(frame, self.limits.jpeg_quality) for frame in world.bank.frames_u8(found.frame_ids)],
            candidates=len(found.candidates),
        )

    def close(self) -> None:
        """End the session, when the chunk that is being made is finished; closing twice does nothing."""
        with self._alone:
            self._move(State.CLOSED)
            self._leave()


def picture_format(init: Init) -> str:
    """The format that a viewer asks for, one of FORMATS; `UserError` for any other."""
    kind = init.realtime_output_format or FORMATS[0]
    if kind not in FORMATS:
        raise UserError(f"realtime_output_format {kind[:20]!r} is not made here; choose one of {', '.join(FORMATS)}")
    return kind


def _words(world: World | None) -> Words | None:
    """What reads prompts for a world; None where nothing does, as in one that is drawn."""
    words: Words | None = None if world is None else getattr(world.model, "words", None)
    return words


def _quietly(work: Callable[[str], object], what: str) -> None:
    """Whoever needs the result meets the error again."""
    with contextlib.suppress(UserError):
        work(what)
