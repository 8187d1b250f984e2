#!/usr/bin/env bash
# Wan models of true size on a GPU machine without network: are they right, how fast are they, what memory do they need?
# Weights are random and made on the GPU; nothing is downloaded.
#
#   scripts/gpu_wan.sh WORK MINUTES [--tiny]
#
# Ends by itself within MINUTES. Every figure is in WORK/out as soon as it is measured: one JSON file a section, and all
# of them as tables in WORK/out/table.md. The same command again measures what is still missing.
# --tiny rehearses every section on a CPU with tiny networks: a minute of one core. --only SECTION ... chooses some.
#
#   WHEELS=FOLDER   packages that the machine lacks, as wheels (.whl beside src)
set -euo pipefail
usage="usage: scripts/gpu_wan.sh WORK MINUTES [--tiny]"
work=${1:?$usage}
minutes=${2:?$usage}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
began=$(date +%s)
mkdir -p "$work/out"
work=$(cd "$work" && pwd)
export PYTHONPATH="$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XDG_CACHE_HOME="$work/cache" NUMBA_CACHE_DIR="$work/numba" TORCHINDUCTOR_CACHE_DIR="$work/inductor"

wheels=${WHEELS:-$root/.whl}
if ls "$wheels"/*.whl >/dev/null 2>&1; then
  if [ ! -e "$work/site" ]; then
    $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" "$wheels"/*.whl
  fi
  export PYTHONPATH="$PYTHONPATH:$work/site"
fi

# The job watches the time itself; one figure that never ends is cut off here, and what was measured stays.
trap 'cat "$work/out/table.md" 2>/dev/null || true' EXIT
seconds=$($python -c "import time; print(max(1, int($began + 60 * $minutes - time.time())))")
timeout -k 5 "$seconds" $python "$root/scripts/gpu_wan.py" --work "$work" --until "$(($(date +%s) + seconds - 10))" "${@:3}"
