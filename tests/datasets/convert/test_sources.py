"""The Decathlon's own layout: one 4D file per case."""

import json
import os
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError
from nnunetv2_mstkd.errors import MSTKDError


def write_decathlon(root, files, *, order=("FLAIR", "T1w", "t1gd", "T2w"), channels=4):
    """Channel k of every image has the value 10 (k + 1) in its first voxel."""
    for i in (1, 2):
        stack = np.zeros((channels, 6, 7, 8), dtype=np.float32)
        stack[:, 0, 0, 0] = 10 * np.arange(1, channels + 1)
        stack[:, 1:, :, :] = i
        files.write_volume(root / "imagesTr" / f"BRATS_{i:03d}.nii.gz", stack, origin=(1, 2, 3))
        files.write_volume(
            root / "labelsTr" / f"BRATS_{i:03d}.nii.gz", files.segmentation_with((1, 2, 3)), origin=(1, 2, 3)
        )
    names = {str(i): name for i, name in enumerate(order)}
    (root / "dataset.json").write_text(json.dumps({"modality": names, "numTraining": 2}))
    (root / "imagesTr" / "._BRATS_001.nii.gz").write_text("as the archive has it")


@pytest.mark.parametrize("order", [("FLAIR", "T1w", "t1gd", "T2w"), ("T2w", "T1w", "FLAIR", "t1gd")])
def test_the_decathlons_own_layout_by_the_order_that_it_names(tmp_path, nnunet, files, order):
    write_decathlon(tmp_path / "src", files, order=order)
    conversion = convert(tmp_path / "src", 1, "Task01", source_format="auto")
    assert conversion.format.name == "msd"
    position = {"t1n": order.index("T1w"), "t1c": order.index("t1gd"), "t2w": order.index("T2w"),
                "t2f": order.index("FLAIR")}  # fmt: skip
    for channel, modality in enumerate(files.channels):
        path = conversion.folder / "imagesTr" / f"BRATS_002_{channel:04d}.nii.gz"
        image = sitk.ReadImage(str(path))
        assert image.GetOrigin() == (1, 2, 3)
        array = sitk.GetArrayFromImage(image)
        assert array.shape == (6, 7, 8)
        assert array[0, 0, 0] == 10 * (position[modality] + 1)
        assert (array[1:] == 2).all()
    label = files.read_array(conversion.folder / "labelsTr" / "BRATS_002.nii.gz")
    assert label.ravel()[:4].tolist() == [2, 1, 3, 0]  # edema, necrosis, enhancing
    assert json.loads((conversion.folder / "dataset.json").read_text())["mstkd"]["source_labels"] == {
        "1": 2,
        "2": 1,
        "3": 3,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": ("FLAIR", "T1w", "t1gd", "T1")}, "expected those of Task01"),
    ],
)
def test_other_decathlon_tasks_are_refused(tmp_path, nnunet, files, change, message):
    write_decathlon(tmp_path / "src", files, **change)
    with pytest.raises(MSTKDError, match=message):
        convert(tmp_path / "src", 1, "A", source_format="msd")
    (tmp_path / "src" / "dataset.json").write_text("[]")
    with pytest.raises(MSTKDError, match="order of the channels"):
        convert(tmp_path / "src", 1, "A", source_format="msd")


def test_a_4d_file_with_too_few_channels(tmp_path, nnunet, files):
    write_decathlon(tmp_path / "src", files, channels=3)
    with pytest.raises(BadCasesError) as error:
        convert(tmp_path / "src", 1, "A", source_format="msd")
    assert "has 3 channels" in error.value.problems["BRATS_001"]


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_two_files_of_one_name_are_not_chosen_from(tmp_path, nnunet, files, part):
    write_decathlon(tmp_path / "src", files)
    shutil.copy(tmp_path / "src" / part / "BRATS_001.nii.gz", tmp_path / "src" / part / "BRATS_001.nii")
    with pytest.raises(BadCasesError) as error:
        convert(tmp_path / "src", 1, "A", source_format="msd")
    assert error.value.problems == {
        "BRATS_001": "duplicate case id, found in BRATS_001.nii, BRATS_001.nii.gz; keep one"
    }


def test_a_decathlon_name_that_is_not_utf8(tmp_path, nnunet, files):
    write_decathlon(tmp_path / "src", files)
    folder = tmp_path / "src" / "imagesTr"
    (folder / "BRATS_002.nii.gz").rename(folder / os.fsdecode(b"M\xfcller.nii.gz"))
    with pytest.raises(BadCasesError) as error:
        convert(tmp_path / "src", 1, "A", source_format="msd")
    assert error.value.problems == {"M\\udcfcller": "the name is not UTF-8; rename the files"}


def test_the_patients_of_a_table_stay_together_in_the_split(tmp_path, nnunet, files):
    rows = ["case,patient,sequence,path"]
    for i in range(6):
        files.write_case(tmp_path, f"C{i}")
        for word in (*files.channels, "seg"):
            rows.append(f"C{i},{'ABC'[i // 2]},{word},C{i}/C{i}-{word}.nii.gz")
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    conversion = convert(tmp_path / "cases.csv", 1, "A", source_format="brats2023")
    assert conversion.patients == {f"C{i}": "ABC"[i // 2] for i in range(6)}
    splits = json.loads(conversion.splits_file.read_text())
    assert sorted(split["val"] for split in splits) == [["C0", "C1"], ["C2", "C3"], ["C4", "C5"]]
    content = json.loads((conversion.folder / "dataset.json").read_text())
    assert content["mstkd"]["patients"]["C3"] == "B"


def test_bids_sessions_with_hyphens_are_of_one_patient(tmp_path, nnunet, files):
    for session in ("pre-op", "post-op"):
        case = f"sub-01_ses-{session}"
        files.write_case(tmp_path / "src" / "sub-01", f"ses-{session}", channels=("t1n", "t2f"))
        folder = tmp_path / "src" / "sub-01" / f"ses-{session}"
        for path in folder.iterdir():
            path.rename(folder / path.name.replace(f"ses-{session}-", f"{case}_"))
    assert convert(tmp_path / "src", 1, "A", source_format="brats2023").patients == {
        "sub-01_ses-post-op": "sub-01",
        "sub-01_ses-pre-op": "sub-01",
    }
