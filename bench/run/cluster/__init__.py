"""Submission of runs as jobs of a batch system, through submitit."""
