"""The parts of the study: which arms run under which conditions, and what is compared with what."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from benchmarks.phantom_study.arms import ABLATIONS, ARMS, BAR, METHOD, PLAIN, Arm, compute_of, epochs_of
from benchmarks.phantom_study.challengers import CHALLENGERS
from benchmarks.phantom_study.of_methods import NARROW, OF_METHODS, OWN_OPTIMIZER, WIDE
from benchmarks.phantom_study.sizes import Size
from benchmarks.phantom_study.variants import RESTARTS, VARIANTS

ALL_ARMS = ARMS | OF_METHODS | CHALLENGERS | RESTARTS | VARIANTS
# nnU-Net reads as many folds as splits_final.json has; the five are convert's.
FEW_FOLD = 5


@dataclass(frozen=True)
class Condition:
    """Data and length of a training.

    Attributes:
        name: in plans and folders; empty for the main one.
        fold: of splits_final.json.
        short: train for the size's short budget.
    """

    name: str = ""
    fold: int = 0
    short: bool = False

    def budget(self, size: Size) -> tuple[int, int]:
        """Epochs of student steps, and steps per epoch."""
        return (size.short_epochs, size.short_steps) if self.short else (size.epochs, size.steps)


MAIN = Condition()


@dataclass(frozen=True)
class Run:
    """One training and its evaluation."""

    arm: Arm
    seed: int
    condition: Condition = MAIN

    @property
    def plans(self) -> str:
        """Name of its plans file: settings live in the plans."""
        parts = ["Study", *filter(None, [self.condition.name]), self.arm.key, f"seed{self.seed}"]
        return "_".join(parts)


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
    """A question, the runs that answer it, and their comparisons."""

    key: str
    about: str
    arms: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    condition: Condition = MAIN

    def runs(self, size_name: str, seeds: int, keys: Collection[str] = ALL_ARMS) -> list[Run]:
        """Its runs at a size, first seeds first, of the arms in ``keys``."""
        arms = [ALL_ARMS[key] for key in self.arms if key in keys]
        arms = [arm for arm in arms if not arm.sizes or size_name in arm.sizes]
        return [Run(arm, n, self.condition) for n in range(seeds) for arm in arms if n < arm.seeds]


_MAIN_ARMS = tuple(key for key in ARMS if key not in ABLATIONS)
_SMALL_ARMS = (BAR, METHOD, PLAIN)
_DIAGNOSIS_ARMS = (BAR, METHOD, PLAIN, *VARIANTS)
_RESTART_ARMS = (BAR, METHOD, *RESTARTS)
_METHOD_ARMS = (BAR, METHOD, *NARROW)


def _sub_study(key: str, about: str, condition: Condition) -> Part:
    return Part(key, about, _SMALL_ARMS, (Comparison(f"comparison_{key}", _SMALL_ARMS, BAR),), condition)


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
        _sub_study("few_labels", "few patients to train on", Condition("few_labels", fold=FEW_FOLD)),
        _sub_study("short", "a quarter of the steps", Condition("short", short=True)),
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
DEFAULT_PARTS = ("main", "few_labels", "short")


def student_steps(runs: Iterable[Run], size: Size) -> float:
    """What the trainings cost together, in student steps (of each network's own)."""
    total = 0.0
    for run in runs:
        epochs, steps = run.condition.budget(size)
        total += (epochs if run.arm.step_cost is None else compute_of(run.arm, epochs)) * steps
    return total


def describe(run: Run, size: Size) -> str:
    """One line on an arm: its steps and what they cost."""
    epochs, steps = run.condition.budget(size)
    if run.arm.step_cost is None:
        return f"{run.arm.title}: as many steps of its own network as {epochs * steps} student steps pay for"
    full, masked = epochs_of(run.arm, epochs)
    phases = f"{full} + {masked} epochs" if run.arm.masks else f"{full + masked} epochs on all modalities"
    cost = compute_of(run.arm, epochs) * steps
    own = "" if run.arm.network == "mstkdnet" else " of its own network"
    text = f"{phases}, {(full + masked) * steps} steps, compute of {cost:.0f} student steps"
    return f"{run.arm.title}: {text}{own}"
