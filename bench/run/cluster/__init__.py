"""Runs as jobs of a batch system, through submitit."""
