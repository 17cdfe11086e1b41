"""Plain labels, regions and an ignore label; deep supervision on and off."""

from __future__ import annotations

import json
import math
import pickle
import shutil
from itertools import product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from feature_commands import (
    DATASET,
    PLANS,
    SHORT,
    SIZES,
    model_folder,
    predict,
    segmentations,
    train,
    voxels,
)
from loop import losses
from loop import train as run_loop

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.trainers.step import MaskedBatch

IGNORE_DATASET = "Dataset902_Ignore"


def ignoring(regions: bool) -> dict:
    """dataset.json's part that makes the tiny data set's label 3 the one to ignore."""
    if regions:
        labels = {"background": 0, "WT": [1, 2], "NCR": [1], "ignore": 3}
        return {"labels": labels, "regions_class_order": [2, 1]}
    return {"labels": {"background": 0, "NCR": 1, "ED": 2, "ignore": 3}}


@pytest.fixture(scope="module")
def annotated(nnunet_folders, tmp_path_factory) -> str:
    """The tiny data set, with the voxels that nnU-Net lists where there is an ignore label."""
    folder = tmp_path_factory.mktemp("annotated") / "preprocessed"
    shutil.copytree(nnunet_folders / "preprocessed", folder)
    for file in folder.glob("*/*/*.pkl"):
        properties = pickle.loads(file.read_bytes())
        inside = [index for index in np.ndindex(24, 24, 24) if min(index) > 2]
        properties["class_locations"][-1, 0, 1, 2] = np.array([(0, *index) for index in inside])
        file.write_bytes(pickle.dumps(properties))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "regions", "ignore", "deep_supervision"),
    [
        *(("nnUNetTrainerMSTKD", *flags) for flags in product((True, False), repeat=3)),
        ("nnUNetTrainerMSTKDJoint", True, True, False),
        ("nnUNetTrainerModalityDropout", True, True, False),
    ],
)
def test_trains(make_trainer, annotated, monkeypatch, name, regions, ignore, deep_supervision):
    if ignore:
        monkeypatch.setenv("nnUNet_preprocessed", annotated)
    settings = {"num_epochs": 2, "enable_deep_supervision": deep_supervision}
    extra = ignoring(regions) if ignore else None
    trainer = make_trainer(getattr(methods, name), regions=regions, settings=settings, extra=extra)
    run_loop(trainer)
    assert trainer.label_manager.has_ignore_label == ignore
    assert len(losses(trainer)) == 2
    assert all(map(math.isfinite, losses(trainer)))
    assert (type(trainer.loss).__name__ == "DeepSupervisionWrapper") == deep_supervision


def step_with(make_trainer, regions: bool, ignored: float) -> tuple[dict[str, float], torch.Tensor]:
    """Terms of one step, and the gradient by the student's logits; half of the voxels may be ignored."""
    trainer = make_trainer(
        methods.nnUNetTrainerMSTKD,
        regions=regions,
        extra=ignoring(regions),
        settings={"enable_deep_supervision": False},
    )
    trainer.initialize()
    trainer.current_epoch = 3
    trainer.phases = type(trainer.phases)(4, 3)
    trainer.on_train_epoch_start()
    trainer.network.eval()  # no dropout: two calls are to be compared
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(2, 4, 16, 16, 16, generator=draw)
    target = torch.zeros(2, 3 if regions else 1, 16, 16, 16)
    target[:, -1, :8] = ignored  # with regions, nnU-Net's last channel says what to ignore
    seen = []
    trainer.network.decoder.register_forward_hook(
        lambda module, inputs, output: seen.append(output) or output.retain_grad()
    )
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]]).float()
    result = trainer.compute_losses(MaskedBatch(data, mask, target, complete=(True, True)))
    result.total.backward()
    return {name: float(value.detach()) for name, value in result.terms.items()}, seen[-1].grad


@pytest.mark.parametrize("regions", [True, False])
def test_ignored_voxels_are_distilled_but_not_segmented(make_trainer, regions):
    """Only the labels are unknown there; what the teacher says of them is as good as elsewhere."""
    ignored, gradient = step_with(make_trainer, regions, ignored=1 if regions else 3)
    labelled, _ = step_with(make_trainer, regions, ignored=0)
    for name in ("kl", "consistency"):
        assert ignored[name] == pytest.approx(labelled[name]), name
    assert ignored["segmentation"] != pytest.approx(labelled["segmentation"], rel=1e-4)
    assert gradient[:, :, :8].abs().max() > 0, "distilled"
    assert gradient[:, :, :8].abs().mean() < 0.5 * gradient[:, :, 8:].abs().mean(), "not segmented"


@pytest.fixture(scope="module")
def ignore_label(work):
    """The same cases with plain labels and slabs to ignore; trained without deep supervision."""
    convert = "nnUNetv2_mstkd convert -i source --format brats2024 --labels --folds 2 --num-processes 1"
    work.run(f"{convert} -d 902 --name Ignore")
    raw, preprocessed = work.raw / IGNORE_DATASET, work.preprocessed / IGNORE_DATASET
    content = json.loads((raw / "dataset.json").read_text())
    content["labels"]["ignore"] = 1 + max(content["labels"].values())
    (raw / "dataset.json").write_text(json.dumps(content))
    for file in (raw / "labelsTr").iterdir():
        image = sitk.ReadImage(str(file))
        array = sitk.GetArrayFromImage(image)
        array[:, :, 25:] = content["labels"]["ignore"]
        changed = sitk.GetImageFromArray(array)
        changed.CopyInformation(image)
        file.unlink()  # a link perhaps
        sitk.WriteImage(changed, str(file))
    shutil.copy(work.preprocessed / DATASET / "dataset_fingerprint.json", preprocessed)
    work.run(f"nnUNetv2_mstkd plan -d 902 -c 3d_fullres {SIZES} --set {SHORT} enable_deep_supervision=false")
    work.run(f"nnUNetv2_preprocess -d 902 -plans_name {PLANS} -c 3d_fullres -np 1")
    work.run(train("3d_fullres", 0, tr="nnUNetTrainerMSTKDJoint", d=902))
    return content["labels"]


@pytest.mark.slow
def test_an_ignore_label_and_no_deep_supervision_with_the_commands(work, ignore_label):
    out = work.root / "out_ignore"
    tr = "nnUNetTrainerMSTKDJoint"
    work.run(predict("cases", str(out), "3d_fullres", "-f", "0", d=902, tr=tr))
    for array in segmentations(out).values():
        assert set(np.unique(array)) <= set(range(ignore_label["ignore"]))
    fold = model_folder(work, "3d_fullres", tr=tr, dataset=IGNORE_DATASET) / "fold_0"
    summary = json.loads((fold / "validation" / "summary.json").read_text())
    for case in summary["metric_per_case"]:
        reference = voxels(case["reference_file"])
        counted = int((reference != ignore_label["ignore"]).sum())
        metrics = case["metrics"]["1"]
        assert sum(metrics[name] for name in ("TP", "FP", "FN", "TN")) == counted < reference.size
