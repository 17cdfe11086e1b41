"""Masks, previews, and the page with all of them."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.regions import REGION_COLORS
from nnunetv2_mstkd.evaluation.figures.volumes import OrientedVolume, oriented
from nnunetv2_mstkd.evaluation.scoring.given_predictions import find_predictions
from nnunetv2_mstkd.outputs.page import render
from nnunetv2_mstkd.outputs.preview import draw
from nnunetv2_mstkd.outputs.statistics_file import read_statistics

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


def test_masks_are_the_regions_on_the_grid_of_the_label_map(predicted):
    for case in (WHOLE, PARTIAL):
        labels = sitk.ReadImage(str(predicted / f"{case}.nii.gz"))
        for region, values in REGIONS.items():
            mask = sitk.ReadImage(str(predicted / "masks" / case / f"{region}.nii.gz"))
            assert mask.GetDirection() == labels.GetDirection()
            assert (mask.GetOrigin(), mask.GetSpacing()) == (labels.GetOrigin(), labels.GetSpacing())
            expected = np.isin(sitk.GetArrayFromImage(labels), values)
            np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), expected)


def test_label_maps_name_their_values(predicted):
    for case in (WHOLE, PARTIAL):
        (extension,) = nibabel.load(predicted / f"{case}.nii.gz").header.extensions
        labels = {e.get("Key"): e.text for e in ElementTree.fromstring(extension.content).iter("Label")}
        assert labels == {"1": "TC", "2": "WT", "3": "ET"}


def test_what_lies_among_the_segmentations_is_taken_for_no_segmentation(predicted):
    assert {case for _, case in find_predictions(predicted).files} == {WHOLE, PARTIAL}


@pytest.mark.slow
def test_masks_and_previews_of_finished_cases_are_added(predict, models, brats, predicted, tmp_path):
    out = shutil.copytree(
        predicted, tmp_path / "out", ignore=shutil.ignore_patterns("masks", "preview", "index*")
    )
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
    flags = ("--continue_prediction", "--masks", "--preview")
    done = predict(brats, out, *flags, model=models.regions)
    assert done.out == f"{out}: 0 case(s) segmented, 2 were finished before\n"
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")} == before
    names = [path.relative_to(predicted) for path in predicted.rglob("*") if path.is_file()]
    assert names
    assert all((out / name).read_bytes() == (predicted / name).read_bytes() for name in names)


class TestPreview:
    @pytest.fixture
    def case(self):
        """A head of 20×30×24 mm³ at 2×1×1 mm, tumour at the patient's right, in front, at the bottom."""
        labels, head = np.zeros((10, 30, 24), np.uint8), np.zeros((10, 30, 24))
        head[1:9, 2:28, 2:22] = np.arange(1, 21)
        labels[2:4, 4:10, 4:9] = 2
        labels[2:4, 5:8, 5:8] = 3
        return OrientedVolume(labels, (2.0, 1.0, 1.0)), head

    def test_planes_colours_and_sides(self, case):
        labels, head = case
        picture, (left, top, right, bottom) = draw(
            "case", labels, {"t2f": head, "t1c": head}, REGIONS, ["note"]
        )
        strip = np.asarray(picture.crop((left, top, right, bottom))).astype(int)
        assert strip.shape[1] in range(955, 966)
        blue, orange = (
            np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (REGION_COLORS[0], "#D55E00")
        )
        outline = (np.abs(strip - blue).sum(axis=-1) < 6) | (np.abs(strip - orange).sum(axis=-1) < 6)
        # The planes, found by their widths in mm: x, x and y.
        scale = strip.shape[1] / (24 + 24 + 30)
        ends = np.cumsum([0, 24, 24, 30]) * scale
        places = [np.argwhere(outline[:, int(a) : int(b)]).mean(axis=0) for a, b in pairwise(ends)]
        middle, half = strip.shape[0] / 2, 12 * scale
        assert places[0][0] < middle, "axial: the front is above"
        assert places[0][1] < half, "axial: the right side is at the left"
        assert places[1][0] > middle, "coronal: the bottom is below"
        assert places[1][1] < half, "coronal: the right side is at the left"
        assert places[2][1] < 15 * scale, "sagittal: the front is at the left"

    def test_a_row_per_sequence(self, case):
        labels, head = case
        one, four = (draw("c", labels, dict.fromkeys(n, head), REGIONS, [])[0] for n in ("a", "abcd"))
        assert four.height - one.height > 2 * one.height / 2
        assert four.width == one.width

    def test_nothing_found_shows_the_middle(self, case):
        labels, head = case
        empty = OrientedVolume(np.zeros_like(labels.array), labels.spacing)
        picture, box = draw("c", empty, {"t1n": head}, REGIONS, [])
        assert len(np.unique(np.asarray(picture.crop(box)))) > 1

    def test_only_sequences_that_were_used(self, predicted):
        heights = {}
        for case in (WHOLE, PARTIAL):
            with Image.open(predicted / "preview" / f"{case}.png") as picture:
                heights[case] = picture.height
        assert heights[PARTIAL] < 0.7 * heights[WHOLE]

    def test_an_image_on_another_grid_is_named(self, predicted, files, tmp_path, capsys):
        out = shutil.copytree(predicted, tmp_path / "out")
        source = tmp_path / "in" / PARTIAL
        files.write_volume(source / f"{PARTIAL}-t1c.nii.gz", files.volume(0)[:-1])
        assert main(["statistics", "-p", str(out), "-i", str(tmp_path / "in"), "--preview"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{PARTIAL}: no preview: ")
        assert "another shape" in line

    def test_a_picture_that_fails_costs_no_number(self, predicted, files, brats, tmp_path, capsys):
        out, file = shutil.copytree(predicted, tmp_path / "out"), f"{WHOLE}-t1c.nii.gz"
        source = shutil.copytree(brats / WHOLE, tmp_path / "in" / WHOLE)
        moved = sitk.ReadImage(str(source / file))
        moved.SetOrigin((5.0, 0.0, 0.0))
        sitk.WriteImage(moved, str(source / file))
        segmentation = sitk.ReadImage(str(out / f"{WHOLE}.nii.gz"))
        sitk.WriteImage(segmentation * 0, str(out / f"{WHOLE}.nii.gz"))
        flags = ["statistics", "-p", str(out), "-i", str(tmp_path / "in"), "--preview"]
        assert main(flags) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{WHOLE}: no preview: {source / file} and the segmentation differ in origin" in line
        entry = json.loads((out / "statistics.json").read_text())["cases"][WHOLE]
        assert (entry["regions"]["WT"]["voxels"], entry["unfinished"]) == (0, True)
        shutil.copy(brats / WHOLE / file, source)
        assert main(flags) == 0
        assert "unfinished" not in json.loads((out / "statistics.json").read_text())["cases"][WHOLE]

    def test_no_side_is_marked_where_nobody_knows_it(self, case):
        labels, head = case
        known, unknown = (
            draw("c", replace(labels, sides_known=sides), {"a": head}, REGIONS, [])[0]
            for sides in (True, False)
        )
        letters = [np.asarray(picture)[:, :20].any() for picture in (known, unknown)]
        assert letters == [True, False]
        flat = sitk.GetImageFromArray(labels.array[0])
        assert not oriented(flat).sides_known
        assert oriented(sitk.GetImageFromArray(labels.array)).sides_known
        assert not oriented(sitk.GetImageFromArray(labels.array), grid=False).sides_known


class TestPage:
    def test_pictures_beside_numbers_in_one_file(self, predicted):
        text = (predicted / "index.html").read_text(encoding="utf-8")
        assert "http" not in re.sub(r"http-equiv", "", text), "it needs no network"
        content = json.loads((predicted / "statistics.json").read_text())["cases"]
        for entry in content.values():
            for region in entry["regions"].values():
                assert f'data-value="{region["volume_ml"]}"' in text
        pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
        assert len(pictures) == len(content)
        for picture in pictures:
            with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
                assert image.width == 640
        assert re.findall(r'href="(preview/[^"]+)"', text) == [f"preview/{case}.png" for case in content]

    def test_names_are_no_markup(self, predicted, tmp_path):
        statistics = read_statistics(predicted)
        statistics.cases["<script>alert(1)</script>"] = statistics.cases[WHOLE]
        text = render(statistics, ["WT", "TC", "ET"], tmp_path)
        assert text.count("<script>") == 1
        assert "alert" in text


class TestOtherFormats:
    """No model is needed: label maps as nnU-Net writes them, measured and drawn afterwards."""

    @staticmethod
    def write_dataset_json(folder, ending):
        labels = {"background": 0, "inner": 1, "outer": 2}
        content = {"channel_names": {"0": "red", "1": "blue"}, "labels": labels, "file_ending": ending}
        (folder / "dataset.json").write_text(json.dumps(content))

    def test_2d(self, tmp_path):
        out, source = tmp_path / "out", tmp_path / "in"
        labels = np.zeros((40, 60), dtype=np.uint8)
        labels[10:20, 30:50] = 1
        for folder in (out, source):
            folder.mkdir()
        self.write_dataset_json(out, ".png")
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(out / "case.png"))
        image = np.tile(np.arange(1, 61, dtype=np.uint8), (40, 1))
        sitk.WriteImage(sitk.GetImageFromArray(image), str(source / "case_0001.png"))
        flags = ["-p", out, "-i", source, "--preview", "--masks"]
        assert main(["statistics", *map(str, flags)]) == 0
        header, inner, outer = (out / "statistics.csv").read_text().splitlines()
        assert header.startswith(
            "case,region,area_mm2,voxels,lesions,lesion_areas_mm2,centroid_x_mm,centroid_y_mm,used"
        )
        assert inner.startswith("case,inner,200.0,200,1,200,39.5,14.5,")
        assert outer.startswith("case,outer,0,0,0,,,,")
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "masks" / "case" / "inner.png")))
        np.testing.assert_array_equal(mask, labels == 1)
        with Image.open(out / "preview" / "case.png") as picture:
            assert 1.2 < picture.width / picture.height < 1.5, "one plane"
        assert "Area (mm²)" in (out / "index.html").read_text(encoding="utf-8")
        assert main(["statistics", "-p", str(out)]) == 0, "pictures of cases are no cases"

    def test_a_tif_has_the_spacing_beside_it(self, tmp_path):
        array = np.zeros((4, 5, 6), dtype=np.uint8)
        array[1:3, 2, 2] = 2
        tifffile.imwrite(tmp_path / "case.tif", array, compression="zlib")
        (tmp_path / "case.json").write_text('{"spacing": [3.0, 2.0, 0.5]}')
        self.write_dataset_json(tmp_path, ".tif")
        assert main(["statistics", "-p", str(tmp_path), "--masks"]) == 0
        outer = json.loads((tmp_path / "statistics.json").read_text())["cases"]["case"]["regions"]["outer"]
        assert outer["volume_ml"] == pytest.approx(2 * 3 * 2 * 0.5 / 1000)
        assert outer["centroid_mm"] == pytest.approx([-2 * 0.5, -2 * 2, 1.5 * 3])
        mask = tifffile.imread(tmp_path / "masks" / "case" / "outer.tif")
        np.testing.assert_array_equal(mask, array == 2)
