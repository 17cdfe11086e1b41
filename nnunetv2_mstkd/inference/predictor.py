"""nnU-Net's predictor for cases that lack modalities."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from nnunetv2_mstkd.datasets.raw_scans import doubts
from nnunetv2_mstkd.datasets.regions import region_volumes, regions_of
from nnunetv2_mstkd.engines import TORCH
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.inference.fold_agreement import fold_agreement
from nnunetv2_mstkd.inference.images_in_memory import Source
from nnunetv2_mstkd.inference.reading import CaseVolumes, read_case
from nnunetv2_mstkd.inference.selection import Examination, ModalityUse
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold, ModelFolder
from nnunetv2_mstkd.models.loading import load_nnunet_predictor, trained_for_missing
from nnunetv2_mstkd.trust import Expectations, Expected

logger = logging.getLogger(__name__)


@dataclass
class Preprocessed:
    """A case as the network takes it: data (C, ...) float32 on the plans' grid, and the way back."""

    name: str
    data: torch.Tensor
    properties: dict[str, Any]
    use: ModalityUse


@dataclass
class Prediction:
    """Logits (heads, ...) float16 or float32 on the plans' grid, and the way back to the input's.

    ``by_fold`` has each fold's labels (...) on the plans' grid, where there are several folds.
    """

    name: str
    logits: np.ndarray
    properties: dict[str, Any]
    use: ModalityUse
    by_fold: Sequence[np.ndarray] = ()


@dataclass
class Segmentation:
    """A segmentation on the input's grid.

    Attributes:
        name: the case's name.
        array: (Z, Y, X) label values of the model's dataset.json.
        properties: geometry, as nnU-Net's reader and writer exchange it.
        use: the modalities it is based on.
        probabilities: (heads, Z, Y, X) float32 if asked for.
        agreement: region → how far the folds agree (:func:`fold_agreement`); empty for one fold.
        expected: region → what is expected of it; empty where nothing is known, or was asked.
    """

    name: str
    array: np.ndarray
    properties: dict[str, Any]
    use: ModalityUse
    probabilities: np.ndarray | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)
    expected: Mapping[str, Expected] = field(default_factory=dict)


