"""Predictions that are killed, run twice at once or out of disk: what is there is whole, nothing else is."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import MODALITIES, volume, write_case, write_volume
from waiting import wait_until

CASES = tuple(f"case_{index:02d}" for index in range(5))
COMMAND = (sys.executable, "-m", "nnunetv2_mstkd.cli", "predict")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cases")
    for seed, name in enumerate(CASES):
        write_case(root, name, seed=seed)
    return root


def arguments(source: Path, output: Path, model: Path) -> list[str]:
    flags = ["-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    return ["-i", str(source), "-o", str(output), "-m", str(model), *flags]


def segmentations(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*.nii.gz"))}


def hidden(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.fixture(scope="module")
def expected(source, models, tmp_path_factory) -> dict[str, bytes]:
    """The segmentations of a run that nothing disturbs."""
    output = tmp_path_factory.mktemp("expected")
    subprocess.run([*COMMAND, *arguments(source, output, models.labels)], check=True, capture_output=True)
    return segmentations(output)


@pytest.mark.slow
def test_killed_and_continued(source, models, expected, tmp_path):
    output, marker = tmp_path / "out", tmp_path / "half"
    script = Path(__file__).with_name("hanging_predict.py")
    call = arguments(source, output, models.labels)
    with subprocess.Popen(
        [sys.executable, script, CASES[2], marker, *call], stdout=subprocess.PIPE, text=True
    ) as process:
        wait_until(marker.exists, process)
        process.kill()
    assert sorted(segmentations(output)) == [f"{name}.nii.gz" for name in CASES[:2]]
    assert len(hidden(output)) == 1, "the half file is under a name of its own"
    stamps = {name: (output / name).stat().st_mtime_ns for name in segmentations(output)}
    done = subprocess.run([*COMMAND, *call, "--continue_prediction"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 case(s) segmented, 2 were finished before" in done.stdout
    assert {name: (output / name).stat().st_mtime_ns for name in stamps} == stamps
    assert segmentations(output) == expected
    assert list(json.loads((output / "modalities.json").read_text())) == list(CASES)
    assert hidden(output) == []


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--modalities", "t1c")], ids=["alike", "from other modalities"])
def test_two_runs_into_one_folder(source, models, expected, tmp_path, flags):
    output = tmp_path / "out"
    call = [*COMMAND, *arguments(source, output, models.labels)]
    runs = [
        subprocess.Popen([*call, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for more in ((), flags)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=300)
        assert run.returncode == 0, errors
    records = json.loads((output / "modalities.json").read_text())
    assert list(records) == list(CASES)
    found = segmentations(output)
    assert sorted(found) == sorted(expected)
    for name, entry in records.items():
        of_all = len(entry["used"]) == 4
        assert of_all or flags
        assert (found[f"{name}.nii.gz"] == expected[f"{name}.nii.gz"]) is of_all, "the record is of this file"
    assert hidden(output) == []


def test_the_record_and_the_file_of_one_run_stay_together(tmp_path):
    """The second of two writers waits for the first one's lock until the file has its name."""
    from nnunetv2_mstkd.files import atomic_path
    from nnunetv2_mstkd.inference.records import record, recorded

    script = (
        "import sys; from pathlib import Path; from nnunetv2_mstkd.inference.records import record\n"
        "print('begun', flush=True); record(Path(sys.argv[1]), 'a', {'used': ['second']}); print('done')"
    )
    record(tmp_path, "b", {})
    with recorded(tmp_path, "a", {"used": ["first"]}):
        other = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "begun\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
    assert other.communicate(timeout=240)[0] == "done\n"
    assert json.loads((tmp_path / "modalities.json").read_text()) == {"a": {"used": ["second"]}, "b": {}}
    with atomic_path(tmp_path / "a.nii.gz", replacing=recorded(tmp_path, "a", {"used": ["third"]})) as half:
        half.write_text("x")
        assert json.loads((tmp_path / "modalities.json").read_text())["a"]["used"] == ["second"]


