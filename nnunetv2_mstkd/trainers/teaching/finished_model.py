"""A finished model of nnU-Net as the teacher."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nnunetv2_mstkd.architectures.matching import start_from
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, with_taps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.fit import Described, channel_order, check_teacher, described
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, ModelFolder, open_model_folder
from nnunetv2_mstkd.models.loading import load_nnunet_predictor
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.step import MaskedBatch
from nnunetv2_mstkd.trainers.teaching.base import Teaching
from nnunetv2_mstkd.trainers.teaching.own_teachers import FrozenTeacher

# Less than this of a student is not a warm start.
_WORTH_MENTIONING = 0.5


class FinishedModel(Teaching):
    """A model folder of this plugin, of stock nnU-Net or of any trainer that nnU-Net finds, frozen.

    Its weights are read once. They are not in this training's checkpoints, which only know them again.
    """

    frozen: FrozenTeacher
    order: tuple[int, ...]
    _missing: MSTKDError | None = None

    def build(self) -> None:
        trainer = self.trainer
        try:
            if not Path(self.choice.source).is_dir():
                raise MSTKDError(
                    f"the teacher that the plans name is not there: model folder "
                    f"{self.choice.source} not found; put it back or plan again with --teacher"
                )
            self._load(open_model_folder(Path(self.choice.source)))
        except MSTKDError as error:
            if not (Path(trainer.output_folder) / FINAL_CHECKPOINT).is_file():
                raise
            # A finished training is validated again, perhaps where its teacher never was.
            trainer.print_to_log_file(f"No teacher, so this run can only validate: {error}")
            self._missing = error
            return
        if self.choice.starts_student:
            self._start_student()

    def _load(self, model: ModelFolder) -> None:
        trainer = self.trainer
        self.name = model.path.name
        ours = Described(trainer.dataset_json, trainer.plans_manager.plans, trainer.configuration_name)
        check_teacher(described(model), ours, self.name)
        fold = trainer.fold if self.choice.fold is None else self.choice.fold
        remedy = "name one with plan --teacher-fold and --teacher-checkpoint"
        folds = model.folds((fold,), self.choice.checkpoint, remedy)
        predictor = load_nnunet_predictor(model, folds, self.choice.checkpoint, device="cpu")
        network = with_taps(unwrap(predictor.network))
        order = channel_order(model.modalities, trainer.modalities)
        # The channels of a cascade's previous stage follow the modalities.
        self.order = (*order, *range(len(order), trainer.num_input_channels))
        self._check_patch(network, model)
        self.digest = _digest(network.state_dict())
        self.frozen = FrozenTeacher(network.to(trainer.device), compiled=trainer._do_i_compile())
        trainer.print_to_log_file(f"Teacher: {self.name}, fold {fold}, {self.choice.checkpoint}, frozen.")
        if fold != trainer.fold:
            trainer.print_to_log_file(
                f"WARNING: fold {fold} of the teacher may have learnt from cases that validate fold "
                f"{trainer.fold} here"
            )
        if order != tuple(range(len(order))):
            trainer.print_to_log_file(
                f"The teacher's channels are {', '.join(model.modalities)}; they are permuted for it."
            )

    def _check_patch(self, network: torch.nn.Module, model: ModelFolder) -> None:
        patch = self.trainer.configuration_manager.patch_size
        try:
            self._shapes = run_on_meta(
                network, (2, self.trainer.num_input_channels, *patch), return_taps=True
            )
        # Whatever a network raises over a size that it cannot take.
        except Exception as error:
            own = described(model)["patch_size"]
            raise MSTKDError(
                f"teacher {self.name} cannot take this patch of {' '.join(map(str, patch))} voxels; its own "
                f"is {own}: plan with --patch-size accordingly"
            ) from error

    def _start_student(self) -> None:
        trainer = self.trainer
        shape = (2, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
        moved = start_from(unwrap(trainer.network), self.frozen.network, self.order, shape)
        trainer.print_to_log_file(
            f"The student starts from the teacher's weights: {len(moved.tensors)} of {moved.of} tensors, "
            f"{moved.share:.0%} of its values."
        )
        if moved.share < _WORTH_MENTIONING:
            trainer.print_to_log_file(
                "WARNING: the teacher's network is of another kind, so the student starts nearly from "
                "scratch; -tr nnUNetTrainerMSTKDUNet trains a student of nnU-Net's own architecture"
            )

    def shapes(self, student: NetworkTaps) -> NetworkTaps:
        return student if self._missing else self._shapes

    def start_epoch(self) -> None:
        if self._missing:
            raise self._missing

    def teacher_taps(self, batch: MaskedBatch, request: Request) -> NetworkTaps:
        data = batch.data
        if self.order != tuple(range(len(self.order))):
            data = data[:, list(self.order)]
        return self.frozen.taps(data, request)

    def state_dict(self) -> dict[str, Any] | None:
        return None if self._missing else {"digest": self.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if not self._missing and state["digest"] != self.digest:
            raise MSTKDError(
                f"teacher {self.name} in {self.choice.source} is not the one that this training began "
                "with; put that back, or start a new training"
            )


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
