import errno
import os
import subprocess
import sys

import pytest

from nnunetv2_mstkd import __version__
from nnunetv2_mstkd.cli import COMMANDS, main


def run(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "nnunetv2_mstkd.cli", *argv],
        capture_output=True, text=True, env=os.environ | environment, check=False,
    )  # fmt: skip


def test_help_lists_every_command_and_imports_no_torch():
    code = (
        "import sys; from nnunetv2_mstkd.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'nnunetv2' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"  {command}" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code in (0, None)
    assert "usage" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert __version__ in capsys.readouterr().out


def test_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == 2
    assert "predict" in capsys.readouterr().err


def test_user_errors_are_one_line_without_traceback():
    environment = {k: "" for k in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    done = run("train", "1", "3d_fullres", "0", **environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "nnUNet_raw is not set" in done.stderr


class TestEnv:
    def test_prints_an_export_line_that_a_shell_takes(self, tmp_path):
        spaced = str(tmp_path / "my trainers")
        done = run("env", nnUNet_extTrainer=spaced)
        script = f'{done.stdout}\nprintf %s "$nnUNet_extTrainer"'
        value = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
        first, second = value.split(os.pathsep)
        assert first == spaced, "what the user has in it stays"
        assert os.listdir(second).count("mstkd_trainers.py") == 1

    def test_is_stable_when_repeated(self):
        once = run("env", nnUNet_extTrainer="").stdout
        path = once.strip().split("=", 1)[1]
        assert run("env", nnUNet_extTrainer=path).stdout == once


def test_nnunet_finds_the_trainers_through_the_variable():
    code = (
        "from nnunetv2_mstkd.environment import activate; activate()\n"
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find\n"
        "import pickle, nnunetv2_mstkd.methods as ours\n"
        "for name in ours.__all__:\n"
        "    found = find(name)\n"
        "    assert found is getattr(ours, name), name\n"
        "    assert pickle.loads(pickle.dumps(found)) is found\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_place_that_is_closed_to_us_is_one_line(monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied", "/closed/file")

    monkeypatch.setattr("nnunetv2_mstkd.commands.methods.run", refuse)
    assert main(["methods"]) == 2
    assert capsys.readouterr().err == "nnUNetv2_mstkd methods: error: /closed/file: Permission denied\n"


@pytest.mark.parametrize(
    "command", [("statistics", "-p"), ("native", "-i", "x", "--transforms", "x", "-o", "x", "-p")]
)
def test_a_name_that_is_too_long_is_one_line(command, capsys):
    assert main([*command, "n" * 300]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "File name too long" in error
