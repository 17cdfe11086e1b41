"""ACN's training (Wang et al., MICCAI 2021, arXiv 2106.14591; released code 0643c57)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.taps import NetworkTaps
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.losses.co_training import probabilities
from nnunetv2_mstkd.losses.style import discriminator_loss_on_styles
from nnunetv2_mstkd.methods.acn.discriminators import entropy_discriminator, feature_discriminator
from nnunetv2_mstkd.methods.acn.losses import WEIGHTS, entropy_map, knowledge_transfer_loss
from nnunetv2_mstkd.methods.acn.network import ACN
from nnunetv2_mstkd.methods.co_trained import nnUNetTrainerCoTrained
from nnunetv2_mstkd.settings import Setting, whole_number
from nnunetv2_mstkd.trainers.base import unwrap


class nnUNetTrainerACN(nnUNetTrainerCoTrained):
    """Adversarial co-training: entropy maps, bottleneck features, and a bound of their mutual information.

    The student's regressor predicts the teacher's bottleneck, as the paper means it; in the release both
    sides are the student's (docs/methods/acn.md). The release trains one student per subset; here one serves
    all, and ``sampler=weights`` with one subset gives the released one. Weights are the released ones.

    Settings, beside those of :class:`nnUNetTrainerTaught`:
        base_features: channels of the first stage, a multiple of 8; 16 as released.
    """

    reference: ClassVar[str] = (
        "Wang et al. ACN: Adversarial Co-training Network for Brain Tumor Segmentation with Missing "
        "Modalities. MICCAI 2021. arXiv:2106.14591"
    )
    network_class = ACN
    network_settings: ClassVar[Mapping[str, Setting]] = {"base_features": whole_number(8)}
    default_weights: ClassVar[Mapping[str, float]] = {
        name: weight for name, weight in WEIGHTS.items() if name != "reconstruction"
    }
    compared: ClassVar[Mapping[str, tuple[str, str]]] = {
        "knowledge_transfer": ("prediction", "bottleneck"),
        "adversarial_features": ("bottleneck", "bottleneck"),
    }

    def initialize(self) -> None:
        if self.is_ddp and self.phases.full_epochs:
            raise MSTKDError(
                "nnUNetTrainerACN's regressor learns nothing in a full-modality phase, which -num_gpus would"
                " wait for; train on one GPU, or set teacher 'joint'"
            )
        super().initialize()
        if self.weights["adversarial_entropy"] > 0:
            patch = self.configuration_manager.patch_size
            heads = self.label_manager.num_segmentation_heads
            self.add_discriminator(
                "adversarial_entropy", entropy_discriminator(heads, patch), _discriminator_loss
            )
        if self.weights["adversarial_features"] > 0:
            bottleneck = self.student_shapes.one("bottleneck")
            discriminator = feature_discriminator(bottleneck.shape[1], bottleneck.shape[2:])
            self.add_discriminator("adversarial_features", discriminator, _discriminator_loss)

    def build_beside(self) -> None:
        super().build_beside()
        teacher: Any = getattr(self.teaching, "network", None)
        if teacher is not None:
            unwrap(teacher).regressor.requires_grad_(False)  # nobody learns to predict with it
        if "knowledge_transfer" in self.switched_off:
            unwrap(self.network).regressor.requires_grad_(False)

    def own_losses(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, Tensor]:
        if not self.counts("knowledge_transfer"):
            return {}
        loss = knowledge_transfer_loss(
            prediction=student.one("prediction"),
            log_scale=student.one("log_scale"),
            target=teacher.one("bottleneck").detach(),
        )
        return {"knowledge_transfer": loss}

    def judged_features(self, student: NetworkTaps, teacher: NetworkTaps) -> dict[str, dict[str, Tensor]]:
        roles = {"student": student, "teacher": teacher}
        regions = self.label_manager.has_regions
        judged = {
            "adversarial_entropy": {
                role: entropy_map(probabilities=probabilities(taps.finest.float(), regions))
                for role, taps in roles.items()
            }
        }
        if "adversarial_features" not in self.switched_off:  # else the teacher may have no bottleneck
            judged["adversarial_features"] = {role: taps.one("bottleneck") for role, taps in roles.items()}
        return judged


def _discriminator_loss(*, student: Tensor, teacher: Tensor, discriminator: nn.Module) -> Tensor:
    return discriminator_loss_on_styles(student=student, teacher=teacher, discriminator=discriminator) / 2
