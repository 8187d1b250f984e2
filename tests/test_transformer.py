"""The denoiser: parity with diffusers, with its own slow paths, and the invariances that memory relies on."""

import copy
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import tiny
from context_as_memory.adapters.wan import from_diffusers_config
from context_as_memory.camera import Cameras, look, pinhole
from context_as_memory.compute import blocked_attention, fused_attention
from context_as_memory.errors import UserError
from context_as_memory.retrieval import Retrieval
from context_as_memory.tokens import CameraTensors, ModelInputs, TokenLayout, build_model_inputs
from context_as_memory.transformer import TransformerConfig, WorldTransformer
from context_as_memory.transformer.placement import Place, projections, ray_angles
from tiny import transformed


@pytest.fixture(scope="module")
def wan():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=24, in_channels=4, out_channels=4, text_dim=16, freq_dim=32,
        ffn_dim=64, num_layers=2,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("per_token_time", [False, True])
def test_equal_to_diffusers_with_equal_weights(wan, per_token_time):
    ours = WorldTransformer(from_diffusers_config(dict(wan.config))).eval()
    ours.load_state_dict(wan.state_dict())
    x, text = torch.randn(2, 4, 3, 6, 8), torch.randn(2, 5, 16)
    frame_times = torch.tensor([[0.0, 100.0, 700.0], [999.0, 3.0, 50.0]])
    theirs_time = frame_times.repeat_interleave(3 * 4, dim=1) if per_token_time else frame_times[:, 1]
    with torch.no_grad():
        expected = wan(x, theirs_time, text).sample
        got = ours(x, frame_times if per_token_time else frame_times[:, 1], text)
    assert expected.abs().max() > 0.1
    assert (got - expected).abs().max() <= 1e-5


def test_text_in_bf16_is_as_exact_as_in_diffusers(wan):
    """Not worse than 1.2 times diffusers' own error of bf16, which keeps its norms in fp32 as we do."""
    ours = WorldTransformer(from_diffusers_config(dict(wan.config))).eval()
    ours.load_state_dict(wan.state_dict())
    x, text, times = torch.randn(2, 4, 3, 6, 8), torch.randn(2, 5, 16), torch.tensor([500.0, 20.0])
    half = copy.deepcopy(wan).to(torch.bfloat16)
    for name in half._keep_in_fp32_modules:
        for path, part in half.named_modules():
            if name in path:
                part.float()
    for part in half.modules():
        if getattr(part, "scale_shift_table", None) is not None:
            part.scale_shift_table.data = part.scale_shift_table.data.float()
    with torch.inference_mode():
        exact = wan(x, times, text).sample
        theirs = half(x.bfloat16(), times, text.bfloat16()).sample.float()
        got = ours.to(torch.bfloat16)(x.bfloat16(), times, text.bfloat16()).float()
    assert (got - exact).square().mean() <= 1.2**2 * (theirs - exact).square().mean()


def test_clean_context_frames_are_expressible_in_the_stock_model(wan):
    """Joint mode is the stock network on a longer clip with t = 0 on the context, at frame positions 0 .. F-1."""
    ours = WorldTransformer(from_diffusers_config(dict(wan.config))).eval()
    ours.load_state_dict(wan.state_dict())
    noisy, clean, text = torch.randn(1, 4, 2, 6, 8), torch.randn(1, 4, 1, 6, 8), torch.randn(1, 5, 16)
    times = torch.tensor([[0.0, 500.0, 500.0]])
    with torch.no_grad():
        expected = wan(torch.cat((clean, noisy), 2), times.repeat_interleave(12, 1), text).sample[:, :, 1:]
        inputs = _inputs(2, [0])
        got = ours.predict(noisy, torch.tensor([500.0]), clean, inputs, text)
    assert (got - expected).abs().max() <= 1e-5


def test_variants_that_are_not_supported_say_so():
    with pytest.raises(UserError, match="image_dim"):
        from_diffusers_config({"image_dim": 1280})
    with pytest.raises(UserError, match="per_frame"):
        TransformerConfig(camera="additive", context_mode="per_frame")
    with pytest.raises(UserError, match="camera"):
        TransformerConfig(camera="pluecker")


