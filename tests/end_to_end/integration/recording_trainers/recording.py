"""A trainer that writes down what its networks see (nnU-Net finds it through nnUNet_extTrainer).

Each training step adds a line to the file MSTKD_TEST_RECORD: the cases of the batch, what they have, the
drawn mask, and, for every pass through an MSTKDNet, whether it was the teacher's and which channels held
anything.
"""

from __future__ import annotations

import json
import os

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from nnunetv2_mstkd.methods.mstkd.network import MSTKDNet
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD


class nnUNetTrainerRecording(nnUNetTrainerMSTKD):
    def train_step(self, batch):
        passes = []

        def record(module, inputs):
            if isinstance(module, MSTKDNet):
                filled = (inputs[0] != 0).flatten(2).any(dim=2)
                passes.append({"teacher": not torch.is_grad_enabled(), "filled": filled.tolist()})

        handle = register_module_forward_pre_hook(record)
        try:
            return super().train_step(batch)
        finally:
            handle.remove()
            line = {
                "full": self.in_full_phase,
                "keys": list(batch["keys"]),
                "available": batch["modality_available"].tolist(),
                "mask": batch["modality_mask"].bool().tolist(),
                "passes": passes,
            }
            with open(os.environ["MSTKD_TEST_RECORD"], "a") as file:
                print(json.dumps(line), file=file)
