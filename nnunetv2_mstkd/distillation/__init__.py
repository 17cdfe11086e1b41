"""Losses of tensors, and the objective that adds them up."""

from nnunetv2_mstkd.distillation.attention import attention_extremes_loss
from nnunetv2_mstkd.distillation.config import TERM_NAMES, ObjectiveConfig
from nnunetv2_mstkd.distillation.features import content_loss, token_feature_loss
from nnunetv2_mstkd.distillation.logits import consistency_loss, standardised_kl_loss
from nnunetv2_mstkd.distillation.objective import MSTKDObjective, ObjectiveOutput
from nnunetv2_mstkd.distillation.schedules import official_poly_lr, sigmoid_rampup
from nnunetv2_mstkd.distillation.shares import Share, TermBounds, gradient_shares
from nnunetv2_mstkd.distillation.style import (
    discriminator_loss_on_styles,
    gram_matching_loss,
    style_adversarial_loss,
    style_discriminator_loss,
)
from nnunetv2_mstkd.distillation.taps import Taps, misfit, style_features

__all__ = [
    "TERM_NAMES",
    "MSTKDObjective",
    "ObjectiveConfig",
    "ObjectiveOutput",
    "Share",
    "Taps",
    "TermBounds",
    "attention_extremes_loss",
    "consistency_loss",
    "content_loss",
    "discriminator_loss_on_styles",
    "gradient_shares",
    "gram_matching_loss",
    "misfit",
    "official_poly_lr",
    "sigmoid_rampup",
    "standardised_kl_loss",
    "style_adversarial_loss",
    "style_discriminator_loss",
    "style_features",
    "token_feature_loss",
]
