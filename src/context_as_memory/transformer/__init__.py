"""The denoiser: a Wan-compatible video diffusion transformer that reads memory.

Parameter names are those of diffusers' `WanTransformer3DModel`, so its checkpoints load, and with equal weights and
no context the outputs are equal. On top of it (paper sections 3 and 4 of arXiv 2506.03141, and beyond):

- explicit frame positions: targets keep the positions of pre-training, context frames get new ones;
- one timestep per frame: context is clean, t = 0;
- cameras in every block: `additive` (the paper: one linear layer from the 3x4 pose, added to the input of
  self-attention) or `prope` (arXiv 2507.10496: half of each head's channels is carried through the projective transform
  of its frame, so that attention sees only relative cameras and no world coordinates), or `rays` (`prope`, and the rest
  of each head turns by the direction in which a token's ray meets a supposed depth, see `ray_angles`);
- camera heads (`camera_heads`): cameras enter by a few heads beside the pre-trained ones, which keep their rotary code
  and know no camera. The new heads write nothing at first, so that the network begins as the pre-trained one;
- three ways to read the context. `joint`: all tokens attend to all, in every denoising step (the paper). `cached`:
  context attends to context only, its keys and values are computed once per chunk. `per_frame`: every context frame is
  encoded on its own, so its keys and values depend on nothing but its latent and could be kept for ever.

Token tensors are [B, F, n, d]: F frames of n tokens; queries, keys and values are [B, F, n, heads, head_dim], and
keys and values are stored before any position or camera is applied to them.
"""

from context_as_memory.transformer.config import TransformerConfig
from context_as_memory.transformer.model import Context, KeysValues, WorldTransformer

__all__ = ["Context", "KeysValues", "TransformerConfig", "WorldTransformer"]
