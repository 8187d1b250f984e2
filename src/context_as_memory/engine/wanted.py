"""A chunk that is begun may be given up: whoever wants something else now need not wait for the end of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from context_as_memory.adapters.text import Said
from context_as_memory.engine import Denoiser
from context_as_memory.tokens import ModelInputs

if TYPE_CHECKING:
    from context_as_memory.world import World


class GivenUp(Exception):
    """The chunk is no longer wanted. The world is as it was before it was begun."""


@contextmanager
def wanted_while(world: "World", wanted: Callable[[int], bool]) -> Iterator[None]:
    """Inside, `World.step` asks before each evaluation of the network, 0 and up, whether the chunk is still wanted, and
    raises `GivenUp` if not."""
    alone = world.engine
    world.engine = replace(alone, denoiser=_Asking(alone.denoiser, wanted))
    try:
        yield
    finally:
        world.engine = alone


class _Asking:
    """See `engine.Denoiser`."""

    def __init__(self, denoiser: Denoiser, wanted: Callable[[int], bool]) -> None:
        self._denoiser, self._wanted = denoiser, wanted

    def read(self, latents: Tensor) -> list[Any] | None:
        return self._denoiser.read(latents)

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: Any, said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        return self._asking(self._denoiser.place(latents, inputs, cached, said))

    def place_together(self, chunks: Sequence[tuple[Tensor, ModelInputs, Any]]) -> Callable[[Tensor, float], Tensor]:
        return self._asking(self._denoiser.place_together(chunks))

    def _asking(self, network: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
        done = 0

        def output(noisy: Tensor, timestep: float) -> Tensor:
            nonlocal done
            if not self._wanted(done):
                raise GivenUp
            done += 1
            return network(noisy, timestep)

        return output
