"""Weights on disk: a folder with `config.json` and a safetensors file, in the diffusers layout.

A checkpoint describes itself: the config names the class and holds every argument it was built with, so loading needs
no flags, and an unknown key or a tensor of another shape is an error, never a guess. Nothing is unpickled.

A model folder holds `transformer/`, `vae/` and `model.json` (frame size, chunk length, steps, retrieval settings).
What it lacks is taken from its backbone, if `model.json` names one (`adapters.backbone`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from context_as_memory.adapters import backbone, lora
from context_as_memory.adapters.cache import remembered
from context_as_memory.adapters.echo import EchoConfig, EchoTransformer
from context_as_memory.adapters.hub import fetch, is_hub_name
from context_as_memory.adapters.memorizon import MemorizonConfig, MemorizonTransformer
from context_as_memory.adapters.shards import WEIGHTS_FILE as WEIGHTS_FILE
from context_as_memory.adapters.shards import Shards, check_shapes, fill, has_weights, open_file, open_shards, shapes_of
from context_as_memory.adapters.text import open_words
from context_as_memory.adapters.tiny_decoder import FOLDER as DECODER
from context_as_memory.adapters.tiny_decoder import TinyDecoded, TinyDecoder, TinyDecoderConfig
from context_as_memory.adapters.wan import from_diffusers_config
from context_as_memory.codec import ImageAutoencoder, ImageAutoencoderConfig, VideoCodec
from context_as_memory.compute import fast, fast_dtype
from context_as_memory.errors import UserError
from context_as_memory.formats.files import atomic, check_plain, write_text
from context_as_memory.formats.settings import FORMER_FIELDS, build_config
from context_as_memory.transformer import TransformerConfig, WorldTransformer

MODEL_FILE, FORMER_FILE = "model.json", "world.json"  # the settings of a model; their name before it was this
MEMORY_FILE = "memory.safetensors"  # in `transformer/`: what a backbone's weights lack
NETWORKS: dict[str, tuple[type[nn.Module], type]] = {  # by name: class, and class of its settings
    "ImageAutoencoder": (ImageAutoencoder, ImageAutoencoderConfig),
    "WorldTransformer": (WorldTransformer, TransformerConfig),
    "MemorizonTransformer": (MemorizonTransformer, MemorizonConfig),
    "EchoTransformer": (EchoTransformer, EchoConfig),
    "TinyDecoder": (TinyDecoder, TinyDecoderConfig),
}

_SILENT = ("text_encoder", "tokenizer", "scheduler")  # components that no picture comes from
_COVERAGE = "parallax_rad scale_band min_gain layers alike_m alike_rad fill_share recorded_bonus visible_parallax_rad"
_PAPER = {"paper_" + name: name for name in ("near_m", "far_m", "parallel_rad", "far_share")}
# Files of before the groups have these settings side by side: where each belongs.
_GROUPS = (
    {name: ("coverage", name) for name in _COVERAGE.split()}
    | {old: ("paper", name) for old, name in (_PAPER | {"literal": "as_published"}).items()}
    | {"crowded": ("crowd", "frames"), "bin_m": ("crowd", "bin_m"), "bin_rad": ("crowd", "bin_rad")}
)


def read_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file, or one clear error."""
    check_plain(path)
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{what}: {path} is missing; is this a folder made by save_pretrained?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{what}: {path} cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{what}: {path} holds no JSON object")
    return value


def read_settings(folder: Path) -> dict[str, Any]:
    """`model.json` of a model folder: how it is used. Files that have all fields of retrieval side by side are read as
    if they were written today."""
    settings = read_object(_settings_file(Path(folder)), "weights")
    if isinstance(settings.get("retrieval"), dict):
        settings["retrieval"] = _nested(settings["retrieval"])
    return settings


def _settings_file(folder: Path) -> Path:
    """`model.json` of a model folder; `UserError` if only a file of its former name is there."""
    if (folder / FORMER_FILE).exists() and not (folder / MODEL_FILE).exists():
        raise UserError(f"weights: {folder / FORMER_FILE} is called {MODEL_FILE} now; rename the file")
    if (folder / "model_index.json").exists() and not (folder / MODEL_FILE).exists():
        raise UserError(
            f"weights: {folder} is a pipeline of diffusers, not a model yet; make one of it with "
            f"`cam adapt --backbone {folder} --size WIDTHxHEIGHT --out MODEL`"
        )
    return folder / MODEL_FILE


def backbone_of(folder: Path) -> Path | None:
    """The backbone of a model folder, None if it has none. `UserError` if it is missing or another one."""
    if not (Path(folder) / MODEL_FILE).exists():
        return None
    told = read_settings(folder).get("backbone")
    return None if told is None else backbone.find(told, Path(folder))


