import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets.convert.convert import convert
from nnunetv2_mstkd.errors import MSTKDError

GLI = "BraTS-GLI-00000-000"


def leftovers(nnunet):
    """Everything below nnU-Net's folders."""
    return sorted(str(p) for folder in vars(nnunet).values() for p in folder.rglob("*"))


# Found in names, headers and voxels. (All that is wrong with a case: end_to_end/reliability/bad_inputs.)
BAD_CASES = {
    "unknown modality": (lambda d, f: (d / f"{GLI}-adc.nii.gz").write_bytes(b""), "unknown modality"),
    "a spacing at which nnU-Net would stop": (
        lambda d, f: f.write_volume(
            d / f"{GLI}-t2f.nii.gz", np.ones((6, 7, 8), np.int16), spacing=(1, 1, 1.0001)),
        "differ in spacing (1, 1, 1) and (1, 1, 1.0001)"),
    "a label of another year": (
        lambda d, f: f.write_volume(d / f"{GLI}-seg.nii.gz", f.segmentation_with((1, 2, 3, 4))),
        "label values 0, 1, 2, 3, 4 contradict brats2023 (0, 1, 2, 3); all cases together fit brats2024"),
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


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path, nnunet):
    with pytest.raises(MSTKDError, match="unknown format 'brats1999'"):
        convert(tmp_path / "not there", 1, "A", source_format="brats1999")


def test_cases_to_segment_are_told_the_command_for_them(tmp_path, nnunet, files):
    files.write_case(tmp_path / "src", GLI, values=None)
    with pytest.raises(MSTKDError, match=r"nothing to train on.* use nnUNetv2_mstkd predict"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023")


@pytest.mark.parametrize("folder", ["raw", "preprocessed", "results"])
def test_an_id_that_is_taken(tmp_path, nnunet, files, folder):
    files.write_case(tmp_path / "src", GLI)
    (getattr(nnunet, folder) / "Dataset001_Other").mkdir()
    with pytest.raises(MSTKDError, match="Dataset001_Other; choose another -d"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)


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

    @pytest.mark.parametrize(
        "name", ["imagesTr/mine_0000.nii.gz", f"imagesTr/{GLI}_0004.nii.gz", "labelsTr/notes.txt", ".git"]
    )
    def test_files_of_somebody_else(self, tmp_path, nnunet, converted, name):
        (converted / name).touch()
        self.refused(nnunet, tmp_path / "src", f"also holds {name}, which would be lost")

    def test_a_segmentation_that_was_corrected(self, tmp_path, nnunet, converted):
        label = converted / "labelsTr" / f"{GLI}.nii.gz"
        content = label.read_bytes()
        label.unlink()
        label.write_bytes(content)
        later = (converted / "dataset.json").stat().st_mtime + 10
        os.utime(label, (later, later))
        self.refused(nnunet, tmp_path / "src", f"labelsTr/{GLI}.nii.gz was changed after the conversion")

    def test_what_a_file_manager_leaves_is_nobodys(self, tmp_path, nnunet, converted):
        (converted / "imagesTr" / ".DS_Store").touch()
        convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)
        assert not (converted / "imagesTr" / ".DS_Store").exists()

    def test_a_data_set_on_another_disk_is_replaced_there(self, tmp_path, nnunet, converted):
        converted.rename(tmp_path / "elsewhere")
        converted.symlink_to(tmp_path / "elsewhere")
        for _ in range(2):
            convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)
            assert converted.is_symlink()
            assert (tmp_path / "elsewhere" / "imagesTr" / f"{GLI}_0000.nii.gz").is_file()
        assert [p.name for p in nnunet.raw.iterdir()] == ["Dataset001_A"]


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path / "splits_final.json").mkdir(parents=True)])
def test_nothing_is_written_where_the_split_cannot_be(tmp_path, nnunet, files, make):
    files.write_case(tmp_path / "src", GLI)
    nnunet.preprocessed.mkdir(exist_ok=True)
    make(nnunet.preprocessed / "Dataset001_A")
    with pytest.raises(MSTKDError, match="Dataset001_A"):
        convert(tmp_path / "src", 1, "A", source_format="brats2023", overwrite=True)
    assert not (nnunet.raw / "Dataset001_A").exists()


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
