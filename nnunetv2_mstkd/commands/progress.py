"""One line per finished case, or a bar where somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

_CASES_FAILED = 2  # the exit code of every user error


class CaseProgress:
    """Shows how far a folder of cases is: a bar on a terminal's stderr, else a line per case on stdout.

    Keep the lines' stream before nnU-Net's prints are silenced: construct this first.
    """

    def __init__(self, total: int, title: str, *, disable: bool = False) -> None:
        """Show nothing at all with ``disable``."""
        watched = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, desc=title, unit="case", file=sys.stderr, disable=disable or not watched
        )
        self._lines = None if disable or watched else sys.stdout
        self._count, self._total = 0, total

    def __enter__(self) -> CaseProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, case: str, outcome: str | None) -> None:
        """A case has ended; ``outcome`` is None where it failed."""
        text = f"{case}: {outcome or 'failed'}"
        self._count += 1
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()
        if self._lines is not None:
            print(f"[{self._count}/{self._total}] {text}", file=self._lines, flush=True)


def report_problems(problems: Mapping[str, str]) -> int:
    """Print one line per failed case on stderr; returns the exit code."""
    for case, reason in sorted(problems.items()):
        print(f"{case}: {reason}", file=sys.stderr)
    return _CASES_FAILED if problems else 0
