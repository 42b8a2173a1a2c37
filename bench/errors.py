"""The errors that mean: the caller's input is wrong, not this program."""

from typing import Any

from bench.shown import printable


class InputError(ValueError):
    """Bad input. Its message is one line that names the file, the field and what is allowed.

    Every verb prints it without a traceback and exits with code 2. What strangers wrote may stand in it:
    control characters are escaped here, for all messages.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class StuckDecoderError(InputError):
    """A decoder gave no answer in time and was killed. ``facts`` name the video, the frames and the seconds.

    A run that meets one ends as a ``timeout`` row; elsewhere it is bad input.
    """

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts
