"""SMU-Net's training (Azad et al., arXiv 2203.01932; released code 251f3ad)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from nnunetv2_mstkd.architectures.discriminators import StyleDiscriminator
from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.losses.style import discriminator_loss_on_styles
from nnunetv2_mstkd.methods.co_trained import nnUNetTrainerCoTrained
from nnunetv2_mstkd.methods.smunet.losses import WEIGHTS, content_loss, style_loss
from nnunetv2_mstkd.methods.smunet.network import SMUNet
from nnunetv2_mstkd.settings import Setting, whole_number


class nnUNetTrainerSMUNet(nnUNetTrainerCoTrained):
    """Style and content of a full-modality network for a network that sees some modalities.

    The release trains one student per subset; here one serves all, and ``sampler=weights`` with one subset
    gives the released one. Weights of the losses are the released ones.

    Settings, beside those of :class:`nnUNetTrainerTaught`:
        base_features: channels of the first stage, a multiple of 8; 16 as released.
    """

    reference: ClassVar[str] = (
        "Azad, Khosravi, Merhof. SMU-Net: Style matching U-Net for brain tumor segmentation with missing "
        "modalities. MIDL 2022. arXiv:2203.01932"
    )
    network_class = SMUNet
    network_settings: ClassVar[Mapping[str, Setting]] = {"base_features": whole_number(8)}
    default_weights: ClassVar[Mapping[str, float]] = WEIGHTS
    compared: ClassVar[Mapping[str, tuple[str, str]]] = {
        "content": ("content", "content"),
        "style": ("style", "style"),
        "adversarial": ("style", "style"),
    }

    def initialize(self) -> None:
        super().initialize()
        if self.weights["adversarial"] > 0:
            style = self.student_shapes.one("style")
            discriminator = StyleDiscriminator(style.shape[1], style.shape[2:])
            self.add_discriminator("adversarial", discriminator, discriminator_loss_on_styles)

    def own_losses(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, Tensor]:
        functions = {"content": content_loss, "style": style_loss}
        return {
            name: function(student=student.one(name), teacher=teacher.one(name))
            for name, function in functions.items()
            if self.counts(name)
        }

    def judged_features(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, dict[str, Tensor]]:
        return {"adversarial": {"student": student.one("style"), "teacher": teacher.one("style")}}
