"""Memorizon's network (arXiv 2610.00544): Wan 2.2 TI2V-5B with a narrow camera attention after every block.

The branch knows nothing but cameras (PRoPE, arXiv 2507.10496) and the place of a token in its picture. Its context is
a sequence in time: a first frame A, a bank of retrieved frames in one time slot, and the frames just before the
targets. Frames of the context are read once per chunk; A sees itself, the bank sees A and the bank, the recent frames
see all three.

How our context gets there: the chunk begins a video of its own at the recent frame, which is both A and recent, as in
the first chunk of a video of theirs; retrieved frames are the bank.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from context_as_memory.errors import UserError
from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.transformer import Context, KeysValues, TransformerConfig, WorldTransformer
from context_as_memory.transformer.model import TransformerBlock, attend_all
from context_as_memory.transformer.placement import Placement, projections


@dataclass(frozen=True, kw_only=True)
class MemorizonConfig(TransformerConfig):
    """Sizes of the network and of its camera branch."""

    camera: str = "none"  # the stock heads know none
    context_mode: str = "joint"
    branch_heads: int = 3
    branch_head_dim: int = 128
    branch_freq_base: float = 100.0  # of the branch's code of rows and columns
    branch_freq_scale: float = 1.0


class CameraBranch(nn.Module):
    """A narrow attention beside the stock one; it begins as nothing."""

    def __init__(self, config: MemorizonConfig) -> None:
        super().__init__()
        self.heads, inner = config.branch_heads, config.branch_heads * config.branch_head_dim
        self.norm = nn.LayerNorm(config.width, config.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(config.width, inner, bias=False) for _ in range(3))
        self.to_out = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: Tensor, layer: int, attend: "Attend") -> Tensor:
        """Tokens [B, F, n, d] -> what is added to them."""
        y = self.norm(x)
        q, k, v = (part(y).unflatten(-1, (self.heads, -1)) for part in (self.to_q, self.to_k, self.to_v))
        result: Tensor = self.to_out(attend.along_cameras(layer, q, k, v).flatten(-2))
        return result


class BranchPlacement:
    """Cameras, rows and columns in the branch: half of each head's channels goes through the frames' projections, a
    quarter turns with the column, a quarter with the row."""

    def __init__(self, config: MemorizonConfig, grid: tuple[int, int], cameras: CameraTensors) -> None:
        # The lens in units of the whole picture, where ours has half of it.
        seen = CameraTensors(cameras.c2w, cameras.K / 2)
        matrices = projections(seen, config.translation_scale_m)
        self.to_image, self.to_world = (matrix[:, :, None, None] for matrix in matrices)
        self.half = config.branch_head_dim // 2
        pairs, device = config.branch_head_dim // 8, cameras.c2w.device
        steps = torch.arange(pairs, device=device) / pairs
        rate = config.branch_freq_scale * config.branch_freq_base**-steps
        rows, columns = (torch.arange(side, device=device).float() for side in grid)
        places = (columns.repeat(grid[0]), rows.repeat_interleave(grid[1]))
        angles = [(place.unsqueeze(-1) * rate).unsqueeze(1) for place in places]  # [n, 1, pairs]
        self.turns = [torch.polar(torch.ones_like(angle), -angle) for angle in angles]

    def _apply(self, x: Tensor, matrix: Tensor, back: bool = False) -> Tensor:
        seen, *turned = x.float().split([self.half, self.half // 2, self.half // 2], dim=-1)  # type: ignore[no-untyped-call]
        parts = [(seen.unflatten(-1, (-1, 4)) @ matrix.mT).flatten(-2)]
        for part, turn in zip(turned, self.turns, strict=True):
            pairs = torch.complex(*part.chunk(2, dim=-1)) * (turn.conj() if back else turn)
            parts += [pairs.real, pairs.imag]
        return torch.cat(parts, dim=-1).type_as(x)

    def query(self, q: Tensor) -> Tensor:
        """Queries [B, F, n, heads, hd], placed."""
        return self._apply(q, self.to_image.mT)

    def key(self, x: Tensor) -> Tensor:
        """Keys or values [B, F, n, heads, hd], placed."""
        return self._apply(x, self.to_world)

    def output(self, o: Tensor) -> Tensor:
        """What was attended to, [B, F, n, heads, hd], as its queries see it."""
        return self._apply(o, self.to_image, back=True)


@dataclass
class Attend:
    """How the tokens of one pass attend, to each other and to what was read before: queries, keys and values
    [B, F, n, heads, hd] of a layer -> what its queries attend to, [B, F, n, heads, hd]."""

    place: Placement
    branch: BranchPlacement
    bias: Tensor | None  # added to the scores
    known: KeysValues = field(default_factory=list)  # of the context, placed
    known_branch: KeysValues = field(default_factory=list)
    kept: KeysValues = field(default_factory=list)  # of this pass, placed, if nothing was known before
    kept_branch: KeysValues = field(default_factory=list)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k = self.place.key(k)
        k, v = _joined(self.known, self.kept, layer, k, v)
        return attend_all(self.place.query(q), k, v, self.bias)

    def along_cameras(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same in the branch, with its own heads: [B, F, n, heads, hd]."""
        k, v = _joined(self.known_branch, self.kept_branch, layer, self.branch.key(k), self.branch.key(v))
        return self.branch.output(attend_all(self.branch.query(q), k, v, self.bias))


