"""RA-HVED's training (Jeong et al., ACCV 2022; released code 23a1543)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mstkd.architectures.discriminators import judged
from nnunetv2_mstkd.architectures.presence import shown
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.methods.rahved.discriminator import PassDiscriminator
from nnunetv2_mstkd.methods.rahved.losses import (
    adversarial_loss,
    discriminator_input,
    discriminator_loss,
    prior_divergence,
    reconstruction_loss,
)
from nnunetv2_mstkd.methods.rahved.network import RAHVED
from nnunetv2_mstkd.settings import Setting, whole_number
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import SEGMENTATION, MaskedBatch, StepLosses

FULL_SEGMENTATION = "full_segmentation"
_DISCRIMINATOR = "discriminator"


class nnUNetTrainerRAHVED(nnUNetTrainerMissingModality):
    """Variational encoders fused by a product of experts; every step sees the whole and the masked patch.

    The whole patch's pass learns the segmentation alone. The masked one learns to segment, to reconstruct all
    images, to stay near the prior, and to be taken for the other by a discriminator. Optimizers, schedule and
    weights are the released ones. Gradients of the whole patch are taken first, so that the feature maps of
    one pass are held at a time.

    Settings, beside those of :class:`nnUNetTrainerMissingModality`:
        base_features: channels of the first level; 16 as released.
    """

    reference: ClassVar[str] = (
        "Jeong et al. Region-of-Interest Attentive Heteromodal Variational Encoder-Decoder for "
        "Segmentation with Missing Modalities. ACCV 2022"
    )
    network_class = RAHVED
    network_settings: ClassVar[Mapping[str, Setting]] = {"base_features": whole_number(2)}
    default_weights: ClassVar[Mapping[str, float]] = {
        SEGMENTATION: 1.0,
        FULL_SEGMENTATION: 1.0,
        "reconstruction": 0.2,
        "prior": 0.2,
        "adversarial": 0.1,
    }
    own_optimizer = (torch.optim.Adam, {})
    gradient_clip = None

    @classmethod
    def needs(cls) -> tuple[str, ...]:
        return ("second pass", "discriminator")

    def set_defaults(self) -> None:
        self.initial_lr = 1e-4
        self.weight_decay = 1e-5

    def initialize(self) -> None:
        super().initialize()
        if self.weights["adversarial"] > 0:
            labels = self.label_manager
            heads = labels.num_segmentation_heads - (not labels.has_regions)
            self.add_adversary(
                _DISCRIMINATOR,
                PassDiscriminator(heads + self.num_input_channels, self.configuration_manager.patch_size),
                _loss_of_discriminator,
                lr=self.initial_lr,
                betas=(0.9, 0.999),
                weight_decay=self.weight_decay,
            )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        for adversary in self.adversaries.values():  # one schedule for both, as released
            for group in adversary.optimizer.param_groups:
                group["lr"] = self.optimizer.param_groups[0]["lr"]

    def compute_losses(self, batch: MaskedBatch) -> StepLosses:
        done = {} if self.in_full_phase else self._pass_of_the_whole_patch(batch)
        request = {"reconstruction": "reconstruction", "adversarial": "reconstruction"}
        taps: NetworkTaps = self.network(
            batch.masked, return_taps=tuple(tap for name, tap in request.items() if self.counts(name))
        )
        losses = {SEGMENTATION: self.loss(taps.logits, batch.target)}
        if self.counts("reconstruction"):
            losses["reconstruction"] = reconstruction_loss(
                reconstruction=taps.one("reconstruction"), images=batch.data, known=shown(batch.data)
            )
        if self.counts("prior"):
            losses["prior"] = prior_divergence(
                means=taps.several("posterior_means"),
                log_variances=taps.several("posterior_log_variances"),
            )
        if self.adversaries and done:
            features = self._judged(taps)
            losses["adversarial"] = adversarial_loss(
                missing=judged(self.adversaries[_DISCRIMINATOR].discriminator, features)
            )
            self.step_state.judged[_DISCRIMINATOR]["missing"] = features.detach()
        step = self.weighted(losses)
        total = None if not done else self.weights[FULL_SEGMENTATION] * done[FULL_SEGMENTATION]
        return StepLosses(step.total, {**step.terms, **done}, total)

    def _pass_of_the_whole_patch(self, batch: MaskedBatch) -> dict[str, Tensor]:
        """Take its gradients, keep what the discriminator judges, and return its loss by name."""
        network = self.network
        wait = network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
        with wait:
            request = ("reconstruction",) if self.adversaries else ()
            taps: NetworkTaps = network(batch.data, return_taps=request)
            loss = self.loss(taps.logits, batch.target)
            self.backward(self.weights[FULL_SEGMENTATION] * loss)
        if self.adversaries:
            self.step_state.judged[_DISCRIMINATOR] = {"full": self._judged(taps).detach()}
        return {FULL_SEGMENTATION: loss.detach()}

    def _judged(self, taps: NetworkTaps) -> Tensor:
        regions, logits = self.label_manager.has_regions, taps.finest.float()
        foreground = logits.sigmoid() if regions else logits.softmax(1)[:, 1:]
        return discriminator_input(
            probabilities=foreground, reconstruction=taps.one("reconstruction"), regions=regions
        )


def _loss_of_discriminator(*, missing: Tensor, full: Tensor, discriminator: nn.Module) -> Tensor:
    with torch.autocast(missing.device.type, enabled=False):
        # One forward for both: DDP allows only one before the backward.
        of_missing, of_full = discriminator(torch.cat((missing, full)).float()).chunk(2)
    return discriminator_loss(missing=of_missing, full=of_full)
