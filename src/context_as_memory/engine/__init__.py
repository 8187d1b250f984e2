"""Everything that is fast, behind a few verbs: read context frames, place them for a chunk, evaluate the network, and
turn frames into latents and back.

Three engines do the same: `plain` is the network as `transformer` defines it, slow and obvious; `torch` is the network
rewritten (`folded`) in torch; `openvino` is the rewritten network as compiled graphs (extra `fast`). Tests hold them
together. Which one a world was made with stands in its file, since last bits differ between them.
"""

import importlib.util
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from context_as_memory import machine
from context_as_memory.adapters.text import Said
from context_as_memory.codec import ImageAutoencoder, VideoCodec
from context_as_memory.compute import attention_kernel
from context_as_memory.engine.context_cache import ContextCache
from context_as_memory.engine.finite import FinitePictures
from context_as_memory.engine.folded import Folded, why_not
from context_as_memory.engine.plain import PlainDenoiser, PlainPictures
from context_as_memory.errors import UserError, install
from context_as_memory.tokens import ModelInputs
from context_as_memory.transformer import WorldTransformer

__all__ = ["ENGINES", "ContextCache", "Engine", "differences", "open_engine"]

ENGINES = ("auto", "plain", "torch", "openvino")
log = logging.getLogger(__name__)


class Denoiser(Protocol):
    """The network. What `read` gives for a frame means something to the same denoiser alone."""

    def read(self, latents: Tensor) -> list[Any] | None:
        """Keys and values of clean frames [C, K, h, w], one entry a frame, whatever other frames there are; None if
        frames cannot be read one by one."""
        ...

    def place(
        self, latents: Tensor, inputs: ModelInputs, cached: Any, said: Said | None = None
    ) -> Callable[[Tensor, float], Tensor]:
        """The network for one chunk, as a function of noisy targets [1, C, P, h, w] and a timestep in [0, 1000], giving
        its output of the same shape. It holds until the next call.

        latents: the context [C, K, h, w]; inputs: of one chunk, slot i is frame i; cached: what `read` gave for them;
        said: the prompt, for weights that read text.
        """
        ...

    def place_together(self, chunks: Sequence[tuple[Tensor, ModelInputs, Any]]) -> Callable[[Tensor, float], Tensor]:
        """The network for B chunks at once, as a function of noisy targets [B, C, P, h, w] that all stand at the same
        timestep. chunks: what `place` is given, for each (words only where there are); pictures of one size, and as
        many targets each."""
        ...


class Pictures(Protocol):
    """The autoencoder between frames uint8 [T, H, W, 3] and latents."""

    def encode(self, frames_u8: np.ndarray) -> Tensor:
        """Latents [C, T, h, w], each frame alone. `UserError` if they are not finite."""
        ...

    def decode(self, recent: Tensor, latents: Tensor) -> np.ndarray:
        """Frames of new latents [1, C, P, h, w] that follow the latent of the recent frame, [C, 1, h, w]. `UserError`
        if they or the latents are not finite."""
        ...


@runtime_checkable
class BuiltAhead(Protocol):
    """A part of an engine that can begin to build what a size of pictures needs, before it is asked for."""

    def prepare(self, *size: int) -> None:
        """Begin; what is needed first is built first."""
        ...


@dataclass(frozen=True)
class Engine:
    """The two networks, ready, and what last bits depend on: engine, its version, number format, attention kernel,
    processor, and threads where these matter."""

    name: str
    denoiser: Denoiser
    pictures: Pictures
    made_with: dict[str, str | int]


