"""The command ``nnUNetv2_mstkd``: one sub-command per module in ``commands/``.

Only the chosen sub-command's module is imported, so ``--help`` needs neither torch nor nnU-Net.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Sequence
from importlib import import_module

from nnunetv2_mstkd.environment import use_large_pages
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.version import __version__

# Sub-command -> the line that `nnUNetv2_mstkd --help` shows; the module is commands/<name>.py.
COMMANDS: dict[str, str] = {
    "env": "print the export line that lets nnUNetv2_train and nnUNetv2_predict find the trainers",
    "convert": "write BraTS/FeTS/MSD folders as an nnU-Net raw data set",
    "inspect": "say what a folder holds, case by case, and what would be refused",
    "preprocess": "register and skull-strip raw scans with brainles-preprocessing",
    "phantom": "write a small synthetic BraTS-like data set",
    "methods": "list the trainers, what they need and what they cost",
    "plan": "write nnUNetMSTKDPlans.json beside nnU-Net's own plans",
    "train": "nnUNetv2_train with this plugin's trainers in reach",
    "predict": "segment cases, whatever modalities they have",
    "native": "bring segmentations of preprocessed scans back to the raw scans",
    "statistics": "measure and draw segmentations that are there: volumes, lesions, previews",
    "evaluate": "predict and score every case under every subset of its modalities",
    "trust": "put into a model what its segmentations are worth, as evaluations showed",
    "prepare": "write cases as a complete nnU-Net input folder for plain nnUNetv2_predict",
    "compare": "compare evaluated models: differences, statistics, figures, report",
}
EXIT_USER_ERROR = 2


def _parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<11} {line}" for name, line in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd",
        usage="nnUNetv2_mstkd COMMAND ...",
        description="nnU-Net for incomplete MRI (MST-KDNet). Each command has its own --help.",
        epilog=f"commands:\n{commands}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2-mstkd {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help="one of those below")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code (0 done, 2 the user must change something)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _parser().parse_args(arguments[:1]).command
    use_large_pages()
    module = import_module(f"nnunetv2_mstkd.commands.{command}")
    try:
        return int(module.run(arguments[1:]) or 0)
    except MSTKDError as error:
        print(f"nnUNetv2_mstkd {command}: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:  # the reader of a pipe (head, less) has left
        return 0
    except OSError as error:
        if not isinstance(error, PermissionError) and error.errno != errno.ENAMETOOLONG:
            raise
        print(f"nnUNetv2_mstkd {command}: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    sys.exit(main())
