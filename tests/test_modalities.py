import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import (
    BRATS_MODALITIES,
    all_subsets,
    canonical_name,
    format_subset,
    modalities_of,
    parse_subset,
    resolve,
    subset_mask,
)

# Column heads of the four comparison tables on the MST-KDNet page, left to right, without "Avg.".
PUBLISHED_COLUMNS = (
    "T2", "T1Gd", "T1", "FLAIR", "T1Gd+T2", "T1+T1Gd", "FLAIR+T1", "T1+T2", "FLAIR+T2", "FLAIR+T1Gd",
    "FLAIR+T1+T1Gd", "FLAIR+T1+T2", "FLAIR+T1Gd+T2", "T1+T1Gd+T2", "FLAIR+T1+T1Gd+T2",
)  # fmt: skip


@pytest.mark.parametrize(
    ("spellings", "canonical"),
    [
        (("t1n", "T1", "t1w", "T1W", "T1-native"), "t1n"),
        (("t1c", "t1ce", "T1CE", "T1Gd", "t1gd", "T1-ce", "t1_ce"), "t1c"),
        (("t2w", "T2", "t2", "T2W"), "t2w"),
        (("t2f", "FLAIR", "flair", "fla", "Flair", "T2-FLAIR", "t2_flair", " flair "), "t2f"),
        (("ADC",), "ADC"),
        (("CT",), "CT"),
    ],
)
def test_every_generation_of_names_has_one_canonical_name(spellings, canonical):
    assert {canonical_name(spelling) for spelling in spellings} == {canonical}


def test_an_empty_name_is_refused():
    with pytest.raises(MSTKDError, match="empty"):
        canonical_name("  ")


def test_channel_names_are_read_in_channel_order_not_in_file_order():
    assert modalities_of({"3": "T2w", "0": "FLAIR", "2": "t1gd", "1": "T1w"}) == ("t2f", "t1n", "t1c", "t2w")
    assert modalities_of({str(i): f"c{i}" for i in range(11)})[10] == "c10"


def test_channels_listed_the_other_way_round_are_refused():
    with pytest.raises(MSTKDError, match=r"numbered in dataset\.json.*here the keys are FLAIR, T1w"):
        modalities_of({"FLAIR": "0", "T1w": "1"})


def test_channels_of_any_names_are_modalities_and_stay_distinct():
    assert modalities_of(["ADC", "DWI", "T2"]) == ("ADC", "DWI", "t2w")
    assert modalities_of(["T1", "t1n"]) == ("T1", "t1n")
    assert modalities_of(["MRI", "MRI"]) == ("MRI_0000", "MRI_0001")
    with pytest.raises(MSTKDError, match="no channels"):
        modalities_of({})


def test_names_with_what_separates_subsets_are_one_piece():
    names = modalities_of({"0": "T1", "1": "T1+C", "2": "DWI+ADC", "3": "b0, b1000"})
    assert names == ("t1n", "t1c", "DWI-ADC", "b0- b1000")
    for subset in all_subsets(names):
        assert parse_subset(format_subset(subset, names), names) == subset
    assert modalities_of(["T1+", "T1+Gd", "T1w"]) == ("T1-", "T1-Gd", "t1n")
    assert resolve("DWI+ADC", names) == "DWI-ADC"


def test_resolve_prefers_the_literal_name_and_lists_what_there_is():
    assert resolve("T1ce", BRATS_MODALITIES) == "t1c"
    assert resolve("t1", ("T1", "t1n")) == "T1"
    assert resolve("adc", ("ADC", "t1n")) == "ADC"
    with pytest.raises(MSTKDError, match=r"'ADC'; this data set has t1n, t1c, t2w, t2f"):
        resolve("ADC", BRATS_MODALITIES)


@pytest.mark.parametrize("text", ["t1c+flair", "FLAIR,T1Gd", ["t2f", "t1ce"], "t1c + t2f+t1c"])
def test_subsets_are_sets_of_names(text):
    assert parse_subset(text, BRATS_MODALITIES) == {"t1c", "t2f"}


@pytest.mark.parametrize("text", ["", "+", ",", [], [" "]])
def test_the_empty_set_is_refused(text):
    with pytest.raises(MSTKDError, match="empty set"):
        parse_subset(text, BRATS_MODALITIES)


def test_subsets_print_in_channel_order():
    assert format_subset({"t2f", "t1n"}, BRATS_MODALITIES) == "t1n+t2f"
    assert format_subset({"t2f", "t1n"}, ("t2f", "t1n")) == "t2f+t1n"
    with pytest.raises(MSTKDError, match="ADC"):
        format_subset({"ADC"}, BRATS_MODALITIES)
    with pytest.raises(MSTKDError, match="empty set"):
        format_subset((), BRATS_MODALITIES)


@pytest.mark.parametrize("channels", [BRATS_MODALITIES, ("t2f", "t1n", "t1c", "t2w")])
def test_the_order_is_that_of_the_published_tables_whatever_the_channel_order(channels):
    published = tuple(parse_subset(column, BRATS_MODALITIES) for column in PUBLISHED_COLUMNS)
    assert all_subsets(channels) == published


def test_other_sets_go_by_size_then_channel():
    assert [format_subset(s, "ABC") for s in all_subsets(("A", "B", "C"))] == [
        "A", "B", "C", "A+B", "A+C", "B+C", "A+B+C",
    ]  # fmt: skip
    assert len(set(all_subsets(("a", "b", "c", "d", "e")))) == 31


def test_masks_follow_the_channel_order():
    assert subset_mask({"t1c", "t2f"}, BRATS_MODALITIES) == (False, True, False, True)
