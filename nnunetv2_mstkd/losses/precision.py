"""Losses in full precision, whatever autocast does around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

_P = ParamSpec("_P")
_HALF = (torch.float16, torch.bfloat16)


def full_precision(loss: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
    """Decorate a loss of keyword tensors: autocast off inside, half-precision tensors cast to float32.

    Squared attention differences and sums over a feature map leave the range of 16 bits. Gradients flow
    back through the cast; float32 and float64 tensors pass unchanged.
    """

    @wraps(loss)
    def in_full_precision(*args: _P.args, **kwargs: _P.kwargs) -> Tensor:
        device = next(_tensors(kwargs.values())).device
        with torch.autocast(device.type, enabled=False):
            return loss(*args, **{name: _widen(value) for name, value in kwargs.items()})

    return in_full_precision


def _widen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.dtype in _HALF else value
    if isinstance(value, (list, tuple)):
        return [_widen(item) for item in value]
    return value


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)
