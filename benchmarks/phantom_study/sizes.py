"""How large the study is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """How large the study is.

    Attributes:
        train: patients to train on, a fifth of whom are kept out of fold 0.
        validate: how many of those nnU-Net validates on, for its logs: nothing is chosen by them.
        test: patients to evaluate.
        shape: voxels (x, y, z) of the phantom.
        plan: sizes for ``nnUNetv2_mstkd plan``.
        epochs: compute of every arm, in epochs of student steps.
        steps: per epoch.
        few: patients to train on where labels are few; those who validate stay.
        short_epochs: as ``epochs``, where training is short.
        short_steps: as ``steps``, where training is short.
        learning_rate: of AdamW.
        loader_processes: that augment; ``None`` leaves it to nnU-Net. Without any, training is repeatable,
            and fastest at the small size.
    """

    train: int
    validate: int
    test: int
    shape: str
    plan: str
    epochs: int
    steps: int
    few: int
    short_epochs: int
    short_steps: int
    learning_rate: float = 0.003
    loader_processes: int | None = 0

    def record(self) -> dict[str, Any]:
        """Its numbers, for ``study.json``."""
        return asdict(self)


SIZES = {
    # For the test of the study itself: it runs, its numbers mean nothing.
    "tiny": Size(
        train=5,
        validate=1,
        test=2,
        shape="24 24 24",
        plan="--patch-size 16 16 16 --batch-size 2 --base-features 4 --max-stages 3",
        epochs=2,
        steps=2,
        few=2,
        short_epochs=2,
        short_steps=1,
    ),
    # Two CPU cores. 80 tokens. 8 short epochs of 25 steps, not 10 of 20: then the arms cost exactly the same.
    "small": Size(
        train=50,
        validate=2,
        test=20,
        shape="40 40 32",
        plan="--patch-size 32 40 32 --batch-size 2 --base-features 8 --max-stages 4",
        epochs=40,
        steps=20,
        few=8,
        short_epochs=8,
        short_steps=25,
    ),
    # The planner's own networks and patches, for a GPU. Not run yet.
    "gpu": Size(
        train=250,
        validate=10,
        test=50,
        shape="128 128 96",
        plan="",
        epochs=200,
        steps=100,
        few=20,
        short_epochs=48,
        short_steps=100,
        learning_rate=0.001,
        loader_processes=None,
    ),
}
