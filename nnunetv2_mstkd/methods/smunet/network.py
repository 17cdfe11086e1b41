"""SMU-Net's network (Azad et al., arXiv 2203.01932); teacher and student are two of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_pool_op
from torch import Tensor

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.residual_unet import RELEASED_PATCH, ResidualUNet, released_strides
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request


class SMUNet(ResidualUNet):
    """Residual U-Net whose bottleneck is split into style and content, and put together again.

    ::

        encoder ─ encoded ─ blocks ─ content ─┬──────────────────┐
           │         └────────────────────────┤                  ├─ 1×1 ─ dropout ─ decoder ─ logits
           └─ second-last features, pooled ───┴─ 1×1 ─── style ──┘

    Source: github.com/rezazad68/smunet, commit 251f3ad (MIT), written anew from a description. It is
    MST-KDNet without the tokens. All of it runs at inference: the decoder starts from style and content.

    Taps: ``style`` and ``content``, each (B, bottleneck_channels, *bottleneck).

    Args, attributes and errors: see :class:`ResidualUNet`; the defaults are the released sizes. The style
    features lie where the content is: ``bottleneck_channels`` and ``bottleneck_size`` are those that the
    style discriminator is built for.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        base_features: int = 16,
        blocks_per_stage: Sequence[int] = (1, 2, 2, 4),
        dropout: float = 0.2,
    ) -> None:
        super().__init__(
            input_channels,
            num_classes,
            patch_size=patch_size,
            strides=strides,
            base_features=base_features,
            blocks_per_stage=blocks_per_stage,
            dropout=dropout,
        )
        width, stride = self.bottleneck_channels, self.encoder.strides[-1]
        pool_op = get_matching_pool_op(self.layers.conv_op, pool_type="max")
        self.pool = pool_op(stride, stride, ceil_mode=True)  # ends at the size of the strided convolution
        self.style_conv = self.layers.conv(self.widths[-2] + 2 * width, width, kernel_size=1)
        self.merge_conv = self.layers.conv(2 * width, width, kernel_size=1)

    def forward(self, x: Tensor, return_taps: Request = False) -> Tensor | list[Tensor] | NetworkTaps:
        """Logits (B, K, *patch) without a nonlinearity, or :class:`NetworkTaps`.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return the taps too; they cost nothing.
        """
        (skips, second_last, encoded), content = self.encode(x)
        style = self.style_conv(torch.cat((self.pool(second_last), encoded, content), dim=1))
        merged = self.merge_conv(torch.cat((style, content), dim=1))
        logits = self.decoder(self.dropout(merged), skips)
        if return_taps is False:
            return logits
        return NetworkTaps(logits, {"style": style, "content": content})

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load one network of the authors' checkpoint (``model_full`` or ``model_missing``), in their keys.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        load_foreign(self, self.released_names(), state_dict)

    def released_names(self) -> dict[str, str]:
        """Our key → the authors'."""
        names = super().released_names()
        for leaf in ("weight", "bias"):
            names |= {f"style_conv.{leaf}": f"convc.{leaf}", f"merge_conv.{leaf}": f"convco.{leaf}"}
        return {ours: f"unet.{theirs}" for ours, theirs in names.items()}


def released(patch_size: Sequence[int] = RELEASED_PATCH, input_channels: int = 4) -> SMUNet:
    """The released network, in evaluation mode.

    Heads: edema, non-enhancing tumour, enhancing tumour, background.

    Args:
        patch_size: voxels per axis.
        input_channels: 4 is the teacher (FLAIR, T1, T1ce, T2; 4,778,212 parameters), 1 the student of the
            released script (FLAIR).
    """
    strides = released_strides(len(patch_size))
    return SMUNet(input_channels, 4, patch_size=patch_size, strides=strides).eval()