def component(folder: Path, name: str) -> Path:
    """The folder of a component (`vae`, `text_encoder` ...): of a model folder itself, else of its backbone."""
    base = None if (Path(folder) / name).is_dir() else backbone_of(folder)
    return (base or Path(folder)) / name


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Settings of retrieval in groups; what is in a group already, or is unknown, stays where it is."""
    rule: dict[str, Any] = {}
    for key, value in flat.items():
        group, name = _GROUPS.get(FORMER_FIELDS.get(key, key), ("", key))
        if group and not isinstance(value, dict):
            rule.setdefault(group, {})[name] = value
        else:
            rule[key] = value
    return rule


def save_pretrained(
    model: nn.Module, folder: Path, *, state: dict[str, Tensor] | None = None, dtype: torch.dtype | None = torch.float16
) -> None:
    """Write config and weights (or `state`, e.g. averages [...] by name) of a codec or transformer, floats as `dtype`;
    None: as they are."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = model.config
    config = {"_class_name": type(model).__name__} | asdict(settings)
    tensors = {
        key: value.detach().cpu().to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for key, value in (state if state is not None else model.state_dict()).items()
    }
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"weights: {key} has values that are not finite; {folder} is left as it was")
    with atomic(folder / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")


def from_pretrained(
    folder: Path, *, expect: type[nn.Module] | None = None, dtype: torch.dtype | None = torch.float32
) -> Any:
    """Load a codec or transformer from its folder, in evaluation mode; a stock `WanTransformer3DModel` too. Floats
    become `dtype`, None: they stay as they are stored. One file is in memory at a time beside the network.

    Raises `UserError` when files are missing or damaged, or when the weights belong to another architecture.
    """
    folder = Path(folder)
    name, config = _network(folder, expect)
    sources = _sources(folder)
    _check_sizes(name, config, sources, folder)
    with _Unstarted():
        model = NETWORKS[name][0](config)
    fill(model, sources, dtype, str(folder))
    if (folder / lora.FILE).exists():
        lora.merge(model, lora.read(folder))
    return model.eval()


def read_architecture(folder: Path, expect: type[nn.Module]) -> Any:
    """The configuration of the network in a folder, held against its weights, of which only headers are read.
    `UserError` as `from_pretrained`."""
    name, config = _network(Path(folder), expect)
    _check_sizes(name, config, _sources(Path(folder)), Path(folder))
    return config


def _network(folder: Path, expect: type[nn.Module] | None) -> tuple[str, Any]:
    """The class name of the network in a folder, and its configuration."""
    values = read_object(folder / "config.json", "weights")
    name = found = values.pop("_class_name", None)
    where = f"weights: {folder / 'config.json'}"
    if name == "WanTransformer3DModel":  # the class of stock weights; ours has its names and computes the same
        name = "WorldTransformer"
        try:
            values = asdict(from_diffusers_config(values))
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"{where}: it describes no network ({error}); fetch it again") from error
    if name not in NETWORKS or (expect is not None and not issubclass(NETWORKS[name][0], expect)):
        wanted = expect.__name__ if expect is not None else " or ".join(NETWORKS)
        raise UserError(f"weights: {folder} holds a {found}, not a {wanted}")
    return name, build_config(NETWORKS[name][1], values, where)


def _check_sizes(name: str, settings: Any, sources: list[Shards], folder: Path) -> None:
    """`UserError` if the settings ask for another network than the file holds. The file's header says how large it is;
    nothing of that size is allocated for settings that say something else."""
    shapes, where = {key: shape for source in sources for key, shape in source.shapes.items()}, str(folder)
    widest = max([len(shapes), *(side for shape in shapes.values() for side in shape)], default=0)
    for key, value in asdict(settings).items():
        parts = value if isinstance(value, tuple) else (value,)
        numbers = [part for part in parts if isinstance(part, int) and not isinstance(part, bool)]
        most = len(shapes) if key == "num_layers" or key.endswith("blocks") else max(widest, 1024)
        least = 0 if key.endswith("blocks") or key == "camera_heads" else 1
        if any(not least <= number <= most for number in numbers) or (numbers and sum(numbers) > most + len(numbers)):
            raise UserError(f"weights: {where}: {key} is {value}, and the weights hold no such network")
    try:
        with torch.device("meta"), _Unstarted():
            wanted = shapes_of(NETWORKS[name][0](settings))
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:  # sizes that no layer can have
        raise UserError(f"weights: {where}: its config.json describes no network ({error})") from error
    check_shapes(wanted, shapes, where)


