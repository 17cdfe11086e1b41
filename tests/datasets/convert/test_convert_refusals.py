import shutil

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.errors import MSTKDError

GLI = "BraTS-GLI-00000-000"


def leftovers(nnunet):
    """Everything below nnU-Net's folders."""
    return sorted(str(p) for folder in vars(nnunet).values() for p in folder.rglob("*"))


BAD_CASES = {
    "unknown modality": (lambda d, f: (d / f"{GLI}-adc.nii.gz").write_bytes(b""), "unknown modality"),
    "two files for one modality": (
        lambda d, f: shutil.copy(d / f"{GLI}-t1c.nii.gz", d / f"{GLI}-t1ce.nii.gz"), "2 files for t1c"),
    "truncated": (
        lambda d, f: (d / f"{GLI}-t1c.nii.gz").write_bytes((d / f"{GLI}-t1c.nii.gz").read_bytes()[:-20]),
        "truncated"),
    "no NIfTI": (lambda d, f: (d / f"{GLI}-t1c.nii.gz").write_text("hello"), "not NIfTI"),
    "NaN": (lambda d, f: f.write_volume(d / f"{GLI}-t1c.nii.gz", np.full((6, 7, 8), np.nan, np.float32)),
            "has 336 NaN or Inf"),
    "NaN in the segmentation": (
        lambda d, f: f.write_volume(d / f"{GLI}-seg.nii.gz", np.full((6, 7, 8), np.nan, np.float32)),
        "seg.nii.gz has 336 NaN"),
    "4D": (lambda d, f: f.write_volume(d / f"{GLI}-t1c.nii.gz", np.ones((2, 6, 7, 8), np.float32)), "is 4D"),
    "other grid": (lambda d, f: f.write_volume(d / f"{GLI}-t2f.nii.gz", np.ones((6, 7, 9), np.int16)),
                   f"{GLI}-t2f.nii.gz differ in size (8, 7, 6) and (9, 7, 6)"),
    "a spacing at which nnU-Net would stop": (
        lambda d, f: f.write_volume(
            d / f"{GLI}-t2f.nii.gz", np.ones((6, 7, 8), np.int16), spacing=(1, 1, 1.0001)),
        "differ in spacing (1, 1, 1) and (1, 1, 1.0001)"),
    "other grid of the segmentation": (
        lambda d, f: f.write_volume(d / f"{GLI}-seg.nii.gz", f.segmentation_with((1,)), origin=(0, 0, 2)),
        f"{GLI}-seg.nii.gz differ in origin"),
    "values between integers": (
        lambda d, f: f.write_volume(d / f"{GLI}-seg.nii.gz", f.segmentation_with((0.5,), dtype=np.float32)),
        "values between integers (0.5)"),
    "a label of another year": (
        lambda d, f: f.write_volume(d / f"{GLI}-seg.nii.gz", f.segmentation_with((1, 2, 3, 4))),
        "label values 0, 1, 2, 3, 4 contradict brats2023 (0, 1, 2, 3); all cases together fit brats2024"),
    "duplicate id": (lambda d, f: shutil.copytree(d, d.with_name("copy of it")), "duplicate case id"),
    "all images empty": (
        lambda d, f: [
            f.write_volume(d / f"{GLI}-{c}.nii.gz", np.zeros((6, 7, 8), np.int16)) for c in f.channels],
        "every image is constant"),
    "broken link": (
        lambda d, f: ((d / f"{GLI}-t1c.nii.gz").unlink(), (d / f"{GLI}-t1c.nii.gz").symlink_to("nowhere")),
        "No such file"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), BAD_CASES.values(), ids=BAD_CASES.keys())
def test_bad_cases_are_listed_and_nothing_is_written(tmp_path, nnunet, files, capsys, spoil, message):
    files.write_case(tmp_path / "src", "BraTS-GLI-00001-000")
    spoil(files.write_case(tmp_path / "src", GLI), files)
    argv = ["-i", str(tmp_path / "src"), "-d", "1", "--name", "A", "--format", "brats2023"]
    assert main(["convert", *argv, "--num-processes", "1"]) == 2
    printed = capsys.readouterr()
    first, *_, last = printed.err.splitlines()
    assert first.startswith(f"{GLI}: ")
    assert message in first
    assert last.startswith("nnUNetv2_mstkd convert: error: 1 of ")
    assert "nothing was written" in last
    assert printed.out == ""
    assert leftovers(nnunet) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset_id": 0}, "data set id 0 is out of range"),
        ({"dataset_id": 1000}, "data set id 1000 is out of range"),
        ({"name": "a b"}, "name 'a b' is not usable"),
        ({"name": "../x"}, "is not usable"),
        ({"folds": 1}, "--folds 1"),
        ({"source_format": "brats1999"}, "unknown format 'brats1999'"),
        ({"source_format": "msd"}, "use --format brats2023"),
    ],
)
def test_bad_arguments(tmp_path, nnunet, files, arguments, message):
    files.write_case(tmp_path / "src", GLI)
    good = {"source": tmp_path / "src", "dataset_id": 1, "name": "A", "source_format": "brats2023"}
    with pytest.raises(MSTKDError, match=message):
        convert(**(good | arguments))
    assert leftovers(nnunet) == []


