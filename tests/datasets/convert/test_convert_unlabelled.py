"""``convert --unlabelled``: complete cases without a segmentation, which no fold lists."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError
from nnunetv2_mstkd.datasets.input_rules import InputRules, parse_patterns
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_beside, unlabelled_cases
from nnunetv2_mstkd.errors import MSTKDError


def name(patient: int, point: int = 0) -> str:
    return f"BraTS-GLI-{patient:05d}-{point:03d}"


@pytest.fixture
def folders(tmp_path, files):
    for patient in range(3):
        files.write_case(tmp_path / "src", name(patient))
    for patient in (5, 6):
        files.write_case(tmp_path / "more", name(patient), values=None)
    return tmp_path / "src", tmp_path / "more"


def converted(folders, **options):
    return convert(folders[0], 226, "GLI", source_format="brats2023", unlabelled=folders[1], **options)


def content_of(conversion) -> dict:
    return json.loads((conversion.folder / "dataset.json").read_text())


def test_they_are_written_with_a_background_and_in_no_fold(folders, nnunet, files):
    conversion = converted(folders)
    assert conversion.unlabelled == (name(5), name(6))
    content = content_of(conversion)
    assert content["numTraining"] == 5
    assert content["mstkd"]["unlabelled"] == [name(5), name(6)]
    assert unlabelled_cases(content) == (name(5), name(6))
    assert set(content["mstkd"]["patients"]) == {name(patient) for patient in (0, 1, 2, 5, 6)}
    for case in conversion.unlabelled:
        assert len(list((conversion.folder / "imagesTr").glob(f"{case}_*"))) == 4
        label = files.read_array(conversion.folder / "labelsTr" / f"{case}.nii.gz")
        assert label.shape == (6, 7, 8)
        assert not label.any()
    splits = json.loads(conversion.splits_file.read_text())
    assert {case for split in splits for part in split.values() for case in part} == {
        name(patient) for patient in range(3)
    }


def test_the_folds_are_those_without_them(folders, nnunet):
    alone = convert(folders[0], 227, "Alone", source_format="brats2023")
    assert "unlabelled" not in content_of(alone)["mstkd"]
    assert json.loads(alone.splits_file.read_text()) == json.loads(converted(folders).splits_file.read_text())


def test_the_sources_own_cases_without_a_segmentation(folders, nnunet, files, capsys):
    source = folders[0]
    files.write_case(source, name(7), values=None)
    files.write_case(source, name(8), values=None, channels=("t1n", "t2f"))
    arguments = ["-i", str(source), "-d", "1", "--name", "A", "--format", "brats2023", "--num-processes", "1"]
    assert main(["convert", *arguments, "--unlabelled", str(source)]) == 0
    out = capsys.readouterr().out
    assert "4 cases of 4 patients" in out
    assert "1 of them without a segmentation: in no fold" in out
    assert f"left out, not complete: 1 cases ({name(8)})" in out
    assert "left out, no segmentation" not in out


def test_a_segmentation_that_is_there_is_not_used_and_that_is_said(folders, nnunet, files, capsys):
    files.write_case(folders[1], name(9))
    arguments = ["-d", "1", "--name", "A", "--format", "brats2023", "--num-processes", "1"]
    assert main(["convert", "-i", str(folders[0]), "--unlabelled", str(folders[1]), *arguments]) == 0
    assert "segmentations of 1 of these are not used" in capsys.readouterr().out
    label = nnunet.raw / "Dataset001_A" / "labelsTr" / f"{name(9)}.nii.gz"
    assert not files.read_array(label).any()


def test_a_case_in_both_folders_an_incomplete_folder_and_no_folder(folders, nnunet, files, tmp_path):
    files.write_case(folders[1], name(1), values=None)
    with pytest.raises(BadCasesError) as found:
        converted(folders)
    assert set(found.value.problems) == {name(1)}
    files.write_case(tmp_path / "poor", name(7), values=None, channels=("t1n",))
    with pytest.raises(MSTKDError, match="none of 1 cases without a segmentation has every modality"):
        converted((folders[0], tmp_path / "poor"))
    with pytest.raises(MSTKDError, match="none of 0 cases without a segmentation"):
        converted((folders[0], folders[0]))
    with pytest.raises(MSTKDError, match="nowhere"):
        converted((folders[0], tmp_path / "nowhere"))
    assert not any(nnunet.raw.iterdir())


def renamed(folder, words):
    """The cases of a folder with other words for their sequences."""
    for path in [p for p in folder.rglob("*.nii.gz")]:
        word = path.name.removesuffix(".nii.gz").rpartition("-")[2]
        path.rename(path.with_name(path.name.replace(f"-{word}.", f"{words.get(word, f'-{word}')}.")))


class TestRules:
    """What --pattern and --one-case say holds for both folders; nobody can give them twice."""

    RULES = InputRules(patterns=parse_patterns(["t1c=*_post.nii.gz", "seg=*_lesion.nii.gz"]))

    def test_patterns_are_those_of_the_source(self, folders, nnunet):
        for folder in folders:  # none of the second has a file for the pattern of seg
            renamed(folder, {"t1c": "_post", "seg": "_lesion"})
        assert converted(folders, rules=self.RULES).unlabelled == (name(5), name(6))

    @pytest.mark.parametrize("glob", ["*_post.nii.gz", "*/*_post.nii.gz"])
    def test_a_folder_that_needs_no_pattern_is_read_without(self, folders, nnunet, glob):
        renamed(folders[0], {"t1c": "_post"})
        patterns = [f"t1c={glob}"]
        if "/" in glob:
            patterns += [f"{word}=*/*-{word}.nii.gz" for word in ("t1n", "t2w", "t2f", "seg")]
            renamed(folders[1], {word: f"_{word}" for word in ("t1n", "t2w", "t2f")})
        assert converted(folders, rules=InputRules(patterns=parse_patterns(patterns))).unlabelled == (
            name(5),
            name(6),
        )

    def test_one_case(self, folders, nnunet, tmp_path):
        folder = folders[1] / name(5)
        for path in list(folder.iterdir()):
            path.rename(folder / path.name.replace(name(5), f"{len(path.name)}{path.name[-9]}"))
        with pytest.raises(BadCasesError) as found:
            converted(folders)
        assert "--one-case" in found.value.problems[name(5)]
        assert converted(folders, rules=InputRules(one_case=True)).unlabelled == (name(5), name(6))


class TestNumberedFiles:
    ORDER = ("t2f", "t1n", "t1c", "t2w")  # of the Decathlon

    @pytest.fixture
    def numbered(self, folders, files, tmp_path):
        for patient in (5, 6):
            for number, word in enumerate(self.ORDER):
                array = np.full((6, 7, 8), 10 * (files.channels.index(word) + 1), np.int16)
                array[0, 0, 0] = 0
                files.write_volume(
                    tmp_path / "nn" / "imagesTr" / f"{name(patient)}_{number:04d}.nii.gz", array
                )
        return tmp_path / "nn" / "imagesTr"

    def channels(self, conversion, files):
        images = conversion.folder / "imagesTr"
        return [int(files.read_array(images / f"{name(5)}_{i:04d}.nii.gz").max()) for i in range(4)]

    @pytest.mark.parametrize(("place", "key"), [("..", "channel_names"), (".", "modality")])
    def test_the_order_is_read(self, folders, nnunet, files, numbered, place, key):
        names = {str(i): word for i, word in enumerate(("FLAIR", "T1w", "t1gd", "T2w"))}
        (numbered / place / "dataset.json").write_text(json.dumps({key: names}))
        conversion = converted((folders[0], numbered))
        assert self.channels(conversion, files) == [10, 20, 30, 40]

    def test_an_order_that_nobody_says_is_told(self, folders, nnunet, files, numbered, caplog):
        conversion = converted((folders[0], numbered))
        assert self.channels(conversion, files) == [40, 10, 20, 30]
        assert "has no dataset.json: its channels are taken for t1n, t1c, t2w, t2f" in caplog.text

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ({"channel_names": {"0": "ADC"}}, "names the channels ADC; expected only BraTS's"),
            ({}, 'has no "channel_names"'),
        ],
    )
    def test_other_channels_are_refused(self, folders, nnunet, numbered, content, says):
        (numbered.parent / "dataset.json").write_text(json.dumps(content))
        with pytest.raises(MSTKDError, match=says):
            converted((folders[0], numbered))


def test_a_fold_does_not_train_on_images_of_patients_that_it_validates(folders, nnunet, files):
    files.write_case(folders[1], name(1, point=1), values=None)
    content = content_of(converted(folders))
    assert unlabelled_beside(content, [name(0)]) == (name(1, point=1), name(5), name(6))
    assert unlabelled_beside(content, [name(1)]) == (name(5), name(6))
    with pytest.raises(MSTKDError, match="must be a list of case names"):
        unlabelled_cases({"mstkd": {"unlabelled": {"a": 1}}})
