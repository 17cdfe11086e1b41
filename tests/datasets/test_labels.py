import numpy as np
import pytest

from nnunetv2_mstkd.datasets.formats import FORMATS
from nnunetv2_mstkd.datasets.labels import (
    check_label_values,
    integral_values,
    label_section,
    source_label_section,
    to_source_labels,
    to_target_labels,
)
from nnunetv2_mstkd.errors import MSTKDError


@pytest.mark.parametrize("regions", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_nnunet_export_gives_the_tissue_labels_back(name, regions):
    import torch
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    section = label_section(FORMATS[name], regions=regions)
    manager = LabelManager(section["labels"], section.get("regions_class_order"))
    assert manager.has_regions == regions
    count = len(FORMATS[name].source_labels)
    truth = torch.arange(count + 1)  # one voxel of each tissue, background included
    assert manager.all_labels == truth.tolist()
    if regions:
        heads = [[value in np.atleast_1d(members) for value in truth] for members in manager.all_regions]
    else:
        heads = [[value == head for value in truth] for head in truth]
    logits = torch.where(torch.tensor(heads)[:, None, None], 10.0, -10.0)
    assert manager.convert_logits_to_segmentation(logits).flatten().tolist() == truth.tolist()


def test_resection_cavity_is_no_part_of_the_whole_tumour():
    section = label_section(FORMATS["brats2024"], regions=True)
    assert section["labels"] == {"background": 0, "WT": [1, 2, 3], "TC": [1, 3], "ET": [3], "RC": [4]}
    assert section["regions_class_order"] == [2, 1, 3, 4]
    assert "RC" not in label_section(FORMATS["brats2023"], regions=True)["labels"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
@pytest.mark.parametrize("name", FORMATS)
def test_label_round_trip(name, dtype):
    source = np.array(sorted(FORMATS[name].values), dtype=dtype).reshape(1, 1, -1)
    target = to_target_labels(source, FORMATS[name])
    assert target.dtype == np.uint8
    assert set(target.ravel()) == set(range(source.size))
    back = to_source_labels(target, {"mstkd": {"source_labels": source_label_section(FORMATS[name])}})
    assert back.dtype == np.uint8
    assert np.array_equal(back, source)


def test_msd_and_brats_disagree_on_edema_and_necrosis():
    assert to_target_labels(np.array([1, 2, 3]), FORMATS["msd"]).tolist() == [2, 1, 3]
    assert to_target_labels(np.array([1, 2, 3]), FORMATS["brats2023"]).tolist() == [1, 2, 3]
    assert to_target_labels(np.array([1, 2, 4]), FORMATS["fets2022"]).tolist() == [1, 2, 3]


def test_the_way_back_needs_a_label_map_and_known_values():
    with pytest.raises(MSTKDError, match=r"no mstkd\.source_labels"):
        to_source_labels(np.zeros(3), {"labels": {}})
    with pytest.raises(MSTKDError, match="label values 4 are not among"):
        to_source_labels(np.array([0, 4]), {"mstkd": {"source_labels": {"1": 1}}})


def test_values_between_integers_are_refused():
    assert integral_values(np.array([[0.0, 2.0], [4.0, 2.0]], dtype=np.float32)) == [0, 2, 4]
    with pytest.raises(MSTKDError, match=r"between integers \(0.5, 1.25\)"):
        integral_values(np.array([0, 0.5, 1.25, 2]))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("brats2023", {0, 1, 2, 3, 4}, "0, 1, 2, 3, 4 contradict brats2023 .* fit brats2024"),
        ("brats2023", {0, 1, 2, 4}, "fit brats2020 or brats2021 or brats2024 or fets2022 or fets2024"),
        ("brats2021", {0, 1, 2, 3}, "fit brats2023 or brats2024 or msd"),
        ("msd", {0, 1, 4}, "contradict msd"),
        ("brats2024", {0, 5}, "fit no format"),
        ("brats2024", {-1, 0}, "label values -1, 0"),
    ],
)
def test_a_label_set_that_contradicts_the_format(name, values, message):
    with pytest.raises(MSTKDError, match=message):
        check_label_values(FORMATS[name], values, values)


def test_the_name_of_a_case_tells_the_format_that_it_fits():
    """Together with another release's cases the values of all fit none, or a wrong one."""
    with pytest.raises(MSTKDError, match="its name and values fit brats2023, check"):
        check_label_values(FORMATS["brats2021"], {0, 1, 2, 3}, {0, 1, 2, 3, 4}, "BraTS-GLI-00000-000")


@pytest.mark.parametrize("name", FORMATS)
def test_fewer_labels_than_the_format_has_are_fine(name):
    check_label_values(FORMATS[name], {0}, {0, 1})
    check_label_values(FORMATS[name], {0, 1, 2}, {0, 1, 2})
