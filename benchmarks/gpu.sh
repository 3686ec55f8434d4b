#!/bin/sh
# Every figure of the GPU backend, into benchmarks/logs/gpu.json: under nine minutes, no network, no data.
#
# SpikingJelly is measured beside it where .bench is its environment (isospike bench --setup). Without a network: name a
# folder with the wheels of spikingjelly 2.0.0 and loguru in WHEELS, and .bench is made from them and the PyTorch that
# is installed.
set -eu
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-python3}"
if [ -n "${WHEELS:-}" ] && [ ! -x .bench/bin/python ]; then
  "$PYTHON" -m venv --system-site-packages .bench
  # Where PYTHON is of an environment itself, a new one sees the packages of the interpreter below, not PyTorch.
  "$PYTHON" -c 'import site; print(*site.getsitepackages(), sep="\n")' > "$(echo .bench/lib/python*/site-packages)/parent.pth"
  .bench/bin/python -m pip install --quiet --no-index --no-deps "$WHEELS"/*.whl
fi
PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" benchmarks/gpu.py "$@"
