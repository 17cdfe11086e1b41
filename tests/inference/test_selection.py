from pathlib import Path

import pytest

from nnunetv2_mstkd.datasets.discovery import Case
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.selection import chosen_images, modality_use

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
CASE = Case("case", {name: Path(f"{name}.nii.gz") for name in ("t1c", "t2w", "t2f")})


def test_only_what_is_asked_for_is_chosen():
    assert list(chosen_images(CASE, {"t1n", "t2f", "t1c"})) == ["t1c", "t2f"]


def test_a_case_without_any_of_it_is_refused_naming_what_it_has():
    with pytest.raises(MSTKDError, match=r"none of .* \(t1n\); it has t1c, t2w, t2f"):
        chosen_images(CASE, {"t1n"})


def test_every_modality_is_in_exactly_one_group():
    use = modality_use(CASE, MODALITIES, {"t1n", "t1c", "t2f"}, constant={"t2f"})
    assert use.to_json() == {"used": ["t1c"], "absent": ["t1n"], "constant": ["t2f"], "ignored": ["t2w"]}


def test_constant_volumes_alone_are_no_case():
    with pytest.raises(MSTKDError, match="no modality at all: t1c, t2f without any contrast"):
        modality_use(CASE, MODALITIES, {"t1c", "t2f"}, constant={"t1c", "t2f"})
