"""Runs: the options, the matrix of runs, the scheduler and the process of one run."""
