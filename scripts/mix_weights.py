"""The weighted mean of the denoisers of two model folders (arXiv 2109.01903): what fine-tuning gave, less what it took.

    python scripts/mix_weights.py default runs/stage2/model --share 0.7 --out runs/mixed

Everything else in OUT (autoencoder, settings) is the second folder's. Both must be of one architecture, and the second
trained from the first: means of unrelated weights are noise.
"""

import argparse
import shutil
from pathlib import Path

import torch

from context_as_memory.transformer import WorldTransformer
from context_as_memory.weights import from_pretrained, load_weights, resolve, save_pretrained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", help="model folder, or default")
    parser.add_argument("second", help="model folder that was trained from it")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="new model folder")
    options = parser.parse_args()
    first, second = (
        from_pretrained(resolve(name) / "transformer", expect=WorldTransformer)
        for name in (options.first, options.second)
    )
    ours, theirs = first.state_dict(), second.state_dict()
    mixed = {name: torch.lerp(ours[name].float(), theirs[name].float(), options.share) for name in theirs}
    load_weights(second, mixed, f"{options.first} and {options.second}")
    shutil.copytree(resolve(options.second), options.out)
    save_pretrained(second, options.out / "transformer")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
