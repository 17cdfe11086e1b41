"""The Mamba block against golden numbers, and the scan against its definition."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from imfuse_golden import golden_weight, normal, read_arrays
from torch import nn

from nnunetv2_mstkd.methods.imfuse import scan
from nnunetv2_mstkd.methods.imfuse.mamba import Mamba

GOLDEN = read_arrays("mamba_A")
RTOL = 2e-4  # of values and of an array's standard deviation


class Block(nn.Module):
    """s + Mamba(norm(s)), then + Linear(norm(s)), under the names of the golden file."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.mamba, self.head = Mamba(channels, channels), nn.Linear(channels, channels)

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        s = s + self.mamba(self.norm1(s))
        return s + self.head(self.norm2(s))


def assert_close(found: torch.Tensor, name: str, steps: tuple[int, ...]) -> None:
    sampled = found.detach()[tuple(slice(None, None, step) for step in steps)]
    atol = RTOL * GOLDEN[name].std()
    np.testing.assert_allclose(sampled, GOLDEN[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize(("channels", "length"), [(16, 60), (64, 45)])
@pytest.mark.parametrize("elements", [1, 2**17], ids=["one chunk", "chunks"])
def test_block(monkeypatch, channels, length, elements):
    monkeypatch.setitem(scan._ELEMENTS, "cpu", elements)
    name, prefix = f"mamba{channels}", f"A/imfuse/mamba{channels}"
    block = Block(channels)
    block.load_state_dict({k: golden_weight(prefix, k, v.shape) for k, v in block.state_dict().items()})
    inner: dict[str, torch.Tensor] = {}
    mamba = block.mamba
    mamba.x_proj.register_forward_hook(lambda _, x, y: inner.update(conv=x[0], selected=y))
    mamba.dt_proj.register_forward_hook(lambda _, x, y: inner.update(dt=F.softplus(y)))
    mamba.out_proj.register_forward_hook(lambda _, x, y: inner.update(y=x[0]))
    x = normal(f"{prefix}/input", (2, length, channels)).requires_grad_()
    out = block(x)
    (out * normal(f"{prefix}/weight_of_output", out.shape)).sum().backward()
    _, inner["B"], inner["C"] = inner.pop("selected").split([mamba.rank, channels, channels], dim=2)
    assert_close(x, f"{name}_in", (1, 7, 2))
    assert_close(out, f"{name}_out", (1, 7, 2))
    assert_close(x.grad, f"{name}_grad_in", (1, 7, 2))
    for key, value in inner.items():
        assert_close(value, f"{name}_inner_{key}", (1, 7, 7))
    for key, parameter in block.named_parameters():
        expected = GOLDEN[f"{name}_gradnorm_{key}"].item()
        assert float(parameter.grad.norm()) == pytest.approx(expected, rel=RTOL), key


def definition(x, dt, A, B, C):  # noqa: N803
    h, outputs = x.new_zeros(len(x), x.shape[2], A.shape[1]), []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt * x)[:, t, :, None] * B[:, t, None]
        outputs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)


def scan_inputs(length: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, length, 6), (2, length, 6), (6, 4), (2, length, 4), (2, length, 4)]
    x, dt, A, B, C = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes)
    return [x, dt.abs(), -3 * A.abs(), B, C]


@pytest.mark.parametrize("length", [1, 16, 211])
@pytest.mark.parametrize("elements", [1, 240, 2**17])
def test_scan_is_its_definition(monkeypatch, length, elements):
    monkeypatch.setitem(scan._ELEMENTS, "cpu", elements)
    inputs = [x.requires_grad_() for x in scan_inputs(length)]
    found, expected = scan.selective_scan(*inputs), definition(*inputs)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((y * weights).sum(), inputs) for y in (found, expected)]
    for of_found, of_expected in zip(*gradients, strict=True):
        torch.testing.assert_close(of_found, of_expected)


def test_nothing_overflows():
    """States that fade within a token, and steps beyond any that training gives."""
    x, dt, A, B, C = (tensor.float() for tensor in scan_inputs(100))
    assert scan.selective_scan(x, 1e4 * dt, 1e3 * A, B, C).isfinite().all()


def test_kept_tokens_alone():
    torch.manual_seed(0)
    mamba, x = Mamba(8, 8), torch.randn(2, 30, 8)
    kept = slice(4, None, 5)
    torch.testing.assert_close(mamba(x, kept), mamba(x)[:, kept])


@pytest.mark.slow
def test_what_pytorch_asks_of_an_operator():
    inputs = [x.requires_grad_() for x in scan_inputs(5)]
    torch.library.opcheck(torch.ops.nnunetv2_mstkd.selective_scan, tuple(inputs))


def test_mamba_ssm_is_given_the_sequence_last(monkeypatch):
    """With a stand-in of mamba_ssm's interface: the real one needs CUDA."""

    def selective_scan_fn(u, delta, A, B, C):  # noqa: N803
        x, dt, B, C = (tensor.transpose(1, 2) for tensor in (u, delta, B, C))
        return definition(x, dt, A, B, C).transpose(1, 2)

    name = "mamba_ssm.ops.selective_scan_interface"
    monkeypatch.setitem(sys.modules, "mamba_ssm", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops", SimpleNamespace())
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(selective_scan_fn=selective_scan_fn))
    inputs = scan_inputs(20)
    torch.testing.assert_close(scan._scan_by_mamba_ssm(*inputs), scan.selective_scan(*inputs))


@pytest.mark.gpu
@pytest.mark.skipif(
    not (torch.cuda.is_available() and scan.HAS_MAMBA_SSM), reason="needs CUDA and mamba_ssm installed"
)
def test_mamba_ssm_gives_the_same_numbers():
    inputs = [x.float().cuda() for x in scan_inputs(3000)]
    expected = scan._scan(inputs[1] * inputs[0], *inputs[1:])
    found = scan.selective_scan(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
