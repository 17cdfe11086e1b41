"""The benchmarks of speed run and report what they should. How fast anything is, is not asked here."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import all_subsets, engines, networks, training_step, whole_case
from benchmarks.measured_command import Measured
from benchmarks.plans import STOCK_PATCH, mstkd_architecture, stock_architecture
from nnunetv2_mstkd.datasets.phantom.phantom import write_phantom

SMALL = ["24", "24", "24"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "cases", cases=1, shape=(32, 32, 28), seed=0)
    return next((folder / "cases").glob("BraTS-*"))


def results(tmp_path, main, *options) -> dict:
    file = tmp_path / "out.json"
    assert main([*options, "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert {"processor", "cores", "device"} <= set(content["machine"])
    return content["results"]


def test_the_stock_plan_is_that_of_nnunet_for_brats():
    kwargs = stock_architecture(STOCK_PATCH)["arch_kwargs"]
    assert kwargs["features_per_stage"] == [32, 64, 128, 256, 320, 320]
    assert kwargs["strides"][-1] == [2, 2, 1]
    ours = mstkd_architecture(STOCK_PATCH)["arch_kwargs"]
    assert ours["features_per_stage"] == [16, 32, 64, 128]


@pytest.mark.slow
def test_networks_compute_the_same_with_and_without_shortcuts(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_memory_in_a_process_of_its_own", lambda name, args: 2**20)
    content = results(tmp_path, networks.main, "--size", "48", "--repeats", "1")
    rows = {row["network"]: row for row in content["rows"]}
    assert rows[networks.REFERENCE]["ratio"] == 1
    assert {*networks.LIMITS, networks.REFERENCE} < {*rows}
    for name in networks.LIMITS:
        assert rows[name]["difference"] < 1e-4
        assert rows[name]["multiply_adds"] < rows[networks.REFERENCE]["multiply_adds"]


@pytest.mark.parametrize(
    ("benchmark", "flags"),
    [
        (networks, ["--only-memory", "LargeNet"]),
        (engines, ["--only-memory", "LargeNet", "torch"]),
        (engines, ["--networks", "LargeNet"]),
    ],
)
def test_a_network_that_does_not_exist_is_refused(benchmark, flags, capsys):
    assert benchmark.main([*flags, "--size", "48"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: no network 'LargeNet' here; choose from PlainConvUNet, ")
    assert said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "variants", "reference"),
    [
        ([], training_step.VARIANTS, training_step.REFERENCE),
        (["--methods"], training_step.OF_METHODS, training_step.STOCK),
    ],
    ids=["ours", "methods"],
)
def test_a_training_step_of_every_variant(tmp_path, monkeypatch, flags, variants, reference):
    monkeypatch.setattr(training_step, "_memory_in_a_process_of_its_own", lambda name, args: 2**20)
    content = results(tmp_path, training_step.main, "--patch", *["16"] * 3, "--repeats", "1", *flags)
    rows = {row["step"]: row for row in content["rows"]}
    assert {*rows} == {*variants}
    assert rows[reference]["time_ratio"] == 1
    assert all(len(row["seconds"]) == 1 and row["seconds"][0] > 0 for row in rows.values())


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (training_step.main, ["--patch", *["16"] * 3, "--only-memory", training_step.REFERENCE]),
        (networks.main, ["--size", "32", "--only-memory", "rfnet as released"]),
    ],
)
def test_memory_of_one_variant(capsys, main, options):
    assert main(options) == 0
    assert int(capsys.readouterr().out.split()[-1]) >= 0


@pytest.mark.slow
def test_networks_of_all_methods(tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "_memory_in_a_process_of_its_own", lambda name, args: 2**20)
    content = results(tmp_path, networks.main, "--size", "48", "--repeats", "1", "--methods")
    rows = {row["network"]: row for row in content["rows"]}
    assert {f"{folder} as released" for folder in networks._other_methods()} < {*rows}


@pytest.mark.slow
def test_engines(tmp_path):
    flags = [
        "--size",
        "32",
        "--repeats",
        "1",
        "--networks",
        engines.REFERENCE,
        "--engines",
        "openvino",
        "--exact",
    ]
    rows = results(tmp_path, engines.main, *flags)["rows"]
    assert [row["engine"] for row in rows] == ["torch", "openvino"]
    assert rows[0]["ratio"] == rows[0]["to_torch"] == 1
    assert all(0 < row["error"] < 1e-3 and row["median"] > 0 for row in rows)
    assert all(isinstance(row["start"], float) for row in rows)


@pytest.mark.slow
def test_a_whole_case_by_both_commands(tmp_path, case):
    options = ["--case", str(case), "--patch", *SMALL, "--stock-patch", *SMALL, "--disable_tta"]
    options += ["--engine", "openvino"]
    content = results(tmp_path, whole_case.main, *options)
    rows = {row["command"]: row for row in content["rows"]}
    assert rows[whole_case.STOCK]["time_ratio"] == 1
    assert rows[whole_case.OURS]["goals"] == [whole_case.TIME_GOAL, whole_case.MEMORY_GOAL]
    assert all(row["peak_bytes"] > 2**20 for row in rows.values())
    assert len(content["different_voxels"]) == 3
    assert max(content["different_voxels"].values()) < 1e-3


def test_own_commands_leave_the_others_out(tmp_path, case, monkeypatch):
    programs = []

    def recorded(command, environment, log):
        programs.append(Path(command[0]).name)
        out = Path(command[command.index("-o") + 1])
        out.mkdir()
        shutil.copyfile(next(case.glob("*-seg.nii.gz")), out / "case.nii.gz")
        return Measured(1.0, 1)

    monkeypatch.setattr(whole_case, "measure_command", recorded)
    options = ["--case", str(case), "--patch", *SMALL, "--stock-patch", *SMALL, "--own-commands"]
    content = results(tmp_path, whole_case.main, *options, "--engine", "openvino")
    assert programs == ["nnUNetv2_predict_from_modelfolder", *["nnUNetv2_mstkd"] * 3]
    assert [*content["different_voxels"].values()] == [0]


@pytest.mark.slow
def test_all_subsets_together_and_one_by_one(tmp_path, case):
    options = ("--case", str(case), "--patch", *SMALL, "--subsets", "2", "--engine", "openvino")
    content = results(tmp_path, all_subsets.main, *options)
    assert len(content["subsets"]) == 2
    assert content["subsets"][-1] == "+".join(all_subsets.MODALITIES)
    seconds = content["seconds"]
    single = seconds[all_subsets.PREDICT] + seconds[all_subsets.SCORE]
    for way in (all_subsets.TOGETHER, f"{all_subsets.TOGETHER}, openvino"):
        assert content["ratios"][way] == pytest.approx(seconds[way] / single)


@pytest.mark.parametrize("number", ["1", "16"])
def test_a_number_of_subsets_that_there_is_not_is_one_line(number, capsys):
    assert all_subsets.main(["--subsets", number]) == 2
    assert f"--subsets {number}: give 2 to 15" in capsys.readouterr().err


@pytest.mark.parametrize("main", [whole_case.main, all_subsets.main])
def test_a_folder_without_a_case_is_one_line(main, tmp_path, capsys):
    assert main(["--case", str(tmp_path)]) == 2
    assert "give one BraTS 2023 case" in capsys.readouterr().err
