#!/bin/sh
# Every figure of the GPU backend, into benchmarks/logs/gpu.json: under nine minutes, no network, no data.
set -eu
cd "$(dirname "$0")/.."
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
