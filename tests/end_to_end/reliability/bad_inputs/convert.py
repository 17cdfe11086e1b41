"""Bad inputs of convert, and bad cases of convert, prepare and predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bad_inputs import spoiling as s
from bad_inputs.rows import BadInput, call, place

NAME = s.CASE

# Files of a case that no command can use -> what is said of them.
_CASES: tuple[tuple[str, str, Callable[[Path], object]], ...] = (
    ("a sequence of unknown name", f"unknown modality in the name of {NAME}-adc.nii.gz", s.add("adc")),
    ("two files for one sequence", "2 files for t1c", s.add("t1ce")),
    ("a truncated .nii.gz", f"{NAME}-t1c.nii.gz is truncated", s.truncate),
    ("a truncated .nii", f"{NAME}-t1c.nii is truncated", s.truncate_uncompressed),
    ("a web page instead of an image", f"{NAME}-t1c.nii.gz is truncated or not NIfTI", s.text),
    ("gzip of something else", f"{NAME}-t1c.nii.gz is truncated or not a NIfTI-1 file", s.other_gzip),
    ("an empty file", f"{NAME}-t1c.nii.gz is truncated", s.empty),
    ("a link whose target is gone", f"{NAME}-t1c.nii.gz: No such file", s.dangling),
    ("NaN voxels", f"{NAME}-t1c.nii.gz has 1 NaN or Inf voxels", s.voxel(float("nan"))),
    ("infinite voxels", f"{NAME}-t1c.nii.gz has 1 NaN or Inf voxels", s.voxel(float("inf"))),
    ("a 4D file", f"{NAME}-t1c.nii.gz is 4D (13x14x12x2)", s.four_dimensional),
    ("a 2D file", f"{NAME}-t1c.nii.gz is 2D (13x14)", s.two_dimensional),
    ("sequences of different size", "differ in size (13, 14, 12) and (13, 14, 11)", s.other_size),
    ("sequences of different spacing", "differ in spacing", s.geometry(spacing=(1.0, 1.0, 1.5))),
    ("sequences of different origin", "differ in origin", s.geometry(origin=(0.0, 0.0, 3.0))),
    ("sequences of different direction", "differ in direction", s.geometry(direction=s.FLIPPED)),
    ("two cases of one name", f"{NAME}: duplicate case id", s.duplicate),
)
OF_CASES = tuple(
    BadInput(command, what, says, spoil=spoil, of_a_case=True)
    for command in ("convert", "prepare", "predict")
    for what, says, spoil in _CASES
)

CONVERT = (
    call("convert", "SRC does not exist", "input not found: {p}/gone", {"-i": "{p}/gone"}),
    call("convert", "SRC is a file", "{p}/file is a file", {"-i": "{p}/file"}),
    call("convert", "SRC is empty", "no cases in {p}/empty", {"-i": "{p}/empty"}),
    call("convert", "id 0", "data set id 0 is out of range", {"-d": "0"}),
    call("convert", "id 1000", "data set id 1000 is out of range", {"-d": "1000"}),
    call("convert", "a name with a space", "data set name 'a b' is not usable", {"--name": "a b"}),
    call("convert", "a name that leads elsewhere", "data set name '../x' is not usable", {"--name": "../x"}),
    call("convert", "an id that another data set has", "data set id 7 is taken by {p}/raw", {"-d": "7"}),
    place("convert", "the data set exists", "{p}/raw/Dataset005_A exists", s.folder("raw/Dataset005_A")),
    place("convert", "the split exists", "splits_final.json exists", s.existing_split),
    call("convert", "nnUNet_raw is not set", "nnUNet_raw is not set", {}, unset="nnUNet_raw"),
    call("convert", "nnUNet_preprocessed is not set", "nnUNet_preprocessed is not set", {},
         unset="nnUNet_preprocessed"),
    place("convert", "nnUNet_raw is a file", "cannot write into {p}/raw", s.file_instead_of("raw")),
    call("convert", "one fold", "--folds 1", {"--folds": "1"}),
    BadInput("convert", "the format of another release", "use --format brats2023", {"--format": "msd"},
             of_a_case=True),
    BadInput("convert", "auto where no format fits", "label values 0, 9 fit no format", {"--format": "auto"},
             s.labels(9)),
    BadInput("convert", "a label that the format has not", "label values 0, 4 contradict brats2023", {},
             s.labels(4), of_a_case=True),
    BadInput("convert", "label values between integers", "values between integers (0.5)", {},
             s.labels(0.5), of_a_case=True),
    BadInput("convert", "NaN in the segmentation", "seg.nii.gz has 1 NaN", {},
             s.labels(float("nan")), of_a_case=True),
    BadInput("convert", "a segmentation on another grid", "seg.nii.gz differ in origin", {},
             s.moved_segmentation, of_a_case=True),
    BadInput("convert", "nothing but zeros in every sequence", "no modality at all: every image is constant",
             {}, s.constant(0), of_a_case=True),
    place("convert", "no segmentation anywhere", "nothing to train on", s.remove("seg")),
    place("convert", "a Decathlon list that is no JSON", "cannot read {p}/in/dataset.json", s.decathlon("{")),
    place("convert", "a Decathlon list without channels", 'has no "modality"', s.decathlon("{}")),
    place("convert", "a Decathlon task of other channels", "names the channels t2w, ADC",
           s.decathlon('{"modality": {"0": "T2", "1": "ADC"}}')),
)  # fmt: skip
