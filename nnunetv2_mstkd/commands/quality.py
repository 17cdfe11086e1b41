"""What ``predict`` prints about the quality of its cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_mstkd.inference.folder import CaseReport
    from nnunetv2_mstkd.trust import Expectations

_SHOWN = 10


class QualityReport:
    """Takes cases as they end; knows at the end which of them a reader should look at."""

    def __init__(self, known: Expectations) -> None:
        """Keep what is known of the model."""
        self.known = known
        self._segmented = self._told = 0
        self._unknown: list[str] = []
        self._look: list[str] = []

    def of(self, report: CaseReport) -> str:
        """Say in short what is expected of a case; nothing where nothing is known."""
        if report.segmentation is None:
            return ""
        self._segmented += 1
        if self.known.calibration is None:
            return ""
        expected = report.segmentation.expected
        if not expected:
            self._unknown.append(report.name)
            return "; quality not known: no case was measured with these sequences"
        self._told += 1
        if any(region.look for region in expected.values()):
            self._look.append(report.name)
        return "; Dice " + ", ".join(f"{name} {region.in_short()}" for name, region in expected.items())

    def print_summary(self) -> None:
        """Print once what all of it rests on, and which cases to look at; nothing without cases."""
        if not self._segmented:
            return
        print(self.known.says)
        if self.known.calibration is None:
            return
        if self._unknown:
            print(f"{len(self._unknown)} case(s) of unknown quality: {_some(self._unknown)}")
        some = f": {_some(self._look)}" if self._look else ""
        if self._told:
            print(f"a reader should look at {len(self._look)} of {self._told} case(s){some}")


def _some(names: list[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