def _joined(known: KeysValues, kept: KeysValues, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of a pass behind those that are known; where none are, they are kept themselves."""
    if known:
        return torch.cat((known[layer][0], k), dim=1), torch.cat((known[layer][1], v), dim=1)
    if len(kept) == layer:  # not again when a block is computed again for its gradients
        kept.append((k, v))
    return k, v


class MemorizonBlock(TransformerBlock):
    """A stock block, and the branch after it."""

    prope_attn: CameraBranch

    def forward(
        self, x: Tensor, modulation: Tensor, layer: int, attend: Any, pose: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As a stock block: tokens [B, F, n, d]."""
        x, k, v = super().forward(x, modulation, layer, attend, pose, text)
        return x + self.prope_attn(x, layer, attend).type_as(x), k, v


@dataclass(frozen=True)
class Reading(Context):
    """The context of a chunk; what was read of it, for each text that it was read with."""

    read: list[tuple[Tensor | None, Attend]] = field(default_factory=list)


class MemorizonTransformer(WorldTransformer):
    """The network under our context. It reads its context with the prompt, as it was trained; so a context is read
    once per chunk and text."""

    config: MemorizonConfig
    block_class = MemorizonBlock

    def __init__(self, config: MemorizonConfig) -> None:
        super().__init__(config)
        for block in self.blocks:
            block.prope_attn = CameraBranch(config)
            nn.init.zeros_(block.prope_attn.to_out.weight)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Nothing of any shape [...]: `UserError`."""
        raise UserError("Memorizon's network reads a context first: use prepare and denoise")

    def prepare(
        self, pool: Tensor, inputs: ModelInputs, text: Tensor | None = None, encoded: KeysValues | None = None
    ) -> Context:
        """The context of S x G chunks from a pool [S, C, M, h, w], to be read when its text is known.

        See `WorldTransformer.prepare`.
        """
        found = super().prepare(pool, inputs, None, None)
        return Reading(None, found.latents, found.bias)

    def denoise(
        self, noisy: Tensor, timestep: Tensor, context: Context, inputs: ModelInputs, text: Tensor | None = None
    ) -> Tensor:
        """Velocity of noisy targets, [B, C, P, h, w]; see `WorldTransformer.denoise`."""
        assert isinstance(context, Reading)
        slots, frames = inputs.context_mask.shape[-1], noisy.shape[2]
        read = next((read for said, read in context.read if _same(said, text)), None)
        if read is None:
            read = self._read(context, inputs, text)
            context.read.append((text, read))
        first = 2 if slots == 1 else 3
        tokens, grid = self._embed(noisy)
        hidden = _hidden(context.bias, slots)
        if hidden is not None:
            hidden = torch.cat((hidden, hidden.new_zeros(*hidden.shape[:3], tokens.shape[1] * tokens.shape[2])), dim=-1)
        attend = Attend(
            Placement(self.config, tuple(range(first, first + frames)), grid, tokens.device),
            BranchPlacement(self.config, grid, inputs.target_cameras.flatten(0, 1)),
            None if hidden is None else hidden.to(tokens.dtype),
            read.kept,
            read.kept_branch,
        )
        tokens, embedding = self._run(tokens, timestep.unsqueeze(1).expand(-1, frames), attend, None, text)
        return self._head(tokens, embedding, grid)

    def _read(self, context: Reading, inputs: ModelInputs, text: Tensor | None) -> Attend:
        """A pass over A, the bank and the recent frame."""
        assert context.latents is not None
        order = _order(context.latents.shape[2])
        cameras = inputs.context_cameras.flatten(0, 1)
        tokens, grid = self._embed(context.latents[:, :, order])
        count = tokens.shape[2]
        bank = len(order) - 2
        sees = torch.zeros(len(order), len(order), dtype=torch.bool)
        sees[:, 0] = sees[-1] = sees[1:-1, 1:-1] = True
        blind = torch.zeros(sees.shape).masked_fill(~sees, float("-inf"))
        bias = blind.repeat_interleave(count, 0).repeat_interleave(count, 1)[None, None].to(tokens.device)
        hidden = _hidden(context.bias, context.latents.shape[2])
        bias = bias if hidden is None else bias + hidden
        attend = Attend(
            Placement(self.config, (0, *(1,) * bank, 2 if bank else 1), grid, tokens.device),
            BranchPlacement(self.config, grid, CameraTensors(cameras.c2w[:, order], cameras.K[:, order])),
            bias.to(tokens.dtype),
        )
        self._run(tokens, tokens.new_zeros(len(tokens), len(order)), attend, None, text)
        return attend


def _order(slots: int) -> list[int]:
    """The context's slots as A, bank, recent."""
    return [*range(slots), 0]


def _hidden(bias: Tensor | None, slots: int) -> Tensor | None:
    """The bias of empty slots [B, 1, 1, K n] for frames in that order."""
    if bias is None:
        return None
    each: Tensor = bias.unflatten(-1, (slots, -1))  # type: ignore[no-untyped-call]
    return each[..., _order(slots), :].flatten(-2)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))
