"""Raw scans, registered and skull-stripped by BrainLesion's brainles-preprocessing.

Nothing of that is done here: this file says which image is the centre, calls the library (0.6; Kofler et al.,
BraTS Toolkit, DOI 10.3389/fnins.2020.00125) and puts what it writes where ``predict`` looks for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunetv2_mstkd.datasets.cases import Case
from nnunetv2_mstkd.datasets.convert.target import replacing_folder
from nnunetv2_mstkd.datasets.volumes import read_checked, write_image
from nnunetv2_mstkd.errors import MSTKDError

CITATION = "https://github.com/BrainLesion/preprocessing#citation"
SRI24, NATIVE = "sri24", "native"
CENTRES = ("t1c", "t1n", "t2f", "t2w")  # BraTS registers to t1c


@dataclass(frozen=True)
class Preprocessing:
    """What is done with every case.

    Attributes:
        output: folder for the case folders.
        space: ``"sri24"`` (that of BraTS, 240×240×155 voxels of 1 mm; the library downloads the atlas),
            ``"native"`` (the centre's own grid), or the file of an atlas.
        skull_strip: cut out the brain with HD-BET (the library downloads its weights).
        centre: the modality that the others are registered to; None takes the first of ``CENTRES`` there is.
        gpu: let HD-BET use CUDA.
        transforms: folder for the matrices, by case; None keeps none.
    """

    output: Path
    space: str = SRI24
    skull_strip: bool = True
    centre: str | None = None
    gpu: bool = True
    transforms: Path | None = None


def check_library() -> None:
    """See whether the library is there.

    Raises:
        MSTKDError: it is not; the message has the command that installs it.
    """
    if find_spec("brainles_preprocessing") is None:
        raise MSTKDError("brainles-preprocessing is not installed: pip install 'nnunetv2-mstkd[preprocess]'")


def silence_log() -> None:
    """Keep the library's log from the user: it goes to stderr by loguru, not by ``logging``."""
    from loguru import logger  # type: ignore[import-not-found,unused-ignore]

    logger.remove()


def preprocess_case(case: Case, what: Preprocessing) -> None:
    """Write ``OUT/CASE/CASE-t1c.nii.gz ...``, all of them or none; absent modalities stay absent.

    Raises:
        MSTKDError: an image cannot be used, or the library fails.
    """
    target = what.output / case.name
    centre = centre_of(case, what.centre)
    os.environ.setdefault("BRAINLES_PREPROCESSING_CITATION_REMINDER", "false")  # the command says it, once
    with replacing_folder(target) as folder, tempfile.TemporaryDirectory() as temporary:
        images = {
            name: _compressed(path, Path(temporary) / f"{number}.nii.gz")
            for number, (name, path) in enumerate(case.images.items())
        }
        outputs = {name: folder / f"{case.name}-{name}.nii.gz" for name in images}
        _run(images, outputs, centre, what, Path(temporary) / "steps", case.name)
        absent = [name for name, path in outputs.items() if not path.is_file()]
        if absent:
            raise MSTKDError(f"brainles-preprocessing wrote no {', '.join(absent)}")


def _run(
    images: dict[str, Path],
    outputs: dict[str, Path],
    centre: str,
    what: Preprocessing,
    temporary: Path,
    case: str,
) -> None:
    from brainles_preprocessing.modality import (  # type: ignore[import-not-found,unused-ignore]
        CenterModality,
        Modality,
    )
    from brainles_preprocessing.preprocessor import (  # type: ignore[import-not-found,unused-ignore]
        AtlasCentricPreprocessor,
        NativeSpacePreprocessor,
    )
    from brainles_preprocessing.registration import (  # type: ignore[import-not-found,unused-ignore]
        ANTsRegistrator,
    )

    kind = "raw_bet_output_path" if what.skull_strip else "raw_skull_output_path"

    def modality(make: type, name: str) -> Any:
        return make(modality_name=name, input_path=images[name], **{kind: outputs[name]})

    arguments: dict[str, Any] = {
        "center_modality": modality(CenterModality, centre),
        "moving_modalities": [modality(Modality, name) for name in images if name != centre],
        "registrator": ANTsRegistrator(),
        "temp_folder": temporary,
        "use_gpu": what.gpu,
    }
    transforms = None if what.transforms is None else what.transforms / case
    with one_line_of_the_library():
        if what.space == NATIVE:
            preprocessor = NativeSpacePreprocessor(**arguments)
        elif what.space == SRI24:
            preprocessor = AtlasCentricPreprocessor(**arguments)
        else:
            preprocessor = AtlasCentricPreprocessor(**arguments, atlas_image_path=Path(what.space))
        preprocessor.run(save_dir_transformations=transforms, log_file=temporary / "steps.log")


def centre_of(case: Case, chosen: str | None = None) -> str:
    """The sequence that the others are registered to: the chosen one, or the first of ``CENTRES`` there is.

    Raises:
        MSTKDError: the case lacks the chosen one.
    """
    order: Sequence[str] = (chosen,) if chosen is not None else (*CENTRES, *case.images)
    for name in order:
        if name in case.images:
            return name
    raise MSTKDError(f"the case has no {chosen}; it has {', '.join(case.images)}")


@contextmanager
def one_line_of_the_library() -> Iterator[None]:
    """Turn whatever the library and those below it raise into one line.

    Raises:
        MSTKDError: with that line.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MSTKDError(f"brainles-preprocessing stopped: {reason}") from error


def _compressed(path: Path, copy: Path) -> Path:
    """The image, checked; as .nii.gz (``copy``), because the library copies files under that name."""
    image = read_checked(path)
    if path.name.endswith(".nii.gz"):
        return path
    write_image(image, copy)
    return copy
