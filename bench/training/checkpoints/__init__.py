"""Checkpoints: of unfinished training, and of trained detectors."""
