"""``nnUNetv2_mstkd train``: nnUNetv2_train with the trainers in reach."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nnunetv2_mstkd.environment import activate, nnunet_folder


def run(argv: Sequence[str]) -> int:
    """Pass everything on to ``nnUNetv2_train``, with ``nnUNet_extTrainer`` set."""
    activate()
    if not {"-h", "--help"}.intersection(argv):
        for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            nnunet_folder(variable)
    from nnunetv2.run.run_training import run_training_entry

    sys.argv = ["nnUNetv2_train", *argv]
    run_training_entry()
    return 0
