"""Reading checkpoint files that others may have made, without running what is in them.

A checkpoint is a pickle, and a pickle can call any function of any installed package when it is read.
torch's ``weights_only`` reader calls what is on its list only. nnU-Net's checkpoints hold a little more than
that list: numpy scalars (losses and Dice scores in ``logging``, ``_best_ema``). For these the reader is given
stand-ins from this module, so numpy's own unpickling never sees foreign bytes. Everything else that nnU-Net
stores (tensors, the plans and data set as plain dicts, a ``torch.device``) is on torch's list.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nnunetv2_mstkd.errors import MSTKDError

# Set to 1, it is the opt-in for commands that have no flag of ours: nnUNetv2_train ... --c
TRUST_VARIABLE = "nnUNet_mstkd_trust_checkpoint"
_SCALAR_TYPES = re.compile(r"b1|[iu][1248]|f[248]")


class _ScalarType:
    """Stands in for ``numpy.dtype``: the types of plain numbers, nothing else."""

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(code, str) or not _SCALAR_TYPES.fullmatch(code):
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype({code!r})")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Byte order is all that the state of a plain type tells; ``|`` is a single byte."""
        self.order = state[1] if state[1] in ("<", ">") else "="


def _scalar(kind: _ScalarType, raw: bytes) -> np.generic:
    """Stands in for ``numpy.core.multiarray.scalar``."""
    if not isinstance(kind, _ScalarType):
        raise pickle.UnpicklingError(f"GLOBAL numpy scalar of {kind!r}")
    (value,) = np.frombuffer(raw, dtype=kind.order + kind.code)
    return value.astype(kind.code)


# What nnU-Net stores beyond torch's own list, under the names that numpy 1 and numpy 2 write.
_NNUNET_STORES: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_ScalarType, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
]


def safe_load(path: Path, *, trust: bool = False, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint of nnU-Net or of this plugin; nothing in the file is run.

    Args:
        path: a ``.pth`` file.
        trust: read anything that a pickle can hold, which may run code. The environment variable
            ``nnUNet_mstkd_trust_checkpoint=1`` means the same.
        device: where the tensors go.

    Returns:
        The checkpoint's dict, as ``torch.load`` gives it.

    Raises:
        MSTKDError: the file is missing, damaged, no checkpoint, or holds more than nnU-Net stores.
    """
    trust = trust or os.environ.get(TRUST_VARIABLE, "").lower() in ("1", "true", "t")
    if not path.is_file():
        raise MSTKDError(f"checkpoint not found: {path}")
    try:
        with torch.serialization.safe_globals([] if trust else _NNUNET_STORES):
            content = torch.load(path, map_location=device, weights_only=not trust)
    # A damaged or foreign pickle can raise anything.
    except Exception as error:
        raise MSTKDError(_explanation(path, error, trust)) from error
    if not isinstance(content, dict):
        raise MSTKDError(f"{path} holds a {type(content).__name__}, not a checkpoint of nnU-Net")
    return content


def _explanation(path: Path, error: Exception, trust: bool) -> str:
    text = str(error)
    # EINVAL is what torch makes of a zip file that is cut off.
    if isinstance(error, OSError) and error.strerror and error.errno != errno.EINVAL:
        return f"cannot read {path}: {error.strerror}"
    if not trust and isinstance(error, pickle.UnpicklingError):
        found = re.search(r"GLOBAL ([^\s]+)", text)
        if found or zipfile.is_zipfile(path):
            what = found.group(1) if found else "something"
            return (
                f"{path} holds {what}, which is not among what nnU-Net stores: reading it may run code; only"
                f" if you trust its source, give --trust_checkpoint (in Python"
                f" trust_checkpoint=True, elsewhere export {TRUST_VARIABLE}=1)"
            )
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    sentence = re.split(r"\.\s", first)[0]
    return f"{path} is damaged or no checkpoint ({sentence[:120]}); copy or train it again"
