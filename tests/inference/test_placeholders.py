import numpy as np
import pytest

from nnunetv2_mstkd.inference.placeholders import (
    Normalisation,
    fills_the_grid,
    normalisation_by_name,
    placeholder_value,
)

STATISTICS = {"mean": 40.3, "std": 20.0, "percentile_00_5": -100.0, "percentile_99_5": 200.0}


@pytest.mark.parametrize(
    ("scheme", "value"),
    [
        ("ZScoreNormalization", 0),
        ("NoNormalization", 0),
        ("RescaleTo01Normalization", 0),
        ("RGBTo01Normalization", 0),
        ("CTNormalization", np.float32(40.3)),
        ("NoSuchNormalization", None),
    ],
)
def test_value_that_normalisation_turns_into_zero(scheme, value):
    assert placeholder_value(Normalisation(scheme, False, STATISTICS)) == value


def test_ct_without_statistics_has_none():
    assert placeholder_value(Normalisation("CTNormalization", False, {})) is None


def test_ct_whose_mean_is_clipped_has_none():
    assert placeholder_value(Normalisation("CTNormalization", False, {**STATISTICS, "mean": 500.0})) is None


def test_channel_names_choose_the_scheme_as_in_nnunet():
    schemes = [channel.scheme for channel in normalisation_by_name(["t1n", "CT", "noNorm"])]
    assert schemes == ["ZScoreNormalization", "CTNormalization", "NoNormalization"]


class TestFillsTheGrid:
    def test_a_border_of_zeros_does_not(self):
        volume = np.pad(np.ones((4, 4, 4)), 1)
        assert not fills_the_grid([volume], exactly=False)

    def test_holes_inside_do_not_matter(self):
        volume = np.ones((5, 5, 5))
        volume[2, 2, 2] = 0
        assert fills_the_grid([volume], exactly=True)

    def test_a_missing_corner_keeps_the_box_but_not_the_mask(self):
        volume = np.ones((4, 4, 4))
        volume[0, 0, 0] = 0
        assert fills_the_grid([volume], exactly=False)
        assert not fills_the_grid([volume], exactly=True)

    def test_volumes_count_together(self):
        left, right = np.ones((4, 4, 4)), np.ones((4, 4, 4))
        left[:2], right[2:] = 0, 0
        assert fills_the_grid([left, right], exactly=True)
