"""MST-KDNet's segmentation network, for any plan of nnU-Net and exactly as published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pydoc import locate
from typing import Any

import torch
from dynamic_network_architectures.architectures.abstract_arch import AbstractDynamicNetworkArchitectures
from dynamic_network_architectures.building_blocks.helper import get_matching_pool_op
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.architectures.blocks import Layers, residual_blocks
from nnunetv2_mstkd.architectures.conv_decoder import Decoder
from nnunetv2_mstkd.architectures.conv_encoder import Encoder
from nnunetv2_mstkd.architectures.foreign_weights import (
    load_foreign,
)
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, wants
from nnunetv2_mstkd.architectures.without_gradients import in_fastest_layout
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods.mstkd.official_decoder import OfficialTokenDecoder
from nnunetv2_mstkd.methods.mstkd.official_weights import (
    official_network_names,
)
from nnunetv2_mstkd.methods.mstkd.sizes import CLASS_KWARGS, bottleneck_size, official_kwargs
from nnunetv2_mstkd.methods.mstkd.tokens import TokenBottleneck, TokenDecoder
from nnunetv2_mstkd.methods.mstkd.transformer import TokenSettings, TokenTransformer

TOKEN_DECODERS = {"nnunet": TokenDecoder, "official": OfficialTokenDecoder}


class MSTKDNet(AbstractDynamicNetworkArchitectures):
    """U-Net with a transformer at the bottleneck and a split into style and content.

    ::

        encoder ─ encoded ─ + tokens(encoded) ─ combined ─ content blocks ─ content ─┐
           │         └─────────────────────────────┤                                 ├─ 1×1 ─ decoder ─ logits
           └─ second-last features, pooled ────────┴─ 1×1 ────────────────── style ──┘

    Source: github.com/Quanato607/MST-KDNet, commit 2c77373 (Apache-2.0), written anew; the modules of this
    room name what they correspond to there.

    Sizes: any patch works. Every stride maps n voxels to ceil(n / stride), the bottleneck is padded to whole
    tokens and cropped back, the decoder upsamples to the size of its skip, and the position table is
    interpolated to the token grid. With the same ``token_patch_size`` the weights fit any patch.

    Taps (published names in brackets): ``attention``, one (B, heads, N, N) per tapped transformer layer,
    shallow first: probabilities in float32, after the softmax and before dropout (rows sum to 1), N tokens;
    ``token_features``, one map per tapped layer (z3, z6, z9, z12), as the token decoder has fused them: each
    holds its own layer and all deeper ones; ``encoded``, the output of the last downsampling convolution,
    before the tokens; ``style``; ``content``: each (B, C, *bottleneck).

    Two presets. ``official`` is the published network: GroupNorm and ReLU, one head, the published token
    decoder, PyTorch's own initialisation; with deep supervision it returns a list of its one output.
    ``nnunet`` differs in: norm, nonlinearity, widths and blocks from the plan, a head for every decoder
    stage, the light :class:`TokenDecoder`, He initialisation of convolutions.

    Args:
        input_channels: modalities; an absent one is a channel of zeros.
        n_stages: resolutions, at least 2.
        features_per_stage: channels per stage.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        kernel_sizes: per stage and axis, odd.
        strides: per stage and axis.
        n_blocks_per_stage: residual blocks per encoder stage; those of the last make the content features.
        num_classes: channels of the logits.
        patch_size: voxels per axis of the plan; sets the sizes below, no weight.
        position_grid: tokens per axis of the position table.
        norm_op, norm_op_kwargs, nonlin, nonlin_kwargs, conv_bias: see :class:`Layers`.
        token_patch_size, token_features, token_layers, token_heads, token_mlp_features, token_taps,
            token_dropout: see :class:`TokenSettings`.
        dropout: probability, on the merged style and content features.
        preset: ``nnunet`` or ``official``.
        deep_supervision: ``forward`` returns a list; may be set later at ``decoder.deep_supervision``.

    Attributes:
        style_channels: channels of the style, content and encoded features.
        bottleneck_size: their voxels per axis for a patch of ``patch_size``.
        token_grid: tokens per axis for a patch of ``patch_size``.

    Raises:
        MSTKDError: a value that no network can be built from.
    """

    # Names that dynamic_network_architectures uses for transferring weights.
    key_to_encoder = "encoder.stages"
    key_to_stem = "encoder.stages.0"
    keys_to_in_proj = ("encoder.stages.0.conv",)

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: Sequence[int],
        conv_op: type[_ConvNd],
        kernel_sizes: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        n_blocks_per_stage: Sequence[int],
        num_classes: int,
        *,
        patch_size: Sequence[int],
        norm_op: type[nn.Module],
        nonlin: type[nn.Module],
        token_patch_size: Sequence[int],
        position_grid: Sequence[int],
        token_features: int,
        token_layers: int,
        token_heads: int,
        token_mlp_features: int,
        token_taps: Sequence[int],
        token_dropout: float = 0.1,
        dropout: float = 0.1,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        conv_bias: bool = True,
        preset: str = "nnunet",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.preset = preset
        self.key_to_lpe = "tokens.transformer.position_table"
        self.style_channels = width = features_per_stage[-1]
        self.bottleneck_size = bottleneck_size(patch_size, strides)
        layers = Layers(conv_op, norm_op, norm_op_kwargs or {}, nonlin, nonlin_kwargs or {}, conv_bias)
        sizes = (token_features, token_layers, token_heads, token_mlp_features)
        tokens = TokenSettings(token_patch_size, *sizes, token_taps, token_dropout)
        stages = (features_per_stage, kernel_sizes)
        self.encoder = Encoder(layers, input_channels, *stages, strides, n_blocks_per_stage[:-1])
        self.tokens = self._build_tokens(layers, tokens, position_grid)
        self.token_grid = self._token_grid(patch_size)
        self.content_blocks = residual_blocks(layers, n_blocks_per_stage[-1], width, kernel_sizes[-1])
        self.pool = get_matching_pool_op(conv_op, pool_type="max")(strides[-1], strides[-1], ceil_mode=True)
        self.style_conv = layers.conv(features_per_stage[-2] + 2 * width, width, kernel_size=1)
        self.merge_conv = layers.conv(2 * width, width, kernel_size=1)
        self.dropout = nn.Dropout(dropout)
        n_heads = 1 if preset == "official" else n_stages - 1
        self.decoder = Decoder(layers, *stages, num_classes, n_heads, deep_supervision)

    @classmethod
    def official(
        cls, input_channels: int = 4, num_classes: int = 4, patch_size: Sequence[int] = (160, 192, 128)
    ) -> MSTKDNet:
        """The published network; with the default arguments, 154,335,684 parameters."""
        kwargs = official_kwargs(patch_size)
        classes = {name: locate(kwargs[name]) for name in CLASS_KWARGS}
        return cls(input_channels=input_channels, num_classes=num_classes, **(kwargs | classes))

    def _build_tokens(
        self, layers: Layers, settings: TokenSettings, position_grid: Sequence[int]
    ) -> TokenBottleneck:
        if self.preset not in TOKEN_DECODERS:
            raise MSTKDError(f"unknown preset '{self.preset}'; use one of {', '.join(TOKEN_DECODERS)}")
        transformer = TokenTransformer(layers, self.style_channels, position_grid, settings)
        decoder = TOKEN_DECODERS[self.preset](layers, self.style_channels, settings)
        if self.preset == "official":
            # The published network has this layer and never calls it: it stays, so that checkpoints and
            # counts agree, without asking for a gradient that DDP would wait for.
            transformer.encoder_norm = nn.LayerNorm(settings.features).requires_grad_(False)
        return TokenBottleneck(settings.patch_size, transformer, decoder)

    def forward(self, x: Tensor, return_taps: Request = False) -> Tensor | list[Tensor] | NetworkTaps:
        """Logits, and on request what the distillation looks at.

        Args:
            x: (B, input_channels, *patch).
            return_taps: return :class:`NetworkTaps`, of everything (``True``) or of the taps named. Attention
                matrices are computed for nothing else, so they are there only if asked for.

        Returns:
            Logits (B, num_classes, *patch) without a nonlinearity, or with deep supervision a list of
            ``n_stages - 1``, highest resolution first (``official``: of one).
        """
        skips, second_last, encoded = self.encoder(in_fastest_layout(x))
        attention = wants(return_taps, "attention")
        tokens = self.tokens(encoded, attention)
        combined = encoded + tokens.features
        content = self.content_blocks(combined)
        style = self.style_conv(torch.cat((self.pool(second_last), encoded, combined), dim=1))
        merged = self.merge_conv(torch.cat((style, content), dim=1))
        logits = self.decoder(self.dropout(merged), skips)
        if return_taps is False:
            return logits
        inner = {
            "token_features": tokens.token_features,
            "encoded": encoded,
            "style": style,
            "content": content,
        }
        return NetworkTaps(logits, {"attention": tokens.attention, **inner} if attention else inner)

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load a checkpoint of the authors' code, in its keys.

        Raises:
            MSTKDError: this is not the official preset, or keys or shapes differ; names them.
        """
        if self.preset != "official":
            raise MSTKDError(
                f"official weights do not fit the preset '{self.preset}'; build MSTKDNet.official()"
            )
        load_foreign(self, official_network_names(self), state_dict)

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Elements of the feature maps of one forward pass, batch of one, for nnU-Net's planner.

        Counted are outputs of convolutions and linear layers, as dynamic_network_architectures counts them,
        and the attention matrices of the tapped layers.

        Args:
            input_size: voxels per axis, without batch and channels.
        """
        counts: list[int] = []

        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            counts.append(output.numel())

        counted = [m for m in self.modules() if isinstance(m, (_ConvNd, nn.Linear))]
        run_on_meta(self, (1, self.encoder.input_channels, *input_size), count, counted)
        return sum(counts) + self._attention_size(input_size)

    def _attention_size(self, input_size: Sequence[int]) -> int:
        return self.attention_matrices * prod(self._token_grid(input_size)) ** 2

    @property
    def attention_matrices(self) -> int:
        """Attention matrices (N, N) that a sample's taps hold."""
        return len(self.tokens.transformer.taps) * self.tokens.transformer.heads

    def _token_grid(self, input_size: Sequence[int]) -> tuple[int, ...]:
        sizes = bottleneck_size(input_size, self.encoder.strides)
        return tuple(-(-n // p) for n, p in zip(sizes, self.tokens.patch_size, strict=True))

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """He initialisation of the ``nnunet`` preset's convolutions; nnU-Net applies this to every module.

        It acts when it meets the whole network, because the official preset keeps PyTorch's initialisation.
        """
        if isinstance(module, MSTKDNet) and module.preset == "nnunet":
            module.apply(InitWeights_He(1e-2))


def released(patch_size: Sequence[int] = (160, 192, 128), input_channels: int = 4) -> MSTKDNet:
    """The published network, in eval mode; channels and heads in the order of the released code."""
    return MSTKDNet.official(input_channels, patch_size=patch_size).eval()


# As plans files name it.
NETWORK_CLASS = f"{MSTKDNet.__module__}.{MSTKDNet.__qualname__}"
