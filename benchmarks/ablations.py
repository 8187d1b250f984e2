"""Which way to read context, which way to tell cameras: trained from nothing on equal batches, judged alike.

    python benchmarks/ablations.py --data episodes --cache runs/latents --codec WEIGHTS --out runs/ablations

Every variant is the recipe `light` with one or two fields of the model changed: same seed, so the same batches in the
same order. Reported: validation chunks that begin far from the recent frame, with memory and with the recent frame
only (PSNR, dB), and the seconds of a training step. A killed run resumes; finished variants are not trained again.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from context_as_memory.evaluation.report import environment, write_json
from context_as_memory.training.denoiser import train_denoiser
from context_as_memory.training.recipes import denoiser_recipe

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "rays per_frame": {"camera": "rays", "context_mode": "per_frame"},
    "rays cached": {"camera": "rays", "context_mode": "cached"},
    "rays joint": {"camera": "rays", "context_mode": "joint"},
    "prope per_frame": {"camera": "prope", "context_mode": "per_frame"},
    "prope joint": {"camera": "prope", "context_mode": "joint"},
    "additive joint": {"camera": "additive", "context_mode": "joint"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--codec", type=Path, required=True, help="a model folder, or its vae/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="light")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), help="these variants; all if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = denoiser_recipe(options.recipe)
    train = replace(
        recipe.train,
        steps=options.steps,
        budget_minutes=None,
        sample_every=options.steps,
        log_every=max(1, options.steps // 12),
        ema_decay=0.95,  # an average over the last few percent of a short run
    )
    figures: dict[str, float] = {}
    for name in options.only or VARIANTS:
        model = replace(recipe.model, **dict[str, Any](VARIANTS[name]))
        folder = options.out / name.replace(" ", "_")
        train_denoiser(replace(recipe, model=model, train=train), options.data, options.codec, options.cache, folder)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        logged = [row for row in rows if "loss" in row]
        validation = [row for row in rows if "memory_psnr_db" in row][-1]
        figures[f"{folder.name}_memory_psnr_db"] = validation["memory_psnr_db"]
        figures[f"{folder.name}_recent_only_psnr_db"] = validation["recent_only_psnr_db"]
        figures[f"{folder.name}_step_s"] = logged[-1]["elapsed_s"] / logged[-1]["step"]
        print(
            f"{name:16s} memory {validation['memory_psnr_db']:.2f} dB, recent frame only "
            f"{validation['recent_only_psnr_db']:.2f} dB, {figures[f'{folder.name}_step_s']:.2f} s a step",
            flush=True,
        )
    if options.json:
        write_json(options.json, figures | {"steps": options.steps} | environment())


if __name__ == "__main__":
    main()
