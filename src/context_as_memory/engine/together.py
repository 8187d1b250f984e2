"""Several walks that share their networks: each asks for what it needs as if alone, and what is asked for at the same
time is computed in one batch.

Each walk runs in a thread of its own and waits whenever it asks a network for something. When all of them wait, the
thread that called `Together.run` answers: walks that ask for the same kind of thing share one call. So the code of a
walk knows nothing of batches, and walks may differ in what they ask for and in when they end.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from context_as_memory.adapters.text import Said
from context_as_memory.engine import Engine
from context_as_memory.engine.plain import one_by_one
from context_as_memory.tokens import ModelInputs

_Result = TypeVar("_Result")
Asked = tuple[tuple[Any, ...], Any, Future[Any]]  # what kind of thing, the thing, and where the answer goes


class Together:
    """One engine for several walks at once. `images`: each latent is one picture, so that pictures of different walks
    may be decoded in one batch."""

    def __init__(self, engine: Engine, images: bool) -> None:
        self.engine, self._images = engine, images

    def run(self, walks: Sequence[Callable[[Engine], _Result]]) -> list[_Result]:
        """Call every function with an engine to use; returns their results in order. If some fail the others are
        finished all the same, and the first failure is raised."""
        asked: SimpleQueue[Asked | None] = SimpleQueue()  # None: a walk has ended
        member = replace(self.engine, denoiser=_Denoiser(asked), pictures=_Pictures(asked))

        def walk(function: Callable[[Engine], _Result]) -> _Result:
            try:
                return function(member)
            finally:
                asked.put(None)

        with ThreadPoolExecutor(max(1, len(walks)), "walk") as threads:
            results = [threads.submit(walk, function) for function in walks]
            running, waiting = len(walks), list[Asked]()
            while running:
                item = asked.get()
                if item is None:
                    running -= 1
                else:
                    waiting.append(item)
                if waiting and len(waiting) == running:
                    self._answer(waiting)
                    waiting = []
        return [result.result() for result in results]

    @torch.inference_mode()
    def _answer(self, waiting: list[Asked]) -> None:
        """Give every walk what it waits for, in one call for each kind."""
        for kind in dict.fromkeys(kind for kind, _, _ in waiting):
            items, answers = zip(*((item, answer) for other, item, answer in waiting if other == kind), strict=True)
            try:
                found = getattr(self, f"_{kind[0]}")(list(items), *kind[1:])
            except BaseException as error:  # it belongs to the walks that asked
                for answer in answers:
                    answer.set_exception(error)
            else:
                for answer, value in zip(answers, found, strict=True):
                    answer.set_result(value)

    # -- answers, one for each walk that asked --------------------------------------------------------------------

    def _read(self, latents: list[Tensor], _: tuple[int, ...]) -> list[list[Any] | None]:
        """A frame's block does not depend on the frames beside it, so that all are read in one batch."""
        found = self.engine.denoiser.read(torch.cat(latents, dim=1))
        if found is None:
            return [None] * len(latents)
        ends = np.cumsum([part.shape[1] for part in latents]).tolist()
        return [found[end - part.shape[1] : end] for part, end in zip(latents, ends, strict=True)]

    def _place(
        self, chunks: list[tuple[Tensor, ModelInputs, Any]], *_: object
    ) -> list[tuple[Callable[[Tensor, float], Tensor], int]]:
        network = self.engine.denoiser.place_together(chunks)
        return [(network, number) for number in range(len(chunks))]

    def _network(
        self, items: list[tuple[int, Tensor]], network: Callable[[Tensor, float], Tensor], timestep: float
    ) -> list[Tensor]:
        order = sorted(range(len(items)), key=lambda i: items[i][0])  # as the chunks were placed
        found = network(torch.cat([items[i][1] for i in order]), timestep).split(1)  # type: ignore[no-untyped-call]
        return [found[order.index(i)] for i in range(len(items))]

    def _encode(self, frames_u8: list[np.ndarray], _: tuple[int, ...]) -> list[Tensor]:
        found = self.engine.pictures.encode(np.concatenate(frames_u8))
        return list(found.split([len(part) for part in frames_u8], dim=1))  # type: ignore[no-untyped-call]

    def _decode(self, items: list[tuple[Tensor, Tensor]], _: tuple[int, ...]) -> list[np.ndarray]:
        if not self._images:
            return [self.engine.pictures.decode(recent, latents) for recent, latents in items]
        recent = torch.cat([before for before, _ in items], dim=1)
        latents = torch.cat([new for _, new in items], dim=2)
        found = self.engine.pictures.decode(recent, latents)
        return np.split(found, np.cumsum([new.shape[2] for _, new in items])[:-1])


class _Member:
    def __init__(self, asked: "SimpleQueue[Asked | None]") -> None:
        self._asked = asked

    def ask(self, kind: tuple[Any, ...], item: Any) -> Any:
        answer: Future[Any] = Future()
        self._asked.put((kind, item, answer))
        return answer.result()


class _Denoiser(_Member):
    """See `engine.Denoiser`."""

    def read(self, latents: Tensor) -> list[Any] | None:
        found: list[Any] | None = self.ask(("read", tuple(latents.shape[2:])), latents)
        return found

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: Any, said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        kind = ("place", tuple(latents.shape[2:]), inputs.target_positions)
        network, number = self.ask(kind, (latents, inputs, cached, *([said] if said is not None else [])))

        def output(noisy: Tensor, timestep: float) -> Tensor:
            found: Tensor = self.ask(("network", network, timestep), (number, noisy))
            return found

        return output

    def place_together(self, chunks: Sequence[tuple[Tensor, ModelInputs, Any]]) -> Callable[[Tensor, float], Tensor]:
        return one_by_one([self.place(*chunk) for chunk in chunks])


class _Pictures(_Member):
    """See `engine.Pictures`."""

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        found: Tensor = self.ask(("encode", frames_u8.shape[1:]), frames_u8)
        return found

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        found: np.ndarray = self.ask(("decode", tuple(latents.shape[3:])), (recent, latents))
        return found
