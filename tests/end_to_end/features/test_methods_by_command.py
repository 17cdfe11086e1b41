"""Every method by the real commands: trained by nnU-Net's own, sequences missing for both predictions."""

from __future__ import annotations

import pytest
from feature_commands import (
    DATASET,
    SHORT,
    SIZES,
    assert_equal_voxels,
    model_folder,
    predict,
)

from nnunetv2_mstkd.methods import METHODS

pytestmark = pytest.mark.slow
METHOD_PLANS, NARROW_PLANS = "nnUNetMethodPlans", "nnUNetNarrowMethodPlans"
# Its tokens have 64 times as many features.
NARROW = {"nnUNetTrainerIMFuse"}
OWN_NETWORKS = [m.trainer for m in METHODS if getattr(m.load(), "network_class", None) is not None]


@pytest.fixture(scope="module")
def planned(work):
    """Plans that all of them take, on the data that are there; the incomplete cases for nnU-Net's command."""
    for name, features in ((METHOD_PLANS, 8), (NARROW_PLANS, 2)):
        work.run(
            f"nnUNetv2_mstkd plan -d 901 -c 3d_fullres {SIZES} --set {SHORT} base_features={features} "
            f"--network plans -overwrite_plans_name {name}"
        )
    dataset_json = work.raw / DATASET / "dataset.json"
    work.run(f"nnUNetv2_mstkd prepare -i cases -o prepared_for_methods --dataset_json {dataset_json}")
    return work


@pytest.mark.parametrize("trainer", OWN_NETWORKS)
def test_trains_by_nnunets_command_and_predicts_with_both(planned, tmp_path, trainer):
    plans = NARROW_PLANS if trainer in NARROW else METHOD_PLANS
    named = {"tr": trainer, "p": plans}
    planned.run(f"nnUNetv2_train 901 3d_fullres 0 -tr {trainer} -p {plans} -device cpu")
    model = model_folder(planned, "3d_fullres", **named)
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    stock = f"nnUNetv2_predict -i prepared_for_methods -o {tmp_path}/stock -d 901 -c 3d_fullres -f 0"
    few_windows = "-step_size", "1"
    planned.run_together(
        predict("cases", f"{tmp_path}/ours", "3d_fullres", "-f", "0", *few_windows, **named),
        f"{stock} -tr {trainer} -p {plans} -device cpu --disable_tta {' '.join(few_windows)}",
    )
    assert_equal_voxels(tmp_path / "stock", tmp_path / "ours")
