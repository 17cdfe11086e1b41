"""Which modalities of a case are looked at, and what a segmentation was based on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar

from nnunetv2_mstkd.errors import MSTKDError

Image = TypeVar("Image")
Image_co = TypeVar("Image_co", covariant=True)


class Examination(Protocol[Image_co]):
    """What is asked of a case: a name, and an image (a file, say) for each modality that is there."""

    @property
    def name(self) -> str: ...

    @property
    def images(self) -> Mapping[str, Image_co]: ...


@dataclass(frozen=True)
class ModalityUse:
    """Every modality of the model, in channel order, in exactly one of four groups.

    Attributes:
        used: seen by the network.
        absent: no file.
        constant: the file is there but every voxel has the same value. Without contrast there is nothing to
            see (and a z-score of rounding errors would be noise), so it counts as absent.
        ignored: the file is there but was not asked for.
    """

    used: tuple[str, ...]
    absent: tuple[str, ...] = ()
    constant: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def to_json(self) -> dict[str, list[str]]:
        """The entry of ``modalities.json``."""
        return {group: list(names) for group, names in asdict(self).items()}


def chosen_images(case: Examination[Image], wanted: Collection[str]) -> dict[str, Image]:
    """The images of a case that are asked for.

    Raises:
        MSTKDError: the case has none of them.
    """
    chosen = {name: image for name, image in case.images.items() if name in wanted}
    if not chosen:
        asked, present = ", ".join(sorted(wanted)), ", ".join(case.images)
        raise MSTKDError(f"the case has none of the modalities asked for ({asked}); it has {present}")
    return chosen


def modality_use(
    case: Examination[Any], modalities: Sequence[str], wanted: Collection[str], constant: Collection[str]
) -> ModalityUse:
    """Sort the model's modalities into groups.

    Args:
        modalities: those of the model, in channel order.
        wanted: those asked for.
        constant: those whose volume was read and found without contrast.

    Raises:
        MSTKDError: nothing is left to be used.
    """
    present = [name for name in modalities if name in case.images]
    used = tuple(name for name in present if name in wanted and name not in constant)
    if not used:
        raise MSTKDError(f"no modality at all: {', '.join(sorted(constant))} without any contrast")
    return ModalityUse(
        used=used,
        absent=tuple(name for name in modalities if name not in case.images),
        constant=tuple(name for name in present if name in constant),
        ignored=tuple(name for name in present if name not in wanted),
    )
