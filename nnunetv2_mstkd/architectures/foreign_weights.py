"""Loading weights that another code has saved under names of its own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nnunetv2_mstkd.errors import MSTKDError

_LISTED = 4


def load_foreign(module: nn.Module, names: Mapping[str, str], state_dict: Mapping[str, Tensor]) -> None:
    """Load ``state_dict``, whose keys are the values of ``names``, into ``module``, whose keys are the keys.

    A ``module.`` in front of the keys of ``state_dict``, as DataParallel writes it, may be there or not.

    Raises:
        MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
    """
    state_dict = {key.removeprefix("module."): tensor for key, tensor in state_dict.items()}
    own = module.state_dict()
    expected = {names[key]: tuple(tensor.shape) for key, tensor in own.items()}
    shared = expected.keys() & state_dict.keys()
    problems = {
        "misses": sorted(expected.keys() - shared),
        "has unknown": sorted(state_dict.keys() - shared),
        "has another shape for": [
            f"{name} {tuple(state_dict[name].shape)} instead of {expected[name]}"
            for name in sorted(shared)
            if tuple(state_dict[name].shape) != expected[name]
        ],
    }
    found = [f"{what} {_some(items)}" for what, items in problems.items() if items]
    if found:
        raise MSTKDError(
            f"the checkpoint does not fit this {type(module).__name__}: it {'; it '.join(found)}; "
            "give the network's own state dict, and build it for the checkpoint's patch, channels and classes"
        )
    module.load_state_dict({key: state_dict[names[key]] for key in own})


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more
