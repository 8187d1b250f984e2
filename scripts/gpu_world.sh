#!/usr/bin/env bash
# The whole training of the `base` denoiser on a GPU machine, without network or video library: render, encode, train, distil.
#
#   scripts/gpu_world.sh WORK base MINUTES     one video of each map first; more are rendered while training begins
#   scripts/gpu_world.sh WORK swift MINUTES    then: fewer sampling steps, from what `base` has become
#
# Every call ends by itself within MINUTES. Weights end in WORK/base/world and WORK/swift/world; cut into pieces of 15 MB,
# with curves and pictures, in WORK/out. FLAGS: for every training call (rehearsals: "--batch-size 16").
set -euo pipefail
work=${1:?usage: scripts/gpu_world.sh WORK base|swift MINUTES}
recipe=${2:?base or swift}
minutes=${3:?minutes}
frames=${FRAMES:-1000}
flags=${FLAGS:-}
end=$(python3 -c "import time; print(time.time() + 60 * $minutes)")
left() { python3 -c "import time; print(max(0.05, ($end - time.time()) / 60 - $1))"; } # minutes left but for so many
cam() { python3 -m context_as_memory "$@"; }
root=$(cd "$(dirname "$0")/.." && pwd)
codec=$root/src/context_as_memory/assets/weights # good as it is
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1
mkdir -p "$work"

render() { cam render --worlds freedoom --out "$work/episodes" --maps ${MAPS:-all} --frames-per-video "$frames" --videos-per-map "$1" --workers "$(nproc)" --raw; }
train() { # recipe, further flags
  cam train world --recipe "$1" --data "$work/episodes" --codec "$codec" --cache "$work/latents" --out "$work/$1" $flags "${@:2}"
}

pack() { # also after an error: what is there is worth having
  rm -rf "$work/out" && mkdir -p "$work/out"
  (cd "$work/$recipe" && ls -d world metrics.jsonl samples 2>/dev/null | tar -cf - -T -) | split -b 15M - "$work/out/$recipe.tar." || true
  ls -l "$work/out"
}
trap pack EXIT

if [ "$recipe" = base ]; then
  render 1 >"$work/render.log"
  # Nothing waits for these: whatever is whole when the second call begins is used.
  (nice -n 19 bash -c "$(declare -f cam render); work=$work frames=$frames MAPS='${MAPS:-all}'; render ${VIDEOS:-4}") \
    >"$work/render_more.log" 2>&1 &
  train base --budget-minutes "$(left 0.8)" --stop-after-minutes "${FIRST:-2.5}"
  cam encode --data "$work/episodes" --weights "$codec" --cache "$work/latents"
  rm -rf "$work/base/own_frames" # they belong to less data
  rest=$(left 0.5) # loading and writing take half a minute
  train base --budget-minutes "$(python3 -c "print(${FIRST:-2.5} + $rest)")" --stop-after-minutes "$rest"
else
  rest=$(left 0.5)
  train swift --init "$work/base/world" --budget-minutes "$rest" --stop-after-minutes "$rest"
fi