def _inputs(
    targets: int, context: list[int], start: int = 20, slots: int | None = None, rigid: np.ndarray | None = None
) -> ModelInputs:
    cameras = tiny.walk(40)
    cameras = cameras if rigid is None else transformed(cameras, rigid)
    layout = TokenLayout(num_targets=targets, max_context=8)
    found = Retrieval(np.array(context, np.int64), np.zeros(len(context)), np.array(context, np.int64))
    built = build_model_inputs(layout, cameras, cameras[start : start + targets], found, slots)
    return replace(built, context_index=torch.arange(len(built.context_positions)).view(1, 1, -1) * built.context_mask)


MODES = [
    (mode, camera)
    for mode in ("joint", "cached", "per_frame")
    for camera in ("additive", "prope", "rays")
    if (mode, camera) != ("per_frame", "additive")
]


@pytest.mark.parametrize(("mode", "camera"), MODES)
def test_empty_slots_change_nothing(mode, camera):
    model = tiny.model(camera=camera, context_mode=mode)
    pool, noisy, t = torch.randn(1, 4, 3, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    padded_pool = torch.cat((pool, 9 * torch.randn(1, 4, 2, 2, 4)), dim=2)
    with torch.no_grad():
        exact = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12]))
        padded = model.predict(noisy, t, padded_pool, _inputs(2, [3, 7, 12], slots=5))
    assert (exact - padded).abs().max() <= 1e-5


@pytest.mark.parametrize("camera", ["additive", "prope", "rays"])
def test_cached_context_equals_recomputation_in_every_step(camera):
    """Reference: one joint pass in which an attention mask keeps context from seeing targets."""
    model = tiny.model(camera=camera, context_mode="cached")
    inputs = _inputs(2, [3, 7, 12])
    pool, noisy, t = torch.randn(1, 4, 3, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    tokens = 2  # 2x4 latents in 2x2 patches
    hidden = torch.zeros(1, 1, 5 * tokens, 5 * tokens)
    hidden[..., 2 * tokens :, : 2 * tokens] = float("-inf")
    order = inputs.context_index[0, 0]
    cameras = CameraTensors(
        torch.cat((inputs.target_cameras.c2w, inputs.context_cameras.c2w), 2)[0],
        torch.cat((inputs.target_cameras.K, inputs.context_cameras.K), 2)[0],
    )
    with torch.no_grad():
        context = model.prepare(pool, inputs)
        cached = [model.denoise(noisy, t * step, context, inputs) for step in (1.0, 0.5)]
        for step, got in zip((1.0, 0.5), cached, strict=True):
            expected = model(
                torch.cat((noisy, pool[:, :, order]), 2),
                torch.tensor([[400.0 * step] * 2 + [0.0] * 3]),
                frame_positions=inputs.target_positions + inputs.context_positions,
                cameras=cameras,
                bias=hidden,
            )[:, :, :2]
            assert (got - expected).abs().max() <= 1e-5


def test_per_frame_keys_and_values_depend_on_the_latent_alone():
    model = tiny.model()
    frames = torch.randn(1, 4, 5, 2, 4)
    with torch.no_grad():
        together = model.encode_context(frames)
        alone = model.encode_context(frames[:, :, 3:4])
    for (k, v), (one_k, one_v) in zip(together, alone, strict=True):
        assert (k[:, 3] - one_k[:, 0]).abs().max() <= 1e-5
        assert (v[:, 3] - one_v[:, 0]).abs().max() <= 1e-5


def test_the_order_of_retrieved_frames_means_nothing():
    model = tiny.model()
    pool, noisy, t = torch.randn(1, 4, 4, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    with torch.no_grad():
        one = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12, 19]))
        other = model.predict(noisy, t, pool[:, :, [0, 3, 1, 2]], _inputs(2, [12, 3, 7, 19]))
    assert (one - other).abs().max() <= 1e-5


