"""``nnUNetv2_mstkd env``: the export line for the shell."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence

from nnunetv2_mstkd.environment import external_trainer_paths


def run(argv: Sequence[str]) -> int:
    """Print ``export nnUNet_extTrainer=...``, keeping what the user has in it."""
    argparse.ArgumentParser(
        prog="nnUNetv2_mstkd env",
        description='Prints one line for the shell: eval "$(nnUNetv2_mstkd env)"',
    ).parse_args(argv)
    print(f"export nnUNet_extTrainer={shlex.quote(external_trainer_paths())}")
    return 0
