"""The parts of the study: which arms run under which conditions, and what is compared with what."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from benchmarks.study.arms import ABLATIONS, ARMS, BAR, METHOD, PLAIN, PSEUDO, compute_of, epochs_of
from benchmarks.study.challengers import CHALLENGERS
from benchmarks.study.of_methods import NARROW, OF_METHODS, OWN_OPTIMIZER, WIDE
from benchmarks.study.runs import MAIN, QUARTER, Condition, Run, runs_of
from benchmarks.study.sizes import Training
from benchmarks.study.unlabelled import DISTILLED, FEW_BAR, PSEUDO_LABELS, UNLABELLED
from benchmarks.study.variants import RESTARTS, VARIANTS

ALL_ARMS = ARMS | OF_METHODS | CHALLENGERS | UNLABELLED | RESTARTS | VARIANTS


@dataclass(frozen=True)
class Comparison:
    """One call of ``nnUNetv2_mstkd compare``.

    Attributes:
        folder: in the study's folder.
        arms: keys.
        reference: key of the arm that the others are set against.
        ablation: ask for the ablation table, over the first seed of each.
    """

    folder: str
    arms: tuple[str, ...]
    reference: str
    ablation: bool = False


@dataclass(frozen=True)
class Part:
    """A question, the runs that answer it, and their comparisons.

    Attributes:
        key, about: for people.
        arms: keys.
        comparisons: between them.
        condition: that all train under.
        on_request: keys of arms that run if they are asked for by name.
    """

    key: str
    about: str
    arms: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    condition: Condition = MAIN
    on_request: tuple[str, ...] = ()

    def runs(
        self, size_name: str, seeds: int, keys: Collection[str] | None = None, folds: int = 1
    ) -> list[Run]:
        """Return its runs at a size, first seeds first, of the arms in ``keys``; by default of ``arms``."""
        chosen = self.arms if keys is None else [k for k in (*self.arms, *self.on_request) if k in keys]
        arms = [ALL_ARMS[key] for key in chosen]
        arms = [arm for arm in arms if not arm.sizes or size_name in arm.sizes]
        return [
            run
            for repeat in range(seeds)
            for arm in arms
            if repeat < arm.seeds
            for run in runs_of(arm, self.condition, repeat, folds)
        ]


_MAIN_ARMS = tuple(key for key in ARMS if key not in ABLATIONS)
_SMALL_ARMS = (BAR, METHOD, PLAIN)
_DIAGNOSIS_ARMS = (BAR, METHOD, PLAIN, *VARIANTS)
_RESTART_ARMS = (BAR, METHOD, *RESTARTS)
_METHOD_ARMS = (BAR, METHOD, *NARROW)


def _sub_study(key: str, about: str, condition: Condition) -> Part:
    compared = Comparison(f"comparison_{key}", (*_SMALL_ARMS, *CHALLENGERS), BAR)
    return Part(key, about, _SMALL_ARMS, (compared,), condition, on_request=tuple(CHALLENGERS))


PARTS = {
    part.key: part
    for part in (
        Part(
            "main",
            "every arm, at equal compute",
            tuple(ARMS),
            (
                Comparison("comparison", _MAIN_ARMS, BAR),
                Comparison("ablation", (METHOD, *ABLATIONS, PLAIN), METHOD, ablation=True),
                Comparison("logit_terms", (METHOD, "wo_slkd", PLAIN, BAR), METHOD),
            ),
        ),
        _sub_study("few_labels", "few patients to train on", Condition("few_labels", few_labels=True)),
        _sub_study("short", "a quarter of the steps", Condition("short", length=QUARTER)),
        _sub_study("half", "half the steps", Condition("half", length=0.5)),
        _sub_study("double", "twice the steps", Condition("double", length=2.0)),
        Part(
            "methods",
            "the other methods' networks, beside bar and MSTKD",
            (*_METHOD_ARMS, *OWN_OPTIMIZER, *WIDE),
            (
                Comparison("comparison_methods", _METHOD_ARMS, BAR),
                Comparison("comparison_methods_own", (BAR, *OWN_OPTIMIZER), BAR),
                Comparison("comparison_methods_wide", (BAR, *WIDE), BAR),
            ),
        ),
        Part(
            "challengers",
            "small changes to the bar",
            (BAR, *CHALLENGERS),
            (Comparison("comparison_challengers", (BAR, *CHALLENGERS), BAR),),
        ),
        Part(
            "unlabelled",
            "few labelled patients, and the others without a segmentation",
            (*UNLABELLED, BAR),
            (
                Comparison("comparison_unlabelled", (*UNLABELLED, BAR), FEW_BAR),
                Comparison("comparison_pseudo", (DISTILLED, PSEUDO_LABELS), PSEUDO_LABELS),
            ),
        ),
        Part(
            "diagnosis",
            "variants of MSTKD, gradient shares in the logs",
            _DIAGNOSIS_ARMS,
            (Comparison("comparison_diagnosis", _DIAGNOSIS_ARMS, BAR),),
        ),
        Part(
            "restart",
            "bar and MSTKD at other learning rates when masking starts",
            _RESTART_ARMS,
            (Comparison("comparison_restart", _RESTART_ARMS, BAR),),
        ),
    )
}
# By length: whether the order of the arms has settled.
LENGTHS = ("short", "half", "main", "double")
DEFAULT_PARTS = ("main", "few_labels", "short")


def student_steps(runs: Iterable[Run], training: Training) -> float:
    """What the trainings cost together, in student steps (of each network's own)."""
    total = 0.0
    for run in runs:
        epochs, steps = run.condition.budget(training)
        total += (epochs if run.arm.step_cost is None else compute_of(run.arm, epochs)) * steps
    return total


def describe(run: Run, training: Training) -> str:
    """One line on an arm: its steps and what they cost."""
    epochs, steps = run.condition.budget(training)
    if run.arm.step_cost is None:
        return f"{run.arm.title}: as many steps of its own network as {epochs * steps} student steps pay for"
    full, masked = epochs_of(run.arm, epochs)
    phases = f"{full} + {masked} epochs" if run.arm.masks else f"{full + masked} epochs on all modalities"
    cost = compute_of(run.arm, epochs) * steps
    own = "" if run.arm.network == "mstkdnet" else " of its own network"
    text = f"{phases}, {(full + masked) * steps} steps, compute of {cost:.0f} student steps"
    if run.arm.cases == PSEUDO:
        teacher = UNLABELLED[FEW_BAR]
        text += f", and beside it its teacher's ({teacher.title}): {compute_of(teacher, epochs) * steps:.0f}"
    return f"{run.arm.title}: {text}{own}"
