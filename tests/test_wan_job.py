"""The GPU job for Wan models: all its sections are there, and none is measured twice."""

import json
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
pytest.importorskip("diffusers")


@pytest.fixture
def job(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import gpu_wan

    return gpu_wan


def call(job: ModuleType, work: Path, *sections: str, seconds: float = 60) -> int:
    words = ["--work", str(work), "--until", str(time.time() + seconds), "--tiny", "--only", *sections]
    found: int = job.main(words)
    return found


def test_both_backbones_have_all_sections(job):
    names = list(job.SECTIONS)
    assert names[0] == "card" and names[-1] == "card-again" and {"compile", "attention"} < set(names)
    for part in ("parity", "steps", "walk", "lora", "vae"):
        assert {name.split("-")[1] for name in names if name.startswith(part)} == {"1.3B", "5B"}
    assert any(name.startswith("full-1.3B") for name in names)


def test_a_finished_section_is_not_measured_again_and_a_failed_case_is(job, tmp_path):
    assert call(job, tmp_path, "card", "attention") == 0
    path = tmp_path / "out" / "card.json"
    record = json.loads(path.read_text())
    assert record["complete"] and record["rows"]["5B, denoise step"]["step_tflop"] > 0
    before = path.stat().st_mtime_ns
    lost = "product of large matrices"
    kept = json.loads((tmp_path / "out" / "attention.json").read_text())
    first = kept["rows"].pop("5B, as chosen")
    kept |= {"complete": False, "failed": {"5B, as chosen": "OSError: the machine went away"}}
    (tmp_path / "out" / "attention.json").write_text(json.dumps(kept))
    assert call(job, tmp_path, "card", "attention") == 0
    assert path.stat().st_mtime_ns == before
    again = json.loads((tmp_path / "out" / "attention.json").read_text())
    assert again["complete"] and not again["failed"]
    assert again["rows"]["1.3B, as chosen"] == kept["rows"]["1.3B, as chosen"]
    assert again["rows"]["5B, as chosen"].keys() == first.keys()
    assert lost in (tmp_path / "out" / "table.md").read_text()


def test_a_job_whose_time_is_up_measures_nothing(job, tmp_path):
    assert call(job, tmp_path, "card", seconds=-1) == 0
    assert not (tmp_path / "out" / "card.json").exists()


def test_counted_work_is_what_arithmetic_says(job):
    """A denoising step of the real 5B with 8 context frames, and one pass over them: 18 and 34 TFLOP."""
    bench = job.Bench(job.Plan(device="cpu"), Path(), 0.0)
    kind = bench.plan.kinds["5B"]

    def counted(part: str) -> float:
        def prepared(model):
            return job._calls(model, bench.sample(kind, kind.size, 8, device=job.torch.device("meta")))[part]

        found: float = bench.tflop(kind.config(), prepared)
        return found

    assert counted("step") == pytest.approx(18, rel=0.1)
    assert counted("context") == pytest.approx(34, rel=0.1)


def test_the_pages_name_the_job(job):
    assert "gpu_wan" in sys.modules
    for page in ("docs/wan.md", "docs/gpu-worklist.md"):
        assert "scripts/gpu_wan.sh" in (SCRIPTS.parent / page).read_text(encoding="utf-8")
