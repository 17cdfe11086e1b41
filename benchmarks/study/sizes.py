"""How large the study is: lengths and sizes of training, and of the phantom where the data are made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Training:
    """How large and long the trainings are.

    Attributes:
        plan: sizes for ``nnUNetv2_mstkd plan``.
        epochs: compute of every arm, in epochs of student steps.
        steps: per epoch.
        short_epochs: as ``epochs``, at a quarter of the length.
        short_steps: as ``steps``, at a quarter of the length.
        validate: on how many patients nnU-Net validates, for its logs: nothing is chosen by them.
        learning_rate: of AdamW.
        loader_processes: that augment; ``None`` leaves it to nnU-Net. Without any, training is repeatable,
            and fastest at the small size.
    """

    plan: str
    epochs: int
    steps: int
    short_epochs: int
    short_steps: int
    validate: int = 2
    learning_rate: float = 0.003
    loader_processes: int | None = 0


@dataclass(frozen=True)
class Phantoms:
    """The phantom of one size.

    Attributes:
        train: patients to train on, a fifth of whom are kept out of fold 0.
        test: patients to evaluate.
        shape: voxels (x, y, z).
        few: patients to train on where labels are few; those who validate stay.
    """

    train: int
    test: int
    shape: str
    few: int


@dataclass(frozen=True)
class Size:
    """Trainings on the phantom, and on patients by nnU-Net configuration."""

    phantoms: Phantoms
    on_phantom: Training
    on_patients: dict[str, Training]

    def training(self, configuration: str, *, patients: bool) -> Training:
        """Return how its trainings are, on data of one kind."""
        return self.on_patients[configuration] if patients else self.on_phantom

    def record(self, configuration: str, *, patients: bool) -> dict[str, Any]:
        """Return the numbers that hold for data of one kind, for ``study.json``."""
        numbers = asdict(self.training(configuration, patients=patients))
        return numbers if patients else asdict(self.phantoms) | numbers


PHANTOM_CONFIGURATION = "3d_fullres"
PATIENT_CONFIGURATIONS = ("2d", "3d_fullres")

_TINY = Training(
    plan="--patch-size 16 16 16 --batch-size 2 --base-features 4 --max-stages 3",
    epochs=2,
    steps=2,
    short_epochs=2,
    short_steps=1,
    validate=1,
)
_GPU = Training(
    plan="",
    epochs=200,
    steps=100,
    short_epochs=48,
    short_steps=100,
    learning_rate=0.001,
    loader_processes=None,
)
SIZES = {
    # For the test of the study itself: it runs, its numbers mean nothing.
    "tiny": Size(
        Phantoms(train=5, test=2, shape="24 24 24", few=2),
        _TINY,
        {"2d": replace(_TINY, plan=_TINY.plan.replace("16 16 16", "16 16")), "3d_fullres": _TINY},
    ),
    # Two CPU cores. On the phantom 80 tokens, and 8 short epochs of 25 steps, not 10 of 20: then the arms
    # cost exactly the same.
    "small": Size(
        Phantoms(train=50, test=20, shape="40 40 32", few=8),
        Training(
            plan="--patch-size 32 40 32 --batch-size 2 --base-features 8 --max-stages 4",
            epochs=40,
            steps=20,
            short_epochs=8,
            short_steps=25,
        ),
        # For patients at 2 mm. Few long epochs: each ends with figures that cost as much as four steps.
        {
            "2d": Training(
                plan="--patch-size 96 80 --batch-size 8 --base-features 8 --max-stages 4",
                epochs=16,
                steps=63,
                short_epochs=8,
                short_steps=31,
                validate=1,
            ),
            "3d_fullres": Training(
                plan="--patch-size 40 48 40 --batch-size 2 --base-features 8 --max-stages 4",
                epochs=80,
                steps=50,
                short_epochs=16,
                short_steps=62,
                validate=1,
            ),
        },
    ),
    # The planner's own networks and patches, for a GPU. Not run yet.
    "gpu": Size(
        Phantoms(train=250, test=50, shape="128 128 96", few=20),
        replace(_GPU, validate=10),
        dict.fromkeys(PATIENT_CONFIGURATIONS, _GPU),
    ),
}
