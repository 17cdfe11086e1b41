"""What stock nnU-Net makes of a model of ours."""

from __future__ import annotations

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import Tensor

from nnunetv2_mstkd.environment import external_trainer_paths


def predicted_by_nnunet(trainer, x: Tensor, monkeypatch) -> Tensor:
    """Logits (K, ...) of a patch (C, ...) by nnU-Net's own predictor, from the trainer's final checkpoint."""
    monkeypatch.setenv("nnUNet_extTrainer", external_trainer_paths())
    predictor = nnUNetPredictor(
        use_gaussian=False, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    return predictor.predict_logits_from_preprocessed_data(x).float()
