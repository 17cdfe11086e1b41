import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.records import RECORDS_FILE, read_records, record


def test_entries_are_added_and_replaced_in_order_of_names(tmp_path):
    for case, entry in (("b", {"used": ["t1c"]}), ("a", {"used": []}), ("b", {"used": ["t2f"]})):
        record(tmp_path, case, entry)
    text = (tmp_path / RECORDS_FILE).read_text()
    assert list(json.loads(text)) == ["a", "b"]
    assert read_records(tmp_path)["b"] == {"used": ["t2f"]}
    assert [p.name for p in tmp_path.iterdir()] == [RECORDS_FILE], "no lock and no temporary file is left"


def test_a_folder_without_records_has_none(tmp_path):
    assert read_records(tmp_path) == {}


@pytest.mark.parametrize("content", ["[1, 2]", "{"])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / RECORDS_FILE).write_text(content)
    with pytest.raises(MSTKDError, match=f"{RECORDS_FILE}.*; move it away"):
        record(tmp_path, "case", {})


def test_threads_and_processes_lose_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from nnunetv2_mstkd.inference.records import record\n"
        "for i in range(40): record(Path(sys.argv[1]), f'{sys.argv[2]}_{i}', {'used': [i]})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: record(tmp_path, f"t_{i}", {"used": [i]}), range(40)))
    assert [p.wait(60) for p in processes] == [0, 0]
    assert set(read_records(tmp_path)) == {f"{name}_{i}" for name in "abt" for i in range(40)}
