"""Settings from JSON files: every key known, every value of its type and within reason, or one clear error."""

import math
from dataclasses import is_dataclass
from types import GenericAlias, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from context_as_memory.errors import UserError

# What a file may ask for, by the names of its settings. A stranger's file must not take the machine's memory or time.
RANGES: dict[str, tuple[float, float]] = {
    "width": (8, 8192),
    "height": (8, 8192),
    "chunk_latents": (1, 64),
    "num_steps": (1, 1000),
    "memory_noise": (0, 1),
    "cached_frames": (0, 100_000),
    "max_context": (1, 1024),
    "translation_scale_m": (1e-3, 1e6),
    "ray_depths_m": (1e-3, 1e6),
}
LARGEST = 2**63  # of any other number
FORMER_FIELDS = {"kept_frames": "cached_frames", "given_bonus": "recorded_bonus"}  # read for one version


def build_config(kind: type, values: Any, where: str) -> Any:
    """Fill a config dataclass, and those inside it, from JSON values.

    Raises `UserError`, which says where and what, for an unknown key, a value of another type, a number that is not
    finite, or one outside its range (`RANGES`).
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: {_told(values)} is no set of settings; give a JSON object")
    known = get_type_hints(kind)
    values = {FORMER_FIELDS.get(key, key): value for key, value in values.items()}
    unknown = sorted(set(values) - set(known), key=str)
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    filled = {}
    for key, value in values.items():
        if is_dataclass(known[key]) and isinstance(value, dict):
            value = build_config(cast(type, known[key]), value, where)
        value = tuple(value) if isinstance(value, list) else value
        if not _fits(value, known[key]):
            raise UserError(f"{where}: {key} is {_told(value)}, which is of another type; correct it")
        _check_range(key, value, where)
        filled[key] = value
    try:
        return kind(**filled)
    except TypeError as error:
        raise UserError(f"{where}: {error}; complete it") from error


def _check_range(key: str, value: Any, where: str) -> None:
    low, high = RANGES.get(key, (-LARGEST, LARGEST))
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and not low <= number <= high:  # NaN is not within anything
            raise UserError(f"{where}: {key} is {_told(number)}; give {low:g} to {high:g}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the annotated type; a whole number is also a fine float, infinities and NaN are none."""
    if isinstance(hint, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if isinstance(hint, GenericAlias) and get_origin(hint) is tuple and isinstance(value, tuple):
        parts = get_args(hint)
        if len(parts) == 2 and parts[1] is Ellipsis:
            return all(_fits(item, parts[0]) for item in value)
        return len(parts) == len(value) and all(_fits(item, part) for item, part in zip(value, parts, strict=True))
    if hint in (int, float, str, bool):
        if isinstance(value, bool):
            return hint is bool
        return isinstance(value, (int, float) if hint is float else hint) and (
            not isinstance(value, float) or math.isfinite(value)
        )
    if is_dataclass(hint):
        return isinstance(value, cast(type, hint))
    return value is None if hint is type(None) else True


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
