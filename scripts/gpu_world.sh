#!/usr/bin/env bash
# The GPU machine's whole job in slices: render, latents of the embedded autoencoder, denoiser. Each call ends by itself
# within MINUTES (default 8.5) with a checkpoint; the same call again continues. The denoiser trains for BUDGET minutes over
# all calls, and its learning rate falls to zero at their end. No network and no video library needed.
#
#   scripts/gpu_world.sh WORK [RECIPE]     WORK: folder for data and runs; RECIPE: base (default) or tiny (rehearsal)
#
# Weights end in WORK/world/world and, cut into pieces of 15 MB, in WORK/out.
set -euo pipefail
work=${1:?usage: scripts/gpu_world.sh WORK [RECIPE]}
recipe=${2:-base}
minutes=${MINUTES:-8.5}
maps=${MAPS:-all}
frames=${FRAMES:-1000}
end=$(python3 -c "import time; print(time.time() + 60 * $minutes)")
left() { python3 -c "import time; print(max(0.05, ($end - time.time()) / 60 - 0.3))"; }
cam() { python3 -m context_as_memory "$@"; }
root=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}"
mkdir -p "$work"

cam render --out "$work/episodes" --maps $maps --frames-per-video "$frames" --videos-per-map "${VIDEOS:-3}" --workers "$(nproc)" --raw
# The embedded autoencoder is good as it is; only the rehearsal, whose denoiser has fewer channels, trains one of its own.
codec=$root/src/context_as_memory/assets/weights
if [ "$recipe" = tiny ]; then
  codec=$work/codec
  [ -f "$codec/vae/config.json" ] || cam train codec --recipe tiny --data "$work/episodes" --out "$codec"
fi
cam encode --data "$work/episodes" --weights "$codec" --cache "$work/latents"
cam train world --recipe "$recipe" --data "$work/episodes" --codec "$codec" --cache "$work/latents" \
  --out "$work/world" --budget-minutes "${BUDGET:-21}" --stop-after-minutes "$(left)"
rm -rf "$work/out" && mkdir -p "$work/out"
tar -C "$work/world" -cf - world metrics.jsonl samples | split -b 15M - "$work/out/world.tar."
echo "slice done; pieces of the weights:" && ls -l "$work/out"
