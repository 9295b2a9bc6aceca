#!/bin/sh
# All rounds of a run as Slurm jobs, each of which waits for those before it: sh recipes/slurm/rounds.sh [rounds]
#   RSTAR_RUN    the run, made by `rstar init`, on a file system that all nodes see
#   SHARDS       jobs that share a search, a verification or an evaluation (4)
#   SBATCH_GPU   arguments for the jobs that run models, such as "--partition=gpu --gres=gpu:1 --time=12:00:00"
#   SBATCH_CPU   those for the others
# Rounds that are done are passed over in seconds; after a failure, mend its cause and submit all of it again.
set -eu
: "${RSTAR_RUN:?name the run: RSTAR_RUN=runs/mine sh recipes/slurm/rounds.sh}"
rounds=${1:-4}
shards=${SHARDS:-4}
job=$(dirname "$0")/stage.sbatch
last=

submit() { # arguments for sbatch, the script, the command
  # shellcheck disable=SC2086 - lists of arguments
  last=$(sbatch --parsable ${last:+--dependency=afterok:$last --kill-on-invalid-dep=yes} "$@" | cut -d ';' -f 1)
  echo "job $last: $*"
}

dealt() { # a stage in shards, then their merge: arguments for sbatch, stage, round
  # shellcheck disable=SC2086
  submit --array="1-$shards" $1 "$job" "$2" --round "$3" --run "$RSTAR_RUN"
  # shellcheck disable=SC2086
  submit ${SBATCH_CPU:-} "$job" merge --round "$3" --run "$RSTAR_RUN"
}

dealt "${SBATCH_GPU:-}" evaluate 0
round=1
while [ "$round" -le "$rounds" ]; do
  dealt "${SBATCH_GPU:-}" generate "$round"
  dealt "${SBATCH_CPU:-}" verify "$round"
  for stage in train-policy train-prm; do
    # shellcheck disable=SC2086
    submit ${SBATCH_GPU:-} "$job" "$stage" --round "$round" --run "$RSTAR_RUN"
  done
  dealt "${SBATCH_GPU:-}" evaluate "$round"
  round=$((round + 1))
done
# shellcheck disable=SC2086
submit ${SBATCH_CPU:-} "$job" report --run "$RSTAR_RUN"
