"""One data set with all four configurations, and the models that the tests of nnU-Net's features share."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
from feature_commands import ABSENT, BASE_PLANS, DATASET, PLANS, SHORT, SIZES, train


def write_fingerprint(work, dataset: str) -> None:
    """nnU-Net's own extraction, with fewer intensity samples than its 1e8, which take 20 s."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import (
        DatasetFingerprintExtractor,
    )

    extractor = DatasetFingerprintExtractor(dataset, 1)
    extractor.num_foreground_voxels_for_intensitystats = 1e4
    extractor.run()


@pytest.fixture(scope="session")
def work(new_workplace):
    """Four phantom cases with regions, planned and preprocessed; two cases to segment that lack files."""
    work = new_workplace("features")
    work.environment |= {"nnUNet_n_proc_DA": "0"}
    work.run("nnUNetv2_mstkd phantom -o source --cases 4 --shape 40 40 40 --seed 1")
    convert = "nnUNetv2_mstkd convert -i source --format brats2024 --folds 2 --num-processes 1"
    work.run(f"{convert} -d 901 --name Features")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("raw", "preprocessed", "results"):
            patch.setenv(f"nnUNet_{name}", str(getattr(work, name)))
        write_fingerprint(work, DATASET)
    work.run(f"nnUNetv2_mstkd plan -d 901 {SIZES} --set {SHORT}")
    work.run(f"nnUNetv2_preprocess -d 901 -plans_name {PLANS} -c 2d 3d_lowres 3d_fullres -np 1 1 1")
    work.run(  # the baseline shares the data that now exist
        f"nnUNetv2_mstkd plan -d 901 -c 3d_fullres {SIZES} --set {SHORT} "
        f"--network plans -overwrite_plans_name {BASE_PLANS}"
    )
    for case, absent in ABSENT.items():
        shutil.copytree(work.root / "source" / case, work.root / "cases" / case)
        for name in absent:
            (work.root / "cases" / case / f"{case}-{name}.nii.gz").unlink()
    extern = shlex.split(work.run("nnUNetv2_mstkd env").stdout)[1].split("=", 1)[1]
    work.environment["nnUNet_extTrainer"] = extern  # for nnU-Net's own commands
    return work


@pytest.fixture(scope="session")
def models(work):
    """Trained, two at a time: every configuration, and 3d_fullres and a stock network in both folds."""
    assert len(json.loads((work.preprocessed / DATASET / f"{PLANS}.json").read_text())["configurations"]) == 4
    baseline = {"tr": "nnUNetTrainerFullModality", "p": BASE_PLANS}
    on_stock_plans = {"tr": "nnUNetTrainerMSTKD", "p": BASE_PLANS}
    work.run_together(
        train("3d_lowres", "all"),
        train("3d_fullres", 0, "--npz"),
        train("3d_fullres", 0, "--npz", **on_stock_plans),
        train("3d_fullres", 1, "--npz", **on_stock_plans),
        train("3d_fullres", 0, "--npz", **baseline),
        train("3d_fullres", 1, "--npz", **baseline),
        train("2d", 0),
    )
    work.run(train("3d_cascade_fullres", 0))  # needs what 3d_lowres left for the next stage
    return work
