"""``nnUNetv2_mstkd train``: what it does around nnU-Net's own command. (Bad calls: bad_inputs/plan.py.)"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from nnssl_checkpoint import pretrained_network, write_checkpoint
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from tiny_dataset import MODALITIES, dataset_json, plans
from torch.multiprocessing import ProcessRaisedException

from benchmarks.plans import unet
from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.commands import train_checks
from nnunetv2_mstkd.commands.pretrained import check_pretrained
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD
from nnunetv2_mstkd.models.checkpoint_files import TRUST_VARIABLE

TRAINER = nnUNetTrainerMSTKD.__name__


@pytest.fixture
def nnunets_command(monkeypatch, tmp_path):
    """Replace nnU-Net's command by a function; what our own checks say is tested elsewhere."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv(TRUST_VARIABLE, "")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(train_checks, "check_training", lambda theirs: None)

    def replace(function):
        monkeypatch.setattr("nnunetv2.run.run_training.run_training_entry", function)

    return replace


def raised_in_a_process(error: Exception) -> ProcessRaisedException:
    """As torch.multiprocessing hands it on."""
    try:
        raise error
    except Exception:
        text = f"\n\n-- Process 1 terminated with the following error:\n{traceback.format_exc()}"
    return ProcessRaisedException(text, 1, 4711)


def test_what_a_process_says_to_the_user_is_one_line(nnunets_command, capsys):
    def train():
        raise raised_in_a_process(MSTKDError("setting 'num_epochs' is 0; it must be more"))

    nnunets_command(train)
    assert main(["train", "7", "tiny", "0"]) == 2
    expected = "nnUNetv2_mstkd train: error: setting 'num_epochs' is 0; it must be more\n"
    assert capsys.readouterr().err == expected


def test_what_is_no_message_for_the_user_stays_a_traceback(nnunets_command):
    def train():
        raise raised_in_a_process(ZeroDivisionError("x"))

    nnunets_command(train)
    with pytest.raises(ProcessRaisedException, match="ZeroDivisionError: x"):
        main(["train", "7", "tiny", "0"])


def test_trust_reaches_the_trainers_and_not_nnunets_parser(nnunets_command):
    seen = []
    nnunets_command(lambda: seen.append((os.environ[TRUST_VARIABLE], sys.argv)))
    assert main(["train", "7", "tiny", "0", "--trust_checkpoint", "--npz"]) == 0
    assert seen == [("1", ["nnUNetv2_train", "7", "tiny", "0", "--npz"])]


def test_pretrained_weights_of_other_tokens_name_the_flag(make_trainer):
    """Position tables are interpolated, but a token of two voxels has other weights than one of one."""
    trainer = make_trainer(nnUNetTrainerMSTKD, patch=(32, 32, 16))
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    check_pretrained(file, TRAINER, plans(patch=(32, 32, 16)), "tiny", dataset_json())
    # The segmentation heads of another data set do not matter: nnU-Net does not transfer them.
    other = dataset_json(regions=False)
    check_pretrained(file, TRAINER, plans(patch=(32, 32, 16)), "tiny", other)
    with pytest.raises(MSTKDError, match=r"fit: tokens.*need nnUNetv2_mstkd plan --token-patch 2 2 1$"):
        check_pretrained(file, TRAINER, plans(), "tiny", dataset_json())


def test_pretrained_weights_of_another_width(make_trainer, tmp_path):
    file = tmp_path / "weights.pth"
    trainer = make_trainer(nnUNetTrainerMSTKD)
    trainer.initialize()
    weights = {name: value[..., :1] for name, value in trainer.network.state_dict().items()}
    torch.save({"network_weights": weights}, file)
    with pytest.raises(MSTKDError, match=r"weights\.pth does not fit: .*plan with the sizes of its network"):
        check_pretrained(file, TRAINER, plans(), "tiny", dataset_json())


