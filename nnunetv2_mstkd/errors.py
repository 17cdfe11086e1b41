"""The one exception that a user is meant to see."""

from __future__ import annotations


class MSTKDError(Exception):
    """A mistake in what the user gave us: files, names, settings.

    The message is one line: what is wrong, the value, the remedy. The command line prints it without a
    traceback and exits with code 2; library callers can catch it as one type.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
