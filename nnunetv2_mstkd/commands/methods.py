"""``nnUNetv2_mstkd methods``: the trainers, what they need, and what they cost."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunetv2_mstkd.methods import Method
    from nnunetv2_mstkd.methods.cost import Cost

_HEADER = ("trainer (-tr)", "method", "from", "needs", "parameters", "step", "prediction", "page")


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog="nnUNetv2_mstkd methods",
        description="Lists the trainers: what each needs beside one network and one pass, the parameters"
        " that a prediction uses, and the multiply-adds of a training step under masking (with its teacher)"
        " and of a prediction, relative to nnU-Net's own network. They are counted for four sequences, a"
        " patch of 128x128x128 voxels, a batch of one and each network at its default size.",
    )


def run(argv: Sequence[str]) -> int:
    """Print the list."""
    _parser().parse_args(argv)
    from nnunetv2_mstkd.environment import quiet
    from nnunetv2_mstkd.methods import METHODS
    from nnunetv2_mstkd.methods.cost import count_cost

    with quiet():
        trainers = {method: method.load() for method in METHODS}
        costs = {method: count_cost(trainer) for method, trainer in trainers.items()}
    reference = costs[METHODS[0]]
    rows = [_row(method, trainers[method].needs(), costs[method], reference) for method in METHODS]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    for row in (_HEADER, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(method: Method, needs: Sequence[str], cost: Cost, reference: Cost) -> tuple[str, ...]:
    return (
        method.trainer,
        method.title,
        method.paper,
        ", ".join(needs) or "-",
        f"{cost.parameters / 1e6:.1f} M",
        f"{cost.step / reference.step:.2f}",
        f"{cost.prediction / reference.prediction:.2f}",
        method.page,
    )
