"""Cross-validation splits in which no patient is on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from nnunetv2_mstkd.errors import MSTKDError

Split = dict[str, list[str]]


def check_split(folds: int, seed: int) -> None:
    """See whether there can be such a split.

    Raises:
        MSTKDError: fewer than two folds, or a seed that numpy does not take.
    """
    if folds < 2:
        raise MSTKDError(f"--folds {folds}: at least 2 are needed; nnUNetv2_train takes fold 'all' for none")
    if not 0 <= seed < 2**32:
        raise MSTKDError(f"--seed {seed} is out of range; choose 0 to {2**32 - 1}")


def patient_splits(patients: Mapping[str, str], *, folds: int = 5, seed: int = 12345) -> list[Split]:
    """nnU-Net's own seeded k-fold split, drawn over patients instead of cases.

    With one case per patient and the default arguments it is exactly the split that nnU-Net would make.

    Args:
        patients: case → patient.
        folds: number of folds; fewer are made where there are fewer patients.
        seed: seed of the shuffle.

    Returns:
        One ``{"train": [...], "val": [...]}`` per fold, cases sorted. A single patient gives one fold with
        its cases on both sides, because nnU-Net cannot train without validation cases.

    Raises:
        MSTKDError: there can be no such split, or there are no cases.
    """
    check_split(folds, seed)
    cases_of: dict[str, list[str]] = defaultdict(list)
    for case, patient in sorted(patients.items()):
        cases_of[patient].append(case)
    names = sorted(cases_of)
    if not names:
        raise MSTKDError("there are no cases to split")
    if len(names) == 1:
        return [{"train": cases_of[names[0]], "val": cases_of[names[0]]}]
    # Imported late: it brings scikit-learn along.
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    def cases(split: list[str]) -> list[str]:
        return sorted(case for patient in split for case in cases_of[str(patient)])

    drawn = generate_crossval_split(names, seed=seed, n_splits=min(folds, len(names)))
    return [{"train": cases(split["train"]), "val": cases(split["val"])} for split in drawn]
