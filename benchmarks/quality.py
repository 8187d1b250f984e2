"""The yardstick for weights: how good are the pictures, and does memory make them right? Worlds that they never saw.

    python benchmarks/quality.py --data episodes [--weights runs/denoiser/model] [--json FILE] [--sheet PNG]

A thin call of `cam evaluate --suite quality`, which says what is measured (`evaluation/suite/quality.py`); what it
found lies in --out, and a run found there is resumed. --json writes flat keys: means, and `_low` and `_high` of their
95 % bootstrap intervals (episodes resampled first, then clips within them). LPIPS and styles need `cam fetch metrics`.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from context_as_memory import weights
from context_as_memory.evaluation.config import EvaluateConfig
from context_as_memory.evaluation.metric_networks import LPIPS_VARIANT, load_lpips
from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.evaluation.suite.run import evaluate
from context_as_memory.formats.pictures import read_image, write_image

SHEET_ROWS = 12


def sheet(folder: Path) -> np.ndarray:
    """Pictures of up to `SHEET_ROWS` clips of every protocol, one below the other, uint8 [H, W, 3]."""
    files = sorted(folder.glob("*.png"))
    kinds = dict.fromkeys(path.name.partition("_")[0] for path in files)
    parts = []
    for kind in kinds:
        own = [path for path in files if path.name.startswith(f"{kind}_")]
        parts += [read_image(path) for path in own[:: max(1, len(own) // SHEET_ROWS)][:SHEET_ROWS]]
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=250) for p in parts])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--weights", default="default")
    parser.add_argument("--clips", type=int, default=48, help="clips of each protocol on recorded memory")
    parser.add_argument("--walks", type=int, help="walks that leave and come back")
    parser.add_argument("--long-walks", type=int, help="walks of 600 frames into new territory")
    parser.add_argument("--steps", type=int, help="denoising steps, as stored with the weights if not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for reports and pictures; outputs/quality if not given")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of what every protocol looked at")
    options = vars(parser.parse_args())
    json, picture = options.pop("json"), options.pop("sheet")
    load_lpips()
    began = time.perf_counter()
    config = EvaluateConfig(suite="quality", **options | {"data": str(options["data"])})
    report = evaluate(config)
    folder = weights.resolve(config.weights)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    figures = report.flat() | {"weights_mb": size / 1e6, "minutes": (time.perf_counter() - began) / 60}
    figures["clips"] = len(report.having("returns_coverage.psnr_db"))
    for name, value in figures.items():
        if not name.endswith(("_low", "_high")):
            low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
            print(f"{name:34s} {value:9.4f}" + ("" if low is None else f"   [{low:.4f}, {high:.4f}]"))
    if json:
        identity = {"weights": config.weights, "sha256": report.weights["sha256"], "lpips": LPIPS_VARIANT}
        identity |= {"protocols": {name.replace(".", "_"): report.protocol(name) for name in report.metrics()}}
        write_json(json, figures | identity | {f"environment_{k}": v for k, v in environment().items()})
    if picture:
        write_image(picture, sheet(config.folder / "pictures"))


if __name__ == "__main__":
    main()
