#!/bin/bash
# One seed of one arm a task, without Ray:
#   sbatch --array=0-4 examples/clusters/slurm_array.sh \
#     guidance small_proxy paper
# A run that is asked to end is queued again, and goes on.
#SBATCH --job-name=asg
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

. .venv/bin/activate
code=0
srun asg run "$1" --arm "$2" --profile "$3" \
  --seed "$SLURM_ARRAY_TASK_ID" || code=$?
if [ "$code" = 143 ]; then # asked to end, after a checkpoint
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
