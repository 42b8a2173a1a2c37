"""The one error that means: the caller's input is wrong, not this program."""

from bench.shown import printable


class InputError(ValueError):
    """Bad input. Its message is one line that names the file, the field and what is allowed.

    Every verb prints it without a traceback and exits with code 2. What strangers wrote may stand in it:
    control characters are escaped here, for all messages.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
