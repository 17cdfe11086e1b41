"""``nnUNetv2_mstkd predict``: layouts, outputs and flags."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
NAMES = (WHOLE, PARTIAL)


@pytest.fixture(scope="module")
def segmented(models, brats, tmp_path_factory):
    """The real command once, in a process of its own: its folder and what it printed."""
    output = tmp_path_factory.mktemp("segmented") / "new" / "folder"
    model = ["-d", "990", "-tr", "nnUNetTrainer", "-p", "nnUNetPlans", "-c", "3d_fullres", "-f", "0"]
    command = [sys.executable, "-m", "nnunetv2_mstkd.cli", "predict", "-i", brats, "-o", output, *model]
    done = subprocess.run(
        [*command, "-device", "cpu", "--disable_tta"], capture_output=True, text=True, check=False,
        env={**os.environ, "nnUNet_results": str(models.results)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return output, done


def flat_copy(brats, target, modalities):
    """The same cases as nnU-Net names them."""
    target.mkdir()
    for path in brats.glob("*/*.nii.gz"):
        case, _, modality = path.name.removesuffix(".nii.gz").rpartition("-")
        shutil.copy(path, target / f"{case}_{modalities.index(modality):04d}.nii.gz")
    return target


def same(files, first, second, names=NAMES):
    for name in names:
        a, b = (files.read_array(Path(folder) / f"{name}.nii.gz") for folder in (first, second))
        np.testing.assert_array_equal(a, b)


class TestRealCommand:
    def test_prints_one_line_per_case_and_a_summary(self, segmented):
        output, done = segmented
        *lines, quality, summary = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["[1/2]", "[2/2]"]
        cases = {line.split(maxsplit=1)[1] for line in lines}  # whichever is written first comes first
        assert cases == {f"{WHOLE}: t1n+t1c+t2w+t2f", f"{PARTIAL}: t1c+t2f"}
        assert quality.startswith(
            "quality not known: this model has no trust.json; make it: nnUNetv2_mstkd trust"
        )
        assert summary == f"{output}: 2 case(s) segmented"

    def test_warns_that_a_stock_model_never_saw_this(self, segmented):
        (line,) = segmented[1].stderr.splitlines()
        assert line.startswith("1 case(s) lack modalities, and nnUNetTrainer was not trained for that")

    def test_writes_nnunets_files_its_statistics_and_nothing_else(self, segmented, models, files):
        output, _ = segmented
        expected = {f"{name}.nii.gz" for name in NAMES} | files.beside
        assert {path.name for path in output.iterdir()} == expected
        for name in ("dataset.json", "plans.json"):
            assert json.loads((output / name).read_text()) == json.loads((models.labels / name).read_text())

    def test_modalities_json(self, segmented, files):
        assert json.loads((segmented[0] / "modalities.json").read_text()) == {
            WHOLE: {"used": list(files.modalities), "absent": [], "constant": [], "ignored": []},
            PARTIAL: {"used": ["t1c", "t2f"], "absent": ["t1n", "t2w"], "constant": [], "ignored": []},
        }

    def test_geometry_of_the_input(self, segmented, brats, files):
        for name, modality in ((WHOLE, "t1n"), (PARTIAL, "t1c")):
            image = sitk.ReadImage(str(brats / name / f"{name}-{modality}.nii.gz"))
            result = sitk.ReadImage(str(segmented[0] / f"{name}.nii.gz"))
            assert result.GetSize() == image.GetSize() == files.shape[::-1]
            for what, expected in files.geometry.items():
                values = getattr(result, f"Get{what.capitalize()}")()
                assert values == getattr(image, f"Get{what.capitalize()}")()
                np.testing.assert_allclose(values, expected, atol=1e-6)

    def test_segments_something(self, segmented, files):
        array = files.read_array(segmented[0] / f"{PARTIAL}.nii.gz")
        assert array.dtype == np.uint8
        assert {0, 1, 2} <= set(np.unique(array)) <= {0, 1, 2, 3}


class TestLayouts:
    def test_one_case_folder(self, predict, models, brats, segmented, files, tmp_path):
        assert predict(brats / PARTIAL, tmp_path / "out", model=models.labels).code == 0
        same(files, segmented[0], tmp_path / "out", [PARTIAL])

    def test_flat_folder(self, predict, models, brats, segmented, files, tmp_path):
        flat = flat_copy(brats, tmp_path / "flat", files.modalities)
        assert predict(flat, tmp_path / "out", model=models.labels).code == 0
        same(files, segmented[0], tmp_path / "out")

    def test_uncompressed_files_under_older_names(self, predict, models, segmented, files, tmp_path):
        older = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
        for index, modality in enumerate(files.modalities):
            path = tmp_path / "in" / WHOLE / f"{WHOLE}_{older[modality]}.nii"
            files.write_volume(path, files.volume(index))
        assert predict(tmp_path / "in", tmp_path / "out", model=models.labels).code == 0
        same(files, segmented[0], tmp_path / "out", [WHOLE])

    def test_absent_is_what_an_all_zero_file_is(self, predict, models, brats, segmented, files, tmp_path):
        case = shutil.copytree(brats / PARTIAL, tmp_path / "in" / PARTIAL)
        for modality in ("t1n", "t2w"):
            files.write_volume(case / f"{PARTIAL}-{modality}.nii.gz", np.zeros(files.shape, dtype=np.int16))
        assert predict(tmp_path / "in", tmp_path / "out", model=models.labels).code == 0
        same(files, segmented[0], tmp_path / "out", [PARTIAL])
        entry = json.loads((tmp_path / "out" / "modalities.json").read_text())[PARTIAL]
        assert entry == {"used": ["t1c", "t2f"], "absent": [], "constant": ["t1n", "t2w"], "ignored": []}


class TestFlags:
    @pytest.mark.parametrize("names", [["T1Gd", "FLAIR"], ["t1c+t2f"]])
    def test_modalities(self, predict, models, brats, segmented, files, tmp_path, names):
        done = predict(brats, tmp_path / "out", "--modalities", *names, model=models.labels)
        assert done.code == 0
        assert [text[:26] for text in done.warnings] == ["2 case(s) lack modalities,"]
        same(files, segmented[0], tmp_path / "out", [PARTIAL])
        assert (
            files.read_array(tmp_path / "out" / f"{WHOLE}.nii.gz")
            != files.read_array(segmented[0] / f"{WHOLE}.nii.gz")
        ).any()
        entry = json.loads((tmp_path / "out" / "modalities.json").read_text())[WHOLE]
        assert entry == {"used": ["t1c", "t2f"], "absent": [], "constant": [], "ignored": ["t1n", "t2w"]}

    def test_a_broken_file_that_is_not_asked_for_does_not_matter(self, predict, models, brats, tmp_path):
        case = shutil.copytree(brats / WHOLE, tmp_path / "in" / WHOLE)
        (case / f"{WHOLE}-t2w.nii.gz").write_bytes(b"nonsense")
        assert (
            predict(tmp_path / "in", tmp_path / "out", "--modalities", "t1c", model=models.labels).code == 0
        )

    def test_source_labels(self, predict, models, brats, segmented, files, tmp_path):
        done = predict(brats, tmp_path / "out", "--source_labels", model=models.labels)
        assert done.code == 0
        source = np.array([0, 1, 2, 4])  # the model's map: 3 (ET) is 4 at the source
        for name in NAMES:
            array = files.read_array(segmented[0] / f"{name}.nii.gz")
            np.testing.assert_array_equal(
                files.read_array(tmp_path / "out" / f"{name}.nii.gz"), source[array]
            )
        assert not (tmp_path / "out" / "dataset.json").exists(), "it would describe other values"
        records = json.loads((tmp_path / "out" / "modalities.json").read_text())
        assert all(entry["source_labels"] is True for entry in records.values())

    def test_regions_and_several_folds(self, predict, models, brats, files, tmp_path):
        outputs = {}
        for name, flags in {"all": [], "both": ["-f", "0", "1"], "one": ["-f", "0"]}.items():
            done = predict(brats, tmp_path / name, *flags, model=models.regions)
            assert (done.code, done.err) == (0, "")
            assert done.warnings == [], "this trainer masks modalities"
            outputs[name] = files.read_array(tmp_path / name / f"{PARTIAL}.nii.gz")
        np.testing.assert_array_equal(outputs["all"], outputs["both"])
        assert (outputs["all"] != outputs["one"]).any()

    def test_save_probabilities(self, predict, models, brats, segmented, files, tmp_path):
        assert predict(brats, tmp_path / "out", "--save_probabilities", model=models.labels).code == 0
        same(files, segmented[0], tmp_path / "out")
        for name in NAMES:
            probabilities = np.load(tmp_path / "out" / f"{name}.npz")["probabilities"]
            assert probabilities.shape == (4, *files.shape)
            np.testing.assert_array_equal(
                probabilities.argmax(0), files.read_array(segmented[0] / f"{name}.nii.gz")
            )
            properties = np.load(tmp_path / "out" / f"{name}.pkl", allow_pickle=True)
            assert properties["shape_before_cropping"] == files.shape

    def test_mirroring_is_on_by_default(self, models, brats, segmented, files, tmp_path):
        from nnunetv2_mstkd.cli import main

        flags = ["-m", str(models.labels), "-device", "cpu", "--disable_progress_bar"]
        assert main(["predict", "-i", str(brats / WHOLE), "-o", str(tmp_path / "out"), *flags]) == 0
        mirrored, plain = (
            files.read_array(folder / f"{WHOLE}.nii.gz") for folder in (tmp_path / "out", segmented[0])
        )
        assert (mirrored != plain).any()

    def test_disable_progress_bar_leaves_the_summary(self, predict, models, brats, tmp_path):
        done = predict(brats / WHOLE, tmp_path / "out", "--disable_progress_bar", model=models.labels)
        quality, summary = done.out.splitlines()
        assert quality.startswith("quality not known")
        assert summary == f"{tmp_path / 'out'}: 1 case(s) segmented"

    def test_verbose_lets_nnunet_speak(self, predict, models, brats, tmp_path):
        done = predict(brats / WHOLE, tmp_path / "out", "--verbose", model=models.labels)
        assert "perform_everything_on_device" in done.out


class TestContinue:
    def test_finished_cases_are_left_alone(self, predict, models, brats, files, tmp_path):
        output = tmp_path / "out"
        predict(brats, output, model=models.labels)
        (output / f"{PARTIAL}.nii.gz").unlink()
        marker = files.write_volume(output / f"{WHOLE}.nii.gz", np.full(files.shape, 3, dtype=np.uint8))
        done = predict(brats, output, "--continue_prediction", model=models.labels)
        assert done.code == 0
        assert f"{output}: 1 case(s) segmented, 1 were finished before" in done.out
        assert (files.read_array(marker) == 3).all()
        assert set(json.loads((output / "modalities.json").read_text())) == set(NAMES)

    def test_nothing_left_to_do_loads_no_model(self, predict, models, brats, tmp_path):
        predict(brats, tmp_path / "out", model=models.labels)
        done = predict(
            brats,
            tmp_path / "out",
            "--continue_prediction",
            "-chk",
            "checkpoint_gone.pth",
            model=models.labels,
        )
        assert done.code == 0
        assert "0 case(s) segmented, 2 were finished before" in done.out

    def test_without_probabilities_a_case_is_not_finished(self, predict, models, brats, tmp_path):
        predict(brats, tmp_path / "out", model=models.labels)
        done = predict(
            brats, tmp_path / "out", "--continue_prediction", "--save_probabilities", model=models.labels
        )
        assert "2 case(s) segmented\n" in done.out

    def test_two_label_conventions_do_not_mix(self, predict, models, brats, tmp_path):
        predict(brats, tmp_path / "out", model=models.labels)
        done = predict(
            brats, tmp_path / "out", "--continue_prediction", "--source_labels", model=models.labels
        )
        assert done.code == 2
        assert "in the other label convention" in done.err


def test_parts_share_the_cases_and_the_record(predict, models, brats, segmented, files, tmp_path):
    bad = tmp_path / "in"
    shutil.copytree(brats, bad)
    (bad / "BraTS-GLI-00001-500").mkdir()  # a case between the two without a single file
    codes = []
    for part in (0, 1):
        done = predict(bad, tmp_path / "out", "-num_parts", 2, "-part_id", part, model=models.labels)
        codes.append((done.code, done.err.count("BraTS-GLI-00001-500")))
    assert codes == [(0, 0), (2, 1)]
    same(files, segmented[0], tmp_path / "out")
    assert set(json.loads((tmp_path / "out" / "modalities.json").read_text())) == set(NAMES)


def test_cascade(predict, models, brats, files, tmp_path):
    model = files.write_model(tmp_path / "model", files.dataset_json(), files.plans_json(cascade=True))
    done = predict(brats, tmp_path / "none", model=model)
    assert done.code == 2
    assert "refines segmentations of 3d_lowres" in done.err
    predict(brats, tmp_path / "low", model=models.labels)
    done = predict(brats, tmp_path / "out", "-prev_stage_predictions", tmp_path / "low", model=model)
    assert done.code == 0
    for name in NAMES:
        assert files.read_array(tmp_path / "out" / f"{name}.nii.gz").shape == files.shape
    done = predict(brats, tmp_path / "out", "-prev_stage_predictions", tmp_path / "low", model=models.labels)
    assert "has no previous stage" in done.err


def test_a_previous_stage_in_the_sources_labels_is_refused(predict, files, brats, tmp_path):
    model = files.write_model(tmp_path / "model", files.dataset_json(), files.plans_json(cascade=True))
    record = {NAMES[0]: {"present": ["t1c"], "absent": [], "source_labels": True}}
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "modalities.json").write_text(json.dumps(record))
    done = predict(brats, tmp_path / "out", "-prev_stage_predictions", tmp_path / "low", model=model)
    assert done.code == 2
    assert f"has {NAMES[0]} in the label values of the data set's source" in done.err


class TestRaggedSources:
    """Files whose names do not tell; what is read of them is tested with ``prepare`` and ``discover``."""

    def test_a_pattern_and_a_table_give_what_the_names_give(
        self, models, brats, predict, segmented, files, tmp_path
    ):
        for case in NAMES:
            (tmp_path / "in" / case).mkdir(parents=True)
            for path in (brats / case).iterdir():
                shutil.copy(path, tmp_path / "in" / case / path.name.replace("-t1c", "-km"))
        done = predict(tmp_path / "in", tmp_path / "out", "--pattern", "t1c=*-km.nii.gz", model=models.labels)
        assert done.code == 0
        same(files, tmp_path / "out", segmented[0])

    def test_one_case_that_reads_as_several_stops_before_anything_is_written(
        self, models, brats, predict, tmp_path
    ):
        (tmp_path / "in").mkdir()
        for i, path in enumerate(sorted((brats / WHOLE).iterdir())):
            shutil.copy(path, tmp_path / "in" / f"{i}_{path.name.rpartition('-')[2]}")
        done = predict(tmp_path / "in", tmp_path / "out", model=models.labels)
        assert done.code == 2
        assert "likely one case: give --one-case" in done.err
        assert not (tmp_path / "out").exists()

    def test_listed_files_are_not_written_over(self, models, brats, predict, tmp_path, capsys):
        from nnunetv2_mstkd.cli import main

        shutil.copytree(brats / PARTIAL, tmp_path / "a")
        table = tmp_path / "cases.csv"
        table.write_text(f"case,sequence,path\nA,t1c,a/{PARTIAL}-t1c.nii.gz\n")
        code = main(
            [
                "predict",
                "--table",
                str(table),
                "-o",
                str(tmp_path / "a"),
                "-m",
                str(models.labels),
                "-device",
                "cpu",
            ]
        )
        assert code == 2
        assert "is read and lies in the output" in capsys.readouterr().err

    def test_a_skull_is_noticed_once(self, models, predict, files, tmp_path):
        for seed, name in enumerate(("a", "b")):
            files.write_volume(
                tmp_path / "in" / name / f"{name}-t1c.nii.gz", files.volume(seed) + np.int16(7)
            )
            files.write_volume(tmp_path / "in" / name / f"{name}-t2f.nii.gz", files.volume(seed + 2))
        done = predict(tmp_path / "in", tmp_path / "out", model=models.labels)
        assert done.code == 0
        (line,) = [line for line in done.warnings if "background" in line]
        assert "the background is not 0 (t1c 7)" in line
        assert "nnUNetv2_mstkd inspect looks at all" in line
