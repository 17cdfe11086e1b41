"""``convert --unlabelled``: complete cases without a segmentation, which no fold lists."""

from __future__ import annotations

import json

import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_beside, unlabelled_cases
from nnunetv2_mstkd.errors import MSTKDError


def name(patient: int, point: int = 0) -> str:
    return f"BraTS-GLI-{patient:05d}-{point:03d}"


@pytest.fixture
def folders(tmp_path, files):
    for patient in range(3):
        files.write_case(tmp_path / "src", name(patient))
    for patient in (5, 6):
        files.write_case(tmp_path / "more", name(patient), values=None)
    return tmp_path / "src", tmp_path / "more"


def converted(folders, **options):
    return convert(folders[0], 226, "GLI", source_format="brats2023", unlabelled=folders[1], **options)


def content_of(conversion) -> dict:
    return json.loads((conversion.folder / "dataset.json").read_text())


def test_they_are_written_with_a_background_and_in_no_fold(folders, nnunet, files):
    conversion = converted(folders)
    assert conversion.unlabelled == (name(5), name(6))
    content = content_of(conversion)
    assert content["numTraining"] == 5
    assert content["mstkd"]["unlabelled"] == [name(5), name(6)]
    assert unlabelled_cases(content) == (name(5), name(6))
    assert set(content["mstkd"]["patients"]) == {name(patient) for patient in (0, 1, 2, 5, 6)}
    for case in conversion.unlabelled:
        assert len(list((conversion.folder / "imagesTr").glob(f"{case}_*"))) == 4
        label = files.read_array(conversion.folder / "labelsTr" / f"{case}.nii.gz")
        assert label.shape == (6, 7, 8)
        assert not label.any()
    splits = json.loads(conversion.splits_file.read_text())
    assert {case for split in splits for part in split.values() for case in part} == {
        name(patient) for patient in range(3)
    }


def test_the_folds_are_those_without_them(folders, nnunet):
    alone = convert(folders[0], 227, "Alone", source_format="brats2023")
    assert "unlabelled" not in content_of(alone)["mstkd"]
    assert json.loads(alone.splits_file.read_text()) == json.loads(converted(folders).splits_file.read_text())


def test_the_sources_own_cases_without_a_segmentation(folders, nnunet, files, capsys):
    source = folders[0]
    files.write_case(source, name(7), values=None)
    files.write_case(source, name(8), values=None, channels=("t1n", "t2f"))
    arguments = ["-i", str(source), "-d", "1", "--name", "A", "--format", "brats2023", "--num-processes", "1"]
    assert main(["convert", *arguments, "--unlabelled", str(source)]) == 0
    out = capsys.readouterr().out
    assert "4 cases of 4 patients" in out
    assert "1 of them without a segmentation: in no fold" in out
    assert f"left out, not complete: 1 cases ({name(8)})" in out
    assert "left out, no segmentation" not in out


def test_a_segmentation_that_is_there_is_not_used_and_that_is_said(folders, nnunet, files, capsys):
    files.write_case(folders[1], name(9))
    arguments = ["-d", "1", "--name", "A", "--format", "brats2023", "--num-processes", "1"]
    assert main(["convert", "-i", str(folders[0]), "--unlabelled", str(folders[1]), *arguments]) == 0
    assert "segmentations of 1 of these are not used" in capsys.readouterr().out
    label = nnunet.raw / "Dataset001_A" / "labelsTr" / f"{name(9)}.nii.gz"
    assert not files.read_array(label).any()


def test_a_case_in_both_folders_an_incomplete_folder_and_no_folder(folders, nnunet, files, tmp_path):
    files.write_case(folders[1], name(1), values=None)
    with pytest.raises(BadCasesError) as found:
        converted(folders)
    assert set(found.value.problems) == {name(1)}
    files.write_case(tmp_path / "poor", name(7), values=None, channels=("t1n",))
    with pytest.raises(MSTKDError, match="none of 1 cases without a segmentation has every modality"):
        converted((folders[0], tmp_path / "poor"))
    with pytest.raises(MSTKDError, match="none of 0 cases without a segmentation"):
        converted((folders[0], folders[0]))
    with pytest.raises(MSTKDError, match="nowhere"):
        converted((folders[0], tmp_path / "nowhere"))
    assert not any(nnunet.raw.iterdir())


def test_a_fold_does_not_train_on_images_of_patients_that_it_validates(folders, nnunet, files):
    files.write_case(folders[1], name(1, point=1), values=None)
    content = content_of(converted(folders))
    assert unlabelled_beside(content, [name(0)]) == (name(1, point=1), name(5), name(6))
    assert unlabelled_beside(content, [name(1)]) == (name(5), name(6))
    with pytest.raises(MSTKDError, match="must be a list of case names"):
        unlabelled_cases({"mstkd": {"unlabelled": {"a": 1}}})
