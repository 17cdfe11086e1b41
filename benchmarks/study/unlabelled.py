"""Few labelled patients, and what the others are worth without a segmentation; by ``--parts unlabelled``.

The patients of a fold who are not labelled teach through a teacher alone: softly, in the distillation terms,
or as hard labels. The ceiling is the bar with every patient labelled.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.study.arms import ARMS, BAR, FEW, METHOD, PSEUDO, Arm
from benchmarks.study.runs import Run

FEW_BAR, FEW_ALONE, DISTILLED, PSEUDO_LABELS = "few_bar", "few_mstkd", "few_distilled", "few_pseudo"
_METHOD = ARMS[METHOD]


def _few(arm: Arm, key: str, title: str, cases: str = FEW) -> Arm:
    return replace(arm, key=key, title=title, cases=cases)


UNLABELLED = {
    arm.key: arm
    for arm in (
        _few(ARMS[BAR], FEW_BAR, "the bar, few labelled"),
        # What distillation does without the other patients.
        _few(
            replace(_METHOD, settings=(("unlabelled_share", 0),)), FEW_ALONE, "MSTKD, few labelled (control)"
        ),
        # Its teacher is the network after its full phase, in which the labelled patients are alone.
        _few(_METHOD, DISTILLED, "MSTKD, few labelled, the others distilled"),
        _few(ARMS[BAR], PSEUDO_LABELS, "the bar, few labelled, the others pseudo-labelled", PSEUDO),
    )
}


def teacher_of(run: Run) -> Run | None:
    """The run whose model makes the pseudo-labels of another: the bar's, from the same few patients."""
    return replace(run, arm=UNLABELLED[FEW_BAR]) if run.arm.cases == PSEUDO else None
