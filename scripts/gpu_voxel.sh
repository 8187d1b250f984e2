#!/usr/bin/env bash
# One slice of training for voxel worlds on a GPU machine without network: worlds are built, painted and encoded while the
# denoiser is trained.
#
#   scripts/gpu_voxel.sh WORK MINUTES
#
# Ends by itself within MINUTES. A slice goes on from the one before in WORK, else from INIT (the embedded weights, if they
# are of the same architecture, else nothing), so slices add up. Weights end in WORK/slice-N/model; cut into pieces of
# 15 MB, with curves and pictures, in WORK/out, also after an error.
#
#   CODEC_MINUTES=4   first train the autoencoder so long (0: take CODEC); the denoiser then starts from nothing
#   CODEC=FOLDER      autoencoder: a model folder or its vae/ (embedded one)
#   INIT=FOLDER       weights to go on from, or `none` (default)
#   SEED=3            give every slice its own: it sees other worlds
#   RECIPE=base       base | base-2step | light | tiny
#   FLAGS, CODEC_FLAGS, FRAMES_FLAGS   for scripts/gpu_voxel.py (rehearsals)
set -euo pipefail
work=${1:?usage: scripts/gpu_voxel.sh WORK MINUTES}
minutes=${2:?minutes}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
mkdir -p "$work"
work=$(cd "$work" && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 PYTHONUNBUFFERED=1
export NUMBA_CACHE_DIR="${NUMBA_CACHE_DIR:-$work/numba}"
# The network behind the perceptual distance (`cam fetch metrics`), where it was brought along.
if [ -d "$root/.cache/context-as-memory" ]; then export XDG_CACHE_HOME="$root/.cache"; fi

end=$($python -c "import time; print(time.time() + 60 * $minutes)")
step() { # minutes kept back, then the words of scripts/gpu_voxel.py
  local seconds
  seconds=$($python -c "import time; print(max(5, int($end - time.time() - 60 * $1)))")
  timeout -k 10 "$seconds" $python "$root/scripts/gpu_voxel.py" "${@:2}"
}

number=0
while [ -e "$work/slice-$number/model/model.json" ]; do number=$((number + 1)); done
out=$work/slice-$number
rm -rf "$out"

pack() { # also after an error: what is there is worth having
  rm -rf "$work/out" && mkdir -p "$work/out"
  (cd "$work" && ls -d "slice-$number"/{world,metrics.jsonl,config.json,samples} codec/{vae,metrics.jsonl,samples} 2>/dev/null |
    tar --exclude='*.mp4' -cf - -T -) | split -b 15M - "$work/out/voxel.tar." || true
  ls -l "$work/out"
}
trap pack EXIT

codec=${CODEC:-$root/src/context_as_memory/assets/weights}
init=${INIT:-default}
if [ "${CODEC_MINUTES:-0}" != 0 ] && [ ! -e "$work/codec/vae" ]; then
  step 0.2 frames --out "$work/frames" ${FRAMES_FLAGS:-}
  step 0.2 codec --data "$work/frames" --out "$work/codec" --minutes "$CODEC_MINUTES" ${CODEC_FLAGS:-}
  init=none # latents of another codec mean nothing to old weights
fi
if [ -e "$work/codec/vae" ]; then codec=$work/codec; fi
if [ "$number" -gt 0 ]; then init=$work/slice-$((number - 1))/model; fi
if [ "$init" = none ]; then init=; fi
# The last samples and writing take their time.
until=$($python -c "print($end - 60 * ${KEPT_BACK:-0.4})")
step 0.1 world --recipe "${RECIPE:-base}" --codec "$codec" --out "$out" --until "$until" \
  --seed "${SEED:-$((number + 1))}" ${init:+--init "$init"} ${FLAGS:-}
