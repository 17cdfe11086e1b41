"""Mamba's block, version 1 (Gu and Dao, arXiv 2312.00752), with the published names of its weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nnunetv2_mstkd.methods.imfuse.scan import selective_scan

_WIDTH = 4  # of the convolution along the sequence
_STEPS = (1e-3, 1e-1)  # time steps at the start of a training
_CHANNELS_PER_RANK = 16


class Mamba(nn.Module):
    """State-space model over a sequence: a token sees itself and what comes before it.

    Initialised as published: states that fade at rates 1 to n, time steps log-uniform from 0.001 to 0.1.

    Args:
        channels: C, of a token; inside there are twice as many.
        states: n, per inner channel.
    """

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        inner, self.states = 2 * channels, states
        self.rank = math.ceil(channels / _CHANNELS_PER_RANK)
        self.in_proj = nn.Linear(channels, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, _WIDTH, groups=inner, padding=_WIDTH - 1)
        self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, channels, bias=False)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.empty(inner).uniform_(*map(math.log, _STEPS)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus, the other way round

    def forward(self, x: Tensor, kept: slice = slice(None)) -> Tensor:
        """Run over (B, L, C) and return what comes out at the tokens that are ``kept``: (B, L', C)."""
        to_x, to_gate = self.in_proj.weight.chunk(2)
        gate = F.silu(F.linear(x[:, kept], to_gate))
        inner = self.conv1d(F.linear(x, to_x).transpose(1, 2))[..., : x.shape[1]]
        device = "cpu" if x.is_meta else x.device.type  # tensors without storage know no autocast
        # Small errors of a time step add up over the sequence.
        with torch.autocast(device, enabled=False):
            y = self._scanned(F.silu(inner).transpose(1, 2).float(), kept)
        return self.out_proj(y * gate)

    def _scanned(self, x: Tensor, kept: slice) -> Tensor:
        dt, B, C = self.x_proj(x).split([self.rank, self.states, self.states], dim=2)  # noqa: N806
        y = selective_scan(x, F.softplus(self.dt_proj(dt)), -self.A_log.exp(), B, C)
        return y[:, kept] + self.D * x[:, kept]