def test_a_batch_that_does_not_reach_every_gpu_is_refused():
    """nnU-Net asserts "Duh." in every process."""
    given = argparse.Namespace(num_gpus=3, p="nnUNetPlans", configuration="tiny")
    with pytest.raises(
        MSTKDError, match=r"-num_gpus 3, but nnUNetPlans has a batch size of 2; use at most 2"
    ):
        train_checks._check_batch(given, plans())
    train_checks._check_batch(argparse.Namespace(**{**vars(given), "num_gpus": 2}), plans())


@pytest.mark.parametrize(
    ("dataset", "fold", "message"),
    [("²", "0", "'²' is no data set"), ("7", "²", "'²' is no fold; give a number or 'all'")],
)
def test_digits_that_are_no_numbers(monkeypatch, tmp_path, dataset, fold, message):
    """str.isdigit is true of them, int() is not able to read them."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    folder = tmp_path / "Dataset007_Tiny"
    folder.mkdir()
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans()))
    with pytest.raises(MSTKDError, match=message):
        train_checks.check_training([dataset, "tiny", fold, "-device", "cpu"])


def test_weights_of_one_channel_reach_nnunets_own_loading(tmp_path, capsys):
    """A stock trainer, whose loading wants every tensor of the network in its shape."""
    architecture = unet([4, 8], blocks=[1, 1])

    def small():
        content = plans()
        content["configurations"]["tiny"]["architecture"] = architecture
        return content

    file = write_checkpoint(tmp_path / "mae.pth")
    pretrained = check_pretrained(file, "nnUNetTrainer", small(), "tiny", dataset_json())
    names = (architecture[key] for key in ("network_class_name", "arch_kwargs", "_kw_requires_import"))
    network = get_network_from_plans(*names, 4, 3)
    with pytest.raises(AssertionError):
        load_pretrained_weights(network, file)
    with pretrained.fitting_file() as fitting:
        load_pretrained_weights(network, fitting)
    assert not fitting.exists()
    assert "repeated for t1n, t1c, t2w, t2f and divided by 4" in capsys.readouterr().out
    theirs = pretrained_network().encoder.stem.convs[0].conv.weight
    assert torch.equal(network.encoder.stem.convs[0].conv.weight, theirs.expand(-1, 4, -1, -1, -1) / 4)


def test_weights_that_fit_are_handed_on_as_they_are(make_trainer):
    trainer = make_trainer(nnUNetTrainerMSTKD)
    trainer.initialize()
    file = Path(trainer.output_folder) / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(file))
    with check_pretrained(file, TRAINER, plans(), "tiny", dataset_json()).fitting_file() as given:
        assert given == file
    other_order = check_pretrained(file, TRAINER, plans(), "tiny", dataset_json(MODALITIES[::-1]))
    with other_order.fitting_file() as given:
        assert given != file
    start = plans(settings={"init": "model"})
    with pytest.raises(MSTKDError, match=r"these plans start from model .* leave -pretrained_weights out"):
        check_pretrained(file, TRAINER, start, "tiny", dataset_json())


def test_the_fitted_file_takes_the_place_of_the_given_one(nnunets_command, monkeypatch, tmp_path):
    class Fitted:
        @contextmanager
        def fitting_file(self):
            yield tmp_path / "fitted.pth"

    seen = []
    nnunets_command(lambda: seen.append(sys.argv))
    monkeypatch.setattr(train_checks, "check_training", lambda theirs: Fitted())
    assert main(["train", "7", "tiny", "0", "-pretrained_weights", "mae.pth", "--npz"]) == 0
    fitted = str(tmp_path / "fitted.pth")
    assert main(["train", "7", "tiny", "0", "-pretrained_weights=mae.pth"]) == 0
    expected = ["nnUNetv2_train", "7", "tiny", "0", "--npz", "-pretrained_weights", fitted]
    assert seen == [expected, [word for word in expected if word != "--npz"]]
