"""The study: its arms cost the same, its runs differ in what they say, and one command does it all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from places import ROOT

from benchmarks.plans import dataset_json, mstkd_architecture, stock_architecture
from benchmarks.plans import plans as made_plans
from benchmarks.study.arms import ARMS, BAR, METHOD, WITH_FROZEN, compute_of, epochs_of
from benchmarks.study.challengers import CHALLENGERS
from benchmarks.study.cost import step_cost
from benchmarks.study.data import limit_validation
from benchmarks.study.of_methods import NARROW, OF_METHODS
from benchmarks.study.parts import ALL_ARMS, PARTS
from benchmarks.study.phantom import Phantom
from benchmarks.study.runs import Run
from benchmarks.study.sizes import SIZES
from benchmarks.study.study import Study
from benchmarks.study.variants import RESTARTS, VARIANTS
from benchmarks.study.workplace import BASE_PLANS, PLANS_OF, Workplace
from nnunetv2_mstkd import methods
from nnunetv2_mstkd.files import read_json, write_json
from nnunetv2_mstkd.methods.mstkd.weights import ObjectiveConfig
from nnunetv2_mstkd.settings import parse_settings

pytestmark = pytest.mark.slow  # a quick look is test_study_quick.py

CONFIGURATION = Phantom.configuration
LENGTH = {"num_epochs", "full_phase", "num_iterations_per_epoch"}


@pytest.fixture
def study(tmp_path):
    """A study of the small size with plans, and nothing else."""
    made = Study(Workplace(tmp_path / "out", Phantom(), "small", "cpu", 1), Phantom())
    for name, _ in PLANS_OF.values():
        write_json(_planned((32, 40, 32)) | {"plans_name": name}, _made(made.work.plans(name)))
    write_json(dataset_json(), _made(made.work.raw / Phantom.dataset / "dataset.json"))
    return made


def _planned(patch):
    return made_plans(mstkd_architecture(patch, first_features=8), patch, 2)


def _made(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


# ---------------------------------------------------------------- arms and parts


TRAININGS = [
    SIZES[size].training(configuration, patients=patients)
    for size in ("small", "gpu")
    for configuration, patients in (("3d_fullres", False), ("3d_fullres", True), ("2d", True))
]


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("part", PARTS)
def test_every_arm_of_a_part_costs_the_same(part, training):
    budget, _ = PARTS[part].condition.budget(training)
    size = "gpu" if training.loader_processes is None else "small"
    arms = [run.arm for run in PARTS[part].runs(size, 1)]
    for arm in (arm for arm in arms if arm.steps_like is None):
        counted = 1.21 if arm.step_cost is None else None
        rounding = 0.5 * (arm.step_cost or counted) + 1e-9  # whole epochs
        assert compute_of(arm, budget, counted) == pytest.approx(budget, abs=rounding), arm.key


def test_a_methods_step_is_counted_on_the_plans():
    content = _planned((32, 32, 32))

    def cost(trainer, **settings):
        name = f"nnUNetTrainer{trainer}"
        return step_cost(name, content, CONFIGURATION, dataset_json(), settings)

    assert cost("ModalityDropout") == 1
    assert cost("MSTKD") == pytest.approx(4 / 3, rel=0.01)
    assert cost("MSTKDJoint") == pytest.approx(2, rel=0.02)
    assert 3 < cost("RFNet", base_features=8) / cost("RFNet", base_features=4) < 4.5
    assert content == _planned((32, 32, 32))


def test_arms_of_methods_train_as_long_as_their_step_allows(study):
    for arm in OF_METHODS.values():
        _, settings = _written(study, Run(arm, 0))
        steps = settings["num_epochs"] * settings["num_iterations_per_epoch"]
        assert steps * study.step_cost(arm) == pytest.approx(800, rel=0.08), arm.key
        assert ("optimizer" in settings) == (not arm.own_optimizer)
        assert settings["base_features"] == dict(arm.settings)["base_features"]
        parse_settings(settings, getattr(methods, arm.trainer).settings_read(), reader=arm.trainer)


@pytest.mark.parametrize("key", ["unet_dropout", "unet_conditioned", "unet_mstkd", "unet_dropout_sgd"])
def test_nnunets_own_network_trains_as_long_as_its_steps_allow(study, key):
    patch = (32, 40, 32)
    stock = made_plans(stock_architecture(patch, 8), patch, 2) | {"plans_name": PLANS_OF["plans"][0]}
    write_json(stock, study.work.plans(PLANS_OF["plans"][0]))
    plans, settings = _written(study, Run(CHALLENGERS[key], 0))
    assert "PlainConvUNet" in plans["configurations"][CONFIGURATION]["architecture"]["network_class_name"]
    cost = study.step_cost(CHALLENGERS[key])
    assert abs(cost - 1) > 0.05, "counted against itself"
    full = round(settings["full_phase"] * settings["num_epochs"])
    masked = settings["num_epochs"] - full
    plain = study.step_cost(CHALLENGERS["unet_dropout"])
    assert settings["num_iterations_per_epoch"] * (full * plain + masked * cost) == pytest.approx(
        800, rel=0.03
    )
    assert full * plain == pytest.approx(masked * cost, rel=0.05), "half of the compute"
    assert cost / plain == pytest.approx(WITH_FROZEN if "mstkd" in key else 1, rel=0.01)
    assert ("optimizer" in settings) == (not CHALLENGERS[key].own_optimizer)


def test_every_method_with_a_network_of_its_own_is_an_arm():
    own = {m.trainer for m in methods.METHODS if getattr(m.load(), "network_class", None) is not None}
    assert {arm.trainer for arm in NARROW.values()} == own


@pytest.mark.parametrize("budget", [40, 8])
def test_arms_for_equal_steps_take_as_many_as_the_arm_they_name(budget):
    named = [arm for arm in ALL_ARMS.values() if arm.steps_like]
    assert {arm.steps_like for arm in named} == {BAR, METHOD, "joint", "zero_filled"}
    for arm in named:
        assert epochs_of(arm, budget) == epochs_of(ARMS[arm.steps_like], budget)


def test_lengths_of_the_arms():
    assert epochs_of(ARMS[BAR], 40) == (20, 20)
    assert epochs_of(ARMS[METHOD], 40) == epochs_of(ARMS["plain_student"], 40) == (20, 15)
    assert epochs_of(ARMS["joint"], 40) == epochs_of(ARMS["dropout_joint_steps"], 40) == (0, 20)
    assert epochs_of(ARMS["stock"], 40) == (0, 40)
    assert epochs_of(CHALLENGERS["bar_short_full"], 40) == (10, 30)
    assert epochs_of(CHALLENGERS["unet_dropout"], 40, counted=0.5) == (40, 40)
    assert epochs_of(CHALLENGERS["unet_dropout_steps"], 40) == epochs_of(ARMS[BAR], 40)


def test_other_lengths_take_challengers_by_name_only():
    assert {run.arm.key for run in PARTS["half"].runs("small", 1)} == {BAR, METHOD, "plain_student"}
    (run,) = PARTS["half"].runs("small", 1, ["bar_conditioned"])
    assert run.plans == "Study_half_bar_conditioned_seed0"


def test_arms_are_trainers_of_this_package():
    assert {arm.trainer for arm in ALL_ARMS.values()} <= set(methods.__all__)
    assert all(arm.seeds >= 1 and arm.network in PLANS_OF for arm in ALL_ARMS.values())


def test_the_released_method_is_of_the_gpu_size_only():
    assert "official" not in {run.arm.key for run in PARTS["main"].runs("small", 3)}
    assert "official" in {run.arm.key for run in PARTS["main"].runs("gpu", 3)}


def test_names_of_the_main_part_are_those_that_older_folders_hold(study):
    run = Run(ARMS[BAR], 2)
    assert run.plans == f"Study_{BAR}_seed2"
    assert study.evaluation(run) == study.work.out / "evaluations" / BAR / "seed_2"
    assert study.model(run).name == f"nnUNetTrainerModalityDropout__{run.plans}__{CONFIGURATION}"


def test_parts_share_runs_only_where_they_train_under_the_same_condition():
    names = {key: {run.plans for run in part.runs("small", 3)} for key, part in PARTS.items()}
    assert names["main"] & names["diagnosis"] == {
        f"Study_{key}_seed{n}" for key in (BAR, METHOD, "plain_student") for n in range(3)
    }
    assert not names["main"] & names["few_labels"]
    assert not names["short"] & (names["main"] | names["few_labels"])
    assert not names["half"] & names["double"]
    assert all(len(part.runs("small", 3)) == len(names[key]) for key, part in PARTS.items())


# ---------------------------------------------------------------- plans


def _written(study, run):
    study.write_plans(run)
    plans = read_json(study.work.plans(run.plans))
    return plans, plans["configurations"][CONFIGURATION].pop("mstkd")


def test_runs_differ_in_length_seed_and_sampler_only(study):
    runs = [Run(ARMS[METHOD], 0), Run(ARMS[METHOD], 1), Run(ARMS["zero_filled"], 0)]
    written = [_written(study, run) for run in runs]
    base = read_json(study.work.plans(BASE_PLANS))
    for run, (plans, _) in zip(runs, written, strict=True):
        assert plans == base | {"plans_name": run.plans}
    first, second, third = (settings for _, settings in written)
    assert {key for key in first if first[key] != second[key]} == {"seed"}
    assert set(third) - set(first) == {"sampler", "subset_weights"}
    assert {key for key in first if first[key] != third.get(key)} == {"num_epochs", "full_phase"}


def test_restarts_differ_from_their_arm_in_the_learning_rate_alone(study):
    for key, arm in RESTARTS.items():
        base, _, share = key.rpartition("_lr_")
        _, ours = _written(study, Run(arm, 0))
        _, main = _written(study, Run(ARMS[base], 0))
        assert ours == main | {"lr_restart": float(share)}


def test_fold_0_validates_on_few(tmp_path):
    splits = tmp_path / "splits_final.json"
    write_json([{"train": ["a"], "val": ["b", "c", "d"]}, {"train": ["b"], "val": ["a", "c"]}], splits)
    for _ in range(2):
        limit_validation(splits, 2)
        assert read_json(splits) == [{"train": ["a"], "val": ["b", "c"]}, {"train": ["b"], "val": ["a", "c"]}]


def test_sub_studies_differ_from_the_main_part_in_fold_and_length_only(study):
    _, main = _written(study, Run(ARMS[METHOD], 0))
    _, few = _written(study, Run(ARMS[METHOD], 0, PARTS["few_labels"].condition))
    _, short = _written(study, Run(ARMS[METHOD], 0, PARTS["short"].condition))
    assert few == main
    assert {key for key in main if main[key] != short[key]} <= LENGTH
    steps = [s["num_epochs"] * s["num_iterations_per_epoch"] for s in (main, short)]
    assert steps[0] == 4 * steps[1]


def test_stock_networks_keep_their_optimizer_and_plans(study):
    plans, settings = _written(study, Run(ARMS["stock"], 0))
    assert not {"optimizer", "initial_lr"} & set(settings)
    assert set(plans) == set(read_json(study.work.plans(PLANS_OF["plans"][0])))


@pytest.mark.parametrize("key", ALL_ARMS)
def test_settings_are_accepted_by_trainer_and_objective(study, key):
    run = Run(ALL_ARMS[key], 0)
    settings, trainer = study.settings(run), getattr(methods, run.arm.trainer)
    assert parse_settings(settings, trainer.settings_read()) == settings
    ObjectiveConfig().with_weights(settings.get("weights", {}))


def test_variants_say_which_terms_they_leave():
    left = {}
    for key in ("kl_only", "consistency_only", "logits_only"):
        config = ObjectiveConfig().with_weights(dict(VARIANTS[key].settings)["weights"])
        left[key] = {
            name
            for name in ("kl", "consistency", "content", "token_features", "attention", "gram", "adversarial")
            if getattr(config, name) > 0
        }
    assert left == {
        "kl_only": {"kl"},
        "consistency_only": {"consistency"},
        "logits_only": {"kl", "consistency"},
    }


# ---------------------------------------------------------------- the whole


def _command(out, *arguments):
    return [sys.executable, "-m", "benchmarks.study", "-o", out, "--size", "tiny", *arguments]


def _run(command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _is_there(name, out):
    """Folders may vanish while one looks: half-written ones are renamed."""
    return any(name in files for _, _, files in os.walk(out))


def _kill_when(command, name, out):
    """Start the study, and kill it with all its processes as soon as a file is there."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while not _is_there(name, out):
            assert process.poll() is None
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_one_command_trains_evaluates_and_compares_and_goes_on(tmp_path):
    out = tmp_path / "study"
    command = _command(out, "--seeds", "1", "--jobs", "1", "--parts", "main")
    command += ["--arms", "dropout_after_full", "stock"]
    _kill_when(command, "checkpoint_final.pth", out)
    (first,) = out.rglob("checkpoint_final.pth")
    trained = first.stat().st_mtime_ns
    (first.parent / "validation" / "summary.json").unlink(missing_ok=True)
    _run(command)
    assert first.stat().st_mtime_ns == trained, "trained again instead of validated"
    assert (first.parent / "validation" / "summary.json").is_file()
    assert set(pd.read_csv(out / "comparison" / "differences.csv")["run"]) == {ARMS["stock"].title}
    assert (out / "comparison" / "report.html").is_file()

    shutil.rmtree(out / "evaluations" / "stock")
    _run([*command[:-2], "stock"])
    assert first.stat().st_mtime_ns == trained
    assert set(pd.read_csv(out / "comparison" / "differences.csv")["run"]) == {ARMS["stock"].title}

    text = _run([sys.executable, "-m", "benchmarks.study.results", out])
    assert "**modality dropout after a full phase**" in text
    assert "inc14" in text
    assert "2 + 2 | 1.00 | 4 |" in text
    assert "| stock nnU-Net, zero-filled | 4 + 0 |" in text


