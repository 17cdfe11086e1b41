"""A checkpoint from elsewhere is read without running what is in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from malicious import MakesFolder

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.checkpoint_files import TRUST_VARIABLE, safe_load


def nnunet_like() -> dict:
    """One value of every kind that nnUNetTrainer.save_checkpoint stores."""
    weight = torch.nn.Parameter(torch.arange(4.0))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        "network_weights": {"w": weight.detach()},
        "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": None,
        "logging": {
            "train_losses": [np.float32(-0.5), np.float64(0.25), np.float64("nan")],
            "dice_per_class_or_region": [[np.float64(0.1), np.float32(0.2)]],
        },
        "_best_ema": np.float64(0.7),
        "current_epoch": np.int64(3),
        "init_args": {"plans": {"a": [1, 2.0, None, True, "x"]}, "device": torch.device("cpu"), "fold": 0},
        "flags": [np.bool_(True), np.uint8(200), np.float16(1.5), 2**80, (0, 1), b"raw", ""],
    }


@pytest.fixture
def saved(tmp_path):
    def save(content, **options):
        torch.save(content, tmp_path / "c.pth", **options)
        return tmp_path / "c.pth"

    return save


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_nnunet_stores_comes_back_with_its_types(saved, zipped):
    content = nnunet_like()
    loaded = safe_load(saved(content, _use_new_zipfile_serialization=zipped))
    assert torch.equal(loaded["network_weights"]["w"], content["network_weights"]["w"])
    exp_avg = content["optimizer_state"]["state"][0]["exp_avg"]
    assert torch.equal(loaded["optimizer_state"]["state"][0]["exp_avg"], exp_avg)
    for key in ("logging", "_best_ema", "current_epoch", "init_args", "flags"):
        assert repr(loaded[key]) == repr(content[key])
    assert type(loaded["logging"]["train_losses"][0]) is np.float32
    assert type(loaded["flags"][0]) is np.bool_


def test_the_name_that_numpy_1_wrote(saved):
    import re
    import zipfile

    path = saved({"_best_ema": np.float64(0.7)})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in members.items():
            archive.writestr(name, re.sub(rb"numpy\.(_core|core)\.", b"numpy.core.", raw))
    assert safe_load(path) == {"_best_ema": 0.7}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
def test_a_malicious_file_is_refused_in_one_line_and_does_nothing(saved, tmp_path, options):
    victim = tmp_path / "victim"
    path = saved(nnunet_like() | {"mstkd": MakesFolder(victim)}, **options)
    with pytest.raises(MSTKDError, match=r"c\.pth holds posix\.mkdir.*--trust_checkpoint") as error:
        safe_load(path)
    assert "\n" not in str(error.value)
    assert not victim.exists()


def test_a_bare_malicious_pickle_does_nothing(tmp_path):
    path, victim = tmp_path / "c.pth", tmp_path / "victim"
    path.write_bytes(pickle.dumps({"network_weights": MakesFolder(victim)}, protocol=2))
    with pytest.raises(MSTKDError, match=r"c\.pth"):
        safe_load(path)
    assert not victim.exists()


def test_whoever_trusts_a_file_can_read_it(saved, tmp_path, monkeypatch):
    path = saved({"where": Path("a/b"), "_best_ema": np.float64(0.5)})
    with pytest.raises(MSTKDError, match=r"holds pathlib.*trust"):
        safe_load(path)
    assert safe_load(path, trust=True) == {"where": Path("a/b"), "_best_ema": 0.5}
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    assert safe_load(path)["where"] == Path("a/b")


def test_object_arrays_are_not_numbers(saved):
    with pytest.raises(MSTKDError, match="trust"):
        safe_load(saved({"a": np.array([Path("x")], dtype=object)}))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_truncated_files(saved, kept, zipped):
    path = saved(nnunet_like(), _use_new_zipfile_serialization=zipped)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(kept * len(raw))])
    assert_damaged(path)


def test_a_web_page(tmp_path):
    (tmp_path / "c.pth").write_text("<html>not found</html>")
    assert_damaged(tmp_path / "c.pth")


def assert_damaged(path):
    with pytest.raises(MSTKDError, match=r"c\.pth is damaged or no checkpoint") as error:
        safe_load(path)
    assert "\n" not in str(error.value)
    assert "trust" not in str(error.value)


def test_files_that_are_none(saved, tmp_path):
    with pytest.raises(MSTKDError, match="checkpoint not found"):
        safe_load(tmp_path / "gone.pth")
    with pytest.raises(MSTKDError, match="holds a list, not a checkpoint"):
        safe_load(saved([1, 2]))
