"""The cache of converted networks: what tells two of them apart, and how it stays small."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_mstkd.engines.converted_models import ConvertedModels, cache_folder, digest_of, opened_cache


def write(size: int):
    return lambda folder: (folder / "network.bin").write_bytes(b"x" * size)


def test_a_network_is_found_again(tmp_path):
    models = ConvertedModels(tmp_path / "new" / "folder")
    assert models.find("key") is None
    folder = models.add("key", write(3))
    assert (folder / "network.bin").read_bytes() == b"xxx"
    assert ConvertedModels(models.folder).find("key") == folder
    models.discard("key")
    assert models.find("key") is None


def test_a_failure_leaves_nothing(tmp_path):
    models = ConvertedModels(tmp_path)

    def broken(folder: Path) -> None:
        (folder / "network.bin").write_bytes(b"half")
        raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        models.add("key", broken)
    assert not list(tmp_path.iterdir())


def test_of_two_runs_that_convert_at_once_the_first_stays(tmp_path):
    models = ConvertedModels(tmp_path)

    def late(folder: Path) -> None:
        models.add("key", write(1))
        write(2)(folder)

    assert (models.add("key", late) / "network.bin").read_bytes() == b"x"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_least_used_make_room(tmp_path):
    models = ConvertedModels(tmp_path, most_bytes=24)
    for age, name in enumerate(("old", "older", "oldest")):
        folder = models.add(name, write(5))
        os.utime(folder / "used", (1000 - age, 1000 - age))
    assert models.find("oldest"), "its use counts, not its age"
    models.add("new", write(10))
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old", "oldest"}
    models.add("large", write(100))
    assert [path.name for path in tmp_path.iterdir()] == ["large"], "one alone may be larger"


def test_everything_that_changes_a_network_changes_its_digest():
    def digest(network=None, weights=None, described="plans", shape=(1, 4, 8, 8), packages=("torch",)):
        network = network or nn.Sequential(nn.Conv2d(4, 3, 3))
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        return digest_of(network, weights or network.state_dict(), described, shape, packages)

    first = digest()
    assert digest() == first
    others = [
        digest(nn.Sequential(nn.Conv2d(4, 3, 3, stride=2))),
        digest(weights={"0.weight": torch.zeros(3, 4, 3, 3), "0.bias": torch.zeros(3)}),
        digest(described="other plans"),
        digest(shape=(2, 4, 8, 8)),
        digest(packages=("torch", "numpy")),
    ]
    assert len({first, *others}) == 6


def test_the_folder_is_the_users(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("nnUNet_mstkd_cache")
    assert cache_folder().name == "nnunetv2_mstkd"


def test_without_a_folder_a_warning_says_so(monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_mstkd_cache", str(tmp_path / "file"))
    assert opened_cache() is None
    assert "converted networks are not kept: cannot write into" in caplog.text
