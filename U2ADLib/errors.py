"""The one family of exceptions whose messages are written for the user.

Everything that can go wrong with the user's input, installation or wishes is raised as a `U2ADError`; the command
line turns it into one line on standard error and the exit code below. Anything else that escapes is a bug.
"""


class U2ADError(Exception):
    """Base of all errors that are addressed to the user. The message says what is wrong and what to do."""

    exit_code = 1


class UsageError(U2ADError):
    """The command or its options do not fit together."""

    exit_code = 2


class InputError(U2ADError):
    """An image, mask or label cannot be used."""

    exit_code = 3


class ModelError(U2ADError):
    """A model package is missing, damaged or does not fit."""

    exit_code = 4


class InstallationError(U2ADError):
    """A package or device that the task needs is not available."""

    exit_code = 4


class Cancelled(U2ADError):
    """The user asked to stop. Raised by a progress callback; nothing is left behind."""

    exit_code = 130

    def __init__(self, message="Cancelled: nothing was written."):
        super().__init__(message)
