"""Letters can be read in one column, nothing is cut off, and colours differ for colour-blind readers too."""

from itertools import combinations

import numpy as np
import pytest
from comparison_helpers import change_metrics, change_record
from made_evaluations import make_evaluation, scored_as_on_disk
from matplotlib.colors import to_rgb
from matplotlib.font_manager import fontManager
from matplotlib.style import context
from matplotlib.text import Text

from nnunetv2_mstkd.datasets.regions import REGION_COLORS
from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.figures import _FIGURES, save_figures
from nnunetv2_mstkd.evaluation.figures.overlay import blended
from nnunetv2_mstkd.evaluation.figures.qualitative import draw_qualitative
from nnunetv2_mstkd.evaluation.figures.style import COLUMN, RC, RUN_COLORS, WIDTH, unknown_letters
from nnunetv2_mstkd.evaluation.record.record import read_evaluation

SMALLEST = 5.0  # pt in one column
LONG = ("T1 weighted pre contrast", "T1 weighted post contrast", "ADC")
UNDERSCORED = ("T1_postcontrast_early", "T1_postcontrast_late")
REGIONS = {
    "WT": "whole tumour including all oedema",
    "TC": "tumour core of the main lesion",
    "ET": "enhancing tumour of the lesion",
}
RUNS = ("ModalityDropout", "stock nnU-Net, zero-filled", "MST-KDNet without multi-scale distillation")

# Linear RGB as the eye without one kind of cones sees it: Machado, Oliveira and Fernandes, A Physiologically-
# based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6), 2009, severity 1.0.
VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}
XYZ = np.array(  # of linear sRGB (IEC 61966-2-1), as parts of its white (D65)
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
) / np.array([[0.95047], [1.0], [1.08883]])
DISTINCT = 15.0  # in CIELAB (delta E 1976); about 2 can just be told apart side by side


def lab(rgb, vision) -> np.ndarray:
    rgb = np.asarray(rgb, dtype=float)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = (
        np.cbrt(t) if t > (6 / 29) ** 3 else t / (3 * (6 / 29) ** 2) + 4 / 29
        for t in XYZ @ np.clip(vision @ linear, 0, 1)
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def closest(colors, vision) -> float:
    seen = [lab(color, vision) for color in colors]
    return min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2))


@pytest.mark.parametrize("vision", VISION.values(), ids=VISION)
def test_colours_can_be_told_apart(vision):
    assert closest(map(to_rgb, RUN_COLORS), vision) > DISTINCT
    assert closest(map(to_rgb, REGION_COLORS), vision) > DISTINCT
    # As they are painted: over dark and over bright voxels, each of which can be told apart from them too.
    for grey in (0.1, 0.3, 0.5, 0.7, 0.9):
        painted = [blended(color, grey) for color in REGION_COLORS[:3]]
        assert closest([*painted, (grey,) * 3], vision) > DISTINCT


def compared(folder, names=RUNS, regions=None, **options):
    options = {"patients": 2, "images": True, **options}
    made = [scored_as_on_disk(make_evaluation(folder / str(i), seed=i, **options)) for i in range(len(names))]
    for path in made if regions else ():
        rename_regions(path, regions)
    return compare_runs(load_runs(list(map(str, made)), names), resamples=50)


def rename_regions(folder, names):
    labels = read_evaluation(folder).record.regions
    change_record(folder, regions={names[region]: values for region, values in labels.items()})
    change_metrics(folder, lambda table: table.assign(region=table["region"].map(names)))


HARD = {
    "short": {},
    "long": {"modalities": LONG},
    "names with one beginning": {"modalities": (*UNDERSCORED, "T1n", "T2w", "FLAIR & <i>", "ADC", "CBV")},
    "turned": {"modalities": UNDERSCORED},
    "wide letters": {"modalities": ("WWWWWWWWWWWWWWWW", "W"), "names": ("W" * 60, "MWMWMW", "<b>é|x</b>")},
    "many digits": {"modalities": ("only",), "patients": 1, "names": ("a", "<b>é|x</b>")},
    "regions": {"regions": REGIONS, "modalities": ("CT", "PET")},
    "wide regions": {"regions": {name: name * 30 for name in REGIONS}, "modalities": ("CT", "PET")},
}


@pytest.mark.parametrize("options", HARD.values(), ids=HARD)
def test_letters_can_be_read_in_one_column_and_nothing_is_cut_off(tmp_path, options):
    comparison = compared(tmp_path, **options)
    with context(["default", dict(RC)]):
        for draw in _FIGURES:
            drawn = draw(comparison)
            if drawn is None:
                assert comparison.modalities == ("only",)
                continue
            figure = drawn.figure
            figure.canvas.draw()
            sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text()]
            assert min(sizes) * COLUMN / WIDTH >= SMALLEST, drawn.key
            box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01, drawn.key
            titles = [axes.title.get_window_extent() for axes in figure.axes]
            titles += [axes._left_title.get_window_extent() for axes in figure.axes]
            shown = [title for title in titles if title.width > 1]
            assert not any(a.overlaps(b) for a, b in combinations(shown, 2)), drawn.key


def test_letters_that_no_font_has_are_said_once(tmp_path, recwarn, caplog):
    comparison = compared(tmp_path, names=("\U0001f9e0模 a", "模 b"))
    save_figures(comparison, tmp_path / "figures")
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []
    said = [r.getMessage() for r in caplog.records if "boxes" in r.getMessage()]
    unknown = unknown_letters(["\U0001f9e0模 a", "模 b"])
    assert unknown
    assert said == [
        f"figures show boxes for {unknown}: no font here has them; install Noto Sans CJK, or give other names"
    ]


def test_letters_are_looked_for_in_every_installed_font():
    assert RC["font.family"][0] == "DejaVu Sans"
    assert set(RC["font.family"]) <= {font.name for font in fontManager.ttflist}
    assert unknown_letters(["é, Ω, ß: <b>"]) == ""


def test_the_legend_has_the_colours_that_one_sees(tmp_path):
    comparison = compared(tmp_path)
    with context(["default", dict(RC)]):
        figure = draw_qualitative(comparison).figure
    shown = figure.legends[0].get_patches()
    reference = figure.axes[0].get_images()[0].get_array()
    pixels = np.asarray(reference, dtype=float).reshape(-1, 3)
    coloured = pixels[np.ptp(pixels, axis=1) > 0.05]
    assert len(shown) == 3
    for patch in shown:
        # Some pixel of the picture is nearly of that colour; without blending none is.
        distance = np.linalg.norm(coloured - np.array(patch.get_facecolor()[:3]), axis=1)
        assert distance.min() < 0.05
