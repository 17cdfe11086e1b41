"""One bad case among good ones: it is named in one line, the others are done, nothing is half-written.

What makes a case bad, and what is said of it, is the table of bad inputs (end_to_end/reliability/bad_inputs).
"""

import json

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main

GOOD, BAD = "case_a", "case_b"


def unknown_modality(case, files):
    files.write_volume(case / f"{BAD}-adc.nii.gz", files.volume(0))


def other_size(case, files):
    files.write_volume(case / f"{BAD}-t1c.nii.gz", np.ones((26, 30, 27), dtype=np.int16))


def not_a_number(case, files):
    array = files.volume(1).astype(np.float32)
    array[13, 13, 13] = np.nan
    files.write_volume(case / f"{BAD}-t1c.nii.gz", array)


@pytest.fixture
def source(files, tmp_path):
    for seed, name in enumerate((GOOD, BAD)):
        files.write_case(tmp_path / "in", name, seed=seed)
    return tmp_path / "in"


@pytest.fixture
def run(models, source, tmp_path, capsys):
    """Run a command on both cases: exit code, the lines on stderr, the names of what was written."""

    def call(command, *flags):
        options = ["-device", "cpu", "--disable_tta"] if command == "predict" else []
        arguments = ["-i", source, "-o", tmp_path / "out", "-m", models.labels, *options, *flags]
        code = main([command, *map(str, arguments)])
        return (
            code,
            capsys.readouterr().err.splitlines(),
            {path.name for path in (tmp_path / "out").iterdir()},
        )

    return call


# Found in the names, in the headers and in the voxels.
@pytest.mark.parametrize("spoil", [unknown_modality, other_size, not_a_number])
@pytest.mark.parametrize("command", ["predict", "prepare"])
def test_a_bad_case_is_named_and_the_other_is_done(command, spoil, files, source, run, tmp_path):
    spoil(source / BAD, files)
    code, (line,), names = run(command)
    assert code == 2
    assert line.startswith(f"{BAD}: ")
    images = {f"{GOOD}.nii.gz"} if command == "predict" else {f"{GOOD}_000{i}.nii.gz" for i in range(4)}
    beside = files.beside if command == "predict" else {"modalities.json"}
    assert names == images | beside
    assert list(json.loads((tmp_path / "out" / "modalities.json").read_text())) == [GOOD]


class TestDiskFull:
    def test_a_segmentation_that_came_out_short_is_not_kept(self, run, files, tmp_path, monkeypatch):
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        write = SimpleITKIO.write_seg

        def short(self, array, path, properties):
            write(self, array, path, properties)
            if BAD in path:
                with open(path, "r+b") as stream:
                    stream.truncate(200)

        monkeypatch.setattr(SimpleITKIO, "write_seg", short)
        code, (line,), names = run("predict")
        assert code == 2
        assert line.startswith(f"{BAD}: cannot write {tmp_path / 'out' / BAD}.nii.gz")
        assert names == {f"{GOOD}.nii.gz"} | files.beside
        assert list(json.loads((tmp_path / "out" / "statistics.json").read_text())["cases"]) == [GOOD]

    def test_a_prepared_case_is_complete_or_absent(self, run, source, monkeypatch):
        from nnunetv2_mstkd.inference import prepare

        (source / BAD / f"{BAD}-t2f.nii.gz").unlink()

        def full(image, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prepare, "write_image", full)
        code, (line, *_), names = run("prepare")
        assert code == 2
        assert "No space left on device" in line
        assert {name for name in names if name.endswith(".nii.gz")} == {
            f"{GOOD}_000{i}.nii.gz" for i in range(4)
        }
