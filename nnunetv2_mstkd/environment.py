"""Where nnU-Net finds this plugin, and where the plugin finds nnU-Net's folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError

EXTERNAL_TRAINERS = Path(__file__).parent / "external_trainers"
# Iterations between two logs of the gradient shares (`nnUNetv2_mstkd train --gradient_shares N`).
GRADIENT_SHARES_VARIABLE = "nnUNet_mstkd_gradient_shares"
_VARIABLE = "nnUNet_extTrainer"


def external_trainer_paths() -> str:
    """Value for ``nnUNet_extTrainer``: what the user has in it already, then this plugin's folder."""
    ours = str(EXTERNAL_TRAINERS)
    present = [p for p in os.environ.get(_VARIABLE, "").split(os.pathsep) if p.strip()]
    return os.pathsep.join(present if ours in present else [*present, ours])


def activate() -> None:
    """Make the trainers visible to nnU-Net in this process and its children."""
    os.environ[_VARIABLE] = external_trainer_paths()


def use_large_pages() -> None:
    """Let torch take CPU memory in pages of 2 MB, where Linux leaves the choice to programs.

    Feature maps are given back and taken again layer by layer; with pages of 4 kB handing them out takes
    longer than a norm or a nonlinearity. Counts from torch's first allocation on.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def nnunet_folder(variable: str) -> Path:
    """Folder that an nnU-Net environment variable (``nnUNet_raw``, ...) names.

    Raises:
        MSTKDError: the variable is unset.
    """
    value = os.environ.get(variable)
    if not value:
        raise MSTKDError(f"the environment variable {variable} is not set; export {variable}=/path/to/folder")
    return Path(value)


def dataset_folder(parent: Path, dataset: str | int) -> Path:
    """The ``DatasetXXX_Name`` folder below ``parent`` for an id (``226``) or a whole name.

    Raises:
        MSTKDError: there is none, or an id fits several.
    """
    text = str(dataset)
    if not text.isdecimal():
        found = [parent / text] if text.startswith("Dataset") and (parent / text).is_dir() else []
    else:
        found = sorted(p for p in parent.glob(f"Dataset{int(text):03d}_*") if p.is_dir())
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise MSTKDError(f"data set id {text} is used by {names} in {parent}; keep one")
    if not found:
        raise MSTKDError(f"no data set '{text}' in {parent}; convert it first (nnUNetv2_mstkd convert)")
    return found[0]


@contextmanager
def quiet(enabled: bool = True) -> Iterator[None]:
    """Keep prints and warnings of nnU-Net and its libraries from the user.

    It changes the whole process: use it in the main thread.
    """
    if not enabled:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
