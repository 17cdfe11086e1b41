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
METHOD_PLANS = "nnUNetMethodPlans"
OWN_NETWORKS = [m.trainer for m in METHODS if getattr(m.load(), "network_class", None) is not None]


@pytest.fixture(scope="module")
def planned(work):
    """Plans that all of them take, on the data that are there; the incomplete cases for nnU-Net's command."""
    work.run(
        f"nnUNetv2_mstkd plan -d 901 -c 3d_fullres {SIZES} --set {SHORT} base_features=8 "
        f"--network plans -overwrite_plans_name {METHOD_PLANS}"
    )
    dataset_json = work.raw / DATASET / "dataset.json"
    work.run(f"nnUNetv2_mstkd prepare -i cases -o prepared_for_methods --dataset_json {dataset_json}")
    return work


@pytest.mark.parametrize("trainer", OWN_NETWORKS)
def test_trains_by_nnunets_command_and_predicts_with_both(planned, tmp_path, trainer):
    named = {"tr": trainer, "p": METHOD_PLANS}
    planned.run(f"nnUNetv2_train 901 3d_fullres 0 -tr {trainer} -p {METHOD_PLANS} -device cpu")
    model = model_folder(planned, "3d_fullres", **named)
    assert (model / "fold_0" / "validation" / "summary.json").is_file()
    stock = f"nnUNetv2_predict -i prepared_for_methods -o {tmp_path}/stock -d 901 -c 3d_fullres -f 0"
    planned.run_together(
        predict("cases", f"{tmp_path}/ours", "3d_fullres", "-f", "0", **named),
        f"{stock} -tr {trainer} -p {METHOD_PLANS} -device cpu --disable_tta",
    )
    assert_equal_voxels(tmp_path / "stock", tmp_path / "ours")
