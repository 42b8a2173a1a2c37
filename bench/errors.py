"""The one error that means: the caller's input is wrong, not this program."""


class InputError(ValueError):
    """Bad input. Its message is one line that names the file, the field and what is allowed.

    Every verb prints it without a traceback and exits with code 2.
    """
