"""How a benchmark ends when it is asked for something it cannot do."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps

from nnunetv2_mstkd.cli import EXIT_USER_ERROR
from nnunetv2_mstkd.errors import MSTKDError

Main = Callable[..., int]


def one_line_errors(main: Main) -> Main:
    """The ``main`` of a module, with an error of the user's as one line on stderr and exit code 2."""

    @wraps(main)
    def wrapped(arguments: Sequence[str] | None = None) -> int:
        try:
            return main(arguments)
        except MSTKDError as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_USER_ERROR

    return wrapped
