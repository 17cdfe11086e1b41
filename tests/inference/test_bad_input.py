"""What predict and prepare do with input that cannot be used: one line, exit code 2, nothing half-written."""

import gzip
import json
import shutil

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main

GOOD, BAD = "case_a", "case_b"
CPU = ("-device", "cpu", "--disable_tta")


def overwrite(files, array, **geometry):
    def spoil(case):
        files.write_volume(case / f"{BAD}-t1c.nii.gz", array, **geometry)

    return spoil


def truncate(case):
    path = case / f"{BAD}-t1c.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])


def truncate_uncompressed(case):
    path = case / f"{BAD}-t1c.nii.gz"
    raw = gzip.decompress(path.read_bytes())
    path.unlink()
    (case / f"{BAD}-t1c.nii").write_bytes(raw[:5000])


def with_voxel(files, value):
    array = files.volume(1).astype(np.float32)
    array[13, 13, 13] = value
    return overwrite(files, array)


def remove_all(case):
    for path in case.iterdir():
        path.unlink()


# What is wrong with the second of two cases -> (how to spoil it, what the line must say).
BAD_CASES = {
    "no modality at all": (lambda files: remove_all, ["no modality at all"]),
    "only a segmentation": (
        lambda files: lambda case: (
            remove_all(case), files.write_volume(case / f"{BAD}-seg.nii.gz", files.volume(0))
        ),
        ["no modality at all"],
    ),
    "all constant": (
        lambda files: lambda case: (
            remove_all(case),
            files.write_volume(case / f"{BAD}-t1c.nii.gz", np.full(files.shape, 5, dtype=np.int16)),
        ),
        ["no modality at all", "t1c"],
    ),
    "two files for one modality": (
        lambda files: lambda case: files.write_volume(case / f"{BAD}-t1ce.nii.gz", files.volume(0)),
        ["2 files for t1c", f"{BAD}-t1c.nii.gz", f"{BAD}-t1ce.nii.gz"],
    ),
    "unknown modality": (
        lambda files: lambda case: files.write_volume(case / f"{BAD}-adc.nii.gz", files.volume(0)),
        [f"{BAD}-adc.nii.gz", "t1n, t1c, t2w, t2f"],
    ),
    "other size": (
        lambda files: overwrite(files, np.ones((26, 30, 27), dtype=np.int16)),
        [f"{BAD}-t1n.nii.gz", f"{BAD}-t1c.nii.gz", "size (28, 30, 26) and (27, 30, 26)"],
    ),
    "other spacing": (
        lambda files: overwrite(files, files.volume(1), spacing=(0.9, 1.0, 1.3)),
        [f"{BAD}-t1n.nii.gz", f"{BAD}-t1c.nii.gz", "spacing (0.9, 1, 1.2) and (0.9, 1, 1.3)"],
    ),
    "other origin": (
        lambda files: overwrite(files, files.volume(1), origin=(-7.5, 3.25, 12.0)),
        ["origin (-7.5, 3.25, 11) and (-7.5, 3.25, 12)"],
    ),
    "other direction": (
        lambda files: overwrite(files, files.volume(1), direction=(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)),
        ["differ in direction"],
    ),
    "truncated .nii.gz": (lambda files: truncate, [f"{BAD}-t1c.nii.gz", "truncated"]),
    "truncated .nii": (lambda files: truncate_uncompressed, [f"{BAD}-t1c.nii", "truncated"]),
    "not gzip": (
        lambda files: lambda case: (case / f"{BAD}-t1c.nii.gz").write_text("<html>not found</html>"),
        [f"{BAD}-t1c.nii.gz", "not NIfTI"],
    ),
    "gzip, but not NIfTI": (
        lambda files: lambda case: (case / f"{BAD}-t1c.nii.gz").write_bytes(gzip.compress(b"x" * 500)),
        [f"{BAD}-t1c.nii.gz", "not a NIfTI-1 file"],
    ),
    "empty file": (
        lambda files: lambda case: (case / f"{BAD}-t1c.nii.gz").write_bytes(b""),
        [f"{BAD}-t1c.nii.gz"],
    ),
    "dangling link": (
        lambda files: lambda case: (
            (case / f"{BAD}-t1c.nii.gz").unlink(), (case / f"{BAD}-t1c.nii.gz").symlink_to("gone.nii.gz")
        ),
        [f"{BAD}-t1c.nii.gz", "No such file"],
    ),
    "NaN": (lambda files: with_voxel(files, np.nan), [f"{BAD}-t1c.nii.gz has 1 NaN or Inf voxels"]),
    "Inf": (lambda files: with_voxel(files, -np.inf), [f"{BAD}-t1c.nii.gz has 1 NaN or Inf voxels"]),
    "4D": (
        lambda files: overwrite(files, np.ones((2, *files.shape), dtype=np.int16)),
        [f"{BAD}-t1c.nii.gz is 4D (28x30x26x2)"],
    ),
    "2D": (
        lambda files: overwrite(files, np.ones((30, 28), dtype=np.int16)),
        [f"{BAD}-t1c.nii.gz is 2D (28x30)"],
    ),
}  # fmt: skip


