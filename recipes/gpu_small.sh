#!/bin/sh
# A model of 100 million parameters from scratch on one GPU: sh recipes/gpu_small.sh
#   MILLIONS   of parameters (100)
# It is shown the demonstrations that the quickstart's base was made of, many of them wrong by concept, and then teaches
# itself problems of levels 3 to 6. Never run on a GPU so far.
set -eu
cd "$(dirname "$0")/.."
. recipes/setup.sh
base=runs/gpu_small-base
mkdir -p runs
if [ ! -e "$base" ]; then
  python -m rstar_cli.bench.random_model --millions "${MILLIONS:-100}" --output "$base-random"
  python -m rstar_cli.embedded.build --rows "$base.jsonl"
  rstar train-policy --input "$base.jsonl" --model "$base-random" --output "$base" \
    --epochs 3 --learning-rate 1e-3 --optimizer muon --batch-size 64 --batch-tokens 32768
fi
rstar evolve --run "${RSTAR_RUN:-runs/gpu_small}" --recipe recipes/gpu_small.toml
