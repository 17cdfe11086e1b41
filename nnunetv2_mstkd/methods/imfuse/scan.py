"""Mamba's selective scan, exact, in plain PyTorch or by mamba_ssm where that is installed.

The recurrence (Gu and Dao, arXiv 2312.00752), per channel e and state i::

    h_t[e, i] = exp(dt_t[e] · A[e, i]) · h_(t-1)[e, i] + dt_t[e] · x_t[e] · B_t[i]      h_0 = 0
    y_t[e]    = Σ_i C_t[i] · h_t[e, i]

A step per token would be a million small operations. Here the sequence is cut into chunks that advance side
by side: first from zero, which gives every chunk's last state; then these are carried from chunk to chunk;
then all chunks run again from where they really start. Factors are exponentials of what is never positive, so
nothing can overflow. Gradients come from the same scan backwards, with states computed anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil, isqrt, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

HAS_MAMBA_SSM = find_spec("mamba_ssm") is not None  # not imported: that takes seconds and needs CUDA
# Elements of all chunks' states together: as much as a CPU's cache holds, as a GPU needs to be busy.
_ELEMENTS = {"cpu": 2**17, "cuda": 2**22}
_FEWEST_CHUNKS = 4  # that make up for running twice


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    """Scan a sequence from its first token to its last: y (batch, L, E), see the module.

    Opaque to torch.compile, which would else unroll the sequence; mamba_ssm interrupts a compiled graph.

    Args:
        x: (batch, L, E), in float32 as all others.
        dt: (batch, L, E), time steps, not negative.
        A: (E, n), not positive.
        B, C: (batch, L, n).
    """
    if HAS_MAMBA_SSM and x.is_cuda:
        return _scan_by_mamba_ssm(x, dt, A, B, C)
    return _scan(dt * x, dt, A, B, C)


@torch.compiler.disable
def _scan_by_mamba_ssm(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import-not-found]

    # It wants the sequence last.
    x, dt, B, C = (tensor.transpose(1, 2).contiguous() for tensor in (x, dt, B, C))  # noqa: N806
    return selective_scan_fn(x, dt, A, B, C).transpose(1, 2)


@dataclass
class _Chunks:
    """A sequence in K chunks of Q tokens; entry t of a tensor holds the t-th token of every chunk.

    Chunks are the last axis, so that products and sums run over long rows; states are (batch, n, E, K).

    Attributes:
        u: (Q, batch, 1, E, K), dt · x.
        dt: (Q, batch, 1, E, K).
        A: (n, E, 1).
        B, C: (Q, batch, n, 1, K).
    """

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor

    @classmethod
    def cut(cls, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Chunks:  # noqa: N803
        length, elements = u.shape[1], _ELEMENTS["cuda" if u.is_cuda else "cpu"]
        count = min(elements // (len(u) * A.numel()), isqrt(length))
        steps = ceil(length / (count if count >= _FEWEST_CHUNKS else 1))
        u, dt = (_cut(tensor, steps).unsqueeze(2) for tensor in (u, dt))
        B, C = (_cut(tensor, steps).unsqueeze(3) for tensor in (B, C))  # noqa: N806
        return cls(u, dt, A.t().contiguous().unsqueeze(-1), B, C)

    def __len__(self) -> int:
        return len(self.u)

    def zeros(self) -> Tensor:
        """States of zeros."""
        _, batch, _, channels, count = self.u.shape
        return self.u.new_zeros(batch, len(self.A), channels, count)

    def factor(self, t: int, out: Tensor) -> Tensor:
        """exp(dt_t · A), written to ``out``."""
        return torch.mul(self.dt[t], self.A, out=out).exp_()

    def advance(self, h: Tensor, steps: range) -> Iterator[tuple[int, Tensor]]:
        """Step number and states, changed in place, after each of the steps."""
        factor = torch.empty_like(h)
        for t in steps:
            h.mul_(self.factor(t, factor)).addcmul_(self.u[t], self.B[t])
            yield t, h

    def starts(self) -> Tensor:
        """State at the start of every chunk."""
        starts = self.zeros()
        if starts.shape[-1] > 1:
            ends = self._last(self.advance(self.zeros(), range(len(self))))
            factors = self._whole_factor()
            for k in range(1, starts.shape[-1]):
                starts[..., k] = ends[..., k - 1] + factors[..., k - 1] * starts[..., k - 1]
        return starts

    def states_every(self, length: int) -> list[Tensor]:
        """States before step 0, ``length``, 2 · ``length``, ..."""
        h = self.starts()
        kept = [h.clone()]
        kept += [h.clone() for t, h in self.advance(h, range(len(self) - 1)) if (t + 1) % length == 0]
        return kept

    def end_gradients(self, dy: Tensor) -> Tensor:
        """Gradient of the state at the end of every chunk, from the chunks behind it."""
        gradients = self.zeros()
        if gradients.shape[-1] > 1:
            own, factor = self.zeros(), self.zeros()  # own: of the state at a chunk's start, from its outputs
            for t in reversed(range(len(self))):
                own.addcmul_(dy[t], self.C[t]).mul_(self.factor(t, factor))
            factors = self._whole_factor()
            for k in reversed(range(1, gradients.shape[-1])):
                gradients[..., k - 1] = own[..., k] + factors[..., k] * gradients[..., k]
        return gradients

    def _whole_factor(self) -> Tensor:
        """exp(A · Σ dt) of every chunk."""
        return torch.mul(self.dt.sum(0), self.A).exp_()

    @staticmethod
    def _last(states: Iterator[tuple[int, Tensor]]) -> Tensor:
        return deque(states, maxlen=1)[0][1]


def _cut(tensor: Tensor, steps: int) -> Tensor:
    """(batch, L, c) → (steps, batch, c, K), with zeros behind the end: they leave a state as it is."""
    padded = F.pad(tensor, (0, 0, 0, -tensor.shape[1] % steps))
    return padded.unflatten(1, (-1, steps)).permute(2, 0, 3, 1).contiguous()


def _join(tensor: Tensor, length: int) -> Tensor:
    """(steps, batch, c, K) → (batch, length, c)."""
    return tensor.permute(1, 3, 0, 2).flatten(1, 2)[:, :length].contiguous()


@torch.library.custom_op(
    "nnunetv2_mstkd::selective_scan",
    mutates_args=(),
    schema="(Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C) -> Tensor",
)
def _scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    """y (batch, L, E) of u = dt · x."""
    chunks = _Chunks.cut(u, dt, A, B, C)
    y, product = torch.empty_like(chunks.u.squeeze(2)), chunks.zeros()
    for t, h in chunks.advance(chunks.starts(), range(len(chunks))):
        torch.sum(torch.mul(h, chunks.C[t], out=product), dim=1, out=y[t])
    return _join(y, u.shape[1])


@torch.library.custom_op(
    "nnunetv2_mstkd::selective_scan_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _scan_backward(
    dy: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,  # noqa: N803
    B: Tensor,  # noqa: N803
    C: Tensor,  # noqa: N803
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, dt, A, B and C.

    Of all states only every √Q-th is kept; those between are computed anew when their turn comes.
    """
    chunks = _Chunks.cut(u, dt, A, B, C)
    gradients = _Gradients(chunks, _cut(dy, len(chunks)).unsqueeze(2))
    length = isqrt(len(chunks) - 1) + 1
    kept = chunks.states_every(length)
    states = torch.stack([kept[0]] * (length + 1))
    for first in reversed(range(0, len(chunks), length)):
        segment = range(first, min(first + length, len(chunks)))
        states[0] = kept.pop()
        for t, h in chunks.advance(states[0].clone(), segment):
            states[t - first + 1] = h
        for t in reversed(segment):
            gradients.step_back(t, before=states[t - first], after=states[t - first + 1])
    du, ddt, dB, dC = (_join(g, u.shape[1]) for g in (gradients.u, gradients.dt, gradients.B, gradients.C))  # noqa: N806
    return du, ddt, gradients.A.sum((0, 3)).t().contiguous(), dB, dC


