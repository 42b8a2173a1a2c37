"""Checks of annotations and video files before a run."""