def test_packed_chunks_equal_single_chunks():
    """S = 2 segments of G = 2 chunks that share pools give what each chunk gives alone."""
    model = tiny.model()
    grid = [[_inputs(2, [3, 7, 12], start=s), _inputs(2, [5, 9, 14], start=s + 2)] for s in (18, 24)]
    indices = torch.tensor([[[0, 1, 2], [1, 4, 3]], [[2, 0, 4], [3, 3, 0]]])
    packed = replace(ModelInputs.cat([ModelInputs.cat(row, dim=1) for row in grid], dim=0), context_index=indices)
    pools, noisy, t = torch.randn(2, 4, 5, 2, 4), torch.randn(4, 4, 2, 2, 4), torch.tensor([900.0, 500.0, 10.0, 300.0])
    with torch.no_grad():
        together = model.predict(noisy, t, pools, packed)
        for s in range(2):
            for g in range(2):
                single = replace(grid[s][g], context_index=indices[s, g].view(1, 1, -1))
                alone = model.predict(noisy[[2 * s + g]], t[[2 * s + g]], pools[[s]], single)
                assert (alone[0] - together[2 * s + g]).abs().max() <= 1e-5


@pytest.mark.parametrize(("mode", "camera"), MODES)
def test_training_in_bf16_gives_about_the_same_output_and_gradients(mode, camera):
    model = tiny.model(camera=camera, context_mode=mode).train()
    pool, noisy, t = torch.randn(1, 4, 3, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12])).float()
        output.square().mean().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((output.detach(), gradient))
    for exact, short in zip(*found, strict=True):
        assert (exact - short).norm() <= 0.05 * exact.norm()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), mode=st.sampled_from(MODES))
def test_invariant_under_rigid_motion_of_the_world(seed, mode):
    rng = np.random.default_rng(seed)
    rigid = np.eye(4)
    rigid[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    rigid[:3, 3] = rng.normal(0, 100, 3)
    model = tiny.model(camera=mode[1], context_mode=mode[0])
    pool, noisy, t = torch.randn(1, 4, 3, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    with torch.no_grad():
        here = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12]))
        there = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12], rigid=rigid))
    assert (here - there).abs().max() <= 1e-4


@pytest.mark.parametrize("camera", ["additive", "prope", "rays"])
def test_cameras_matter(camera):
    model = tiny.model(camera=camera, context_mode="cached")
    pool, noisy, t = torch.randn(1, 4, 3, 2, 4), torch.randn(1, 4, 2, 2, 4), torch.tensor([400.0])
    with torch.no_grad():
        one = model.predict(noisy, t, pool, _inputs(2, [3, 7, 12]))
        other = model.predict(noisy, t, pool, _inputs(2, [3, 7, 13]))
    assert (one - other).abs().max() > 1e-4


def test_projections_are_inverse_and_project_points():
    cameras = tiny.walk(5)
    c2w, K = torch.tensor(cameras.c2w).float(), torch.tensor(cameras.normalized_K()).float()
    tensors = CameraTensors(c2w, K)
    to_image, to_world = projections(tensors, 4.0)
    assert (to_image @ to_world - torch.eye(4)).abs().max() <= 1e-5
    point = (
        cameras.position[2] + 3 * cameras.forward[2] + cameras.right[2]
    )  # 3 m ahead, 1 m to the right, fov 90 degrees
    x, y, depth, _ = (to_image[2] @ torch.tensor([*(point / 4.0), 1.0]).float()).tolist()
    assert abs(x / depth - 1 / 3) < 1e-5
    assert abs(y / depth) < 1e-5


def _ray_codes(config: TransformerConfig, cameras: Cameras, anchor: Cameras, grid: tuple[int, int]) -> np.ndarray:
    c2w = torch.from_numpy(anchor.w2c @ cameras.c2w).float()
    tensors = CameraTensors(c2w[None], torch.from_numpy(cameras.normalized_K())[None].float())
    angle = ray_angles(config, (0,) * len(cameras), grid, torch.device("cpu"), tensors)[0]
    return torch.polar(torch.ones_like(angle), angle).numpy()


