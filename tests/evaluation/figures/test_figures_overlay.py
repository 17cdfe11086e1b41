"""Regions painted over an image, and the part of a slice that is shown."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from nnunetv2_mstkd.datasets.regions import region_colors
from nnunetv2_mstkd.evaluation.figures.overlay import best_slice, grey, overlay, window
from nnunetv2_mstkd.evaluation.figures.style import short_names, text_width, wrapped

# ET first: what is painted when must not depend on the order of dataset.json.
NESTED = {"ET": (3,), "WT": (1, 2, 3), "TC": (1, 3)}


def test_inner_regions_cover_the_outer_ones():
    image, labels = np.full((1, 4), 0.2), np.array([[0, 2, 1, 3]])
    colors = region_colors(list(NESTED))
    painted = overlay(image, labels, NESTED, colors, alpha=0.5)
    expected = [(0.2, 0.2, 0.2)]
    expected += [tuple(0.5 * 0.2 + 0.5 * c for c in to_rgb(colors[name])) for name in ("WT", "TC", "ET")]
    np.testing.assert_allclose(painted[0], expected)


def test_plain_labels_have_one_colour_each():
    regions = {f"label {n}": (n,) for n in range(1, 5)}
    colors = region_colors(list(regions))
    painted = overlay(np.zeros((1, 4)), np.array([[1, 2, 3, 4]]), regions, colors, alpha=1)
    np.testing.assert_allclose(painted[0], [to_rgb(color) for color in colors.values()])
    assert len(set(colors.values())) == 4


def test_the_slice_is_the_one_with_the_largest_area():
    labels = np.zeros((5, 4, 4), int)
    assert best_slice(labels, NESTED) == 2
    labels[1, :1], labels[3, :2] = 3, 2
    assert best_slice(labels, NESTED) == 3
    labels[1, :2] = 2
    labels[4, :2] = 2
    labels[4, 0, 0] = 3
    assert best_slice(labels, NESTED) == 4, "of equal areas the one with more regions"
    labels[1, 0, 0] = 3
    assert best_slice(labels, NESTED) == 1, "then the first"


def test_the_window_holds_the_tumour_and_is_square_in_mm():
    body, target = np.zeros((2, 100, 50), bool)
    body[10:90, 5:45], target[20:30, 10:15] = True, True
    rows, columns = window(target, body, (1.0, 2.0))
    # The body is 80 mm long both ways; half of that is shown.
    assert (rows.stop - rows.start, columns.stop - columns.start) == (40, 20)
    assert rows.start <= 20
    assert rows.stop >= 30
    assert columns.start <= 10
    assert columns.stop >= 15


def test_the_window_stays_in_the_slice_without_a_tumour_too():
    nothing = np.zeros((8, 6), bool)
    assert window(nothing, nothing, (1.0, 1.0)) == (slice(0, 8), slice(0, 6))


def test_grey_leaves_the_background_black():
    values = grey(np.array([0.0, 0.0, 100.0, 150.0, 200.0]))
    assert values[:2].tolist() == [0, 0]
    assert values.max() == 1
    assert 0 < values[3] < 1


@pytest.mark.parametrize("name", ["short", "MST-KDNet without " + "multi-scale " * 9 + "end", "x" * 200])
def test_names_are_wrapped_and_keep_both_ends(name):
    lines = wrapped(name, 44.0, 2).split("\n")
    assert len(lines) <= 2
    assert max(map(text_width, lines)) <= 44
    assert lines[0][:3] == name[:3]
    assert lines[-1][-3:] == name[-3:]


def test_words_are_left_out_whole():
    text = "MST-KDNet without multi-scale transformer distillation"
    assert wrapped(text, 44.0, 2) == "MST-KDNet without …\ntransformer distillation"


def test_classes_are_broken_where_a_capital_begins():
    assert wrapped("ModalityDropout", 25.0, 3) == "Modality\nDropout"
    assert wrapped("ModalityDropout", 46.0, 2) == "ModalityDropout"


def test_long_modalities_stay_apart():
    names = ["T1 weighted pre contrast", "T1 weighted post contrast", "ADC"]
    assert short_names(names, 12) == ["…pre contras", "…post contra", "ADC"]
    assert short_names(["t1n", "t1c"], 12) == ["t1n", "t1c"]


def test_long_modalities_with_one_beginning_stay_apart():
    names = ["T1_postcontrast_early", "T1_postcontrast_late", "ADC"]
    assert short_names(names, 12) == ["…trast_early", "…ntrast_late", "ADC"]
    # Nor do their ends tell these apart, and one is the beginning of the others.
    alike = ["T1_postcontr", "T1_postcontrast_1_weighted_image", "T1_postcontrast_2_weighted_image"]
    short = short_names(alike, 12)
    assert len(set(short)) == 3
    assert max(map(len, short)) <= 12
