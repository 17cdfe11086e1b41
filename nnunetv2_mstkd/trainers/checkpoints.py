"""nnU-Net's checkpoints with an extra entry, written so that a crash never leaves half of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnunetv2_mstkd.files import atomic_path

EXTRA_KEY = "mstkd"
FINAL_NAME = "checkpoint_final.pth"


def save_with_extra(save: Callable[[str], None], target: Path, extra: Mapping[str, Any]) -> None:
    """Let ``save`` (nnU-Net's own) write a checkpoint, add ``extra`` to it, and put it in place at once.

    nnU-Net's file is read back rather than rebuilt here, so that whatever a release of nnU-Net puts into
    its checkpoints stays in ours.
    """
    with atomic_path(target) as whole:
        stock = whole.with_name(f"{whole.name}.stock")
        try:
            save(str(stock))
            checkpoint = torch.load(stock, map_location="cpu", weights_only=False)
        finally:
            stock.unlink(missing_ok=True)
        checkpoint[EXTRA_KEY] = dict(extra)
        torch.save(checkpoint, whole)


def load_extra(source: Path, device: torch.device) -> dict[str, Any]:
    """The extra entry of a checkpoint, empty for one of stock nnU-Net."""
    checkpoint = torch.load(source, map_location=device, weights_only=False)
    return dict(checkpoint.get(EXTRA_KEY, {}))
