"""How a training goes on that was stopped: what to tell nnU-Net, by what it left in the fold's folder."""

from __future__ import annotations

from pathlib import Path

FINISHED = None
FROM_SCRATCH = ""
VALIDATE = "--val"
CONTINUE = "--c"


def how_to_go_on(fold: Path) -> str | None:
    """The flag for ``nnUNetv2_train``, empty for a start from scratch, ``None`` where nothing is left to do.

    nnU-Net removes checkpoint_latest when the training ends and validates after that: then there is
    checkpoint_final. Before its first checkpoint_latest there may be a checkpoint_best, which ``--c`` takes
    where the others are missing.
    """
    if (fold / "validation" / "summary.json").is_file():
        return FINISHED
    if (fold / "checkpoint_final.pth").is_file():
        return VALIDATE
    if any((fold / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best")):
        return CONTINUE
    return FROM_SCRATCH
