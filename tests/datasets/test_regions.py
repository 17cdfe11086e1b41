"""A name and a colour for every value of a segmentation, and both inside NIfTI files."""

import gzip
from xml.etree import ElementTree

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.nifti import count_non_finite, read_header
from nnunetv2_mstkd.datasets.nifti_labels import add_label_table
from nnunetv2_mstkd.datasets.regions import NamedLabel, named_labels, regions_in_files

BLUE, YELLOW, RED = "#56B4E9", "#F0E442", "#D55E00"
NESTED = {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def named(labels, **mstkd):
    source = "source_labels" in mstkd
    content = {"labels": labels, "mstkd": mstkd}
    return [(n.value, n.name, n.color) for n in named_labels(content, source_labels=source)]


class TestNames:
    def test_labels_have_their_own(self):
        found = named({"background": 0, "NCR": 1, "ED": 2, "ignore": 3})
        assert found == [(1, "NCR", BLUE), (2, "ED", YELLOW)]

    def test_values_of_regions_are_called_after_the_smallest_that_has_them(self):
        assert named(NESTED) == [(1, "TC", YELLOW), (2, "WT", BLUE), (3, "ET", RED)]

    def test_tissues_where_convert_wrote_the_data_set(self):
        found = named(NESTED, format="brats2021", source_labels={"1": 1, "2": 2, "3": 4})
        assert found == [(1, "NCR", YELLOW), (2, "ED", BLUE), (4, "ET", RED)]

    def test_two_values_of_one_name_are_told_apart(self):
        assert named({"background": 0, "all": [1, 2]}) == [(1, "all (1)", BLUE), (2, "all (2)", BLUE)]

    def test_values_of_the_source(self):
        content = {"labels": NESTED, "mstkd": {"source_labels": {"1": 1, "2": 2, "3": 4}}}
        assert regions_in_files(content, source_labels=True) == {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)}


class TestHeader:
    @pytest.fixture
    def plain(self, tmp_path):
        image = sitk.GetImageFromArray(np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 4)
        image.SetSpacing((0.5, 1.0, 2.0))
        image.SetOrigin((1.0, -2.0, 3.0))
        sitk.WriteImage(image, str(tmp_path / "plain.nii"))
        return tmp_path / "plain.nii"

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_readers_find_the_table_and_the_same_voxels(self, plain, tmp_path, ending):
        labels = [NamedLabel(1, "edema & <more>", BLUE), NamedLabel(3, "ET", RED)]
        path = tmp_path / f"named{ending}"
        add_label_table(plain, path, labels)
        image = nibabel.load(path)
        (extension,) = image.header.extensions
        assert extension.get_code() == 0
        assert extension.get_sizeondisk() % 16 == 0
        # As TotalSegmentator's own reader goes: first extension, VolumeInformation, LabelTable, Label.
        table = ElementTree.fromstring(extension.content).findall("VolumeInformation/LabelTable/Label")
        assert [(label.get("Key"), label.text) for label in table] == [("1", "edema & <more>"), ("3", "ET")]
        colors = [[round(255 * float(label.get(c))) for c in ("Red", "Green", "Blue")] for label in table]
        assert colors == [[0x56, 0xB4, 0xE9], [0xD5, 0x5E, 0x00]]

        before, after = sitk.ReadImage(str(plain)), sitk.ReadImage(str(path))
        np.testing.assert_array_equal(*map(sitk.GetArrayFromImage, (before, after)))
        for what in ("Spacing", "Origin", "Direction", "PixelIDTypeAsString"):
            assert getattr(before, f"Get{what}")() == getattr(after, f"Get{what}")()
        np.testing.assert_array_equal(image.affine, nibabel.load(plain).affine)
        assert read_header(path).shape == (5, 4, 3)
        assert count_non_finite(path) == 0

    def test_the_same_content_gives_the_same_bytes(self, plain, tmp_path):
        for name in ("a.nii.gz", "b.nii.gz"):
            add_label_table(plain, tmp_path / name, [NamedLabel(1, "ET", RED)])
        assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()

    def test_an_extension_that_is_there_stays(self, plain, tmp_path):
        image = nibabel.load(plain)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"mine"))
        nibabel.save(image, tmp_path / "more.nii")
        add_label_table(tmp_path / "more.nii", tmp_path / "both.nii.gz", [NamedLabel(1, "ET", RED)])
        found = nibabel.load(tmp_path / "both.nii.gz")
        assert [e.get_code() for e in found.header.extensions] == [6, 0]
        np.testing.assert_array_equal(np.asarray(found.dataobj), np.asarray(image.dataobj))

    def test_without_labels_or_nifti_it_is_a_copy(self, plain, tmp_path):
        add_label_table(plain, tmp_path / "copy.nii", [])
        assert (tmp_path / "copy.nii").read_bytes() == plain.read_bytes()
        (tmp_path / "short.nii").write_bytes(b"no NIfTI")
        add_label_table(tmp_path / "short.nii", tmp_path / "out.nii.gz", [NamedLabel(1, "ET", RED)])
        assert gzip.decompress((tmp_path / "out.nii.gz").read_bytes()) == b"no NIfTI"
