"""RMBTS's own losses against numbers of the released code.

tests/data/rmbts/losses_A.npz: values and gradients computed with github.com/cchen-cc/Robust-Mseg, commit
fa35dda. Relative tolerance 1e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nnunetv2_mstkd.methods.rmbts.losses import modulation_loss, reconstruction_loss

GOLDEN = dict(np.load(Path(__file__).parents[2] / "data" / "rmbts" / "losses_A.npz"))


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[name])


def leaf(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return golden(name).reshape(shape).requires_grad_()


def assert_golden(ours: torch.Tensor, name: str) -> None:
    expected = golden(name)
    np.testing.assert_allclose(
        ours.detach().reshape(expected.shape), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )


def test_modulation_loss_and_gradients():
    gain, shift = (leaf(name, (2, 1, 128)) for name in ("in_mu", "in_sigma"))
    loss = modulation_loss(gain=gain, shift=shift)
    loss.backward()
    assert_golden(loss, "tf_kl_value")
    assert_golden(gain.grad, "tf_kl_grad0")
    assert_golden(shift.grad, "tf_kl_grad1")


def test_reconstruction_loss_and_gradient():
    image, reconstruction = golden("in_image"), leaf("in_reconstruction", (2, 1, 6, 5, 4))
    loss = reconstruction_loss(reconstruction=reconstruction, image=image)
    loss.backward()
    assert_golden(loss, "l1_value")
    assert_golden(reconstruction.grad, "l1_grad0")


def test_modalities_add_up_and_samples_are_averaged():
    gain, shift = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    image, again = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    kl = modulation_loss(gain=gain, shift=shift)
    l1 = reconstruction_loss(reconstruction=again, image=image)
    assert kl == pytest.approx(
        sum(float(modulation_loss(gain=gain[:, [m]], shift=shift[:, [m]])) for m in range(3)), rel=1e-5
    )
    assert l1 == pytest.approx(float((image - again).abs().mean((2, 3)).sum(1).mean()), rel=1e-5)


def test_what_a_case_lacks_costs_nothing():
    available = torch.tensor([[True, False], [True, True]])
    gain, shift = torch.randn(2, 2, 8, requires_grad=True), torch.randn(2, 2, 8, requires_grad=True)
    image, again = torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4, requires_grad=True)
    kl = modulation_loss(gain=gain, shift=shift, available=available)
    l1 = reconstruction_loss(reconstruction=again, image=image, available=available)
    (kl + l1).backward()
    for gradient in (gain.grad, shift.grad, again.grad):
        assert not gradient[0, 1].any()
        assert gradient[1].all()
    each = (image - again).detach().abs().mean((2, 3))
    assert l1.item() == pytest.approx(float(each[0, 0] + each[1].sum()) / 2, rel=1e-5)


def test_a_shift_of_zero_is_finite():
    shift = torch.tensor([0.0, 1e-30, 1e-3, 1.0]).view(1, 1, 4).requires_grad_()
    loss = modulation_loss(gain=torch.zeros(1, 1, 4), shift=shift)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(shift.grad).all()
    # Above 1e-4 nothing is changed.
    assert float(shift.grad[0, 0, 2]) == pytest.approx(1e-3 - 1e3, rel=1e-5)


def test_half_precision_is_widened():
    gain, shift = torch.randn(1, 2, 8), torch.rand(1, 2, 8) + 0.5
    exact = modulation_loss(gain=gain, shift=shift)
    half = modulation_loss(gain=gain.bfloat16(), shift=shift.bfloat16())
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(exact), rel=0.02)
