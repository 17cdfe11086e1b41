"""What the training logs say of time: seconds per epoch, by phase."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_EPOCH = re.compile(r": Epoch (\d+)\s*$")
_PHASE = re.compile(r": Phase: ([\w-]+), epoch")
_TIME = re.compile(r": Epoch time: ([\d.]+) s")
FULL, MASKED = "full-modality", "masking"


@dataclass(frozen=True)
class EpochTime:
    """Wall time of one epoch, its online validation included."""

    phase: str
    seconds: float


def epoch_times(fold: Path) -> list[EpochTime]:
    """The epochs of a training, from all its logs; of an epoch that was done twice, the last counts.

    A log without phases is of a training with one phase, here named masking.
    """
    times: dict[int, EpochTime] = {}
    for log in sorted(fold.glob("training_log_*.txt")):
        epoch, phase = -1, MASKED
        for line in log.read_text(encoding="utf-8").splitlines():
            if match := _EPOCH.search(line):
                epoch, phase = int(match[1]), MASKED
            elif match := _PHASE.search(line):
                phase = match[1]
            elif match := _TIME.search(line):
                times[epoch] = EpochTime(phase, float(match[1]))
    return [times[epoch] for epoch in sorted(times)]
