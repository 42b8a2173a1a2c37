"""Errors, messages, safe reading and writing of files, and text tables. Imports no other package of ours."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).parents[2]
"""The folder that contains ``bench``, ``strategies`` and ``datasets``."""