class _Unstarted(TorchFunctionMode):
    """Networks are built without their random start, which weights from a file would replace at once. Their tensors
    are then memory that was asked for but never touched: it costs nothing, and less time than the device `meta`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in ("uniform_", "normal_", "kaiming_uniform_"):
            return args[0] if args else named["tensor"]
        # On the device `meta` torch would load its compiler for these two: three seconds.
        if name == "randn":
            return torch.empty(*args, **named)
        if name in ("div", "__truediv__") and args and getattr(args[0], "is_meta", False):
            return args[0]
        return function(*args, **named)


def _sources(folder: Path) -> list[Shards]:
    """Where the tensors of a network lie: in its folder, or in its backbone and what is added to it in its folder."""
    added = [open_file(folder / MEMORY_FILE)] if (folder / MEMORY_FILE).exists() else []
    base = None if has_weights(folder) else backbone_of(folder.parent)
    return [open_shards(folder if base is None else base / folder.name), *added]


def open_codec(folder: Path) -> VideoCodec:
    """Load the codec in a folder: our image autoencoder, or Wan's video autoencoder as diffusers saves it.

    Raises `UserError` when files are missing or damaged, or hold something else.
    """
    folder = component(Path(folder).parent, Path(folder).name)
    if read_object(Path(folder) / "config.json", "weights").get("_class_name") == "AutoencoderKLWan":
        from context_as_memory.adapters.wan import WanCodec  # needs diffusers

        return WanCodec.from_pretrained(folder)
    codec: VideoCodec = from_pretrained(folder, expect=ImageAutoencoder)
    return codec


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds: networks, ready on their device, and settings, an instance of the class asked for."""

    model: WorldTransformer
    codec: Any
    settings: Any
    sha256: str


def open_model(name: str | Path, kind: type, device: torch.device) -> ModelFolder:
    """Open a model folder by name (see `resolve`); `model.json` fills the dataclass `kind`. Raises `UserError` for
    missing, damaged or foreign weights."""
    folder = resolve(name)
    values = {key: value for key, value in read_settings(folder).items() if key != "backbone"}
    settings = build_config(kind, values, str(folder / MODEL_FILE))
    number = fast_dtype(device.type)
    model = fast(from_pretrained(folder / "transformer", expect=WorldTransformer, dtype=number), device)
    if model.config.text_dim is not None:
        model.words = open_words(folder, backbone_of(folder), model.config.text_dim)
    codec: Any = open_codec(folder / "vae")
    if (folder / DECODER).is_dir():
        codec = TinyDecoded(codec, from_pretrained(folder / DECODER, expect=TinyDecoder))
    return ModelFolder(model, fast(codec, device), settings, fingerprint(folder))


def load_weights(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy tensors [...] by name into a model; the first one that is missing, unexpected, wrongly shaped or not finite
    is named."""
    own = model.state_dict()
    check_shapes(shapes_of(model), {key: tuple(value.shape) for key, value in state.items()}, where)
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise UserError(f"weights: {where}: {key} has values that are not finite; fetch or train it again")
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def resolve(name: str | Path) -> Path:
    """The folder of a weights name: `default` is shipped with the package, anything else is a path, or, where there is
    none, `owner/name` or `owner/name@revision` on the hub."""
    if str(name) == "default":
        path = Path(str(resources.files("context_as_memory"))) / "assets" / "weights"
        if not (path / MODEL_FILE).exists():
            raise UserError("weights: this installation ships no default weights; give --weights FOLDER")
        return path
    path = Path(name)
    if not path.is_dir() and is_hub_name(str(name)):
        return fetch(str(name))
    if not path.is_dir():
        raise UserError(f"weights: {path} is no folder; give `default` or a folder made by `cam train`")
    return path


def fingerprint(folder: Path) -> str:
    """SHA-256 over all weight and config files of a folder that generate, in sorted order of their relative paths.

    `model.json` counts under its former name, so that worlds and reports made before still name their weights. Where a
    backbone lies is left out, its hash is not. Files are read in pieces; large ones not again while their sizes and
    times of change stay.
    """
    found = [path for path in Path(folder).rglob("*") if path.suffix in (".json", ".safetensors")]
    names = {path.relative_to(folder).as_posix(): path for path in found}
    names = {name: path for name, path in names.items() if name.split("/")[0] not in _SILENT}
    if MODEL_FILE in names:
        names[FORMER_FILE] = names.pop(MODEL_FILE)
    names = {name: names[name] for name in sorted(names, key=lambda name: name.split("/"))}
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in names.values()]
    return remembered(state, lambda: _digest(names))


def _digest(names: dict[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, path in names.items():
        digest.update(name.encode())
        if name == FORMER_FILE and "backbone" in (settings := read_object(path, "weights")):
            settings["backbone"] = settings["backbone"].get("sha256")
            digest.update(json.dumps(settings, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