def test_sources_with_nothing_to_train_on(tmp_path, nnunet, files):
    with pytest.raises(MSTKDError, match="input not found"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")
    (tmp_path / "src").mkdir()
    with pytest.raises(MSTKDError, match="no cases"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")
    files.write_case(tmp_path / "src", GLI, values=None)
    with pytest.raises(MSTKDError, match=r"nothing to train on.* use nnUNetv2_mstkd predict"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")


@pytest.mark.parametrize("folder", ["raw", "preprocessed", "results"])
def test_an_id_that_is_taken(tmp_path, nnunet, files, folder):
    files.write_case(tmp_path / "src", GLI)
    (getattr(nnunet, folder) / "Dataset001_Other").mkdir()
    with pytest.raises(MSTKDError, match="Dataset001_Other; choose another -d"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)


def test_splits_that_are_there_are_not_replaced_by_accident(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", GLI)
    splits = nnunet.preprocessed / "Dataset001_A" / "splits_final.json"
    splits.parent.mkdir()
    splits.write_text("mine")
    with pytest.raises(MSTKDError, match=r"splits_final\.json exists"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")
    assert splits.read_text() == "mine"


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed"])
def test_unset_variables(tmp_path, nnunet, files, monkeypatch, variable):
    files.write_case(tmp_path / "src", GLI)
    monkeypatch.delenv(variable)
    with pytest.raises(MSTKDError, match=f"variable {variable} is not set"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")


def test_a_target_that_cannot_be_written(tmp_path, nnunet, files, monkeypatch):
    files.write_case(tmp_path / "src", GLI)
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "file"))
    with pytest.raises(MSTKDError, match="cannot write into"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")


def test_a_failure_while_writing_leaves_the_old_data_set(tmp_path, nnunet, files, monkeypatch):
    files.write_case(tmp_path / "src", GLI)
    convert(tmp_path / "src", 1, "A", source_format="brats2023")
    before = leftovers(nnunet)

    def no_links(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("pathlib.Path.symlink_to", no_links)
    with pytest.raises(MSTKDError, match="use --copy"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)
    assert leftovers(nnunet) == before


class TestNothingOfTheUsersIsReplaced:
    """``--overwrite`` takes the place of what convert has written, and of nothing else."""

    @pytest.fixture
    def converted(self, tmp_path, nnunet, files):
        files.write_case(tmp_path / "src", GLI)
        convert(tmp_path / "src", 1, "A", source_format="brats2023")
        return nnunet.raw / "Dataset001_A"

    def refused(self, nnunet, source, message, **flags):
        before = leftovers(nnunet)
        with pytest.raises(MSTKDError, match=message):
            convert(source, 1, "A", source_format="brats2023", overwrite=True, **flags)
        assert leftovers(nnunet) == before

    @pytest.mark.parametrize("copy", [False, True])
    def test_the_source_itself(self, tmp_path, nnunet, files, copy):
        target = nnunet.raw / "Dataset001_A"
        files.write_case(target, GLI)
        (tmp_path / "link").symlink_to(target)
        for source in (target, tmp_path / "link", target / GLI):
            self.refused(nnunet, source, "would be replaced", copy=copy)

    def test_files_that_the_source_links_to(self, tmp_path, nnunet, converted, files):
        shutil.rmtree(tmp_path / "src" / GLI)
        shutil.copytree(converted, tmp_path / "kept", symlinks=True)
        files.write_case(converted / "hand", GLI)
        (tmp_path / "links" / GLI).mkdir(parents=True)
        for path in (converted / "hand" / GLI).iterdir():
            (tmp_path / "links" / GLI / path.name).symlink_to(path)
        self.refused(nnunet, tmp_path / "links", "would be replaced")

    def test_a_data_set_of_another_making(self, tmp_path, nnunet, converted):
        (converted / "dataset.json").write_text("{}")
        self.refused(nnunet, tmp_path / "src", "was not written by nnUNetv2_mstkd convert")

    def test_test_images_that_somebody_put_there(self, tmp_path, nnunet, converted):
        (converted / "imagesTs").mkdir()
        self.refused(nnunet, tmp_path / "src", "also holds imagesTs, which would be lost")

    def test_a_data_set_on_another_disk_is_replaced_there(self, tmp_path, nnunet, converted):
        converted.rename(tmp_path / "elsewhere")
        converted.symlink_to(tmp_path / "elsewhere")
        for _ in range(2):
            convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)
            assert converted.is_symlink()
            assert (tmp_path / "elsewhere" / "imagesTr" / f"{GLI}_0000.nii.gz").is_file()
        assert [p.name for p in nnunet.raw.iterdir()] == ["Dataset001_A"]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_before_anything_is_read(tmp_path, nnunet, seed):
    with pytest.raises(MSTKDError, match=f"--seed {seed} is out of range"):
        convert(tmp_path / "not there", 1, "A", source_format="brats2023", seed=seed)


def test_a_line_break_in_the_name_of_a_case(tmp_path, nnunet, files, capsys):
    files.write_case(tmp_path / "src", "a\nb")
    assert (
        main(["convert", "-i", str(tmp_path / "src"), "-d", "1", "--name", "A", "--format", "brats2023"]) == 2
    )
    first, _ = capsys.readouterr().err.splitlines()
    assert first == r"'a\nb': a line break or the like is in the name; rename the files"
