"""``statistics.csv`` and ``.json``: right numbers, from predict and afterwards, merged and never lost."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import label

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.inference.measuring import measure_regions
from nnunetv2_mstkd.outputs import folder as outputs_folder

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def rows_of(folder):
    with (folder / "statistics.csv").open(newline="", encoding="utf-8") as file:
        return {(row["case"], row["region"]): row for row in csv.DictReader(file)}


def entries_of(folder):
    return json.loads((folder / "statistics.json").read_text())


@pytest.fixture
def copied(predicted, tmp_path):
    return shutil.copytree(predicted, tmp_path / "out")


def again(folder, *flags):
    return main(["statistics", "-p", str(folder), *map(str, flags)])


class TestMeasuring:
    def test_hand_computed(self):
        array = np.zeros((4, 5, 6), dtype=np.uint8)
        array[1, 1, 1:4] = 1  # three voxels in a row, and one that shares a corner with the last
        array[2, 2, 4] = 3
        array[3, 4, 0] = 2  # a lesion of its own
        found = measure_regions(array, REGIONS, (1.0, 2.0, 5.0), (10.0, 20.0, 30.0), np.eye(3).ravel())
        whole, enhancing = found["WT"], found["ET"]
        assert (whole.voxels, whole.volume_ml, whole.lesion_voxels) == (5, 0.05, (4, 1))
        assert whole.lesion_sizes == pytest.approx((0.04, 0.01))
        assert (whole.lesions_over(9.99), whole.lesions_over(10)) == (2, 1)
        # Voxel (x 4, y 2, z 2) lies at (14, 24, 40) for DICOM, whose x and y NIfTI turns round.
        assert enhancing.centroid_mm == pytest.approx((-14, -24, 40))
        assert found["TC"].centroid_mm == pytest.approx(
            (-(1 + 2 + 3 + 4) / 4 - 10, -(3 + 2) * 2 / 4 - 20, 36.25)
        )

    def test_nothing_there(self):
        found = measure_regions(np.zeros((3, 3, 3), np.uint8), REGIONS, (1,) * 3, (0,) * 3, np.eye(3).ravel())
        assert [(r.voxels, r.volume_ml, r.lesion_voxels, r.centroid_mm) for r in found.values()] == [
            (0, 0.0, (), None)
        ] * 3

    def test_2d_images_have_areas(self):
        array = np.array([[0, 1], [0, 1]])
        (region,) = measure_regions(array, {"a": (1,)}, (0.5, 2.0), (0.0, 1.0), (1, 0, 0, 1)).values()
        assert (region.area_mm2, region.volume_ml, region.lesion_sizes) == (2.0, None, (2.0,))
        assert region.centroid_mm == pytest.approx((0.5, 2.0))


class TestPredict:
    def test_every_number_is_that_of_the_file(self, predicted):
        """Counted a second time from what nibabel reads, centroids by its affine."""
        rows = rows_of(predicted)
        assert list(rows) == [(case, region) for case in (WHOLE, PARTIAL) for region in REGIONS]
        for (case, region), row in rows.items():
            image = nibabel.load(predicted / f"{case}.nii.gz")
            mask = np.isin(np.asarray(image.dataobj), REGIONS[region])
            voxel_ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
            sizes = sorted(np.bincount(label(mask, np.ones((3, 3, 3)))[0].ravel())[1:], reverse=True)
            assert int(row["voxels"]) == mask.sum() > 0
            assert float(row["volume_ml"]) == pytest.approx(mask.sum() * voxel_ml, abs=1e-6)
            assert int(row["lesions"]) == len(sizes)
            volumes = [float(text) for text in row["lesion_volumes_ml"].split(";")]
            assert volumes == pytest.approx([size * voxel_ml for size in sizes], rel=1e-4)
            assert int(row["lesions_over_50_mm3"]) == sum(size * voxel_ml > 0.05 for size in sizes)
            centroid = image.affine @ [*np.argwhere(mask).mean(axis=0), 1]
            found = [float(row[f"centroid_{axis}_mm"]) for axis in "xyz"]
            assert found == pytest.approx(centroid[:3], abs=2e-3)

    def test_what_it_is_based_on(self, predicted, models):
        rows, content = rows_of(predicted), entries_of(predicted)
        assert [rows[PARTIAL, "ET"][name] for name in ("used", "absent", "constant", "ignored")] == [
            "t1c+t2f",
            "t1n+t2w",
            "",
            "",
        ]
        (run,) = content["runs"]
        assert run["model"]["folds"] == [0, 1]
        assert run["model"]["inference"] == {"step_size": 1.0, "mirroring": False}
        assert rows[WHOLE, "WT"]["model"].startswith(f"{models.regions.name}@")
        assert rows[WHOLE, "WT"]["version"] == run["versions"]["nnunetv2-mstkd"]
        assert str(models.results) not in json.dumps(content), "a path of the machine"

    def test_nothing_is_known_of_the_quality(self, predicted):
        row = rows_of(predicted)[WHOLE, "WT"]
        names = ("expected_dice", "expected_dice_low", "expected_dice_high", "expected_volume_error_ml")
        assert {row[name] for name in (*names, "review", "would_help", "would_help_dice")} == {""}
        assert 0 <= float(row["disagreement"]) <= 1, "there are two folds"

    @pytest.mark.slow
    def test_parts_merge_and_nothing_is_lost(self, predict, models, brats, predicted, tmp_path):
        out, flags = tmp_path / "out", ("-step_size", 1, "-num_parts", 2)
        for part in (1, 0):
            assert predict(brats, out, *flags, "-part_id", part, model=models.regions).code == 0
        assert rows_of(out) == rows_of(predicted)
        # One case more, with another model: a second run, and the earlier cases stay as they are.
        case = shutil.copytree(brats / WHOLE, tmp_path / "in" / "more")
        for path in case.iterdir():
            path.rename(path.with_name(path.name.replace(WHOLE, "more")))
        assert predict(tmp_path / "in", out, "-step_size", 1, model=models.labels).code == 0
        rows = rows_of(out)
        assert {key: row for key, row in rows.items() if key[0] != "more"} == rows_of(predicted)
        assert [region for case, region in rows if case == "more"] == ["NCR", "ED", "ET"]
        text = " ".join((out / "report.txt").read_text().split())
        assert "2 cases were segmented with nnunetv2-mstkd" in text
        assert "1 case was segmented with nnunetv2-mstkd" in text

    @pytest.mark.slow
    def test_a_failure_costs_no_segmentation(self, predict, models, brats, tmp_path, monkeypatch):
        def fail(*given):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(outputs_folder, "measure_case", fail)
        done = predict(brats, tmp_path / "out", "-step_size", 1, model=models.regions)
        assert done.code == 2
        assert done.err.splitlines() == [
            f"{case}: segmented, but not described: No space left on device" for case in (WHOLE, PARTIAL)
        ]
        assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
        # The next run finds out what is missing, and does not pretend to know which model it was.
        monkeypatch.undo()
        done = predict(brats, tmp_path / "out", "--continue_prediction", model=models.regions)
        assert done.code == 0, done.err
        assert {row["model"] for row in rows_of(tmp_path / "out").values()} == {""}

    def test_a_file_of_somebody_else_is_left_alone(self, predict, models, brats, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "statistics.csv").write_text("mine")
        done = predict(brats, tmp_path / "out", model=models.regions)
        assert done.code == 2
        assert done.err.endswith("statistics.csv is not written by nnUNetv2_mstkd; move it away\n")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["statistics.csv"]

    @pytest.mark.slow
    def test_source_labels(self, predict, models, brats, tmp_path):
        """The model's ET is 4 in the file; it is counted, named and masked as ET."""
        out, flags = tmp_path / "out", ("-step_size", 1, "--masks")
        assert predict(brats / WHOLE, out, *flags, "--source_labels", model=models.labels).code == 0
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(out / f"{WHOLE}.nii.gz")))
        rows = rows_of(out)
        for name, value in {"NCR": 1, "ED": 2, "ET": 4}.items():
            assert int(rows[WHOLE, name]["voxels"]) == (array == value).sum()
            mask = sitk.ReadImage(str(out / "masks" / WHOLE / f"{name}.nii.gz"))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), array == value)
        assert again(out) == 2, "no dataset.json: the values are not the data set's"
        assert again(out, "-m", models.labels) == 0
        assert rows_of(out) == rows