class MissingModalityPredictor:
    """A model, loaded once, that segments cases whatever modalities they have.

    The four steps :meth:`read`, :meth:`preprocess`, :meth:`logits` and :meth:`segmentation` are separate
    because a folder of cases runs them side by side; :meth:`predict` is all of them. All but
    :meth:`logits` may run in any thread.

    An absent modality is exactly zero when the network sees it, whatever the data set's normalisation makes
    of a zero volume: that is what training showed the network.
    """

    def __init__(self, predictor: nnUNetPredictor, model: ModelFolder, *, handles_missing: bool) -> None:
        """Wrap an initialised nnU-Net predictor; :meth:`load` is the usual way."""
        self.predictor = predictor
        self.model = model
        self.modalities = model.modalities
        self.regions = regions_of(model.dataset_json)
        self.handles_missing = handles_missing
        self._warned_of_raw_scans = False

    @classmethod
    def load(
        cls,
        model: ModelFolder,
        *,
        folds: Sequence[Fold] | None = None,
        checkpoint_name: str = FINAL_CHECKPOINT,
        device: str | torch.device = "cuda",
        engine: str = TORCH,
        step_size: float = 0.5,
        mirroring: bool = True,
        everything_on_device: bool = True,
        verbose: bool = False,
        trust_checkpoint: bool = False,
    ) -> MissingModalityPredictor:
        """Load a model; the arguments mean what they mean to ``nnUNetv2_predict``.

        Args:
            engine: what runs the network, one of ``engines.ENGINES``.
            trust_checkpoint: read a checkpoint that holds more than nnU-Net stores, which may run code.

        Raises:
            MSTKDError: no such device or engine, a missing or unfit checkpoint, an unknown trainer.
        """
        predictor = load_nnunet_predictor(
            model,
            model.folds(folds, checkpoint_name),
            checkpoint_name,
            device=device,
            engine=engine,
            trust=trust_checkpoint,
            tile_step_size=step_size,
            use_mirroring=mirroring,
            perform_everything_on_device=everything_on_device,
            verbose=verbose,
            verbose_preprocessing=verbose,
            allow_tqdm=verbose,
        )
        return cls(predictor, model, handles_missing=trained_for_missing(predictor))

    @property
    def previous_stage_name(self) -> str | None:
        """The configuration whose segmentations this one refines (cascades), or None."""
        return self.predictor.configuration_manager.previous_stage_name

    def warn_if_not_trained_for(self, incomplete: int) -> None:
        """Say once that a model never saw what it is about to see.

        Args:
            incomplete: number of cases that lack modalities.
        """
        if incomplete and not self.handles_missing:
            logger.warning(
                "%d case(s) lack modalities, and %s was not trained for that: expect poor segmentations",
                incomplete,
                self.predictor.trainer_name,
            )

    def read(
        self,
        case: Examination[Source],
        wanted: Collection[str] | None = None,
        previous_stage: Source | None = None,
    ) -> CaseVolumes:
        """Read a case, of it the ``wanted`` modalities only; see :func:`read_case`.

        It warns, once, of images that do not look prepared as the model's training images were.
        """
        reader = self.predictor.plans_manager.image_reader_writer_class()
        volumes = read_case(
            case,
            self.modalities,
            wanted or self.modalities,
            reader,
            previous_stage,
            dimensions=self.model.image_axes,
        )
        self._warn_of_raw_scans(volumes)
        return volumes

    def _warn_of_raw_scans(self, volumes: CaseVolumes) -> None:
        if self._warned_of_raw_scans or not self.model.zero_background:
            return
        channels = {name: volumes.data[self.modalities.index(name)] for name in volumes.use.used}
        for doubt in doubts(channels):
            if not self._warned_of_raw_scans:
                self._warned_of_raw_scans = True
                logger.warning(
                    "%s: %s (said of the first such case; nnUNetv2_mstkd inspect looks at all)",
                    volumes.name,
                    doubt,
                )

    def preprocess(self, volumes: CaseVolumes) -> Preprocessed:
        """nnU-Net's preprocessing, then zero for every modality that is not used."""
        nnunet = self.predictor
        preprocessor = nnunet.configuration_manager.preprocessor_class(verbose=nnunet.verbose_preprocessing)
        data, segmentation, properties = preprocessor.run_case_npy(
            volumes.data,
            volumes.previous_stage,
            volumes.properties,
            nnunet.plans_manager,
            nnunet.configuration_manager,
            nnunet.dataset_json,
        )
        for channel, name in enumerate(self.modalities):
            if name not in volumes.use.used:
                data[channel] = 0
        if volumes.previous_stage is not None:
            labels = nnunet.label_manager.foreground_labels
            data = np.vstack((data, convert_labelmap_to_one_hot(segmentation[0], labels, data.dtype)))
        tensor = torch.from_numpy(data).to(dtype=torch.float32, memory_format=torch.contiguous_format)
        return Preprocessed(volumes.name, tensor, properties, volumes.use)

    def logits(self, case: Preprocessed) -> Prediction:
        """Sliding window over all folds (mean of their logits). One thread at a time."""
        logits, by_fold = self._mean_logits(case.data)
        # An array, as nnU-Net's own loop passes on: its resampling treats tensors and arrays differently.
        return Prediction(case.name, logits.cpu().detach().numpy(), case.properties, case.use, by_fold)

    @torch.inference_mode()
    def _mean_logits(self, data: torch.Tensor) -> tuple[torch.Tensor, list[np.ndarray]]:
        """nnU-Net's loop over folds, in its order of sums, with a look at each fold on the way."""
        nnunet = self.predictor
        folds = nnunet.list_of_parameters
        if len(folds) == 1:
            return nnunet.predict_logits_from_preprocessed_data(data), []
        total, by_fold = None, []
        try:
            for fold in folds:
                nnunet.list_of_parameters = [fold]
                logits = nnunet.predict_logits_from_preprocessed_data(data)
                labels = nnunet.label_manager.convert_logits_to_segmentation(logits)
                by_fold.append(np.asarray(labels).astype(np.int16))
                total = logits if total is None else total.add_(logits)
        finally:
            nnunet.list_of_parameters = folds
        assert total is not None, "a loaded model has a fold"
        return total.div_(len(folds)), by_fold

    def segmentation(self, prediction: Prediction, *, probabilities: bool = False) -> Segmentation:
        """Logits back on the input's grid, as labels."""
        nnunet = self.predictor
        result = convert_predicted_logits_to_segmentation_with_correct_shape(
            prediction.logits,
            nnunet.plans_manager,
            nnunet.configuration_manager,
            nnunet.label_manager,
            prediction.properties,
            return_probabilities=probabilities,
            num_threads_torch=torch.get_num_threads(),  # setting another would change it for every thread
        )
        array, values = result if probabilities else (result, None)
        agreement = fold_agreement(prediction.by_fold, self.regions) if prediction.by_fold else {}
        return Segmentation(prediction.name, array, prediction.properties, prediction.use, values, agreement)

    def judged(self, segmentation: Segmentation, known: Expectations) -> Segmentation:
        """Add what is expected of a segmentation whose labels are the model's own."""
        spacing = segmentation.properties["spacing"]
        volumes = region_volumes(segmentation.array, self.regions, spacing)
        expected = known.expected(segmentation.use.used, volumes, segmentation.agreement)
        return replace(segmentation, expected=expected)

    def predict(
        self,
        case: Examination[Source],
        wanted: Collection[str] | None = None,
        *,
        probabilities: bool = False,
    ) -> Segmentation:
        """Segment one case.

        Args:
            case: its files; see :func:`nnunetv2_mstkd.datasets.discovery.discover`.
            wanted: use only these modalities.
            probabilities: return them as well.

        Raises:
            MSTKDError: the case cannot be used, or the model is the second stage of a cascade.
        """
        if self.previous_stage_name is not None:
            raise MSTKDError(
                f"this model refines segmentations of {self.previous_stage_name}; use the steps one by one"
            )
        volumes = self.preprocess(self.read(case, wanted))
        return self.segmentation(self.logits(volumes), probabilities=probabilities)
