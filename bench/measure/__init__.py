"""Measurements of real training steps, and all that is to be measured on a card, in one command."""

import importlib.util
from collections.abc import Iterable

PACKAGES = ("torch", "numpy", "timm", "msgspec", "filelock", "psutil", "tqdm", "PIL", "pynvml")
"""What measuring imports beside Python's own library; a test compares it with the imports that are made."""
FOR_VIDEOS = ("av", "pandas", "matplotlib", "jinja2", "safetensors")
"""What a bench needs beside these: it writes and reads videos, evaluates and draws."""
FOR_TESTS = (*FOR_VIDEOS, "pytest", "hypothesis")


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return the packages that cannot be imported; imports none of them."""
    return [name for name in names if importlib.util.find_spec(name) is None]
