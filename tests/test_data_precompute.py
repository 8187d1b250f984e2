"""Latents on disk: clips that begin with the recent frame, shards, captions, and what a cache says of itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import paper_set
import tiny
from context_as_memory.adapters.wan import WanCodec
from context_as_memory.data.dataset import LatentStore, MappedLatents, SamplingConfig, sample_segment
from context_as_memory.data.episode import list_episodes, write_episode
from context_as_memory.data.precompute import (
    ClipConfig,
    encode_clips,
    encode_dataset,
    latent_path,
    parse_shard,
    prompt_key,
    read_prompts,
    read_video,
)
from context_as_memory.errors import UserError
from context_as_memory.formats.video import to_video
from context_as_memory.retrieval import RetrievalConfig
from context_as_memory.tokens import TokenLayout

FRAMES, CPU = 34, torch.device("cpu")


@pytest.fixture(scope="module")
def codec() -> WanCodec:
    return paper_set.colour_codec()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("episodes")
    captions = [{"first": 0, "until": 20, "text": "A room."}, {"first": 20, "until": FRAMES, "text": "A wall."}]
    for number, split in enumerate(("train", "train", "val")):
        cameras = paper_set.path(FRAMES, number, 32, 16)
        meta = {"split": split, "fps": 30, "captions": captions if number == 0 else []}
        write_episode(root / f"room_{number}", paper_set.paint(cameras, number), cameras, meta, raw=number == 1)
    return root


def words(text: str) -> torch.Tensor:
    return torch.full((len(text) + 1, 6), float(len(text)), dtype=torch.bfloat16)


@pytest.mark.parametrize(("stride", "latents", "hop"), [(1, 2, None), (2, 2, 1), (3, 1, None)])
def test_clips_and_frames_are_those_of_the_whole_video(codec, stride, latents, hop):
    """Streamed in parts of seven; the reference cuts every clip out of the whole."""
    frames = paper_set.paint(paper_set.path(FRAMES, 3, 32, 16), 3)
    clips = ClipConfig(latents=latents, stride=stride, hop=hop)
    parts = (frames[first : first + 7] for first in range(0, FRAMES, 7))
    alone, found, starts = encode_clips(codec, parts, FRAMES, clips, CPU)
    step, video = 4 * stride, to_video(frames)
    assert len(alone) == len(range(0, FRAMES, step)) and len(found) == len(starts) > 0
    assert starts.tolist() == list(range(0, len(alone) - latents, hop or latents))
    with torch.no_grad():
        truth = codec.encode_frames(video[:, :, ::step])[0].transpose(0, 1).half().numpy()
        np.testing.assert_allclose(alone, truth, atol=2e-3)
        for start, clip in zip(starts, found, strict=True):
            cut = video[:, :, start * step : start * step + latents * step + 1 : stride]
            whole = codec.encode_clip(cut)[0].transpose(0, 1).half().numpy()
            np.testing.assert_allclose(clip, whole[1:], atol=2e-3)
            np.testing.assert_allclose(alone[start], whole[0], atol=2e-3, err_msg="a clip begins with the recent frame")


def test_a_cache_is_made_in_shards_goes_on_and_is_read_from_disk(codec, data, tmp_path):
    clips = ClipConfig(latents=2, stride=2)
    for shard in ("1/2", "0/2"):
        encode_dataset(data, tmp_path / "two", codec, "me", clips=clips, words=words, shard=shard)
    encode_dataset(data, tmp_path / "one", codec, "me", clips=clips, words=words)
    for episode in list_episodes(data):
        one, two = (read_video(tmp_path / name, episode) for name in ("one", "two"))
        assert isinstance(one.latents, np.memmap) and isinstance(one.clips, np.memmap)
        for mine, theirs in zip(one[1:4], two[1:4], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(one.cameras.c2w, episode.cameras().c2w[::8])
        assert one.clips.shape[1] == 2 and len(one.clips) == len(one.starts) == len(one.captions)
    first = read_video(tmp_path / "one", list_episodes(data)[0])
    assert first.captions == ("A room.", "A wall."), "of the middle of each"
    told = read_prompts(tmp_path / "two")
    assert set(told) == {prompt_key(text) for text in ("", "A room.", "A wall.")}
    assert torch.equal(told[prompt_key("A wall.")], words("A wall."))
    kept, killed = (latent_path(tmp_path / "one", episode, ".frames") for episode in list_episodes(data)[:2])
    before = kept.stat().st_mtime_ns
    killed.unlink()  # killed before this episode was done
    encode_dataset(data, tmp_path / "one", codec, "me", clips=clips)
    assert kept.stat().st_mtime_ns == before and killed.exists()


def test_a_cache_of_other_latents_is_named(codec, data, tmp_path):
    encode_dataset(data, tmp_path, codec, "me", clips=ClipConfig(latents=2))
    with pytest.raises(UserError, match="another codec"):
        encode_dataset(data, tmp_path, codec, "you", clips=ClipConfig(latents=2))
    with pytest.raises(UserError, match="latents 2, not 4"):
        encode_dataset(data, tmp_path, codec, "me")
    with pytest.raises(UserError, match="stride 1, not 2"):
        encode_dataset(data, tmp_path, codec, "me", clips=ClipConfig(latents=2, stride=2))
    stamp = json.loads((tmp_path / "stamp.json").read_text())
    assert (stamp["codec"], stamp["step"], stamp["size"]) == ("me", 4, [32, 16])
    latent_path(tmp_path, list_episodes(data)[0], ".clips").write_bytes(b"cut short")
    with pytest.raises(UserError, match="latents: .*damaged or of another kind.* `cam encode` again"):
        read_video(tmp_path, list_episodes(data)[0])
    for bad in ("2/2", "1", "a/b", "-1/2"):
        with pytest.raises(UserError, match="--shard"):
            parse_shard(bad)
    with pytest.raises(UserError, match="must be 1 or more"):
        ClipConfig(stride=0)


def test_mapped_latents_are_those_of_the_store(tmp_path):
    rng = np.random.default_rng(0)
    videos = [rng.normal(size=(count, 3, 2, 4)).astype(np.float16) for count in (5, 1, 9)]
    for number, video in enumerate(videos):
        np.save(tmp_path / f"{number}.npy", video)
    mapped = MappedLatents([np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)])
    store, frames = LatentStore(videos, CPU), torch.tensor([[0, 4, 5], [6, 14, 0]])
    assert torch.equal(mapped.read(frames), store.read(frames))
    assert mapped.first_frames.tolist() == store.first_frames.tolist()


def test_segments_of_clips_begin_where_clips_begin_and_go_forwards():
    cameras, starts = tiny.walk(80), np.arange(0, 78, 2)
    layout, rule = TokenLayout(num_targets=2, max_context=3), RetrievalConfig(max_context=3)
    sampling = SamplingConfig(chunks=3, max_stride=3, pool_frames=(30, 60), hidden_frames=(1, 4), jump=1.0)
    for seed in range(20):
        segment = sample_segment(cameras, layout, rule, sampling, np.random.default_rng(seed), starts=starts)
        recent = segment.pool_index[segment.inputs.context_index[0, :, 0]]
        assert np.isin(recent, starts).all()
        assert (segment.target_index == recent[:, None] + [1, 2]).all()
    with pytest.raises(UserError, match="too short for a clip"):
        sample_segment(cameras, layout, rule, sampling, np.random.default_rng(0), starts=starts[:0])
