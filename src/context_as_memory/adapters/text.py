"""Prompts as rows of numbers: UMT5 as transformers has it, or a file of rows that were made before.

The network is given 512 rows: those of the prompt's own tokens, then zeros. Encoder outputs at padding, or no padding
at all, would change the picture: Wan was trained to attend to the zeros.

The encoder has billions of weights and is needed once a prompt. It is loaded for the first prompt that nobody knows yet
and dropped again; rows are kept in the user's cache.
"""

import hashlib
import html
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from context_as_memory.adapters.cache import cache_folder
from context_as_memory.adapters.shards import sample
from context_as_memory.errors import UserError, install
from context_as_memory.formats.files import atomic

ROWS = 512  # that the network is given
FILE = Path("text") / "prompts.safetensors"  # in a model folder: rows by the SHA-256 of their prompt


class Words:
    """Rows of prompts. `words("a prompt")` is [1, 512, D], on the CPU."""

    def __init__(self, base: Path | None, known: dict[str, Tensor], width: int, prompts: tuple[str, ...] = ()) -> None:
        """base: the folder that has `text_encoder/` and `tokenizer/`, if there is one; known: rows [T, D] by `key_of`
        their prompt; width: D; prompts: the known ones in words, for an error to name."""
        self.base, self.width, self.prompts = base, width, prompts
        self._known, self._alone = dict(known), threading.Lock()

    def __call__(self, prompt: str) -> Tensor:
        return pad(self.rows(prompt)).unsqueeze(0)

    def rows(self, prompt: str) -> Tensor:
        """The rows of a prompt's own tokens, [T, D]. Raises `UserError` where nothing can tell them."""
        key = key_of(prompt)
        with self._alone:
            if key not in self._known:
                self._known[key] = self._made(clean(prompt))
            return self._known[key]

    def knows(self, prompt: str) -> bool:
        """Whether these rows can be told, or made."""
        return key_of(prompt) in self._known or self.base is not None

    def save(self, path: Path, prompts: tuple[str, ...]) -> None:
        """Write the rows of these prompts to a file that `read_rows` reads."""
        rows = {key_of(prompt): self.rows(prompt).contiguous() for prompt in prompts}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as partial:
            save_file(rows, partial, {key_of(prompt): prompt for prompt in prompts})

    def _made(self, prompt: str) -> Tensor:
        if self.base is None:
            told = f"; it knows {', '.join(repr(known) for known in self.prompts)}" if self.prompts else ""
            raise UserError(
                f"the prompt {prompt[:60]!r} cannot be read: text_encoder/ and tokenizer/ are missing beside these "
                f"weights{told}; fetch them, or make rows elsewhere (`cam adapt --prompts`)"
            )
        place = cache_folder("words") / f"{_identity(self.base)}-{key_of(prompt)}.safetensors"
        with suppress(OSError, SafetensorError, KeyError):
            return load_file(place)["rows"]
        rows = encode(self.base, prompt)
        if rows.shape[1] != self.width:
            raise UserError(
                f"the text encoder in {self.base} gives rows of {rows.shape[1]}, these weights take {self.width}; "
                "it is another model's"
            )
        with suppress(OSError):  # a cache that cannot be written is no error
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic(place) as partial:
                save_file({"rows": rows}, partial)
        return rows


def open_words(folder: Path, backbone: Path | None, width: int) -> Words:
    """What reads the prompts of a model folder: its file of rows, and the encoder in it or in its backbone."""
    known, prompts = read_rows(folder / FILE) if (folder / FILE).exists() else ({}, ())
    bases = [base for base in (folder, backbone) if base is not None and (base / "text_encoder").is_dir()]
    return Words(bases[0] if bases else None, known, width, prompts)


