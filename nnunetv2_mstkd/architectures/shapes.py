"""Shapes: what a network would compute, without calculating it; sizes that a network can take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.errors import MSTKDError

Hook = Callable[[nn.Module, tuple[Tensor, ...], Any], None]


@torch.no_grad()
def run_on_meta(
    network: nn.Module,
    input_shape: Sequence[int],
    hook: Hook | None = None,
    hooked: Iterable[nn.Module] = (),
    **kwargs: Any,
) -> Any:
    """The network's output for an input of a shape, as tensors without storage.

    Args:
        network: on any device; its weights, buffers and mode stay as they are.
        input_shape: (B, C, ...).
        hook: forward hook (module, inputs, output) ...
        hooked: ... of these modules.
        kwargs: further arguments of the network's ``forward``.
    """
    on_meta = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in chain(network.named_parameters(), network.named_buffers())
    }
    x = torch.empty(*map(int, input_shape), device="meta")
    handles = [module.register_forward_hook(hook) for module in hooked] if hook else []
    try:
        # A U-Net's decoder holds its encoder: the same modules under two names, which must be put back once.
        return torch.func.functional_call(network, on_meta, (x,), kwargs, tie_weights=False)
    finally:
        for handle in handles:
            handle.remove()


def input_convolutions(network: nn.Module, input_shape: Sequence[int]) -> list[str]:
    """Names of the convolutions that see the network's input itself: its channels are theirs.

    Args:
        network: any.
        input_shape: (B, C, ...) that it can take.
    """
    shape = tuple(map(int, input_shape))
    found: list[nn.Module] = []
    first: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        if inputs[0] is first[0]:  # equal shapes would not do: inner features may have the input's
            found.append(module)

    handle = network.register_forward_pre_hook(lambda module, inputs: first.append(inputs[0]))
    try:
        run_on_meta(network, shape, look, [m for m in network.modules() if isinstance(m, _ConvNd)])
    finally:
        handle.remove()
    return [name for name, module in network.named_modules() if module in found]


def pad_to_multiple(x: Tensor, multiple: Sequence[int], least: int = 1) -> tuple[Tensor, tuple[Any, ...]]:
    """Zero-pad the end of every axis to a multiple of a number, for networks that take no other size.

    Args:
        x: (B, C, ...).
        multiple: per axis.
        least: so many multiples at least.

    Returns:
        The padded tensor, and the index that crops an output of its size back: ``output[crop]``.
    """
    sizes = x.shape[2:]
    missing = [max(-(-n // m), least) * m - n for n, m in zip(sizes, multiple, strict=True)]
    crop = (..., *(slice(0, n) for n in sizes))
    if not any(missing):
        return x, crop
    ends = [amount for extra in reversed(missing) for amount in (0, extra)]
    return F.pad(x, ends), crop


def checked_strides(
    network: str,
    strides: Sequence[Sequence[int]],
    patch_size: Sequence[int],
    levels: int,
    *,
    least: int = 1,
    **features: int,
) -> list[tuple[int, ...]]:
    """Strides of a plan's first stages, for a network that can be built with them.

    Args:
        network: its name.
        strides: per stage and axis.
        patch_size: voxels per axis.
        levels: stages to take, if there are as many.
        least: smallest number of channels.
        features: numbers of channels, by name.

    Raises:
        MSTKDError: fewer than two stages, strides and patch of different dimension, too few channels.
    """
    taken = [tuple(int(s) for s in stride) for stride in strides[:levels]]
    fit = all(len(stride) == len(patch_size) for stride in taken)
    if len(taken) < 2 or not fit or any(number < least for number in features.values()):
        given = "".join(f", {name} {number}" for name, number in features.items())
        raise MSTKDError(
            f"{network} cannot be built with strides {taken}, patch_size {list(patch_size)}{given}; give 2"
            f" stages or more, a stride per axis, {least} feature{'s' if least > 1 else ''} or more"
        )
    return taken
