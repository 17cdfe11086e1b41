"""nnU-Net's checkpoints with an extra entry, written so that a crash never leaves half of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import atomic_path, sweep_leftovers
from nnunetv2_mstkd.models.checkpoint_files import safe_load

EXTRA_KEY = "mstkd"


def save_with_extra(
    save: Callable[[str], None], target: Path, extra: Mapping[str, Any], *, log: Callable[[str], None]
) -> None:
    """Let ``save`` (nnU-Net's own) write a checkpoint, add any ``extra`` to it, and put it in place at once.

    nnU-Net's file is read back rather than rebuilt here, so that whatever a release of nnU-Net puts into
    its checkpoints stays in ours. What killed trainings have left in the folder is removed first: it may be
    what fills the disk.

    Args:
        save: writes a checkpoint to the path it is given.
        log: told of a failure.

    Raises:
        MSTKDError: the file cannot be written; the earlier one is as it was.
    """
    sweep_leftovers(target.parent)
    try:
        _write(save, target, extra)
    except MSTKDError as error:
        log(f"ERROR: {error}")  # nnU-Net's commands end with a traceback that no file keeps
        raise


def _write(save: Callable[[str], None], target: Path, extra: Mapping[str, Any]) -> None:
    with atomic_path(target) as whole:
        stock = whole.with_name(f"{whole.name}.stock")
        try:
            if not extra:
                save(str(whole))
                return
            save(str(stock))
            # Written this moment by this process: there is nobody to distrust.
            checkpoint = torch.load(stock, map_location="cpu", weights_only=False)
            stock.unlink()
            checkpoint[EXTRA_KEY] = dict(extra)
            torch.save(checkpoint, whole)
        except RuntimeError as error:  # torch's word for a short write
            free = shutil.disk_usage(target.parent).free // 2**20
            raise MSTKDError(
                f"cannot write {target} ({str(error).splitlines()[0]}): is the disk full ({free} MiB free)?"
                " The earlier checkpoint is untouched; make room and continue with --c"
            ) from error
        finally:
            stock.unlink(missing_ok=True)


def count_steps_on_cpu(optimizer: torch.optim.Optimizer) -> None:
    """Bring Adam's step counts back to where it makes them, after a checkpoint was read onto the GPU.

    There, reading the count of every parameter would hold up each update.
    """
    for group in optimizer.param_groups:
        if group.get("capturable") or group.get("fused"):
            continue  # these want them on the GPU
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].cpu()


def load_extra(source: Path, device: torch.device) -> dict[str, Any]:
    """The extra entry of a checkpoint, empty for one of stock nnU-Net.

    Raises:
        MSTKDError: the file is damaged, or holds more than nnU-Net and this plugin store.
    """
    return dict(safe_load(source, device=device).get(EXTRA_KEY, {}))