class TestAfterwards:
    def test_the_same_numbers(self, copied, predicted, capsys):
        assert again(copied) == 0
        assert capsys.readouterr().out == f"{copied}: 2 case(s) measured\n"
        assert rows_of(copied) == rows_of(predicted)
        assert entries_of(copied) == entries_of(predicted)

    def test_a_segmentation_corrected_by_hand(self, copied, brats, predicted):
        path = copied / f"{WHOLE}.nii.gz"
        image = sitk.ReadImage(str(path))
        image[5:8, 5:8, 5:8] = 3
        sitk.WriteImage(image, str(path))
        assert again(copied, "-i", brats) == 0
        old, new = rows_of(predicted), rows_of(copied)
        assert new[WHOLE, "ET"]["voxels"] != old[WHOLE, "ET"]["voxels"]
        assert [new[case, "ET"]["changed"] for case in (WHOLE, PARTIAL)] == ["True", "False"]
        assert new[WHOLE, "ET"]["model"] == old[WHOLE, "ET"]["model"]
        mask = sitk.ReadImage(str(copied / "masks" / WHOLE / "ET.nii.gz"))
        assert sitk.GetArrayViewFromImage(mask)[5:8, 5:8, 5:8].all(), "masks that are there follow"
        pictures = [(f / "preview" / f"{WHOLE}.png").read_bytes() for f in (copied, predicted)]
        assert pictures[0] != pictures[1]
        assert "1 case of them was changed after prediction." in " ".join(
            (copied / "report.txt").read_text().split()
        )
        assert "changed after prediction" in (copied / "index.html").read_text()

    def test_segmentations_of_another_tool(self, predicted, tmp_path):
        for name in (f"{WHOLE}.nii.gz", "dataset.json"):
            shutil.copy(predicted / name, tmp_path / name)
        assert again(tmp_path) == 0
        row, known = rows_of(tmp_path)[WHOLE, "TC"], rows_of(predicted)[WHOLE, "TC"]
        assert (row["volume_ml"], row["used"], row["model"]) == (known["volume_ml"], "", "")
        assert "nothing is known" in (tmp_path / "report.txt").read_text()

    def test_values_that_are_no_labels_are_refused(self, copied, brats, capsys):
        """BraTS 2021 has ET = 4: measured as if it were 3, there would be no enhancing tumour, in silence."""
        before = entries_of(copied)["cases"]
        image = sitk.ReadImage(str(copied / f"{WHOLE}.nii.gz"))
        image[5:8, 5:8, 5:8] = 4
        sitk.WriteImage(image, str(copied / "other.nii.gz"))
        shutil.copy(brats / WHOLE / f"{WHOLE}-t1c.nii.gz", copied / "scan.nii.gz")
        assert again(copied) == 2
        error = capsys.readouterr().err
        assert "other.nii.gz has values that are no labels here (4; labels are 0, 1, 2, 3)" in error
        assert "scan.nii.gz has values" in error or "between integers" in error
        assert entries_of(copied)["cases"] == before

    def test_half_a_segmentation_is_not_measured(self, copied, capsys):
        """SimpleITK reads a truncated file as if it were whole: background where voxels are missing."""
        path, before = copied / f"{WHOLE}.nii.gz", entries_of(copied)["cases"]
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        capsys.readouterr()
        assert again(copied) == 2
        assert f"{WHOLE}: {path} is truncated or damaged" in capsys.readouterr().err
        assert entries_of(copied)["cases"] == before

    def test_values_of_the_source_are_measured_when_it_is_said(self, predicted, tmp_path):
        content = json.loads((predicted / "dataset.json").read_text())
        content["mstkd"] = {"source_labels": {"1": 1, "2": 2, "3": 4}}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(predicted / f"{WHOLE}.nii.gz")))
        array[:2] = 3
        array[array == 3] = 4
        sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "other.nii.gz"))
        assert again(tmp_path) == 2
        assert again(tmp_path, "--source_labels") == 0
        assert rows_of(tmp_path)["other", "ET"]["voxels"] == str((array == 4).sum())

    def test_images_whose_names_do_not_tell(self, copied, brats, tmp_path):
        (tmp_path / "src" / WHOLE).mkdir(parents=True)
        image = tmp_path / "src" / WHOLE / "after.nii.gz"
        shutil.copy(brats / WHOLE / f"{WHOLE}-t1c.nii.gz", image)
        picture = copied / "preview" / f"{WHOLE}.png"
        picture.unlink()
        assert again(copied, "-i", tmp_path / "src", "--pattern", "t1c=after.nii.gz", "--preview") == 0
        assert picture.is_file()

    def test_a_segmentation_that_was_removed_is_in_no_table(self, copied, capsys):
        (copied / f"{WHOLE}.nii.gz").unlink()
        assert again(copied) == 0
        assert f"are not there any more: {WHOLE}\n" in capsys.readouterr().out
        assert {case for case, _ in rows_of(copied)} == {PARTIAL}
        assert WHOLE not in (copied / "index.html").read_text()

    def test_what_was_expected_of_a_case_stands_beside_it_until_it_is_changed(self, copied, capsys):
        records = json.loads((copied / "modalities.json").read_text())
        helps = {"sequence": "t1n", "dice": 0.04}
        records[WHOLE]["expected"] = {
            "WT": {"dice": 0.9, "volume_error": 1.5, "unit": "ml", "look": False, "helps": helps}
        }
        (copied / "modalities.json").write_text(json.dumps(records))
        assert again(copied) == 0
        names = ("expected_dice", "expected_volume_error_ml", "review", "would_help", "would_help_dice")
        rows = rows_of(copied)
        assert [rows[WHOLE, "WT"][n] for n in names] == ["0.9", "1.5", "False", "t1n", "0.04"]
        assert rows[WHOLE, "TC"]["expected_dice"] == ""
        page = (copied / "index.html").read_text()
        assert "Expected Dice" in page
        assert "Look says whether a reader should look" in page
        path = copied / f"{WHOLE}.nii.gz"
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(image * 0, str(path))
        capsys.readouterr()
        assert again(copied) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line == f"{WHOLE}: measured, but its preview shows an earlier segmentation; give -i SRC"
        row = rows_of(copied)[WHOLE, "WT"]
        assert (row["changed"], row["expected_dice"], row["disagreement"]) == ("True", "", "")

    @pytest.mark.parametrize(
        ("flags", "words"),
        [
            (["-p", "nowhere"], "no folder nowhere"),
            (["-p", "."], "has no dataset.json; give the model as -m MODEL_FOLDER"),
            (["-p", ".", "--preview"], "give -i SRC"),
        ],
    )
    def test_refusals(self, flags, words, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        assert main(["statistics", *flags]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
        assert list(tmp_path.iterdir()) == []
