"""Errors, messages, files read and written safely, and tables as text. Imports no other folder of ours."""

from pathlib import Path

PROJECT_ROOT = Path(__file__).parents[2]
"""The folder that holds ``bench``, ``strategies`` and ``datasets``."""
