"""The Python interface: images in, a segmentation out, whichever modalities there are."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
import torch

from nnunetv2_mstkd.engines import TORCH
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import writable_folder
from nnunetv2_mstkd.inference.images_in_memory import ImageLike, Source, as_source, written_image
from nnunetv2_mstkd.inference.predictor import MissingModalityPredictor, Segmentation
from nnunetv2_mstkd.inference.reading import LooseCase
from nnunetv2_mstkd.inference.result import SegmentationResult
from nnunetv2_mstkd.inference.writing import Output, write_segmentation
from nnunetv2_mstkd.modalities import resolve
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold, open_model_folder
from nnunetv2_mstkd.trust import Expectations

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

logger = logging.getLogger(__name__)

# Loading redirects stdout for the whole process: two at once would restore it in the wrong order.
_LOADING = Lock()


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``.

    ``mps`` is never chosen: it lacks 3D operations in some of the torch versions that nnU-Net allows.
    """
    return "cuda" if torch.cuda.is_available() else "cpu"


class Segmenter:
    """A model, loaded once, that segments case after case.

    Calls may come from several threads: reading, resampling and writing run side by side, the network works
    for one call at a time.

    Attributes:
        modalities: names in the model's channel order.
        device: where the network runs.
        quality: one line: what the expected quality of its results rests on, or why it is not known.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        folds: Fold | Sequence[Fold] | None = None,
        checkpoint: str = FINAL_CHECKPOINT,
        step_size: float = 0.5,
        mirroring: bool = True,
        engine: str = TORCH,
        everything_on_device: bool = True,
        trust_checkpoint: bool = False,
    ) -> None:
        """Load a model.

        Args:
            model: nnU-Net's ``TRAINER__PLANS__CONFIGURATION`` folder.
            device: ``cuda``, ``cuda:1``, ``cpu``, ``mps`` or a torch device; None is :func:`default_device`.
            folds: fold numbers, or ``"all"``; None takes those that are there. Their logits are averaged.
            checkpoint: file name in each fold's folder.
            step_size: step of the sliding window in patches, in (0, 1].
            mirroring: average over mirrored patches, as nnU-Net does by default.
            engine: what runs the network: ``torch``, or ``openvino`` (on the CPU; an extra).
            everything_on_device: keep large intermediate results on the GPU.
            trust_checkpoint: read a checkpoint that holds more than nnU-Net stores, which may run code.

        Raises:
            MSTKDError: the model cannot be loaded, the device is not there, a value is out of range.
        """
        if not 0 < step_size <= 1:
            raise MSTKDError(f"step_size {step_size} is not in (0, 1]; the default is 0.5")
        self.device = str(device or default_device())
        folder = open_model_folder(Path(model))
        chosen = folder.folds((folds,) if isinstance(folds, (int, str)) else folds, checkpoint)
        with _LOADING:
            self._predictor = MissingModalityPredictor.load(
                folder,
                folds=chosen,
                checkpoint_name=checkpoint,
                device=self.device,
                step_size=step_size,
                mirroring=mirroring,
                engine=engine,
                everything_on_device=everything_on_device,
                trust_checkpoint=trust_checkpoint,
            )
        self.modalities = self._predictor.modalities
        self._network, self._warning = Lock(), Lock()
        self._warned = False
        inference = {"step_size": step_size, "mirroring": mirroring}
        self._known = Expectations.of(folder, chosen, checkpoint, inference)
        self.quality = self._known.says
        logger.info("%s on %s; %s", folder.path, self.device, self.quality)

    def __call__(
        self,
        images: Mapping[str, ImageLike | None] | None = None,
        *,
        output: str | os.PathLike[str] | None = None,
        probabilities: bool = False,
        previous_stage: ImageLike | None = None,
        **by_name: ImageLike | None,
    ) -> SegmentationResult:
        """Segment one case.

        Args:
            images: modality → image, for names that are no Python identifiers; None counts as left out.
            output: also write the segmentation to this file, and what it is based on to the folder's
                ``modalities.json``, as ``nnUNetv2_mstkd predict`` does.
            probabilities: return them as well.
            previous_stage: a cascade's segmentation by the previous stage.
            by_name: modality = image, under any name that ``modalities.resolve`` knows (``t1c``, ``flair``).

        An image is a path, a SimpleITK image, a ``Volume``, or a pair of an array (Z, Y, X) and its spacing
        (x, y, z) in mm. All must lie on one grid.

        Raises:
            MSTKDError: no modality or an unknown one, an image that cannot be used, grids that differ, an
                output that cannot be written.
        """
        if probabilities and "Reorient" in type(self._reader()).__name__:
            raise MSTKDError(
                f"probabilities are not available: {type(self._reader()).__name__} of this model turns the"
                " images, and only labels are turned back"
            )
        target = None if output is None else self._output(Path(output))
        case = LooseCase("case" if target is None else target[1], self._sources(images or {}, by_name))
        segmentation = self._segment(case, self._previous_stage(previous_stage), probabilities)
        if target is not None:
            try:
                write_segmentation(segmentation, target[0], self._predictor.model, self._reader())
            except OSError as error:
                raise MSTKDError(f"cannot write {output}: {error.strerror or error}") from error
        return self._result(segmentation)

    def _reader(self) -> BaseReaderWriter:
        return self._predictor.predictor.plans_manager.image_reader_writer_class()

    def _sources(self, *given: Mapping[str, ImageLike | None]) -> dict[str, Source]:
        """Modality → path or image, in channel order."""
        sources: dict[str, Source] = {}
        for mapping in given:
            for key, image in mapping.items():
                name = resolve(key, self.modalities)
                if name in sources and image is not None:
                    raise MSTKDError(f"{name} is given twice, the second time as '{key}'; keep one")
                if image is not None:
                    sources[name] = as_source(key, image)
        if not sources:
            raise MSTKDError(
                f"no modality at all; give an image for at least one of {', '.join(self.modalities)}"
            )
        return {name: sources[name] for name in self.modalities if name in sources}

    def _previous_stage(self, image: ImageLike | None) -> Source | None:
        name = self._predictor.previous_stage_name
        if name is not None and image is None:
            raise MSTKDError(
                f"this model refines segmentations of {name}: segment with that first, then give the result's"
                " to_image() as previous_stage"
            )
        if name is None and image is not None:
            raise MSTKDError("previous_stage is for cascades; this model has no previous stage")
        return None if image is None else as_source("previous_stage", image)

    def _output(self, path: Path) -> tuple[Output, str]:
        """Where to write, and under which case name."""
        endings = self._reader().supported_file_endings
        ending = next((e for e in sorted(endings, key=len, reverse=True) if path.name.endswith(e)), None)
        if ending is None or path.name == ending or path.is_dir():
            raise MSTKDError(f"output {path} is no file name that ends in {' or '.join(endings)}")
        return Output(writable_folder(path.parent), ending), path.name.removesuffix(ending)

    def _segment(self, case: LooseCase, previous_stage: Source | None, probabilities: bool) -> Segmentation:
        prepared = self._predictor.preprocess(self._predictor.read(case, None, previous_stage))
        with self._warning:
            if len(prepared.use.used) < len(self.modalities) and not self._warned:
                self._warned = True
                self._predictor.warn_if_not_trained_for(1)
        with self._network:
            logits = self._predictor.logits(prepared)
        segmentation = self._predictor.segmentation(logits, probabilities=probabilities)
        return self._predictor.judged(segmentation, self._known)

    def _result(self, segmentation: Segmentation) -> SegmentationResult:
        image = written_image(segmentation.array, segmentation.properties, self._reader())
        manager = self._predictor.predictor.label_manager
        labels = {
            name: tuple(values) if isinstance(values, (list, tuple)) else (values,)
            for name, values in self._predictor.model.dataset_json["labels"].items()
            if name != "ignore"
        }
        if manager.has_regions:
            heads = [name for name in labels if name != "background"]
        else:
            heads = sorted(labels, key=labels.__getitem__)
        return SegmentationResult(
            array=sitk.GetArrayFromImage(image),
            spacing=image.GetSpacing(),
            origin=image.GetOrigin(),
            direction=image.GetDirection(),
            use=segmentation.use,
            labels=labels,
            probabilities=_on_axes_of(image, segmentation.probabilities),
            heads=() if segmentation.probabilities is None else tuple(heads),
            expected=segmentation.expected,
            agreement=segmentation.agreement,
        )


def _on_axes_of(image: sitk.Image, probabilities: np.ndarray | None) -> np.ndarray | None:
    """Without the single slice that a 2D image is to nnU-Net."""
    return probabilities[:, 0] if probabilities is not None and image.GetDimension() == 2 else probabilities


def segment(
    images: Mapping[str, ImageLike | None] | None = None,
    *,
    model: str | os.PathLike[str],
    device: str | torch.device | None = None,
    folds: Fold | Sequence[Fold] | None = None,
    checkpoint: str = FINAL_CHECKPOINT,
    step_size: float = 0.5,
    mirroring: bool = True,
    engine: str = TORCH,
    trust_checkpoint: bool = False,
    output: str | os.PathLike[str] | None = None,
    probabilities: bool = False,
    previous_stage: ImageLike | None = None,
    **by_name: ImageLike | None,
) -> SegmentationResult:
    """Segment one case: ``segment(t1c="t1c.nii.gz", t2f="flair.nii.gz", model="MODEL_FOLDER")``.

    It loads the model each time; for several cases, or ``everything_on_device``, make a :class:`Segmenter`,
    whose constructor and call take the same arguments between them.

    Raises:
        MSTKDError: as :class:`Segmenter` and its call.
    """
    segmenter = Segmenter(
        model,
        device=device,
        folds=folds,
        checkpoint=checkpoint,
        step_size=step_size,
        mirroring=mirroring,
        engine=engine,
        trust_checkpoint=trust_checkpoint,
    )
    return segmenter(
        images, output=output, probabilities=probabilities, previous_stage=previous_stage, **by_name
    )
