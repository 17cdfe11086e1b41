"""Seven modalities of four normalisations, with regions: 127 subsets, by the real commands."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd import Segmenter
from nnunetv2_mstkd.modalities import all_subsets, modalities_of, parse_subset
from nnunetv2_mstkd.trainers.subset_validation import SubsetRotation
from nnunetv2_mstkd.transforms import build_sampler

NAMES = ("t1n", "CT", "rescale_to_0_1", "noNorm", "DCE late", "T2*", "b1400")
INCOMPLETE = re.compile(r"^ +1  t1n\+rescale_to_0_1\+DCE late\+T2\* *$", re.M)  # in the log's table


class TestSubsets:
    """What 127 subsets do to the pieces that enumerate or draw them."""

    def test_names_are_kept(self, seven_modalities):
        assert modalities_of(seven_modalities.channels) == NAMES

    def test_all_of_them_are_different_and_none_is_empty(self):
        subsets = all_subsets(NAMES)
        assert len(set(subsets)) == 127
        assert all(subsets)

    @pytest.mark.parametrize("batches", [1, 4, 50, 127, 250])
    def test_the_rotation_shows_every_subset_in_its_time(self, batches):
        rotation = SubsetRotation(NAMES, batches)
        epochs = 127 if batches > 1 else 1
        shown = Counter(rotation.subset(e, b) for e in range(epochs) for b in range(batches))
        full = frozenset(NAMES)
        assert all(full in {rotation.subset(e, b) for b in range(batches)} for e in range(min(epochs, 10)))
        if batches > 1:
            assert set(shown) == set(all_subsets(NAMES))
            del shown[full]
            assert max(shown.values()) - min(shown.values()) <= 1 + epochs * batches // (127 * 10)

    @pytest.mark.parametrize("name", ["uniform", "by_count", "bernoulli", "weights"])
    def test_samplers_draw_non_empty_subsets_of_what_there_is(self, name):
        sampler = build_sampler(name, NAMES, subset_weights={"CT+T2*": 1, "b1400": 1})
        available = np.array([True, True, False, True, False, True, True])
        drawn = np.stack([sampler.sample(available) for _ in range(200)])
        assert drawn.any(axis=1).all()
        assert not drawn[:, ~available].any()

    def test_the_uniform_sampler_reaches_all(self):
        np.random.seed(0)
        sampler = build_sampler("uniform", NAMES)
        drawn = Counter(tuple(sampler.sample(np.ones(7, dtype=bool))) for _ in range(127 * 40))
        assert len(drawn) == 127
        assert max(drawn.values()) < 4 * min(drawn.values())


SUBSETS = {
    "all": "--modalities T1 CT rescale_to_0_1 noNorm 'DCE late' 'T2*' b1400",
    "without_ct": "--modalities T1 noNorm 'T2*'",
    "with_ct": "--modalities ct b1400+noNorm",
}
USED = {"all": NAMES, "without_ct": ("t1n", "noNorm", "T2*"), "with_ct": ("CT", "noNorm", "b1400")}


@pytest.fixture(scope="module")
def seven(trained):
    return trained.seven


@pytest.fixture(scope="module")
def predictions(seven) -> dict[str, Path]:
    seven.run_together(
        *(f"{seven.predict} -i {seven.cases} -o {name} {flags}" for name, flags in SUBSETS.items()),
        f"{seven.stock} -i {seven.cases} -o seven_stock",
    )
    return {name: seven.root / name for name in (*SUBSETS, "seven_stock")}


@pytest.mark.slow
class TestRealCommands:
    def test_nnunet_chose_the_normalisations(self, seven):
        plans = json.loads((seven.model / "plans.json").read_text())
        schemes = plans["configurations"]["3d_fullres"]["normalization_schemes"]
        assert [s.removesuffix("Normalization") for s in schemes] == [
            "ZScore", "CT", "RescaleTo01", "No", "ZScore", "ZScore", "ZScore",
        ]  # fmt: skip

    def test_the_training_log(self, seven):
        assert f"Modalities: {', '.join(NAMES)}" in seven.log
        assert INCOMPLETE.search(seven.log)
        shown = re.findall(r"Pseudo dice by subset \{(.*)\}", seven.log)
        assert len(shown) == 3
        for line in shown:
            subsets = re.findall(r"'([^']+)':", line)
            assert len(subsets) == 4
            assert all(parse_subset(text, NAMES) for text in subsets)
            assert "+".join(NAMES) in subsets

    def test_any_subset_can_be_predicted(self, predictions):
        for name, used in USED.items():
            records = json.loads((predictions[name] / "modalities.json").read_text())
            assert [tuple(records[case]["used"]) for case in ("case_5", "case_6")] == [used] * 2

    def test_and_any_other_from_python(self, seven, predictions):
        segmenter = Segmenter(seven.model, device="cpu", mirroring=False)
        images = {name: seven.cases / f"case_5_{i:04d}.nii.gz" for i, name in enumerate(NAMES)}
        for name, used in USED.items():
            result = segmenter({key: images[key] for key in used})
            expected = sitk.ReadImage(str(predictions[name] / "case_5.nii.gz"))
            np.testing.assert_array_equal(result.array, sitk.GetArrayFromImage(expected))
        for subset in all_subsets(NAMES)[::11]:
            result = segmenter({name: images[name] if name in subset else None for name in NAMES})
            assert frozenset(result.used) == subset
            assert frozenset(result.absent) == set(NAMES) - subset
            assert result.mask("organ").any()

    def test_plain_nnunet_predicts_a_whole_case_as_predict_does(self, predictions, assert_same):
        assert_same(predictions["all"], predictions["seven_stock"])

    def test_plain_nnunet_on_prepared_cases_agrees(self, seven, predictions, assert_same):
        seven.run(f"{seven.prepare} -i {seven.cases} -o with_ct_flat {SUBSETS['with_ct']}")
        seven.run(f"{seven.stock} -i with_ct_flat -o with_ct_stock")
        assert_same(predictions["with_ct"], seven.root / "with_ct_stock")

    def test_prepare_refuses_what_plain_nnunet_would_crop_otherwise(self, seven):
        command = f"{seven.prepare} -i {seven.cases} -o refused {SUBSETS['without_ct']}"
        done = seven.run(command, check=False)
        assert done.returncode == 2
        assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["case_5", "case_6"]
        assert done.stderr.count("a placeholder for CT cannot be zero") == 2
        assert not list((seven.root / "refused").glob("*.nii.gz"))
