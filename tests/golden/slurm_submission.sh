#!/bin/bash

# Parameters
#SBATCH --account=vision
#SBATCH --chdir=ROOT
#SBATCH --comment='DATASET_vit-t_head-only_seed0_DIGEST; 0.6 GB of each card predicted'
#SBATCH --cpus-per-task=9
#SBATCH --error=RESULTS/jobs/logs/%j_0_log.err
#SBATCH --exclude=node1,node2
#SBATCH --gres=gpu:a100:1
#SBATCH --job-name=head-only-0
#SBATCH --mem=13GB
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=RESULTS/jobs/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --reservation=night
#SBATCH --signal=USR2@120
#SBATCH --time=120
#SBATCH --wckey=submitit

# setup
module load cuda

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RESULTS/jobs/logs/%j_%t_log.out --error RESULTS/jobs/logs/%j_%t_log.err PYTHON -u -m submitit.core._submit RESULTS/jobs/logs
