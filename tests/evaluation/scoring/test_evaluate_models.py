"""Models of any kind, with their cases read once, and who runs the jobs."""

from __future__ import annotations

import functools
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from evaluated_model import CASES, model_flags, voxels
from medpy.metric.binary import hd95 as medpy_hd95
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from tiny_model import MODALITIES, SHAPE, volume, write_volume

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.record import read_evaluation
from nnunetv2_mstkd.evaluation.scoring.jobs import Criteria, FileJob
from nnunetv2_mstkd.evaluation.scoring.label_files import LabelFile
from nnunetv2_mstkd.evaluation.scoring.reference_cases import ReferenceCase
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor

SUBSETS = ("t1c", "t1n+t2f", "t1n+t1c+t2w+t2f")


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """One case whose images show something in the same box, with labels of the data set beside it."""
    root = tmp_path_factory.mktemp("filled")
    for seed, modality in enumerate(MODALITIES):
        array = volume(seed)
        array[(slice(3, -3),) * 3] += 1
        write_volume(root / "in" / CASES[0] / f"{CASES[0]}-{modality}.nii.gz", array)
    labels = np.random.default_rng(5).integers(0, 4, SHAPE).astype(np.uint8)
    write_volume(root / "labels" / f"{CASES[0]}.nii.gz", labels)
    return root


def test_a_stock_model_is_shown_zeros_and_each_case_is_preprocessed_once(
    models, filled, tmp_path, evaluate, monkeypatch
):
    """nnUNetTrainer on plain labels: what is missing is zero, as a folder without those files would be."""
    calls: list[str] = []
    original = MissingModalityPredictor.preprocess
    monkeypatch.setattr(
        MissingModalityPredictor, "preprocess", lambda self, v: calls.append(v.name) or original(self, v)
    )
    flags = (*model_flags(models.labels, filled / "in"), "--labels", filled / "labels")
    done = evaluate(tmp_path / "out", *flags, "--subsets", *SUBSETS)
    assert done.code == 0, done.err
    assert calls == [CASES[0]]
    evaluation = read_evaluation(tmp_path / "out")
    assert evaluation.record.model["trainer"] == "nnUNetTrainer"
    table = evaluation.metrics
    assert set(table.region) == {"NCR", "ED", "ET"}
    assert set(table.subset) == set(SUBSETS)
    reference = voxels(filled / "labels" / f"{CASES[0]}.nii.gz")
    for row in table.itertuples():
        label = {"NCR": 1, "ED": 2, "ET": 3}[row.region]
        a, b = voxels(evaluation.prediction(row.case, row.subset)) == label, reference == label
        assert (row.tp, row.fp, row.fn) == ((a & b).sum(), (a & ~b).sum(), (b & ~a).sum())
    monkeypatch.undo()
    for name in ("t1n", "t2f"):
        file = f"{CASES[0]}-{name}.nii.gz"
        (tmp_path / "part" / CASES[0]).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(filled / "in" / CASES[0] / file, tmp_path / "part" / CASES[0] / file)
    flags = ("-m", models.labels, "-f", "0", "-device", "cpu", "--disable_tta", "-step_size", "1")
    assert (
        main(["predict", "-i", str(tmp_path / "part"), "-o", str(tmp_path / "alone"), *map(str, flags)]) == 0
    )
    expected = voxels(tmp_path / "alone" / f"{CASES[0]}.nii.gz")
    np.testing.assert_array_equal(voxels(evaluation.prediction(CASES[0], "t1n+t2f")), expected)


