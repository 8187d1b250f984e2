"""Folders by name from the Hugging Face hub: `owner/name`, or `owner/name@revision` for a branch, tag or commit."""

import re
from pathlib import Path

from context_as_memory.errors import UserError, install

_NAME = re.compile(r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")
# Nothing but JSON, safetensors and tokenizers is fetched: no code, no pickles, no pictures.
_FILES = ["*.json", "*.safetensors", "*spiece.model"]


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of one on the hub."""
    return _NAME.fullmatch(name) is not None


def fetch(name: str) -> Path:
    """The folder of a name, fetched unless it is in the hub's cache. Raises `UserError` when it cannot be reached;
    HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE mean what they always mean."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name!r} is no name on a hub; give owner/name or owner/name@revision")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"names on a hub need huggingface_hub: {install('wan')}") from error
    try:
        return Path(snapshot_download(found["repository"], revision=found["revision"], allow_patterns=_FILES))
    except (OSError, ValueError) as error:  # refused, not there, not reachable, no space
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{name} is no folder, and as a name on the hub it cannot be fetched ({why})") from error