class _Gradients:
    """Gradients of a scan's inputs, gathered from the last step to the first.

    Args:
        chunks: the inputs.
        dy: (Q, batch, 1, E, K), gradient of the output.

    Attributes:
        u, dt: (Q, batch, E, K).
        A: (batch, n, E, K), of every chunk.
        B, C: (Q, batch, n, K).
    """

    def __init__(self, chunks: _Chunks, dy: Tensor) -> None:
        self.chunks, self.dy = chunks, dy
        self.u, self.dt = torch.empty_like(dy.squeeze(2)), torch.empty_like(dy.squeeze(2))
        self.B, self.C = torch.empty_like(chunks.B.squeeze(3)), torch.empty_like(chunks.C.squeeze(3))
        self.A, self.h = chunks.zeros(), chunks.end_gradients(dy)
        self._factor, self._product = chunks.zeros(), chunks.zeros()

    def step_back(self, t: int, before: Tensor, after: Tensor) -> None:
        """Go from the states ``after`` step t to those ``before`` it."""
        chunks, product = self.chunks, self._product
        torch.sum(torch.mul(after, self.dy[t], out=product), dim=2, out=self.C[t])
        self.h.addcmul_(self.dy[t], chunks.C[t])
        torch.sum(torch.mul(self.h, chunks.B[t], out=product), dim=1, out=self.u[t])
        torch.sum(torch.mul(self.h, chunks.u[t], out=product), dim=2, out=self.B[t])
        self.h.mul_(chunks.factor(t, self._factor))
        torch.mul(self.h, before, out=product)  # gradient of the exponent dt · A
        self.A.addcmul_(product, chunks.dt[t])
        torch.sum(product.mul_(chunks.A), dim=1, out=self.dt[t])


# ---------------------------------------------------------------- what PyTorch wants to know of the operators


@_scan.register_fake
def _scan_shape(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:  # noqa: N803
    return u.new_empty(u.shape)


@_scan_backward.register_fake
def _gradient_shapes(dy: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return _scan_backward(dy, *ctx.saved_tensors)


_scan.register_autograd(_differentiate, setup_context=_keep_inputs)


# Counted as the recurrence needs it, without what running twice or anew costs.
@register_flop_formula(torch.ops.nnunetv2_mstkd.selective_scan)
def _count_scan(u: Any, dt: Any, A: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:  # noqa: N803
    return 2 * 4 * prod(u) * A[1]


@register_flop_formula(torch.ops.nnunetv2_mstkd.selective_scan_backward)
def _count_gradients(dy: Any, u: Any, dt: Any, A: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:  # noqa: N803
    return 2 * 8 * prod(u) * A[1]