@pytest.mark.parametrize(("ending", "reader"), [(".png", NaturalImage2DIO), (".nii.gz", SimpleITKIO)])
def test_flat_images_are_compared_in_two_dimensions(tmp_path, ending, reader):
    """nnU-Net's readers put an axis of one voxel before them, 999 mm apart."""
    prediction, reference = np.zeros((2, 40, 30), np.uint8)
    prediction[5:30, 4:20], reference[8:33, 10:22] = 1, 1
    reference[15:20, 14:18] = 0
    spacing = (1.0, 1.0) if ending == ".png" else (0.7, 1.5)  # of y, x
    for name, array in (("prediction", prediction), ("reference", reference)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing[::-1])
        sitk.WriteImage(image, str(tmp_path / f"{name}{ending}"))
    case = ReferenceCase("c", "p", {}, tmp_path / f"reference{ending}")
    criteria = Criteria({"lesion": (1,)}, lesionwise="brats2023-met")
    score = (
        FileJob(LabelFile(tmp_path / f"prediction{ending}"), case, criteria, reader).run().regions["lesion"]
    )
    assert score.hd95 == pytest.approx(medpy_hd95(prediction, reference, spacing), abs=1e-5)
    assert score.volume_reference == pytest.approx(reference.sum() * np.prod(spacing), rel=1e-5)
    assert score.lesions.lesions == 1


def test_half_a_file_is_not_scored(tmp_path):
    """nnU-Net's reader fills what is missing with background."""
    path, whole = tmp_path / "seg.nii.gz", np.random.default_rng(0).integers(0, 2, (20, 20, 20), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(whole), str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(MSTKDError, match="is truncated or damaged"):
        LabelFile(path).read(SimpleITKIO, (0, 1))


def test_one_slice_of_a_volume_stays_a_volume_with_surfaces_in_its_plane():
    rows, columns = np.mgrid[:40, :30]
    mask, other = (((rows - y) ** 2 + (columns - 15) ** 2 < 100)[None].astype(np.uint8) for y in (15, 21))
    for axis in range(3):
        one, two = np.moveaxis(mask, 0, axis), np.moveaxis(other, 0, axis)
        spacing = np.insert([1.0, 1.5], axis, 5.0)
        score = Criteria({"a": (1,)}).score(one, two, spacing).regions["a"]
        assert score.voxel_volume == 7.5
        assert score.hd95 == pytest.approx(medpy_hd95(mask[0], other[0], (1.0, 1.5)))
        assert score.hd95 > medpy_hd95(one, two, spacing) + 0.5


def test_all_training_cases_are_not_new_ones(models, tmp_path, evaluate, monkeypatch, caplog):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    done = evaluate(tmp_path / "out", "-m", models.regions, "-f", 0, "-device", "cpu", "--cases", "all")
    assert done.code == 2, "there is no raw data set"
    assert [line for line in caplog.messages if "trained on" in line] == [
        "--cases all takes the cases that the model was trained on too; its scores there say nothing about"
        " new cases"
    ]


def test_a_cluster_scores_as_many_files_as_it_has_threads(whole, folder, tmp_path, evaluate, monkeypatch):
    """Four jobs wait for each other: with -nps 1 of them in flight they would wait for ever."""
    distributed = pytest.importorskip("distributed")
    together = threading.Barrier(4, timeout=240)
    original = FileJob.run

    @functools.wraps(original)
    def run(job):
        together.wait()
        return original(job)

    monkeypatch.setattr(FileJob, "run", run)
    (tmp_path / "labels").mkdir()
    for case in CASES:
        shutil.copyfile(folder / case / f"{case}-seg.nii.gz", tmp_path / "labels" / f"{case}.nii.gz")
        for subset in ("t1c", "t2f"):
            (tmp_path / "in" / subset).mkdir(parents=True, exist_ok=True)
            for file in ("dataset.json", f"{case}.nii.gz"):
                shutil.copyfile(whole / "predictions" / subset / file, tmp_path / "in" / subset / file)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp://"
    ) as cluster:
        address = cluster.scheduler_address.replace("tcp://", "dask://")
        flags = ("--predictions", tmp_path / "in", "--labels", tmp_path / "labels", "-nps", 1)
        done = evaluate(tmp_path / "out", *flags, "--disable_progress_bar", "--executor", address)
    assert done.code == 0, done.err
    assert len(read_evaluation(tmp_path / "out").metrics) == 2 * 2 * 3
