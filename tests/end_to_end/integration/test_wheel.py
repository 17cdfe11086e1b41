"""The wheel, not the checkout: built, unpacked into a fresh folder, and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Folder that holds the installed wheel and nothing of the checkout."""
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    source = tmp_path_factory.mktemp("source") / "checkout"
    tracked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_file():
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target]
    subprocess.run([*pip, wheel], check=True, capture_output=True)
    return target


def run(installed: Path, cwd: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed), "nnUNet_extTrainer": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_is_in_the_wheel(installed):
    packaged = {p.relative_to(installed).as_posix() for p in installed.rglob("*.py")}
    checkout = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nnunetv2_mstkd").rglob("*.py")}
    assert {p for p in packaged if p.startswith("nnunetv2_mstkd/")} == checkout
    assert (installed / "nnunetv2_mstkd" / "py.typed").is_file()


@pytest.mark.slow
def test_the_command_and_the_trainers_work_from_there(installed, tmp_path):
    script = str(installed / "bin" / "nnUNetv2_mstkd")
    export = run(installed, tmp_path, sys.executable, script, "env")
    folder = export.strip().split("=", 1)[1]
    assert folder == str(installed / "nnunetv2_mstkd" / "external_trainers")
    code = (
        "import os, sys; os.environ['nnUNet_extTrainer'] = sys.argv[1]\n"
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "trainer = find('nnUNetTrainerMSTKD'); print(sys.modules[trainer.__module__].__file__)"
    )
    found = run(installed, tmp_path, sys.executable, "-c", code, folder)
    assert found.splitlines()[-1].startswith(str(installed))


def test_phantom_and_convert_from_there(installed, tmp_path):
    script = str(installed / "bin" / "nnUNetv2_mstkd")
    command = [sys.executable, script, "phantom", "-o", "cases", "--cases", "2", "--shape", "32", "32", "32"]
    run(installed, tmp_path, *command, "--seed", "0")
    assert len(list((tmp_path / "cases").iterdir())) == 2