def open_engine(
    model: WorldTransformer,
    codec: VideoCodec,
    name: str,
    device: torch.device,
    chunk: tuple[int, int, int] | None = None,
) -> Engine:
    """The networks in the engine of that name; `auto` is the fastest that there is.

    chunk: latents in a chunk, height and width of its pictures, if known: graphs for them are built ahead.

    One that is not installed, or does not know these weights, is replaced; that is said once. Networks that were opened
    before are shared, until their weights are changed.
    """
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is not one of {', '.join(ENGINES)}")
    number = next(model.parameters()).dtype
    chosen = _chosen(name, device, why_not(model.config))
    maker = {"plain": PlainDenoiser, "torch": _eager, "openvino": _graphs}[chosen]
    # The plain twin is the model itself, so no second copy is held.
    denoiser = PlainDenoiser(model) if chosen == "plain" else _cached(model, chosen, maker)
    pictures: Any = PlainPictures(codec, device)
    if chosen == "openvino" and isinstance(codec, ImageAutoencoder):
        pictures = _cached(codec, chosen, _picture_graphs)
    if chunk is not None:
        _build_ahead(denoiser, pictures, codec, *chunk)
    made_with: dict[str, str | int] = {
        "engine": chosen,
        "version": _openvino_version() if chosen == "openvino" else torch.__version__,
        "numbers": str(number).removeprefix("torch."),
        "attention": "openvino" if chosen == "openvino" else attention_kernel(device.type).__name__,
        "processor": machine.processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
    }
    if device.type == "cpu" and chosen != "openvino":  # whose bits are the same with any number of threads
        made_with["threads"] = torch.get_num_threads()
    return Engine(chosen, denoiser, FinitePictures(pictures), made_with)


def _build_ahead(
    denoiser: Denoiser, pictures: Pictures, codec: VideoCodec, frames: int, height: int, width: int
) -> None:
    """Begin to build the graphs for chunks of a size, those first that are needed first. Other engines have none."""
    for part, size in (
        (pictures, (height, width)),
        (denoiser, (frames, height // codec.spatial_factor, width // codec.spatial_factor)),
    ):
        if isinstance(part, BuiltAhead):
            part.prepare(*size)


def _chosen(name: str, device: torch.device, unknown: str | None) -> str:
    """The engine that there is for a wanted one."""
    installed = device.type == "cpu" and _installed()
    best = "openvino" if installed else "torch"
    if name == "plain":
        return name
    if unknown is not None:
        _say(f"these weights have {unknown}, which the fast engines do not know; the plain network is used")
        return "plain"
    if name == "openvino" and not installed:
        why = "needs the CPU" if device.type != "cpu" else f"is not installed; {install('fast')}"
        _say(f"the engine openvino {why}; torch is used")
    return name if name == "torch" else best


def _installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


@cache
def _say(text: str) -> None:
    log.warning(text)


def differences(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """One sentence if a world that was made with `then` goes on with `now` in other last bits; None if nothing differs.
    `then` may be empty: nothing is known."""
    changed = [key for key in then if key in now and then[key] != now[key]]
    if not changed:
        return None
    before, after = (", ".join(f"{key} {what[key]}" for key in changed) for what in (then, now))
    return f"this world was made with {before} and goes on with {after}; the frames ahead differ in their last bits"


# -- engines, made once for a network ----------------------------------------------------------------------------------

_MADE: "weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[Any, Any]]]" = weakref.WeakKeyDictionary()


def _cached(network: nn.Module, name: str, make: Callable[[Any], Any]) -> Any:
    """What was made of a network before, or new if there is nothing, or the weights or threads have changed since."""
    known = _MADE.setdefault(network, {})
    state = (torch.get_num_threads(), *((p.data_ptr(), p.dtype, _version(p)) for p in network.parameters()))
    if name not in known or known[name][0] != state:
        known[name] = (state, make(network))
    return known[name][1]


def _version(parameter: Tensor) -> int:
    """Counts changes in place."""
    return 0 if parameter.is_inference() else parameter._version


def _openvino_version() -> str:
    from context_as_memory.engine.graphs import version

    return version()


def _eager(model: WorldTransformer) -> Denoiser:
    from context_as_memory.engine.eager import EagerDenoiser

    with torch.inference_mode():
        return EagerDenoiser(Folded(model), next(model.parameters()).dtype)


def _graphs(model: WorldTransformer) -> Denoiser:
    from context_as_memory.engine.graphs import GraphDenoiser

    with torch.inference_mode():
        return GraphDenoiser(Folded(model), next(model.parameters()).dtype == torch.bfloat16)


def _picture_graphs(codec: ImageAutoencoder) -> Pictures:
    from context_as_memory.engine.graphs import GraphPictures

    return GraphPictures(codec, next(codec.parameters()).dtype == torch.bfloat16)
