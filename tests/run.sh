#!/bin/sh
# All fast tests and checks, from nothing but python3: sh tests/run.sh [arguments of pytest]
# Budget on 2 cores: install 4 minutes, lint and types 2, tests 10.
set -eu
cd "$(dirname "$0")/.."
RSTAR_EXTRAS=dev
. recipes/setup.sh

if [ $# -eq 0 ]; then
  ruff check .           # lint and types: 2 minutes
  ruff format --check .
  mypy
  lint-imports
fi
python -m pytest "$@"    # tests: 10 minutes
