"""Folders of images as videos: the frames in the order of the numbers in their names, at a given rate."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bench.io.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
NUMBER = re.compile(r"(\d+)\D*$")
"""The last number in a name without its suffix, as in `img_00001`."""


def is_image_folder(path: Path) -> bool:
    """Return whether a folder has a numbered image."""
    try:
        return path.is_dir() and any(_number(each) is not None for each in path.iterdir())
    except OSError:
        return False


def list_images(path: Path) -> tuple[str, ...]:
    """Return the names of a folder's numbered images in order; `InputError` if there are none, or gaps.

    Numbers begin at 0 or 1. A missing number would shift every later frame in time.
    """
    numbered: dict[int, str] = {}
    for each in path.iterdir():
        if (number := _number(each)) is not None:
            if number in numbered:
                raise InputError(f"{path}: images {numbered[number]} and {each.name} have the same number")
            numbered[number] = each.name
    if not numbered:
        raise InputError(
            f"{path}: holds no numbered images, such as img_00001.jpg; these or a video are needed"
        )
    first, last = min(numbered), max(numbered)
    if first > 1:
        raise InputError(f"{path}: the first image is {numbered[first]}; numbers must begin at 0 or 1")
    if last - first + 1 != len(numbered):
        gap = next(number for number in range(first, last) if number not in numbered)
        raise InputError(f"{path}: image {gap} is missing between {numbered[first]} and {numbered[last]}")
    return tuple(numbered[number] for number in sorted(numbered))


def _number(path: Path) -> int | None:
    if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
        return None
    found = NUMBER.search(path.stem)
    return int(found[1]) if found else None


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as uint8 (height, width, 3), RGB; `InputError` if it cannot be decoded."""
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError):
        raise InputError(f"{path}: cannot be decoded as an image") from None


def image_frames(
    path: Path, names: tuple[str, ...], needed: NDArray[np.int64]
) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames (height, width, 3) of ascending indices."""
    for number in needed.tolist():
        yield read_image(path / names[number])
