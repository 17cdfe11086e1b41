"""Temporary files of killed processes go; those of running ones stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.files import atomic_path, sweep_leftovers, temporary_beside, writable_folder

WRITER = """
import sys, time
from pathlib import Path
from nnunetv2_mstkd.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def writer(tmp_path):
    """Another process in the middle of writing ``a.nii.gz``."""
    arguments = [sys.executable, "-c", WRITER, str(tmp_path / "a.nii.gz")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"writing\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_running_writer_is_left_alone_and_a_killed_one_is_swept(tmp_path, writer):
    (temporary,) = hidden(tmp_path)
    assert sweep_leftovers(tmp_path) == []
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert hidden(tmp_path) == [temporary]
    writable_folder(tmp_path)  # what every command does with its output folder
    assert hidden(tmp_path) == []


def test_another_machine_is_believed_for_a_day(tmp_path):
    theirs = tmp_path / ".mstkd-00000000-1-0.a.nii.gz"
    theirs.touch()
    assert sweep_leftovers(tmp_path) == []
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(theirs, (two_days_ago, two_days_ago))
    assert sweep_leftovers(tmp_path) == [theirs]


def test_a_folder_counts_as_changed_when_a_file_in_it_is(tmp_path):
    theirs = tmp_path / ".mstkd-00000000-1-0.Dataset001_A"
    (theirs / "imagesTr").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(theirs, (two_days_ago, two_days_ago))
    assert sweep_leftovers(tmp_path) == []
    os.utime(theirs / "imagesTr", (two_days_ago, two_days_ago))
    assert sweep_leftovers(tmp_path) == [theirs]


def test_files_of_other_programs_stay(tmp_path):
    names = [".hidden", ".mstkd-x", ".mstkd-00000000-1.nii.gz", ".4711.a.nii.gz", "mstkd-00000000-1-0.a"]
    long_ago = time.time() - 400 * 24 * 3600
    for name in names:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (long_ago, long_ago))
    assert sweep_leftovers(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_two_writers_of_one_file_do_not_share_a_name(tmp_path):
    target = tmp_path / "a.json"
    with atomic_path(target) as first:
        first.write_text("first")
        with atomic_path(target) as second:
            second.write_text("second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert os.listdir(tmp_path) == ["a.json"]


class TestFolders:
    def test_a_killed_conversion_is_swept(self, tmp_path):
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        ours = temporary_beside(tmp_path / "Dataset001_A")
        theirs = ours.with_name(ours.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
        for folder in (ours, theirs):
            (folder / "imagesTr").mkdir(parents=True)
        assert sweep_leftovers(tmp_path) == [theirs]
        assert hidden(tmp_path) == [ours.name]

    def test_killed_between_the_two_renames_the_old_data_set_comes_back(self, tmp_path):
        target = tmp_path / "Dataset001_A"
        (tmp_path / ".Dataset001_A.replaced").mkdir()
        (tmp_path / ".Dataset001_A.replaced" / "old").touch()
        with pytest.raises(ValueError, match="bad"), replacing_folder(target):
            raise ValueError("bad")
        assert os.listdir(target) == ["old"]
        assert hidden(tmp_path) == []

    def test_killed_while_the_old_one_was_being_removed(self, tmp_path):
        target = tmp_path / "Dataset001_A"
        for folder in (target, tmp_path / ".Dataset001_A.replaced"):
            folder.mkdir()
        with replacing_folder(target) as folder:
            (folder / "new").touch()
        assert os.listdir(target) == ["new"]
        assert hidden(tmp_path) == []