def test_patients_are_cross_validated_and_pooled(tmp_path):
    folder, out = tmp_path / "patients", tmp_path / "study"
    phantom = [os.path.join(os.path.dirname(sys.executable), "nnUNetv2_mstkd"), "phantom", "-o", folder]
    _run([*phantom, "--cases", "4", "--shape", "24", "24", "24"])
    command = _command(out, "--data", folder, "--format", "brats2023", "--folds", "2", "--jobs", "1")
    _run([*command, "--seeds", "1", "--parts", "main", "--arms", "dropout_after_full", "dropout"])

    held_out = [{path.name for path in (out / "held_out" / f"fold_{n}").iterdir()} for n in range(2)]
    assert held_out[0] | held_out[1] == {path.name for path in folder.iterdir()}
    for seed in range(2):
        plans = read_json(out / f"nnUNet_preprocessed/Dataset901_Patients/Study_{BAR}_seed{seed}.json")
        assert plans["configurations"]["2d"]["mstkd"]["seed"] == seed
        table = pd.read_csv(out / "evaluations" / BAR / f"seed_{seed}" / "metrics.csv")
        assert set(table["case"]) == held_out[seed]
    splits = read_json(out / "nnUNet_preprocessed/Dataset901_Patients/splits_final.json")
    assert all(not set(split["train"]) & held_out[n] for n, split in enumerate(splits))
    assert all(len(split["val"]) == 1 for split in splits)

    text = _run([sys.executable, "-m", "benchmarks.study.results", out])
    assert "4 patients, empty masks by" in text
    assert f"| **{ARMS[BAR].title}** | 1 |" in text  # one round, of two folds
