"""How alike two folders of segmentations are."""

import json

import numpy as np
import SimpleITK as sitk

from benchmarks import agreement

DATASET = {
    "labels": {"background": 0, "WT": [1, 2], "TC": [2]},
    "regions_class_order": [1, 2],
    "file_ending": ".mha",
}


def write(folder, array, names=("a", "b")):
    folder.mkdir()
    (folder / "dataset.json").write_text(json.dumps(DATASET))
    for name in names:
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), folder / f"{name}.mha")
    return folder


def test_shares_of_voxels_and_dice(tmp_path, capsys):
    array = np.zeros((4, 5, 5))
    array[1, :2] = 1
    other = array.copy()
    other[1, 0, 0] = 0
    folders = [str(write(tmp_path / "one", array)), str(write(tmp_path / "other", other))]
    assert agreement.main([*folders, "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["results"]
    assert found["equal_voxels"] == 0.99
    assert found["dice"] == {"WT": [18 / 19] * 2, "TC": [1.0, 1.0]}
    assert "2 cases" in capsys.readouterr().out


def test_other_cases_are_one_line(tmp_path, capsys):
    folders = [
        write(tmp_path / "one", np.zeros((2, 2, 2))),
        write(tmp_path / "other", np.zeros((2, 2, 2)), ("a",)),
    ]
    assert agreement.main([*map(str, folders)]) == 2
    assert "do not hold the same segmentations (*.mha)" in capsys.readouterr().err