def test_ray_codes_equal_a_plain_reference():
    config = TransformerConfig(num_attention_heads=3, attention_head_dim=32, camera="rays")
    cameras, rows, columns = tiny.walk(4), 2, 4
    codes = _ray_codes(config, cameras, cameras[[0]], (rows, columns))
    fx, fy, cx, cy = cameras.normalized_K()[0]
    for i, row, column in product(range(4), range(rows), range(columns)):
        x, y = (2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1
        ray = np.array([(x - cx) / fx, (y - cy) / fy, 1.0])
        for head, depth in enumerate((1.5, 18**0.5, 12.0)):
            point = cameras.c2w[i] @ [*(depth * ray / np.linalg.norm(ray)), 1.0]
            right, down, ahead, _ = cameras.w2c[0] @ point
            yaw, pitch = np.arctan2(right, ahead), np.arctan2(down, np.hypot(right, ahead))
            code = codes[i, row * columns + column, head]
            frequencies = np.array([1.0, 6.0, 40.0])
            expected = np.concatenate([np.ones(2), np.exp(1j * yaw * frequencies), np.exp(1j * pitch * frequencies)])
            assert np.abs(code - expected).max() < 1e-4


@given(st.floats(-150, 150))
def test_ray_codes_agree_where_two_cameras_see_the_same_point(degrees):
    """Both cameras look at one point from the distance that the head supposes; their middle tokens have one code."""
    config = TransformerConfig(num_attention_heads=2, attention_head_dim=64, camera="rays", ray_depths_m=(2.0, 5.0))
    angle = np.radians(degrees)
    for head, depth in enumerate((2.0, 5.0)):
        positions = np.array([[0, 0, 0], [depth * (1 - np.cos(angle)), -depth * np.sin(angle), 0]])  # on a circle
        cameras = look(positions, np.array([0.0, angle]), pinhole(90, 99, 99), 99, 99)
        codes = _ray_codes(config, cameras, cameras[[0]], (3, 3))
        assert np.abs(codes[0, 4, head] - codes[1, 4, head]).max() < 1e-3
        if abs(degrees) > 10:
            assert np.abs(codes[0, 4, 1 - head] - codes[1, 4, 1 - head]).max() > 0.1


@pytest.mark.parametrize("split", [0, 4])
def test_placing_equals_plain_algebra_forwards_and_backwards(split):
    """Reference: one real matrix per token and head, block-diagonal, applied to its channels."""
    batch, frames, tokens, heads, dim = 2, 3, 2, 2, 8
    matrix = torch.randn(batch, frames, 4, 4, dtype=torch.float64)
    angle = torch.randn(batch, frames, tokens, heads, (dim - split) // 2, dtype=torch.float64)
    whole = torch.zeros(batch, frames, tokens, heads, dim, dim, dtype=torch.float64)
    if split:
        whole[..., :4, :4] = matrix[:, :, None, None]
    for pair in range((dim - split) // 2):
        a, b = split + 2 * pair, split + 2 * pair + 1
        cos, sin = angle[..., pair].cos(), angle[..., pair].sin()
        whole[..., a, a], whole[..., a, b], whole[..., b, a], whole[..., b, b] = cos, -sin, sin, cos
    x = torch.randn(batch, frames, tokens, heads, dim, requires_grad=True)
    direction = torch.randn(batch, frames, tokens, heads, dim)
    table = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
    placed = Place.apply(x, matrix.float(), table, split)
    expected = (whole @ x.double().unsqueeze(-1)).squeeze(-1)
    assert (placed - expected).abs().max() < 1e-5
    (found,) = torch.autograd.grad((placed * direction).sum(), x)
    (reference,) = torch.autograd.grad((expected * direction).sum(), x)
    assert (found - reference).abs().max() < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_blocked_attention_equals_the_fused_kernel(masked):
    q, k, v = torch.randn(2, 3, 250, 16), torch.randn(2, 3, 70, 16), torch.randn(2, 3, 70, 16)
    bias = torch.where(torch.rand(2, 1, 1, 70) < 0.3, float("-inf"), 0.0) if masked else None
    assert (blocked_attention(q, k, v, bias) - fused_attention(q, k, v, bias)).abs().max() <= 1e-5


def test_text_is_required_where_the_weights_have_it():
    model = tiny.model(text_dim=8)
    with pytest.raises(UserError, match="text"):
        model(torch.randn(1, 4, 2, 2, 4), torch.tensor([1.0]))
