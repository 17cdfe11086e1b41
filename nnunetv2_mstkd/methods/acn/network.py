"""ACN's network (Wang et al., MICCAI 2021, arXiv 2106.14591); teacher and student are two of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import expm1, log

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers
from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.residual_unet import RELEASED_PATCH, ResidualUNet, released_strides
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, TensorOrList, wants
from nnunetv2_mstkd.methods.acn.autoencoder import VariationalAutoencoder

_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5
_RECONSTRUCTION_TAPS = ("reconstruction", "code_mean", "code_log_variance")


class ACN(ResidualUNet):
    """Residual U-Net, with what only training looks at hanging from its bottleneck.

    ::

        encoder ─ encoded ─ blocks ─ bottleneck ─ dropout ─┬─ decoder ─ logits
                                         └─ regressor      └─ autoencoder (on request) ─ reconstruction

    Source: github.com/Wangyixinxin/ACN, commit 0643c57 (no licence), written anew from a description.
    Inference runs encoder and decoder alone.

    Taps: ``bottleneck`` (B, C, *bottleneck), before the dropout; ``prediction``, the regressor's guess at the
    other network's bottleneck, of the same shape, and ``log_scale`` (B, C), from which
    :func:`~nnunetv2_mstkd.methods.acn.losses.knowledge_transfer_loss` makes its variance; with
    ``autoencoder`` also ``reconstruction`` (B, M, *patch), ``code_mean`` and ``code_log_variance``, each
    (B, C / 4). Naming taps in ``return_taps`` spares the branches of those that are not named: the teacher
    needs no regressor.

    Args:
        autoencoder: build the variational branch. The released code builds it and trains it with nothing, so
            it has no influence there; off by default.
        input_channels, num_classes, patch_size, strides, base_features, blocks_per_stage, dropout: see
            :class:`ResidualUNet`; the defaults are the released sizes.
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
        autoencoder: bool = False,
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
        self.regressor = Regressor(self.layers, self.bottleneck_channels)
        self.autoencoder: VariationalAutoencoder | None = None
        if autoencoder:
            self.autoencoder = VariationalAutoencoder(
                self.layers, self.widths, self.bottleneck_size, input_channels
            )

    def forward(self, x: Tensor, return_taps: Request = False) -> Tensor | list[Tensor] | NetworkTaps:
        """Logits (B, K, *patch) without a nonlinearity, or :class:`NetworkTaps`.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return the taps too, all (``True``) or those named at least.
        """
        features, bottleneck = self.encode(x)
        dropped = self.dropout(bottleneck)
        logits = self.decoder(dropped, features.skips)
        if return_taps is False:
            return logits
        inner: dict[str, TensorOrList] = {"bottleneck": bottleneck}
        if wants(return_taps, "prediction") or wants(return_taps, "log_scale"):
            inner["prediction"], inner["log_scale"] = self.regressor(bottleneck)
        if self.autoencoder is not None and any(wants(return_taps, tap) for tap in _RECONSTRUCTION_TAPS):
            reconstruction = self.autoencoder(dropped, [skip.shape[2:] for skip in features.skips])
            inner |= zip(_RECONSTRUCTION_TAPS, reconstruction, strict=True)
        return NetworkTaps(logits, inner)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load one network of the authors' checkpoint (``model`` or ``model_mono``), in their keys.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few. So does a network
                without autoencoder.
        """
        load_foreign(self, self.released_names(), state_dict)

    def released_names(self) -> dict[str, str]:
        """Our key → the authors'."""
        names = {ours: f"unet.{theirs}" for ours, theirs in super().released_names().items()}
        for ours in self.state_dict():
            part, _, rest = ours.partition(".")
            if part == "regressor":
                names[ours] = f"VID_branch.{rest.replace('layers.', 'regressor.')}"
            elif part == "autoencoder":
                names[ours] = f"vae_branch.{self._name_in_autoencoder(rest)}"
        return names

    def _name_in_autoencoder(self, key: str) -> str:
        stages = len(self.widths)
        renamed = {"hidden": "hidden_conv", "mean": "mu_fc", "log_variance": "logvar_fc", "head": "vconv0"}
        renamed |= {"dense": "reconstraction.0", "enter": f"vconv{stages}.0"}
        for stage in range(stages - 1):
            renamed[f"stages.{stage}.conv"] = f"vconv{stages - 1 - stage}.0"
            renamed[f"stages.{stage}.block"] = f"vconv{stages - 1 - stage}.2"
        part = max((name for name in renamed if key.startswith(f"{name}.")), key=len)
        return (renamed[part] + key.removeprefix(part)).replace(".norm", ".gn")


class Regressor(nn.Module):
    """Predicts the teacher's bottleneck from the student's, voxel by voxel (``VID_branch``).

    Every channel of the prediction has a variance, learned as ``log_scale`` and 5 at first.

    Args:
        layers: what to build it from.
        channels: of the bottleneck.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((channels,), log(expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))))
        first, second, third = (layers.conv_op(channels, channels, 1, bias=False) for _ in range(3))
        self.layers = nn.Sequential(first, layers.activation(), second, layers.activation(), third)

    def forward(self, bottleneck: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction (B, C, ...), and ``log_scale`` of every sample (B, C)."""
        return self.layers(bottleneck), self.log_scale.expand(len(bottleneck), -1)


def released(patch_size: Sequence[int] = RELEASED_PATCH, input_channels: int = 4) -> ACN:
    """The released network with its autoencoder, in evaluation mode.

    Heads: edema, non-enhancing tumour, enhancing tumour, background.

    Args:
        patch_size: voxels per axis; the autoencoder's weights belong to it.
        input_channels: 4 is the teacher (T1, T2, FLAIR, T1ce; 9,630,136 parameters at the released patch), 1
            the student of the released script (T1ce).
    """
    strides = released_strides(len(patch_size))
    return ACN(input_channels, 4, patch_size=patch_size, strides=strides, autoencoder=True).eval()
