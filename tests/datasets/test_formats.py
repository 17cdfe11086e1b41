import pytest

from nnunetv2_mstkd.datasets.formats import FORMATS, TISSUES, check_name, detect_format
from nnunetv2_mstkd.errors import MSTKDError

# Release, a case name in it, its patient, and (NCR, ED, ET[, RC]) as the release numbers them.
RELEASES = [
    ("brats2020", "BraTS20_Training_001", "BraTS20_Training_001", (1, 2, 4)),
    ("brats2021", "BraTS2021_00000", "BraTS2021_00000", (1, 2, 4)),
    ("brats2023", "BraTS-GLI-00000-001", "BraTS-GLI-00000", (1, 2, 3)),
    ("brats2024", "BraTS-GLI-02405-100", "BraTS-GLI-02405", (1, 2, 3, 4)),
    ("fets2022", "FeTS2022_00000", "FeTS2022_00000", (1, 2, 4)),
    ("fets2024", "FeTS2022_00000", "FeTS2022_00000", (1, 2, 4)),
    ("msd", "BRATS_009", "BRATS_009", (2, 1, 3)),
]


def test_the_table_of_releases_is_complete():
    assert [row[0] for row in RELEASES] == list(FORMATS)


@pytest.mark.parametrize(("name", "case", "patient", "values"), RELEASES)
def test_names_patients_and_values(name, case, patient, values):
    fmt = FORMATS[name]
    assert fmt.case_id.fullmatch(case)
    assert fmt.patient(case) == patient
    assert [fmt.label_map[value] for value in values] == list(range(1, len(values) + 1))
    assert fmt.values == {0, *values}
    assert set(TISSUES.values()) >= set(fmt.label_map.values()) - {0}


def test_time_points_are_of_one_patient_in_any_brats_series():
    for fmt in FORMATS.values():
        assert fmt.patient("BraTS-PED-00012-000") == fmt.patient("BraTS-PED-00012-001") == "BraTS-PED-00012"
        assert fmt.patient("clinic_17-2") == "clinic_17-2"


@pytest.mark.parametrize(
    ("cases", "values", "expected"),
    [
        (["BraTS20_Training_001"], {0, 1, 2, 4}, "brats2020"),
        (["BraTS2021_00000"], {0, 1, 2, 4}, "brats2021"),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00000-001"], {0, 1, 2, 3}, "brats2023"),
        (["BraTS-GLI-02405-100"], {0, 1, 2, 3, 4}, "brats2024"),
        (["BraTS-GLI-02405-100"], {0, 1, 2, 3}, "brats2024"),
        (["BRATS_009", "BRATS_119"], {0, 1, 2, 3}, "msd"),
    ],
)
def test_auto_where_names_and_values_leave_one_format(cases, values, expected):
    assert detect_format(cases, values).name == expected


@pytest.mark.parametrize(
    ("cases", "values", "message"),
    [
        (["FeTS2022_00000"], {0, 1, 2, 4}, "fit fets2022 and fets2024"),
        (["patient1"], {0, 1, 2, 3}, "names fit none, values fit brats2023 or brats2024 or msd"),
        (["BraTS2021_00000"], {0, 1, 2, 3}, "names fit brats2021, values fit brats2023 or brats2024 or msd"),
        (["BraTS-GLI-00000-000", "BraTS-GLI-00000-100"], {0, 1, 2, 3}, "names fit none"),
        (["BraTS-GLI-00000-000"], {0, 1, 2, 3, 4}, "names fit brats2023, values fit brats2024"),
        (["BraTS-GLI-00000-000"], {0, 7}, "values fit none"),
    ],
)
def test_auto_is_refused_where_it_would_guess(cases, values, message):
    with pytest.raises(MSTKDError, match=message):
        detect_format(cases, values)


@pytest.mark.parametrize(
    ("name", "case", "values", "message"),
    [
        ("brats2023", "BRATS_009", {0, 1, 2, 3}, "Task01_BrainTumour, where the label 1 is ED, not NCR"),
        ("msd", "BraTS-GLI-00000-000", {0, 2, 3}, "where the label 2 is ED, not NCR .* --format brats2023"),
        # Every value of these releases is one of 2024's: only the name tells that 4 is no cavity.
        (
            "brats2024",
            "BraTS2021_00001",
            {0, 1, 2, 4},
            "where the label 4 is ET, not RC as in brats2024",
        ),
        ("brats2024", "BRATS_009", {0, 1}, "where the label 1 is ED, not NCR"),
    ],
)
def test_a_name_of_another_release_where_labels_mean_other_tissues(name, case, values, message):
    with pytest.raises(MSTKDError, match=message):
        check_name(FORMATS[name], case, values)


@pytest.mark.parametrize(
    ("name", "case", "values"),
    [
        ("msd", "BRATS_009", {0, 1, 2, 3}),
        ("brats2023", "patient1", {0, 1, 2, 3}),
        ("brats2021", "BraTS20_Training_001", {0, 1, 2, 4}),
        ("brats2024", "BraTS-GLI-00000-000", {0, 1, 2, 3}),
        ("brats2024", "BraTS2021_00001", {0, 1, 2}),
    ],
)
def test_a_name_of_another_release_that_has_the_same_labels(name, case, values):
    check_name(FORMATS[name], case, values)
