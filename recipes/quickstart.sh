#!/bin/sh
# One round of self-training on a laptop, from nothing but python3: sh recipes/quickstart.sh
# Needs: 2 cores, 2 GB of memory, 2 GB of disk, no GPU, no download beyond Python packages. Results: recipes/README.md
set -eu
cd "$(dirname "$0")/.."
. recipes/setup.sh
export RSTAR_RUN="${RSTAR_RUN:-runs/quickstart}"

rstar evaluate --round 0      # the base model
rstar generate --round 1      # search every training problem
rstar verify --round 1        # run every solution again, grade it, write training rows
rstar train-policy --round 1  # fine-tune on the best verified solutions
rstar evaluate --round 1      # what was learnt

echo
echo "greedy accuracy on held-out problems, all files in $RSTAR_RUN:"
for round in 0 1; do
  rstar evaluate --round $round --json | python -c '
import json, sys
figures = json.load(sys.stdin)["figures"]
for name, value in figures.items():
    print(f"  round '$round'  {name:16} {value}")'
done
