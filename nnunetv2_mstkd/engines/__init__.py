"""What runs a network for prediction: PyTorch, or an engine that plans its memory ahead."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:  # commands list the engines before anything heavy is imported
    import torch

TORCH, OPENVINO = ENGINES = ("torch", "openvino")


def check_engine(name: str, device: torch.device) -> None:
    """Refuse an engine that is not there, or not for this device.

    Raises:
        MSTKDError: says what to install or to leave out.
    """
    if name not in ENGINES:
        raise MSTKDError(f"unknown engine '{name}'; use one of {', '.join(ENGINES)}")
    if name == TORCH:
        return
    if device.type != "cpu":
        raise MSTKDError(
            f"engine '{name}' runs on the CPU, not on '{device}'; give -device cpu, or leave it out"
        )
    if not all(find_spec(needed) for needed in ("openvino", "platformdirs")):
        raise MSTKDError(f"engine '{name}' is not installed; pip install 'nnunetv2-mstkd[openvino]'")