def read_rows(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Rows [1, T, text_dim] by `key_of` their prompt, and the prompts, of a file that `Words.save` wrote."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, tuple(sorted((file.metadata() or {}).values()))  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"prompts: {path} is damaged ({error}); make it again") from error


def clean(prompt: str) -> str:
    """A prompt as diffusers' pipelines read it: mended letters, no HTML entities, single blanks."""
    with suppress(ImportError):
        import ftfy

        prompt = ftfy.fix_text(prompt)
    prompt = html.unescape(html.unescape(prompt)).strip()
    return re.sub(r"\s+", " ", prompt).strip()


def key_of(prompt: str) -> str:
    """The name under which the rows of a prompt are kept."""
    return hashlib.sha256(clean(prompt).encode()).hexdigest()


def pad(rows: Tensor, count: int = ROWS) -> Tensor:
    """Rows [T, D] and zeros, [count, D]."""
    return torch.cat((rows, rows.new_zeros(count - len(rows), rows.shape[1])))


@dataclass(frozen=True)
class Said:
    """What a chunk is told in words, as rows [1, T, D]: the prompt, and with guidance what to lead away from."""

    text: Tensor
    against: Tensor | None
    guidance: float

    def led(self, predict: Callable[[Tensor], Tensor]) -> Tensor:
        """A prediction [B, C, P, h, w] from rows [1, T, D], led from the one against it by `guidance`."""
        found = predict(self.text)
        if self.against is None:
            return found
        without = predict(self.against)
        return without + self.guidance * (found - without)


def check(words: Words | None, stored: float, prompt: str | None, guidance: float | None) -> None:
    """Raise `UserError` for a prompt or guidance that weights with these words and this stored guidance cannot take."""
    if words is None and (prompt or guidance not in (None, 1.0)):
        raise UserError("these weights read no text; leave the prompt and the guidance away")
    if guidance is not None and not guidance >= 1.0:
        raise UserError(f"guidance is {guidance}; give 1 (none) or more")
    if stored == 1.0 and guidance not in (None, 1.0):
        raise UserError(
            f"guidance is {guidance}, but these weights were distilled to need none; leave it away, or give 1"
        )
    if words is not None and prompt:
        words.rows(prompt)  # says what is wrong before anything is generated


def said(words: Words | None, prompt: str, negative: str, guidance: float) -> Said | None:
    """What a network with these words is told; None for one that reads none. Raises `UserError` for words that a
    network cannot read, and for a guidance below 1."""
    if words is None:
        if prompt or guidance != 1.0:
            raise UserError("these weights read no text; leave the prompt and the guidance away")
        return None
    if not guidance >= 1.0:
        raise UserError(f"guidance is {guidance}; give 1 (none) or more")
    return Said(words(prompt), None if guidance == 1.0 else words(negative), guidance)


@torch.inference_mode()
def encode(base: Path, prompt: str) -> Tensor:
    """The rows of a prompt by the encoder in `base`, [T, D], at most `ROWS`; the encoder is loaded for it and dropped.

    Raises `UserError` if it is missing, or its weights do not fit: early releases of transformers 5 read public UMT5
    weights as zeros without a word.
    """
    model, tokenizer = _load(base)
    tokens = tokenizer(prompt, max_length=ROWS, truncation=True, return_attention_mask=True, return_tensors="pt")
    found: Tensor = model(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
    return found.clone()


def _load(base: Path) -> tuple[Any, Any]:
    try:
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils import logging
    except ImportError as error:
        raise UserError(f"prompts need transformers: {install('wan')}") from error
    folder = base / "text_encoder"
    try:
        tokenizer = AutoTokenizer.from_pretrained(base / "tokenizer", local_files_only=True)
        encoder: Any = UMT5EncoderModel
        with _quiet(logging):
            model, info = encoder.from_pretrained(
                folder, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the text encoder in {base} cannot be loaded ({_short(error)})") from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"the weights in {folder} do not fit its config.json: they lack {missing[0]}, for one")
    empty = (model.get_input_embeddings().weight == 0).all(dim=1).float().mean()
    if float(empty) > 0.5:
        raise UserError(f"the text encoder in {folder} was read as zeros; install transformers 5.24 or newer")
    return model.eval(), tokenizer


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """No progress bars of transformers, whose `utils.logging` is given."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _identity(base: Path) -> str:
    """What tells an encoder from others."""
    digest = hashlib.sha256()
    for part in ("text_encoder", "tokenizer"):
        for path in sorted((base / part).glob("*")):
            if path.suffix in (".json", ".safetensors", ".model"):
                digest.update(path.name.encode() + sample(path))
    return digest.hexdigest()[:16]
