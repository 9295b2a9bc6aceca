#!/bin/sh
# A stage on all GPUs of this machine, an engine each: RSTAR_RUN=runs/mine sh recipes/gpus.sh generate 1
#   GPUS   how many (those that nvidia-smi lists)
# Stopped, it takes its processes with it; called again, each goes on where it was.
set -eu
: "${RSTAR_RUN:?name the run: RSTAR_RUN=runs/mine sh recipes/gpus.sh generate 1}"
stage=${1:?name the stage: generate, verify or evaluate}
round=${2:?name the round}
gpus=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
children=
trap 'kill -TERM $children 2>/dev/null; wait; exit 143' TERM INT
index=1
while [ "$index" -le "$gpus" ]; do
  CUDA_VISIBLE_DEVICES=$((index - 1)) rstar "$stage" --round "$round" --run "$RSTAR_RUN" --shard "$index/$gpus" &
  children="$children $!"
  index=$((index + 1))
done
for child in $children; do
  wait "$child"
done
rstar merge --round "$round" --run "$RSTAR_RUN"
