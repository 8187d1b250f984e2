"""Echo-Memory's network with frames as context (`context_k1`, `context_k20`): Wan 2.1 T2V-1.3B with an attention along
time before every block.

Before a block, the pose of each frame is added to its tokens, and every place of the picture attends over the frames,
without a code of time. Context frames stand behind the targets in time, and share their timestep although they are
clean. All frames see each other.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from context_as_memory.errors import UserError
from context_as_memory.tokens import CameraTensors, ModelInputs
from context_as_memory.transformer import Context, TransformerConfig, WorldTransformer
from context_as_memory.transformer.model import Attention, TransformerBlock, attend_all


@dataclass(frozen=True, kw_only=True)
class EchoConfig(TransformerConfig):
    """Sizes of the network, and the unit of its poses."""

    camera: str = "none"  # the stock heads know none
    context_mode: str = "joint"
    pose_unit_m: float = 0.01  # the poses of its training data are in centimetres


class EchoBlock(TransformerBlock):
    """The attention along time, and a stock block after it."""

    def __init__(self, config: EchoConfig) -> None:
        super().__init__(config)
        self.action_attn = Attention(config.width, config.num_attention_heads, config.attention_head_dim, config.eps)
        self.action_mlp = nn.Linear(12, config.width)

    def forward(
        self, x: Tensor, modulation: Tensor, layer: int, attend: Any, pose: Tensor | None, text: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As a stock block: tokens [B, F, n, d]. pose: [B, F, 12], None without cameras."""
        if pose is not None:
            told = x + self.action_mlp(pose.to(x.dtype)).unsqueeze(2)
            along = told.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # [B n, F, 1, d]
            seen = self.action_attn.merge(attend_all(*self.action_attn.project(along)))
            x = x + seen.view(len(x), x.shape[2], x.shape[1], -1).transpose(1, 2)
        return super().forward(x, modulation, layer, attend, None, text)


class EchoTransformer(WorldTransformer):
    """The network under our context: the recent frame behind the targets, then the retrieved ones."""

    config: EchoConfig
    block_class = EchoBlock

    def __init__(self, config: EchoConfig) -> None:
        super().__init__(config)
        for block in self.blocks:  # begins as the stock network
            assert isinstance(block, EchoBlock)
            for layer in (block.action_attn.to_out[0], block.action_mlp):
                nn.init.zeros_(layer.weight)  # type: ignore[arg-type]

    def _pose(self, cameras: CameraTensors | None) -> Tensor | None:
        """Twelve numbers a frame: place and rotation in Unreal's axes (x ahead, y right), on the plane; [B, F, 12]."""
        if cameras is None:
            return None
        place = cameras.c2w[..., :3, 3] / self.config.pose_unit_m
        ahead = cameras.c2w[..., :3, 2]
        length = torch.hypot(ahead[..., 0], ahead[..., 2]).clamp_min(1e-9)
        c, s, zero = ahead[..., 2] / length, ahead[..., 0] / length, torch.zeros_like(length)
        rotation = (c, -s, zero, s, c, zero, zero, zero, zero + 1)
        return torch.stack((place[..., 2], place[..., 0], zero, *rotation), dim=-1)

    def denoise(
        self, noisy: Tensor, timestep: Tensor, context: Context, inputs: ModelInputs, text: Tensor | None = None
    ) -> Tensor:
        """Velocity of noisy targets, [B, C, P, h, w]; see `WorldTransformer.denoise`.

        `UserError` for empty context slots.
        """
        if context.bias is not None:
            raise UserError("Echo-Memory's network has no empty context slots; give every chunk as many frames")
        assert context.latents is not None
        frames, slots = noisy.shape[2], context.latents.shape[2]
        last = inputs.target_positions[-1]
        targets, memory = (cameras.flatten(0, 1) for cameras in (inputs.target_cameras, inputs.context_cameras))
        predicted: Tensor = self(
            torch.cat((noisy, context.latents.to(noisy.dtype)), dim=2),
            timestep,
            text,
            frame_positions=inputs.target_positions + tuple(range(last + 1, last + 1 + slots)),
            cameras=CameraTensors.cat((targets, memory), dim=1),
        )
        return predicted[:, :, :frames]
