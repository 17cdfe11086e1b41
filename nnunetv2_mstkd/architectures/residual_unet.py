"""The residual U-Net that SMU-Net and ACN share, and the names of its weights in their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from string import ascii_lowercase

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.blocks import Layers, residual_blocks
from nnunetv2_mstkd.architectures.conv_decoder import Decoder
from nnunetv2_mstkd.architectures.conv_encoder import Encoder, EncoderFeatures
from nnunetv2_mstkd.architectures.without_gradients import in_fastest_layout
from nnunetv2_mstkd.errors import MSTKDError

RELEASED_PATCH = (160, 192, 128)
RELEASED_STAGES = 4
_GROUPS = 8


class ResidualUNet(nn.Module):
    """Parts of Myronenko's residual U-Net (arXiv 1810.11654); what runs between its halves is a subclass's.

    ::

        encoder ─ encoded ─ bottleneck blocks ─ bottleneck ─ ... ─ dropout ─ decoder ─ logits

    Pre-activation residual blocks with GroupNorm (8 groups) and ReLU, widths that double, sums as skip
    connections, nearest upsampling. Any patch works: a stride maps n voxels to ceil(n / stride), the decoder
    goes back to the size of its skip. Weights are initialised as PyTorch does it, as in both releases.

    An absent modality is a channel of zeros. It has no influence: the first convolution adds nothing for it.

    Args:
        input_channels: modalities.
        num_classes: channels of the logits.
        patch_size: voxels per axis.
        strides: of the plan, per stage and axis; as many are taken as ``blocks_per_stage`` has entries.
        base_features: channels of the first stage, a multiple of 8; every further stage has twice as many.
        blocks_per_stage: residual blocks of each stage; the last number is the deepest stage's in a plan with
            fewer stages too.
        dropout: probability, element by element, before the decoder.

    Attributes:
        bottleneck_channels: of the deepest features.
        bottleneck_size: their voxels per axis for a patch of ``patch_size``.

    Raises:
        MSTKDError: a value that no network can be built from.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        base_features: int,
        blocks_per_stage: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        strides = [tuple(int(s) for s in stride) for stride in strides[: len(blocks_per_stage)]]
        _check(type(self).__name__, patch_size, strides, base_features)
        blocks = [*blocks_per_stage[: len(strides) - 1], blocks_per_stage[-1]]
        widths = [base_features * 2**stage for stage in range(len(strides))]
        kernels = [[3] * len(patch_size)] * len(strides)
        conv_op = convert_dim_to_conv_op(len(patch_size))
        self.layers = Layers(conv_op, nn.GroupNorm, {"num_groups": _GROUPS}, nn.ReLU, {"inplace": True})
        self.widths = widths
        self.bottleneck_channels = widths[-1]
        self.bottleneck_size = _after(strides, patch_size)
        self.encoder = Encoder(self.layers, input_channels, widths, kernels, strides, blocks[:-1])
        self.bottleneck_blocks = residual_blocks(self.layers, blocks[-1], widths[-1], kernels[-1])
        self.dropout = nn.Dropout(dropout)
        self.decoder = Decoder(self.layers, widths, kernels, num_classes, n_heads=1, deep_supervision=False)

    def encode(self, x: Tensor) -> tuple[EncoderFeatures, Tensor]:
        """The encoder's features, and the bottleneck (B, C, *bottleneck) behind the deepest blocks."""
        features = self.encoder(in_fastest_layout(x))
        return features, self.bottleneck_blocks(features.encoded)

    def released_names(self) -> dict[str, str]:
        """Key of every weight of these parts → the authors', without their ``unet.`` in front."""
        stages = len(self.widths)
        modules = {f"encoder.stages.{s}.conv": f"ds{s}" if s else "conv1a" for s in range(stages)}
        for s in range(stages - 1):
            modules |= self._block_names(f"encoder.stages.{s}.blocks", s, ascii_lowercase if s else "b")
            modules[f"decoder.stages.{s}.reduce"] = f"up{stages - s}conva"
            modules[f"decoder.stages.{s}.block"] = f"up{stages - s}convb"
        modules |= self._block_names("bottleneck_blocks", stages - 1, ascii_lowercase)
        modules["decoder.seg_layers.0"] = "up1conv"
        return {
            f"{ours}.{leaf}": f"{theirs}.{leaf.replace('norm', 'gn')}"
            for ours, theirs in modules.items()
            for leaf in self.get_submodule(ours).state_dict()
        }

    def _block_names(self, blocks: str, stage: int, letters: str) -> dict[str, str]:
        numbers = range(len(list(self.get_submodule(blocks).children())))
        return {f"{blocks}.{n}": f"conv{stage + 1}{letters[n]}" for n in numbers}


def released_strides(dims: int) -> list[list[int]]:
    """Strides of the released networks, per stage and axis."""
    return [[1] * dims, *[[2] * dims] * (RELEASED_STAGES - 1)]


def _check(
    name: str, patch_size: Sequence[int], strides: Sequence[Sequence[int]], base_features: int
) -> None:
    dims = len(patch_size)
    if len(strides) < 2 or dims not in (2, 3) or any(len(stride) != dims for stride in strides):
        raise MSTKDError(
            f"{name} cannot be built with strides {list(strides)} and patch_size {list(patch_size)}; "
            "give 2 stages or more, and one number for each of 2 or 3 axes"
        )
    if base_features < _GROUPS or base_features % _GROUPS:
        raise MSTKDError(
            f"base_features is {base_features}; {name}'s norms have {_GROUPS} groups of channels, "
            f"give a multiple of {_GROUPS}"
        )


def _after(strides: Sequence[Sequence[int]], size: Sequence[int]) -> tuple[int, ...]:
    """Voxels per axis behind the strides: n becomes ceil(n / stride) at each."""
    for stride in strides:
        size = [ceil(n / s) for n, s in zip(size, stride, strict=True)]
    return tuple(int(n) for n in size)
