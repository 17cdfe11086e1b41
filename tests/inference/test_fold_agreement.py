"""How far folds agree, counted by hand and by the predictor."""

import numpy as np
import pytest

from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.inference.fold_agreement import fold_agreement
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor
from nnunetv2_mstkd.models.folder import open_model_folder

REGIONS = {"WT": (1, 2), "ET": (2,)}


def test_mean_over_pairs():
    one, two, three = np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2]), np.array([0, 0, 0, 0])
    found = fold_agreement([one, two, three], REGIONS)
    assert found["WT"] == pytest.approx((2 * 2 / 5 + 0 + 0) / 3)
    assert found["ET"] == pytest.approx(1 / 3)


def test_folds_that_both_see_nothing_agree():
    assert fold_agreement([np.zeros(5, int), np.zeros(5, int)], REGIONS) == {"WT": 1.0, "ET": 1.0}


def test_the_predictor_looks_at_each_fold_and_changes_no_logit(models, brats):
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    model = open_model_folder(models.regions)
    case = discover(brats, model.modalities).cases[0]

    def load(*folds):
        return MissingModalityPredictor.load(model, folds=folds, device="cpu", mirroring=False)

    both = load(0, 1)
    prepared = both.preprocess(both.read(case))
    prediction = both.logits(prepared)
    stock = nnUNetPredictor.predict_logits_from_preprocessed_data(both.predictor, prepared.data)
    np.testing.assert_array_equal(prediction.logits, stock.numpy())
    assert len(both.predictor.list_of_parameters) == 2, "as it was"
    manager = both.predictor.label_manager
    singles = [load(fold).logits(prepared) for fold in (0, 1)]
    labels = [np.asarray(manager.convert_logits_to_segmentation(single.logits)) for single in singles]
    assert both.segmentation(prediction).agreement == fold_agreement(labels, both.regions)
    assert singles[0].by_fold == []
