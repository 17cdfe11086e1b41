"""A subset that shares its preprocessing is what a folder without the other files would give."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_model import MODALITIES, SHAPE, volume, write_case, write_volume

from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.scoring.open_cases import OpenCase, OpenCases
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.modalities import all_subsets
from nnunetv2_mstkd.models.folder import open_model_folder

NAME = "BraTS-GLI-00001-000"
LABELS = frozenset({0, 1, 2, 3})


@pytest.fixture(scope="module")
def predictor(models):
    return MissingModalityPredictor.load(open_model_folder(models.regions), folds=(0,), device="cpu")


def reference_case(folder, reference=None) -> ReferenceCase:
    (found,) = discover(folder, ("t1n", "t1c", "t2w", "t2f")).cases
    return ReferenceCase(found.name, "P", found.images, reference or folder / "none.nii.gz")


def write_filled(root, modalities=MODALITIES, **borders) -> None:
    """A case whose images are nonzero in a whole box, smaller or larger by modality."""
    for seed, modality in enumerate(modalities):
        border = borders.get(modality, 3)
        array = volume(seed, border=border)
        array[(slice(border, -border),) * 3] += 1
        write_volume(root / NAME / f"{NAME}-{modality}.nii.gz", array)


def alone(predictor, case: ReferenceCase, subset: frozenset[str]):
    """Preprocessed from only the subset's files, as ``predict`` does."""
    only = ReferenceCase(
        case.name, "P", {m: p for m, p in case.images.items() if m in subset}, case.reference
    )
    return predictor.preprocess(predictor.read(only))


def counted(predictor, monkeypatch) -> list[str]:
    calls: list[str] = []
    original = predictor.preprocess
    monkeypatch.setattr(predictor, "preprocess", lambda v: calls.append(v.name) or original(v))
    return calls


def check_every_subset(predictor, case: ReferenceCase, opened: OpenCase) -> None:
    for subset in all_subsets(predictor.modalities):
        shared, expected = opened.preprocessed(subset), alone(predictor, case, subset)
        torch.testing.assert_close(shared.data, expected.data, rtol=0, atol=0)
        for key in ("bbox_used_for_cropping", "shape_before_cropping"):
            assert shared.properties[key] == expected.properties[key]
        assert shared.use.used == expected.use.used


def test_one_field_of_view_is_preprocessed_once(predictor, tmp_path, monkeypatch):
    write_filled(tmp_path)
    case = reference_case(tmp_path)
    calls = counted(predictor, monkeypatch)
    opened = OpenCase(case, predictor, LABELS)
    for subset in all_subsets(predictor.modalities):
        opened.preprocessed(subset)
    assert calls == [NAME]
    check_every_subset(predictor, case, opened)


def test_another_field_of_view_is_preprocessed_alone(predictor, tmp_path, monkeypatch):
    """t2f reaches further: without it nnU-Net crops more."""
    write_filled(tmp_path, t2f=1)
    case = reference_case(tmp_path)
    opened = OpenCase(case, predictor, LABELS)
    calls = counted(predictor, monkeypatch)
    check_every_subset(predictor, case, opened)
    # 15 for the comparison, 1 shared, 7 subsets without t2f.
    assert len(calls) == 15 + 1 + 7


def test_holes_that_nnunet_fills_make_no_difference(predictor, tmp_path, monkeypatch):
    """A zero voxel inside one image is in the area all the same."""
    write_filled(tmp_path, MODALITIES[:3])
    holed = volume(3)
    holed[(slice(3, -3),) * 3] += 1
    holed[12, 12, 12] = 0
    write_volume(tmp_path / NAME / f"{NAME}-t2f.nii.gz", holed)
    case, subset = reference_case(tmp_path), frozenset({"t2f"})
    expected = alone(predictor, case, subset)
    calls = counted(predictor, monkeypatch)
    torch.testing.assert_close(
        OpenCase(case, predictor, LABELS).preprocessed(subset).data, expected.data, rtol=0, atol=0
    )
    assert calls == [NAME]


def test_what_a_case_lacks_is_known(predictor, tmp_path):
    write_case(tmp_path, NAME, ("t1n", "t1c"))
    write_volume(tmp_path / NAME / f"{NAME}-t2w.nii.gz", np.full((26, 30, 28), 7, np.int16))
    opened = OpenCase(reference_case(tmp_path), predictor, LABELS)
    assert opened.available() == {"t1n", "t1c"}
    use = opened.preprocessed(frozenset({"t1c"})).use
    assert (use.used, use.absent, use.constant, use.ignored) == (("t1c",), ("t2f",), ("t2w",), ("t1n",))


@pytest.mark.parametrize(
    ("shape", "change", "difference"),
    [
        ((5, 6, 7), lambda image: None, r"size \(7, 6, 5\) and \(28, 30, 26\)"),
        (SHAPE, lambda image: image.SetSpacing((1, 1, 1)), r"spacing \(1, 1, 1\) and \(0.9, 1, 1.2\)"),
        (SHAPE, lambda image: image.SetOrigin((5, 0, 0)), "origin"),
        (SHAPE, lambda image: image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1)), "direction"),
    ],
    ids=["size", "spacing", "origin", "direction"],
)
def test_a_reference_on_another_grid_is_refused(predictor, tmp_path, shape, change, difference):
    write_case(tmp_path / "in", NAME)
    path = write_volume(tmp_path / "seg.nii.gz", np.zeros(shape, np.uint8))
    image = sitk.ReadImage(str(path))
    change(image)
    sitk.WriteImage(image, str(path))
    opened = OpenCase(reference_case(tmp_path / "in", path), predictor, LABELS)
    with pytest.raises(MSTKDError, match=f"seg.nii.gz and .* differ in {difference}"):
        opened.reference()


def test_a_case_is_let_go_with_its_last_piece_of_work(predictor, tmp_path):
    write_case(tmp_path, NAME)
    case = reference_case(tmp_path)
    cases = OpenCases(predictor, [NAME, NAME], LABELS)
    first = cases.get(case)
    cases.done(case)
    assert cases.get(case) is first
    cases.done(case)
    assert cases.get(case) is not first
