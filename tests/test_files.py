import errno
import json
import multiprocessing
from pathlib import Path
from threading import Thread

import pytest

from nnunetv2_mstkd.environment import dataset_folder, nnunet_folder
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import LOCK_FILE, atomic_path, locked_folder, read_json, writable_folder, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.nii.gz"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            assert temporary.name.endswith(".nii.gz")
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(MSTKDError, match=r"a\.nii\.gz: No space left on device; what was there"):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_not_there_is_a_one_line_user_error(tmp_path):
    with pytest.raises(MSTKDError, match=r"cannot write .*gone/x\.json: No such file or directory"):
        write_json({}, tmp_path / "gone" / "x.json")
    (tmp_path / "file").touch()
    with pytest.raises(MSTKDError, match=r"cannot write .*file/x\.json: Not a directory"):
        write_json({}, tmp_path / "file" / "x.json")


def test_what_is_missing_elsewhere_stays_an_error_of_ours(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x.json"):
        (tmp_path / "gone" / "input").read_text()


def test_json_keeps_the_order_of_keys(tmp_path):
    write_json({"z": 1, "a": [1, 2]}, tmp_path / "x.json")
    assert list(json.loads((tmp_path / "x.json").read_text())) == ["z", "a"]
    assert read_json(tmp_path / "x.json") == {"z": 1, "a": [1, 2]}


@pytest.mark.parametrize("content", [None, "{", "\x00"])
def test_bad_json_is_a_one_line_user_error(tmp_path, content):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MSTKDError, match=r"x\.json") as error:
        read_json(path)
    assert "\n" not in str(error.value)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MSTKDError, match="cannot write into"):
        writable_folder(tmp_path / "file" / "out")


def test_nnunet_folders(tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(MSTKDError, match=r"nnUNet_raw is not set; export nnUNet_raw="):
        nnunet_folder("nnUNet_raw")
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert nnunet_folder("nnUNet_raw") == tmp_path


def test_data_sets_by_id_and_by_name(tmp_path):
    (tmp_path / "Dataset007_A").mkdir()
    assert dataset_folder(tmp_path, "7").name == "Dataset007_A"
    assert dataset_folder(tmp_path, "Dataset007_A").name == "Dataset007_A"
    with pytest.raises(MSTKDError, match="no data set '8'"):
        dataset_folder(tmp_path, 8)
    (tmp_path / "Dataset007_B").mkdir()
    with pytest.raises(MSTKDError, match="id 7 is used by Dataset007_A, Dataset007_B"):
        dataset_folder(tmp_path, 7)


def take_and_release(folder):
    with locked_folder(folder):
        pass


def test_one_thread_or_process_at_a_time_has_a_folder(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with locked_folder(tmp_path):
        with (tmp_path / LOCK_FILE).open("w") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waits = Thread(target=take_and_release, args=(tmp_path,), daemon=True)
        waits.start()
        waits.join(0.2)
        assert waits.is_alive()
    waits.join(20)
    assert not waits.is_alive()
    assert list(tmp_path.iterdir()) == []


def count_a_hundred(folder: Path) -> None:
    for _ in range(100):
        with locked_folder(folder):
            (folder / "count").write_text(str(int((folder / "count").read_text()) + 1))


def test_nobody_is_lost_between_two_locks(tmp_path):
    """The file of the lock goes with the process that held it, while others wait for it."""
    pytest.importorskip("fcntl")
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_a_hundred, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert (tmp_path / "count").read_text() == "300"


def test_threads_take_turns_where_the_system_cannot_lock(tmp_path, monkeypatch, caplog):
    """As on Windows; ``predict`` and ``evaluate`` write with several threads."""
    monkeypatch.setattr("nnunetv2_mstkd.files.fcntl", None)
    (tmp_path / "count").write_text("0")
    threads = [Thread(target=count_a_hundred, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (tmp_path / "count").read_text() == "400"
    assert caplog.text.count("give runs at once folders of their own") == 1


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    pytest.importorskip("fcntl")

    def flock(handle, operation):
        raise OSError(number, "no")

    monkeypatch.setattr("nnunetv2_mstkd.files.fcntl.flock", flock)
    number, done = errno.ENOSYS, []
    with locked_folder(tmp_path):
        done.append(1)
    assert done
    assert "give runs at once folders of their own" in caplog.text
    number = errno.EBADF
    with pytest.raises(OSError, match="no"), locked_folder(tmp_path):
        done.append(2)
    assert done == [1]
