"""A run folder: one owner, a record of what it was made with, a log without repeats, and always a whole checkpoint."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from context_as_memory.cli.main import main
from context_as_memory.codec import ImageAutoencoder
from context_as_memory.data.episode import write_episode
from context_as_memory.data.precompute import encode_dataset, latent_path, read_latents
from context_as_memory.errors import UserError
from context_as_memory.training import recipes
from context_as_memory.training.codec import CodecTask, train_codec
from context_as_memory.training.run_folder import RunFolder
from context_as_memory.training.trainer import Trainer
from context_as_memory.weights import WEIGHTS_FILE

SOURCE = str(Path(__file__).parents[1] / "src")
META = {"map": "none", "fps": 15, "licence": "none", "generator": "test"}


def _trainer(folder: Path, made_with: dict[str, Any] | None = None, **changes: Any) -> Trainer:
    recipe = recipes.codec_tiny()
    settings = {"steps": 8, "sample_every": 4, "log_every": 1} | changes
    recipe = replace(recipe, crop=16, train=replace(recipe.train, **settings))
    torch.manual_seed(0)
    task = CodecTask(recipe, tiny.pictures(20), tiny.pictures(2))
    return Trainer(ImageAutoencoder(recipe.model), task, recipe.train, folder, made_with)


def _episodes(folder: Path, seed: int, names: tuple[str, ...] = ("a", "b")) -> Path:
    for number, name in enumerate(names):
        meta = META | {"split": "train", "seed": seed}
        write_episode(folder / name, tiny.pictures(12, seed + 10 * number), tiny.walk(12, seed), meta)
    return folder


def _rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _one_more_step(folder: Path, **changes: Any) -> Trainer:
    trainer = _trainer(folder, stop_after_minutes=1e-9, **changes)
    trainer.train()
    return trainer


# -- the log -----------------------------------------------------------------------------------------------------------


def test_a_run_that_is_killed_and_resumed_has_every_step_once_and_in_order(tmp_path):
    whole = _trainer(tmp_path / "whole")
    whole.train()
    for _ in range(3):
        _one_more_step(tmp_path / "run")
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:  # a kill, four steps after the last checkpoint
        for step in (4, 5, 6):
            file.write(json.dumps({"step": step, "elapsed_s": 9, "loss": 0.5}) + "\n")
        file.write('{"step": 7, "lo')
    _trainer(tmp_path / "run").train()
    _trainer(tmp_path / "run").train()  # a run that has ended, once more
    figures = [[row["step"] for row in _rows(tmp_path / name) if "loss" in row] for name in ("whole", "run")]
    assert figures == [list(range(1, 9))] * 2
    for mine, theirs in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "run"), strict=True):
        same = {"elapsed_s": 0, "tokens_per_s": 0, "memory_gb": 0}  # of the machine, not of the run
        assert {**mine, **same} == {**theirs, **same}


# -- the owner and the record ------------------------------------------------------------------------------------------


def test_a_second_trainer_is_refused_while_the_first_one_lives(tmp_path):
    first = RunFolder(tmp_path / "run")
    first.claim()
    with pytest.raises(UserError, match="another process trains in .*choose another --out"):
        _trainer(tmp_path / "run").train()
    assert not (tmp_path / "run" / "last.pt").exists()
    first.release()
    _trainer(tmp_path / "run").train()
    _trainer(tmp_path / "run").train()  # released at the end


@pytest.mark.parametrize(
    ("made_with", "changes", "told"),
    [
        ({"data": "two"}, {}, "with data one, this call has two"),
        ({"data": "one"}, {"seed": 5}, "with seed 0, this call has 5"),
        ({"data": "two"}, {"seed": 5}, "choose another --out"),
    ],
)
def test_a_run_is_not_resumed_with_other_data_or_another_seed(tmp_path, made_with, changes, told):
    _trainer(tmp_path, {"data": "one"}, stop_after_minutes=1e-9).train()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=told):
        _trainer(tmp_path, made_with, **changes).train()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    _trainer(tmp_path, {"data": "one"}).train()


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"learning_rate": 1e-4}, {"optimizer": "muon"}])
def test_other_settings_are_told_and_leave_a_trace(tmp_path, capsys, changes):
    _one_more_step(tmp_path)
    name, value = next(iter(changes.items()))
    if name == "optimizer":
        return  # its state is another one; only the record is of interest here
    _one_more_step(tmp_path, **changes)
    assert f"{name} " in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "resumes.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 1 and rows[-1]["changed"][name][1] == value
    assert json.loads((tmp_path / "made_with.json").read_text())[name] != value, "the first half is not forgotten"
    _one_more_step(tmp_path, steps=9, **changes)  # a budget alone is no news
    assert "steps" not in capsys.readouterr().err


def test_the_data_of_a_run_are_told_by_their_content(tmp_path):
    recipe = replace(recipes.codec_tiny(), crop=16)
    recipe = replace(recipe, train=replace(recipe.train, steps=4, stop_after_minutes=1e-9))
    _episodes(tmp_path / "one", 0)
    _episodes(tmp_path / "same", 0)
    _episodes(tmp_path / "other", 1)
    train_codec(recipe, tmp_path / "one", tmp_path / "run")
    train_codec(recipe, tmp_path / "same", tmp_path / "run")
    with pytest.raises(UserError, match="with data"):
        train_codec(recipe, tmp_path / "other", tmp_path / "run")


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "gone", "foreign"])
def test_a_damaged_checkpoint_is_never_the_only_one(tmp_path, capsys, damage):
    for _ in range(3):
        _one_more_step(tmp_path)
    path = tmp_path / "last.pt"
    data = path.read_bytes()
    contents = {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello"}
    if damage == "gone":
        path.unlink()  # killed between two renames
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(2)}, path)
    else:
        path.write_bytes(contents[damage])
    trainer = _trainer(tmp_path)
    assert trainer.load() and trainer.step == 2
    assert damage == "gone" or "the run goes on from" in capsys.readouterr().err
    trainer.train()
    assert trainer.step == 8 and [row["step"] for row in _rows(tmp_path) if "loss" in row] == list(range(1, 9))
    (tmp_path / "last.pt").write_bytes(b"")
    (tmp_path / "previous.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"last.pt cannot be read \(.+\); .*previous.pt cannot be read \(.+\); delete"):
        _trainer(tmp_path).train()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["weights", "average"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value, where):
    trainer = _one_more_step(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with torch.no_grad():
        (trainer.parameters if where == "weights" else trainer.ema)[0].view(-1)[0] = value
    with pytest.raises(UserError, match="not finite at step 1, which is not saved"):
        trainer.save()
    assert (tmp_path / "last.pt").read_bytes() == before
    again = _trainer(tmp_path)
    assert again.load() and again.step == 1


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    """A limit on the size of files stands for the full disk: the same error, in a process of its own."""
    trainer = _one_more_step(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = "nothing was said"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))
            trainer.save()
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    told = os.read(reading, 4000).decode()
    os.close(reading)
    os.waitpid(child, 0)
    assert told.startswith("UserError: training: ") and "cannot be written" in told and "make room" in told
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("asked", "group"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGHUP, False)],
)
def test_a_run_that_is_asked_to_end_saves_first(tmp_path, asked, group):
    """By a terminal or a scheduler, which signal one process or the whole group with its helpers."""
    data = _episodes(tmp_path / "data", 0)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "context_as_memory", "train", "codec", "--recipe", "tiny", "--steps", "100000"]
    command += ["--data", str(data), "--out", str(out), "--threads", "1"]
    process = subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": SOURCE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        os.killpg(process.pid, asked) if group else process.send_signal(asked)
        _, complained = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, complained
    assert "Traceback" not in complained and f"{asked.name}: saving after this step" in complained
    step = torch.load(out / "last.pt", weights_only=True)["step"]
    assert step >= _rows(out)[-1]["step"] > 0


# -- latents -----------------------------------------------------------------------------------------------------------


def test_latents_are_kept_by_content_not_by_name(tmp_path):
    codec = tiny.codec()
    for seed in (0, 1):
        _episodes(tmp_path / f"data{seed}", seed)
    kept = {}
    for seed in (0, 1):
        episodes = encode_dataset(tmp_path / f"data{seed}", tmp_path / "cache", codec, "codec")
        kept[seed] = [np.array(read_latents(tmp_path / "cache", episode)) for episode in episodes]
        fresh = encode_dataset(tmp_path / f"data{seed}", tmp_path / f"fresh{seed}", codec, "codec")
        for mine, episode in zip(kept[seed], fresh, strict=True):
            np.testing.assert_array_equal(mine, read_latents(tmp_path / f"fresh{seed}", episode))
    assert [bool((a != b).any()) for a, b in zip(kept[0], kept[1], strict=True)] == [True, True]
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")}
    encode_dataset(tmp_path / "data0", tmp_path / "cache", codec, "codec")
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")} == files, "once each"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"null"])
def test_a_stamp_that_was_cut_short_is_one_error_that_says_what_to_do(tmp_path, content):
    _episodes(tmp_path / "data", 0)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "stamp.json").write_bytes(content)
    with pytest.raises(UserError, match="delete"):
        encode_dataset(tmp_path / "data", tmp_path / "cache", tiny.codec(), "codec")
    (tmp_path / "cache" / "stamp.json").unlink()
    (tmp_path / "cache").rmdir()  # does what the sentence says
    encode_dataset(tmp_path / "data", tmp_path / "cache", tiny.codec(), "codec")


@pytest.mark.parametrize(("shape", "kind"), [((12, 4), "f2"), ((5, 4, 2, 4), "f2"), ((12, 4, 2, 4), "i4")])
def test_latents_of_another_shape_are_named(tmp_path, shape, kind):
    episodes = encode_dataset(_episodes(tmp_path / "data", 0), tmp_path / "cache", tiny.codec(), "codec")
    np.save(latent_path(tmp_path / "cache", episodes[0]), np.zeros(shape, kind))
    with pytest.raises(UserError, match="delete it and run `cam encode` again"):
        read_latents(tmp_path / "cache", episodes[0])


def test_trained_weights_of_the_command_line_are_whole(tmp_path, capsys):
    data = _episodes(tmp_path / "data", 0)
    words = ["train", "codec", "--recipe", "tiny", "--steps", "3", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(words) == 0 and (tmp_path / "run" / "vae" / WEIGHTS_FILE).exists()
    assert main([*words, "--seed", "7"]) == 2
    assert "choose another --out folder" in capsys.readouterr().err
