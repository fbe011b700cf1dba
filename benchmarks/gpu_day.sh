#!/usr/bin/env bash
# Everything that wants a GPU, in ten minutes, without a network: each stage prints lines of JSON, has a limit of its own, and
# survives the others' failure. Inputs (under 64 MB) are made on the spot.
#
#     benchmarks/gpu_day.sh               on one GPU of the H200 class with 16 cores
#     benchmarks/gpu_day.sh --rehearse    the same code on a CPU, with small shapes
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
rehearse=("$@")
patience=${GPU_DAY_PATIENCE:-1} # times the limits, for a busy machine
failed=0

stage() { # SECONDS NAME: its lines of JSON, and one more if it fails
  local limit=$(($1 * patience)) name=$2 log status
  if ! log=$(mktemp); then
    failed=1
    printf '{"stage": "%s", "status": 1, "error": "mktemp failed: set TMPDIR to a writable folder"}\n' "$name"
    return
  fi
  timeout --kill-after=5 "$limit" "$python" benchmarks/gpu_day.py "$name" "${rehearse[@]}" 2>"$log"
  status=$?
  if [ "$status" != 0 ]; then
    failed=1
    STAGE=$name STATUS=$status LIMIT=$limit "$python" - "$log" <<'PY'
import json, os, sys
last = [line.strip() for line in open(sys.argv[1], errors="replace") if line.strip()][-1:]
given = {"stage": os.environ["STAGE"], "status": int(os.environ["STATUS"]), "limit_seconds": int(os.environ["LIMIT"])}
print(json.dumps(given | {"error": (last or ["no message"])[0][-500:]}), flush=True)
PY
  fi
  rm -f "$log"
}

# 525 s, and 5 s more for each that must be killed: all in all 550 of the 600 s, whatever happens.
stage 85 tests
stage 200 train
stage 95 embed
stage 95 evaluate
stage 50 nearest
exit "$failed"
