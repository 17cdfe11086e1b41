"""Where the cases are, and how to read names that do not tell: -i or --table, --pattern, --one-case."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    from nnunetv2_mstkd.datasets.input_rules import InputRules

Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add_source_arguments(parser: Parser, *names: str) -> None:
    """Add -i (and its long ``names``) with what belongs to it."""
    parser.add_argument("-i", *names, metavar="SRC", dest="i", type=Path, help="folder with the cases")
    add_table_argument(parser)
    add_rule_arguments(parser)


def add_table_argument(parser: Parser) -> None:
    """Add --table."""
    parser.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        help="instead of a folder: CSV with the columns case, sequence, path (from the table's folder), and"
        " patient where a patient has several cases",
    )


def add_rule_arguments(parser: Parser) -> None:
    """Add --pattern and --one-case."""
    parser.add_argument(
        "--pattern",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=GLOB",
        help="files of a sequence (or seg, or ignore) whose names do not tell, e.g. t1c='*_T1post.nii.gz'",
    )
    parser.add_argument(
        "--one-case", "--one_case", action="store_true", help="the images of a folder are one case"
    )


def chosen_source(arguments: argparse.Namespace) -> Path:
    """Return the folder of -i, or the table.

    Raises:
        MSTKDError: neither or both are given.
    """
    if (arguments.i is None) == (arguments.table is None):
        raise MSTKDError("name the cases by -i SRC (a folder), or by --table FILE (a row for each image)")
    return Path(arguments.table if arguments.i is None else arguments.i)


def chosen_rules(arguments: argparse.Namespace) -> InputRules | None:
    """Return what --pattern and --one-case say; None where they are not given.

    Raises:
        MSTKDError: a pattern is not NAME=GLOB.
    """
    if not (arguments.pattern or arguments.one_case):
        return None
    from nnunetv2_mstkd.datasets.input_rules import InputRules, parse_patterns

    return InputRules(arguments.one_case, parse_patterns(arguments.pattern))