@pytest.mark.slow
class TestDiskFull:
    def run(self, call: list[str], largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.run([*COMMAND, *call], capture_output=True, text=True, preexec_fn=limit)

    @pytest.fixture(scope="class")
    def one_case(self, tmp_path_factory) -> Path:
        """A case whose segmentation is larger than the JSON files beside it."""
        root, name = tmp_path_factory.mktemp("large"), CASES[0]
        for seed, modality in enumerate(MODALITIES):
            array = volume(seed, shape=(44, 44, 44))
            write_volume(root / name / f"{name}-{modality}.nii.gz", array)
        return root

    @pytest.mark.parametrize(
        ("flags", "limit", "named"),
        [((), 6000, f"{CASES[0]}.nii.gz"), (("--save_probabilities",), 20000, f"{CASES[0]}.npz")],
        ids=["segmentation", "probabilities"],
    )
    def test_files_may_not_grow(self, one_case, models, tmp_path, flags, limit, named):
        """RLIMIT_FSIZE: the system refuses to write on, as a full disk does."""
        output = tmp_path / "out"
        output.mkdir()
        target = output / named
        target.write_bytes(b"earlier")
        done = self.run([*arguments(one_case, output, models.labels), *flags], limit)
        self.check(done, output, f"{CASES[0]}: cannot write {target}")
        assert target.read_bytes() == b"earlier"

    def test_a_full_tmpfs(self, one_case, models, small_disk):
        output = small_disk / "out"
        call = arguments(one_case, output, models.labels)
        assert self.run(call).returncode == 0
        target = output / f"{CASES[0]}.nii.gz"
        before = target.read_bytes()
        fill(small_disk, leave=8 * 1024)  # enough for the small JSON files
        self.check(self.run(call), output, f"{CASES[0]}: cannot write {target}")
        assert target.read_bytes() == before
        fill(small_disk, leave=0)
        self.check(self.run(call), output, f"nnUNetv2_mstkd predict: error: cannot write {output}")
        assert target.read_bytes() == before

    @staticmethod
    def check(done: subprocess.CompletedProcess[str], output: Path, beginning: str) -> None:
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(beginning)
        assert "full" in line or "No space left" in line or "File too large" in line
        assert hidden(output) == []


def fill(disk: Path, *, leave: int) -> None:
    """Write a file that leaves about ``leave`` bytes on a small disk."""
    with (disk / f"filler{leave}").open("wb", buffering=0) as stream:
        while shutil.disk_usage(disk).free > leave:
            stream.write(b"x" * 4096)


@pytest.mark.slow
def test_a_model_folder_that_cannot_be_written(source, models, expected, small_disk, tmp_path):
    model = shutil.copytree(models.labels, small_disk / "model")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (model / "x").touch()
    call = [*COMMAND, *arguments(source, tmp_path / "out", model)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert segmentations(tmp_path / "out") == expected


def test_predict_writes_nothing_into_the_model_folder(predict, brats, models, tmp_path):
    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [models.labels, *models.labels.rglob("*")]}

    before = state()
    assert predict(brats, tmp_path / "out", model=models.labels).code == 0
    assert state() == before


@pytest.mark.slow
def test_an_output_on_a_read_only_disk(source, models, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    call = [*COMMAND, *arguments(source, small_disk / "out", models.labels)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"cannot write into {small_disk / 'out'}: Read-only file system" in line


def test_predict_has_no_worker_process_that_could_be_killed(predict, brats, models, tmp_path, monkeypatch):
    """Its readers and writers are threads: they end with the process and only with it."""
    from multiprocessing.process import BaseProcess

    def refuse(self):
        raise AssertionError("a process was started")

    monkeypatch.setattr(BaseProcess, "start", refuse)
    done = predict(brats, tmp_path / "out", "-npp", 3, "-nps", 3, model=models.labels)
    assert done.code == 0, done.err
