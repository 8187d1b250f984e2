"""Arithmetic of a step, against what torch counts."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import tiny
from context_as_memory.data.dataset import Video
from context_as_memory.training import recipes
from context_as_memory.training.recorded import RecordedVideos
from context_as_memory.training.validation import latents_of
from context_as_memory.training.work import product_rate, step_flops


@pytest.mark.parametrize("changes", [{}, {"camera_heads": 2}, {"text_dim": 24}])
def test_work_of_a_step_is_what_torch_counts(changes):
    recipe = recipes.denoiser_tiny()
    latents = np.zeros((40, 4, 6, 8), dtype=np.float16)
    source = RecordedVideos([Video(tiny.walk(40), latents)], recipe.drawing, torch.device("cpu"))
    model = tiny.model(ffn_dim=256, num_layers=4, camera="rays", attention_head_dim=32, **changes)
    batch = source.batch(0, 0)
    targets, pool = latents_of(source, batch)
    words = () if model.config.text_dim is None else (torch.zeros(len(targets), 7, 24), torch.zeros(len(pool), 7, 24))
    # Attention as two products: the fused kernel of a CPU is unknown to the counter.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.predict(targets, torch.full((len(targets),), 500.0), pool, batch.inputs, *words)
    slots = batch.inputs.context_mask.shape[2]
    mine = step_flops(model.config, pool.shape, targets.shape, slots, 7 if words else 0, passes=1)
    assert mine == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_the_rate_of_products_is_positive():
    assert product_rate(torch.device("cpu"), torch.float32, seconds=0.01) > 1e8