@pytest.fixture
def source(files, tmp_path):
    for seed, name in enumerate((GOOD, BAD)):
        files.write_case(tmp_path / "in", name, seed=seed)
    return tmp_path / "in"


@pytest.mark.parametrize("command", ["predict", "prepare"])
@pytest.mark.parametrize("kind", BAD_CASES)
def test_a_bad_case_is_named_and_the_other_is_done(command, kind, files, models, source, tmp_path, capsys):
    make, says = BAD_CASES[kind]
    make(files)(source / BAD)
    flags = CPU if command == "predict" else ()
    code = main([command, "-i", str(source), "-o", str(tmp_path / "out"), "-m", str(models.labels), *flags])
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{BAD}: ")
    for text in says:
        assert text in line
    assert "RuntimeError" not in line, "an error nobody thought of"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    images = {f"{GOOD}.nii.gz"} if command == "predict" else {f"{GOOD}_000{i}.nii.gz" for i in range(4)}
    assert names - {"dataset.json", "plans.json"} == {*images, "modalities.json"}
    assert list(json.loads((tmp_path / "out" / "modalities.json").read_text())) == [GOOD]


@pytest.mark.parametrize("command", ["predict", "prepare"])
def test_a_case_without_any_modality_asked_for(command, files, models, source, tmp_path, capsys):
    (source / BAD / f"{BAD}-t2f.nii.gz").unlink()
    flags = CPU if command == "predict" else ()
    arguments = ["-i", source, "-o", tmp_path / "out", "-m", models.labels, "--modalities", "flair", *flags]
    assert main([command, *map(str, arguments)]) == 2
    assert capsys.readouterr().err == (
        f"{BAD}: the case has none of the modalities asked for (t2f); it has t1n, t1c, t2w\n"
    )


