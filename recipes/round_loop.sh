#!/bin/sh
# The loop of `rstar evolve` as a shell script: the same commands, the same artifacts. Every command skips what is done.
# usage: RSTAR_RUN=runs/mine sh recipes/round_loop.sh [rounds]
set -eu
: "${RSTAR_RUN:?name the run: RSTAR_RUN=runs/mine sh recipes/round_loop.sh}"
rounds=${1:-4}

rstar evaluate --round 0            # the base model
round=1
while [ "$round" -le "$rounds" ]; do
  rstar generate --round "$round"      # search every training problem
  rstar verify --round "$round"        # run every solution again, grade it, write training rows
  rstar train-policy --round "$round"  # fine-tune on the best verified solutions
  rstar train-prm --round "$round"     # learn to tell good steps from bad ones
  rstar evaluate --round "$round"      # what was learnt; renews report.json
  round=$((round + 1))
done
rstar evolve --rounds "$rounds"     # finds all of it done: shows and draws the curve
