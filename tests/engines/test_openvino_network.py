"""Networks in OpenVINO compute what they compute in PyTorch."""

import logging

import pytest
import torch
from torch import Tensor, nn

from nnunetv2_mstkd import engines
from nnunetv2_mstkd.engines import check_engine, openvino_network
from nnunetv2_mstkd.engines.openvino_network import OpenVINONetwork
from nnunetv2_mstkd.errors import MSTKDError


@torch.inference_mode()
def run(network: nn.Module, x: Tensor) -> Tensor:
    """A pass as nnU-Net's predictor makes it."""
    return network(x)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = nn.Conv2d(4, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.01)
    return nn.Sequential(*layers, nn.Conv2d(8, 3, 1)).eval()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :3] if x.sum() > 0 else x[:, 1:]


@torch.library.custom_op("mstkd_tests::add_one", mutates_args=())
def add_one(x: Tensor) -> Tensor:
    return x + 1


@add_one.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Unknown(nn.Module):
    """PyTorch exports it, and OpenVINO has no counterpart of its operation."""

    def forward(self, x: Tensor) -> Tensor:
        return add_one(x)


def test_passes_are_those_of_the_network(cache):
    network = small()
    engine = OpenVINONetwork(network, "plans", "a model")
    x = torch.randn(3, 4, 16, 24)
    expected = run(network, x)
    for batch in (x, x[:2], x[:1]):  # the last batch of a case may be smaller
        torch.testing.assert_close(run(engine, batch), expected[: len(batch)], rtol=1e-4, atol=1e-5)
    transposed = x.transpose(2, 3)
    torch.testing.assert_close(run(engine, transposed), run(network, transposed), rtol=1e-4, atol=1e-5)
    result = run(engine, x)
    run(engine, torch.zeros_like(x))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)  # not overwritten by the next pass
    assert len(list(cache.iterdir())) == 2, "a folder for each shape"


@pytest.mark.slow
def test_folds_keep_their_weights_and_are_converted_once(cache, monkeypatch):
    folds = [small(seed).state_dict() for seed in (1, 2)]
    network, x = small(), torch.randn(1, 4, 16, 16)
    expected = []
    for fold in folds:
        network.load_state_dict(fold)
        expected.append(run(network, x))

    def passes():
        engine = OpenVINONetwork(small(), "plans", "a model")
        for fold, logits in [*zip(folds, expected, strict=True)] * 2:
            engine.load_state_dict(fold)
            torch.testing.assert_close(run(engine, x), logits, rtol=1e-4, atol=1e-5)

    passes()
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(OpenVINONetwork, "_convert", lambda *args: pytest.fail("it is in the cache"))
    passes()


@pytest.mark.slow
def test_a_broken_file_is_made_anew(cache):
    network, x = small(), torch.randn(1, 4, 16, 16)
    expected = run(OpenVINONetwork(network, "plans", "a model"), x)
    (file,) = cache.glob("*/network.xml")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert torch.equal(run(OpenVINONetwork(network, "plans", "a model"), x), expected)
    assert len(file.read_bytes()) > len(content) / 2


def test_what_cannot_be_converted_runs_in_pytorch(cache, caplog):
    engine, x = OpenVINONetwork(Branching(), "plans", "a model"), torch.ones(1, 4, 8, 8)
    for _ in range(2):
        assert torch.equal(run(engine, x), x[:, :3])
    engine.load_state_dict({})
    assert torch.equal(run(engine, -x), -x[:, 1:])
    (said,) = [r.message for r in caplog.records if r.name == openvino_network.__name__]
    assert said.startswith("a model cannot be converted for OpenVINO (")
    assert said.endswith("; it runs in PyTorch")
    assert not list(cache.iterdir())


def test_a_failed_conversion_leaves_the_logging_alone(cache, caplog):
    """OpenVINO's converter turns the root logger to errors only; our own warning was then lost as well."""
    engine, x = OpenVINONetwork(Unknown(), "plans", "a model"), torch.ones(1, 4, 8, 8)
    root = logging.getLogger()
    before = root.level, root.filters[:], root.handlers[:]
    assert torch.equal(run(engine, x), x + 1)
    assert not engine.converts
    assert (root.level, root.filters, root.handlers) == before
    assert "it runs in PyTorch" in caplog.text


def test_without_a_cache_it_still_runs(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("nnUNet_mstkd_cache", str(tmp_path / "file"))
    network, x = small(), torch.randn(1, 4, 16, 16)
    found = run(OpenVINONetwork(network, "plans", "a model"), x)
    torch.testing.assert_close(found, run(network, x), rtol=1e-4, atol=1e-5)


def test_engines_that_are_refused(monkeypatch):
    check_engine("torch", torch.device("cuda"))
    check_engine("openvino", torch.device("cpu"))
    with pytest.raises(MSTKDError, match="unknown engine 'onnx'; use one of torch, openvino"):
        check_engine("onnx", torch.device("cpu"))
    with pytest.raises(MSTKDError, match="'openvino' runs on the CPU, not on 'cuda:1'; give -device cpu"):
        check_engine("openvino", torch.device("cuda:1"))
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(MSTKDError, match=r"not installed; pip install 'nnunetv2-mstkd\[openvino\]'"):
        check_engine("openvino", torch.device("cpu"))
