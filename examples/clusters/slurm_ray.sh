#!/bin/bash
# Every missing run of an experiment on several nodes:
#   sbatch examples/clusters/slurm_ray.sh \
#     --experiment guidance --profile paper --gpus-per-run 1
# Repository, data, runs and results lie on storage that all nodes
# share; the environment .venv has the extra [ray].
#SBATCH --job-name=asg
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

. .venv/bin/activate
# A token in the home folder, which the nodes share: nobody else may
# use the cluster.
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export RAY_ADDRESS="$head:${RAY_PORT:-6379}"

# Ray starts on each node and waits for all of them; the first one
# runs the command, and its end is the cluster's.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$RAY_ADDRESS" \
  --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  asg reproduce --on ray "$@"