def test_duplicate_case_ids(files, models, tmp_path, capsys):
    for center in ("one", "two"):
        files.write_case(tmp_path / "all", "BraTS-GLI-00007-000")
        shutil.move(tmp_path / "all" / "BraTS-GLI-00007-000", tmp_path / "in" / center)
    files.write_case(tmp_path / "in", GOOD)
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", models.labels, *CPU]
    assert main(["predict", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("BraTS-GLI-00007-000: duplicate case id")
    assert (tmp_path / "out" / f"{GOOD}.nii.gz").is_file()


def test_a_channel_number_outside_the_model(files, models, tmp_path, capsys):
    for channel in (1, 4):
        files.write_volume(tmp_path / "in" / f"{BAD}_{channel:04d}.nii.gz", files.volume(channel))
    arguments = ["-i", tmp_path / "in", "-o", tmp_path / "out", "-m", models.labels, *CPU]
    assert main(["predict", *map(str, arguments)]) == 2
    assert "unknown channel _0004" in capsys.readouterr().err


# Flags that replace those of a good call (None takes one away) -> what the line must say. {tmp} is a folder.
BAD_CALLS = {
    "missing SRC": ({"-i": "{tmp}/gone"}, "input not found"),
    "SRC is a file": ({"-i": "{tmp}/in/case_a/case_a-t1n.nii.gz"}, "is a file"),
    "empty SRC": ({"-i": "{tmp}/empty"}, "no cases in"),
    "OUT below a file": ({"-o": "{tmp}/file/out"}, "cannot write into"),
    "OUT is SRC": ({"-o": "{tmp}/in"}, "lies in the input"),
    "OUT in SRC": ({"-o": "{tmp}/in/out"}, "lies in the input"),
    "no model": ({"-m": None}, "name the model"),
    "two models": ({"-d": "226"}, "name the model"),
    "flags of -d with -m": ({"-c": "3d_fullres"}, "belong to -d"),
    "-d without -c": ({"-m": None, "-d": "226"}, "-d needs -c"),
    "nnUNet_results unset": ({"-m": None, "-d": "226", "-c": "2d"}, "nnUNet_results is not set"),
    "missing model folder": ({"-m": "{tmp}/gone"}, "model folder not found"),
    "not a model folder": ({"-m": "{tmp}/empty"}, "has no dataset.json"),
    "missing checkpoint": ({"-chk": "checkpoint_best.pth"}, "it has fold_0/checkpoint_final.pth"),
    "missing fold": ({"-f": "3"}, "no fold_3/checkpoint_final.pth"),
    "no fold": ({"-f": "one"}, "-f one is no fold"),
    "modality that the model has not": ({"--modalities": "ADC"}, "unknown modality 'ADC'"),
    "empty set": ({"--modalities": "+"}, "empty set"),
    "source labels that are unknown": ({"-m": "{regions}", "--source_labels": ""}, "no mstkd.source_labels"),
    "part too large": ({"-num_parts": "2", "-part_id": "2"}, "part 2 of 2 does not exist"),
    "negative part": ({"-num_parts": "2", "-part_id": "-1"}, "part -1 of 2 does not exist"),
    "no parts": ({"-num_parts": "0"}, "part 0 of 0 does not exist"),
    "step too large": ({"-step_size": "1.5"}, "-step_size 1.5"),
    "negative threads": ({"-npp": "-1"}, "-npp and -nps"),
    "no GPU": ({"-device": "cuda"}, "use -device cpu"),
    "previous stage for no cascade": ({"-prev_stage_predictions": "{tmp}/empty"}, "no previous stage"),
}


@pytest.mark.parametrize("kind", BAD_CALLS)
def test_a_bad_call_is_one_line_and_writes_nothing(kind, models, source, tmp_path, capsys, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("nnUNet_results", raising=False)
    changes, says = BAD_CALLS[kind]
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    flags = {"-i": source, "-o": tmp_path / "out", "-m": models.labels, "-device": "cpu"}
    for flag, value in changes.items():
        flags[flag] = value and value.format(tmp=tmp_path, regions=models.regions)
    before = {path for path in tmp_path.rglob("*")}
    arguments = [str(a) for pair in flags.items() if pair[1] is not None for a in pair if a != ""]
    assert main(["predict", *arguments]) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("nnUNetv2_mstkd predict: error: ")
    assert says in line
    written = {path for path in tmp_path.rglob("*")} - before - {tmp_path / "out"}
    assert written == set()


@pytest.mark.parametrize("flags", [["-d", "1", "--dataset_json", "x"], ["-m", "x", "--dataset_json", "x"]])
def test_prepare_takes_one_source_of_channel_names(flags, source, tmp_path, capsys):
    assert main(["prepare", "-i", str(source), "-o", str(tmp_path / "out"), *flags]) == 2
    assert "only one of -d, -m and --dataset_json" in capsys.readouterr().err


class TestDiskFull:
    def test_a_segmentation_that_came_out_short_is_not_kept(
        self, models, source, tmp_path, capsys, monkeypatch
    ):
        from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

        write = SimpleITKIO.write_seg

        def short(self, array, path, properties):
            write(self, array, path, properties)
            if BAD in path:
                with open(path, "r+b") as stream:
                    stream.truncate(200)

        monkeypatch.setattr(SimpleITKIO, "write_seg", short)
        arguments = ["-i", source, "-o", tmp_path / "out", "-m", models.labels, *CPU]
        assert main(["predict", *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{BAD}: cannot write {tmp_path / 'out' / BAD}.nii.gz")
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert names == {f"{GOOD}.nii.gz", "modalities.json", "dataset.json", "plans.json"}

    def test_a_prepared_case_is_complete_or_absent(self, models, source, tmp_path, capsys, monkeypatch):
        from nnunetv2_mstkd.inference import prepare

        (source / BAD / f"{BAD}-t2f.nii.gz").unlink()

        def full(image, path):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(prepare, "write_image", full)
        arguments = ["-i", source, "-o", tmp_path / "out", "-m", models.labels]
        assert main(["prepare", *map(str, arguments)]) == 2
        assert "No space left on device" in capsys.readouterr().err
        images = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
        assert images == {f"{GOOD}_000{i}.nii.gz" for i in range(4)}
