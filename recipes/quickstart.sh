#!/bin/sh
# Four rounds of self-training on a laptop, from nothing but python3: sh recipes/quickstart.sh
# Needs: 2 cores, 3 GB of memory, 2 GB of disk, no GPU, no download beyond Python packages. Results: recipes/README.md
set -eu
cd "$(dirname "$0")/.."
. recipes/setup.sh
rstar evolve --run "${RSTAR_RUN:-runs/quickstart}"
