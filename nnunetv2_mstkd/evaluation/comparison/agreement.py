"""What must be the same in two evaluations before their scores may be set side by side or joined."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun
from nnunetv2_mstkd.evaluation.record.record import Evaluation, EvaluationRecord

_SHOWN = 3
_NUMBERS = re.compile(r"[\d_.-]+")
# Differ between seeds and folds of one method.
_PER_TRAINING = ("seed", "terms_off", "teacher_fold", "teacher_checkpoint")


def check_agreement(runs: Sequence[ComparedRun]) -> None:
    """Refuse what cannot be compared.

    Raises:
        MSTKDError: evaluations of one run are of different methods or overlap in part; or runs differ in
            cases, patients, policy, modalities, regions, subsets or lesion-wise rules. It says which.
    """
    first = runs[0].evaluations[0]
    for run in runs:
        for evaluation in run.evaluations:
            _check_rules(first, evaluation)
        _check_one_method(run)
        case_groups(run)
    reference = patients_of(runs[0])
    for run in runs[1:]:
        _check_cases(runs[0].name, reference, run.name, patients_of(run))


def patients_of(run: ComparedRun) -> dict[str, str]:
    """Map case to patient, over all evaluations of a run, sorted by case."""
    cases = {
        name: case.patient for evaluation in run.evaluations for name, case in evaluation.record.cases.items()
    }
    return dict(sorted(cases.items()))


def lacking_modalities(runs: Sequence[ComparedRun]) -> dict[str, frozenset[str]]:
    """Map each case that lacks modalities to those that it has no image of.

    Evaluations of finished segmentations list no images: what others say of a case holds for them too.
    """
    lacking: dict[str, frozenset[str]] = {}
    for run in runs:
        for record in (evaluation.record for evaluation in run.evaluations):
            for name, case in record.cases.items():
                absent = frozenset(record.modalities).difference(case.images) if case.images else frozenset()
                if absent:
                    lacking[name] = lacking.get(name, frozenset()) | absent
    return lacking


def scored_subsets(runs: Sequence[ComparedRun]) -> dict[str, frozenset[str]]:
    """Map case to the subsets that it is scored under.

    In a folder of segmentations of whatever each case has, each case has one subset of its own.

    Raises:
        MSTKDError: two evaluations scored a case under different subsets.
    """
    lacking = lacking_modalities(runs)
    known: dict[str, tuple[Evaluation, frozenset[str]]] = {}
    for evaluation in (evaluation for run in runs for evaluation in run.evaluations):
        for name in evaluation.record.cases:
            absent = lacking.get(name, frozenset())
            names = evaluation.record.subsets_of(name)
            scored = frozenset(subset for subset in names if absent.isdisjoint(subset.split("+")))
            first, others = known.setdefault(name, (evaluation, scored))
            if scored != others:
                _check_same_set(f"subsets of case {name}", first.folder, others, evaluation.folder, scored)
    return {name: scored for name, (_, scored) in known.items()}


def case_groups(run: ComparedRun) -> list[list[Evaluation]]:
    """Group a run's evaluations: those over the same cases are seeds; groups (folds) share no case.

    Raises:
        MSTKDError: two evaluations share some of their cases, but not all; or are of one model.
    """
    groups: dict[frozenset[str], list[Evaluation]] = {}
    for evaluation in run.evaluations:
        cases = frozenset(evaluation.record.cases)
        for known, members in groups.items():
            shared = cases & known
            if shared and cases != known:
                raise MSTKDError(
                    f"{members[0].folder} and {evaluation.folder} of run '{run.name}' share"
                    f" {len(shared)} of {len(cases | known)} cases ({_shown(shared)});"
                    " folds share none and seeds share all, so give them as separate runs"
                )
        groups.setdefault(cases, []).append(evaluation)
    for members in groups.values():
        _refuse_one_model_twice(run.name, members)
    return list(groups.values())


def _refuse_one_model_twice(name: str, seeds: Sequence[Evaluation]) -> None:
    """Refuse copies and repetitions, which would make the spread between seeds look small."""
    models: dict[str, Evaluation] = {}
    for evaluation in seeds:
        first = models.setdefault(str(evaluation.record.model.get("id")), evaluation)
        if first is not evaluation:
            raise MSTKDError(
                f"{first.folder} and {evaluation.folder} of run '{name}' are of one model, evaluated twice;"
                " seeds are trainings of their own: give one of them, or make them two runs"
            )


def _check_rules(first: Evaluation, other: Evaluation) -> None:
    """Refuse evaluations that were not scored by the same rules."""
    for what, one, two in (
        ("empty-mask policies", first.record.policy, other.record.policy),
        ("lesion-wise rules", first.record.lesionwise, other.record.lesionwise),
        ("modalities", _joined(first.record.modalities), _joined(other.record.modalities)),
        ("regions", _regions(first.record), _regions(other.record)),
    ):
        if one != two:
            raise MSTKDError(
                f"different {what}: {first.folder} has {one}, {other.folder} has {two};"
                " evaluate both the same way"
            )
    _check_same_set("subsets", first.folder, first.record.subsets, other.folder, other.record.subsets)


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names)


def _regions(record: EvaluationRecord) -> str:
    parts = (f"{name}={'+'.join(map(str, labels))}" for name, labels in record.regions.items())
    return ", ".join(sorted(parts))


def _check_cases(name: str, patients: dict[str, str], other: str, others: dict[str, str]) -> None:
    _check_same_set("cases", f"'{name}'", patients, f"'{other}'", others)
    differing = [case for case in patients if patients[case] != others[case]]
    if differing:
        case = differing[0]
        raise MSTKDError(
            f"different patients: case {case} is of {patients[case]} in '{name}' and of {others[case]} in"
            f" '{other}' ({len(differing)} such cases); evaluate both with the same patients"
        )


def _check_same_set(
    what: str, first: Any, names: Collection[str], second: Any, others: Collection[str]
) -> None:
    only_first, only_second = set(names) - set(others), set(others) - set(names)
    parts = [
        f"{len(only)} only in {where} ({_shown(only)})"
        for where, only in ((first, only_first), (second, only_second))
        if only
    ]
    if parts:
        raise MSTKDError(
            f"different {what} in {first} ({len(names)}) and {second} ({len(others)}): {', '.join(parts)};"
            f" evaluate both over the same {what}"
        )


def _shown(names: Collection[str]) -> str:
    first = sorted(names)[:_SHOWN]
    return ", ".join(first) + (", …" if len(names) > _SHOWN else "")


def _check_one_method(run: ComparedRun) -> None:
    """Refuse two methods in one run, which would be averaged as if they were seeds of one."""
    first = run.evaluations[0]
    for other in run.evaluations[1:]:
        one, two = _method(first), _method(other)
        for key in one:
            if one[key] != two[key]:
                raise MSTKDError(
                    f"run '{run.name}' joins different methods ({key}: {one[key]} in {first.folder},"
                    f" {two[key]} in {other.folder}); a run is folds or seeds of one method,"
                    " give others as runs of their own"
                )


def _method(evaluation: Evaluation) -> dict[str, Any]:
    """Return what seeds and folds of one method have in common."""
    model = evaluation.record.model
    settings = dict(model.get("settings") or {})
    seeded = "seed" in settings
    for key in _PER_TRAINING:
        settings.pop(key, None)
    if "/" in str(settings.get("teacher", "")):  # each fold or seed may have its own finished model
        settings["teacher"] = "a finished model"
    # Settings live in the plans, so that each seed has plans of its own name.
    plans = None if seeded else model.get("plans")
    # Another tool's segmentations have no trainer, only the name of their folder; numbers in it are folds'.
    folder = None if model.get("trainer") else _NUMBERS.sub("", str(model.get("name")))
    return {
        "name": folder,
        "number of folds": len(model.get("folds") or ()),
        "trainer": model.get("trainer"),
        "configuration": model.get("configuration"),
        "checkpoint": model.get("checkpoint"),
        "inference": model.get("inference"),
        "plans": plans,
        "settings": settings,
    }
