"""Curves of a training run as a picture: python scripts/plot_training.py RUN/metrics.jsonl --out curves.png"""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.metrics.read_text().splitlines()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    losses = [(row["elapsed_s"] / 60, row["loss"]) for row in rows if "loss" in row]
    minutes, values = np.array(losses).T
    width = max(1, len(values) // 40)
    left.plot(minutes, values, color="0.8", linewidth=0.8)
    left.plot(minutes[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), color="tab:blue")
    left.set(xlabel="minutes of training", ylabel="loss", title="training loss")
    for key, label in (
        ("memory_psnr_db", "with memory"),
        ("recent_only_psnr_db", "recent frame only"),
        ("validation_psnr_db", "reconstruction"),
    ):
        points = [(row["elapsed_s"] / 60, row[key]) for row in rows if key in row]
        if points:
            right.plot(*np.array(points).T, marker=".", label=label)
    right.set(xlabel="minutes of training", ylabel="PSNR (dB)", title="validation maps")
    right.legend()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
