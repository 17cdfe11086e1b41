import pytest

from nnunetv2_mstkd.datasets.convert.splits import patient_splits
from nnunetv2_mstkd.errors import MSTKDError


def test_time_points_of_a_patient_stay_together():
    patients = {f"p{p}-{t}": f"p{p}" for p in range(11) for t in range(1 + p % 3)}
    splits = patient_splits(patients, folds=5, seed=1)
    assert len(splits) == 5
    validated = []
    for split in splits:
        assert sorted(split["train"] + split["val"]) == sorted(patients)
        assert not {patients[c] for c in split["train"]} & {patients[c] for c in split["val"]}
        assert split["val"]
        validated += split["val"]
    assert sorted(validated) == sorted(patients)


def test_one_case_per_patient_gives_nnunets_own_split():
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    cases = [f"BraTS2021_{i:05d}" for i in range(23)]
    assert patient_splits({case: case for case in cases}) == generate_crossval_split(cases)


def test_the_seed_matters():
    patients = {f"c{i:02d}": f"c{i:02d}" for i in range(20)}
    assert patient_splits(patients, seed=1) == patient_splits(patients, seed=1)
    assert patient_splits(patients, seed=1) != patient_splits(patients, seed=2)


def test_fewer_patients_than_folds():
    assert len(patient_splits({"a-0": "a", "a-1": "a", "b-0": "b", "c-0": "c"}, folds=5)) == 3
    assert patient_splits({"a-0": "a", "a-1": "a"}) == [{"train": ["a-0", "a-1"], "val": ["a-0", "a-1"]}]


@pytest.mark.parametrize(
    ("patients", "folds", "message"), [({"a": "a"}, 1, "--folds 1"), ({}, 5, "no cases")]
)
def test_what_cannot_be_split(patients, folds, message):
    with pytest.raises(MSTKDError, match=message):
        patient_splits(patients, folds=folds)
