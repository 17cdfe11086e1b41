"""RMBTS's network (Chen et al., MICCAI 2019), written anew from a description of
github.com/cchen-cc/Robust-Mseg, commit fa35dda.

A content encoder per modality; at every level gates, one per modality and voxel, weigh what the present ones
found before it is mixed. In training the common content, together with a style code per modality, must give
every image back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count, pairwise
from math import prod

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.architectures.foreign_weights import load_foreign
from nnunetv2_mstkd.architectures.presence import presence, shown
from nnunetv2_mstkd.architectures.shapes import checked_strides, pad_to_multiple
from nnunetv2_mstkd.architectures.taps import NetworkTaps, Request, wants
from nnunetv2_mstkd.methods.rmbts.layers import ConvUnit, NormedConv, conv, repeat_voxels
from nnunetv2_mstkd.methods.rmbts.reconstruction import Reconstructed, Reconstruction
from nnunetv2_mstkd.methods.rmbts.released_weights import from_tensorflow, released_names

_LEVELS = 4
_CLASSES = 5  # BraTS 2015


class RMBTS(nn.Module):
    """Segmentation network with gated fusion of modalities.

    Which modalities are there is read from the zeros, see :func:`presence`; an absent one has no influence.
    Any patch works: it is padded with zeros to a multiple of the network's stride, outputs are cropped back.
    Weights are initialised as released (:mod:`nnunetv2_mstkd.methods.rmbts.layers`).

    Args:
        input_channels: modalities, M.
        num_classes: heads, K.
        patch_size: voxels per axis; only the number of axes matters here.
        strides: of the plan, per stage and axis; the first ``levels`` are taken.
        base_features: channels of the finest level; every further level has twice as many.
        levels: resolutions; fewer if the plan has fewer.
        style_features: length of a style code.
        reconstruction: build what training needs beside the segmentation. Inference does not: without it the
            released network has 6.7 instead of 37.5 million parameters, the same ones but for those whose
            names start with ``reconstruction.``.

    Attributes:
        total_stride: per axis.

    Raises:
        MSTKDError: fewer than two stages, or strides and patch of different dimension.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        patch_size: Sequence[int],
        strides: Sequence[Sequence[int]],
        base_features: int = 16,
        levels: int = _LEVELS,
        style_features: int = 8,
        reconstruction: bool = True,
    ) -> None:
        super().__init__()
        dims, features = len(patch_size), {"base_features": base_features, "style_features": style_features}
        strides = checked_strides("RMBTS", strides, patch_size, levels, **features)
        widths = [base_features * 2**level for level in range(len(strides))]
        self.total_stride = tuple(prod(of_axis) for of_axis in zip(*strides, strict=True))
        self.least_multiples = _least_multiples(strides)
        self.encoder = nn.ModuleList(
            ContentLevel(dims, input_channels, *sizes)
            for sizes in zip([1, *widths[:-1]], widths, strides, strict=True)
        )
        self.fusions = nn.ModuleList(GatedFusion(dims, input_channels, width) for width in widths)
        self.decoder = MaskDecoder(dims, widths, strides, num_classes)
        self.reconstruction = (
            Reconstruction(dims, input_channels, widths, strides, style_features) if reconstruction else None
        )

    def forward(
        self, x: Tensor, return_taps: Request = False, present: Tensor | None = None
    ) -> Tensor | NetworkTaps:
        """Logits (B, K, *patch), without a nonlinearity.

        Args:
            x: (B, M, *patch); absent modalities are zero.
            return_taps: return :class:`NetworkTaps` with, in ``inner``, ``reconstructions`` (B, M, *patch),
                the style codes ``styles`` (B, M, F), and what the image decoders make of them: ``gains`` and
                ``shifts`` (B, M, C), "mu" and "sigma" of the released code. Nothing of the sort where the
                network is built without reconstruction.
            present: (B, M) bool, which of the modalities that ``x`` shows the fusion may see; all by default.
                So in the released training: it reconstructs all images, whatever the mask hides.

        No gradient comes from logits of samples of which nothing is to be seen, nor from reconstructions of
        those, or of channels of zeros: of maps without contrast every norm's gradient is rounding noise times
        1000, layer after layer.
        """
        there = shown(x)
        present = presence(x) if present is None else present & presence(x)
        padded, crop = pad_to_multiple(x, self.total_stride, least=self.least_multiples)
        fused = self._fused(padded, present)
        content = fused[-1]
        seen = (present & there).any(1, keepdim=True)
        logits = _with_gradient(self.decoder(fused)[crop], seen[:, 0])
        if return_taps is False:
            return logits
        if self.reconstruction is None or not any(wants(return_taps, name) for name in Reconstructed._fields):
            return NetworkTaps(logits)
        inner = self.reconstruction(padded, content)._asdict()
        inner["reconstructions"] = _with_gradient(inner["reconstructions"][crop], seen & there)
        return NetworkTaps(logits, inner)

    def _fused(self, x: Tensor, present: Tensor) -> list[Tensor]:
        """Fused features (B, C, ...) per level, finest first, of images (B, M, ...)."""
        maps: Sequence[Tensor] = x.split(1, dim=1)
        absent = ~present.unflatten(1, (-1, *[1] * (x.ndim - 1)))
        fused = []
        for encode, fuse in zip(self.encoder, self.fusions, strict=True):
            # In place: the stack is new. An absent modality's next map is as hidden as this one, so its
            # encoder may as well go on from zeros, and no map is held twice.
            stack = encode(maps).masked_fill_(absent, 0)
            fused.append(fuse(stack))
            maps = stack.unbind(1)
        return fused

    def decayed_parameters(self) -> list[nn.Parameter]:
        """Weights that the released training decays: kernels, but for those of gates, fusion and image head.

        Its penalty 1e-4 · ½‖w‖² is what Adam's own (coupled) ``weight_decay=1e-4`` does.
        """
        decayed = ("encoder.", "decoder.", "reconstruction.style_encoders.", "reconstruction.decoders.")
        return [p for name, p in self.named_parameters() if name.startswith(decayed) and p.ndim > 1]

    def load_released_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Load the authors' weights.

        Args:
            state_dict: their TensorFlow variables by name, as stored (channels last; the optimizer's are
                ignored), or, with or without ``module.`` in front, tensors in PyTorch's layout under the keys
                of :func:`released_names`.

        Raises:
            MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
        """
        weights = from_tensorflow({key.removeprefix("module."): value for key, value in state_dict.items()})
        load_foreign(self, released_names(self), weights)


class ContentLevel(nn.ModuleList):
    """One resolution of the content encoders, one per modality, weights not shared."""

    def __init__(
        self, dims: int, modalities: int, in_channels: int, channels: int, stride: Sequence[int]
    ) -> None:
        super().__init__(ResidualTrio(dims, in_channels, channels, stride) for _ in range(modalities))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, M, C, ...) from the M images or maps (B, C', ...) of the finer level."""
        return torch.stack([trio(x) for trio, x in zip(self, maps, strict=True)], dim=1)


class ResidualTrio(nn.Module):
    """y + third(second(y)) with y = first(x), which alone is strided; nothing behind the sum."""

    def __init__(self, dims: int, in_channels: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.first = ConvUnit(dims, in_channels, channels, stride=stride)
        self.second = ConvUnit(dims, channels, channels)
        self.third = ConvUnit(dims, channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return y + self.third(self.second(y))


class GatedFusion(nn.Module):
    """Mixes the modalities' maps (B, M, C, ...), absent ones zero, to (B, C, ...).

    A gate from 0 to 1 per modality and voxel, computed from all maps, weighs each before.
    """

    def __init__(self, dims: int, modalities: int, channels: int) -> None:
        super().__init__()
        self.gate = NormedConv(dims, modalities * channels, modalities)
        self.mix = ConvUnit(dims, modalities * channels, channels, kernel_size=1)

    def forward(self, stack: Tensor) -> Tensor:
        gates = self.gate(stack.flatten(1, 2)).sigmoid()
        return self.mix((stack * gates.unsqueeze(2)).flatten(1, 2))


class MaskDecoder(nn.Module):
    """Logits (B, K, ...) from fused features (B, C, ...) per level, finest first."""

    def __init__(
        self, dims: int, widths: Sequence[int], strides: Sequence[Sequence[int]], num_classes: int
    ) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            MaskStep(dims, coarse, fine, stride)
            for (fine, coarse), stride in zip(pairwise(widths), strides[1:], strict=True)
        )
        self.head = conv(dims, widths[0], num_classes, kernel_size=1)

    def forward(self, fused: Sequence[Tensor]) -> Tensor:
        *skips, x = fused
        for step, skip in zip(reversed(self.steps), reversed(skips), strict=True):
            x = step(x, skip)
        return self.head(x)


class MaskStep(nn.Module):
    """One level up: a unit on repeated voxels, one on the result beside the skip, one of kernel 1."""

    def __init__(self, dims: int, in_channels: int, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.up = ConvUnit(dims, in_channels, channels)
        self.merge = ConvUnit(dims, 2 * channels, channels)
        self.out = ConvUnit(dims, channels, channels, kernel_size=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        raised = self.up(repeat_voxels(x, self.stride))
        return self.out(self.merge(torch.cat((raised, skip), dim=1)))


def released(patch_size: Sequence[int] = (80, 80, 80), input_channels: int = 4) -> RMBTS:
    """The published network, 37,455,766 parameters, in eval mode.

    Channels are FLAIR, T1c, T1, T2; heads are BraTS 2015's labels 0 to 4 (4: enhancing tumour).
    """
    dims = len(patch_size)
    strides = [[1] * dims] + [[2] * dims] * (_LEVELS - 1)
    return RMBTS(input_channels, _CLASSES, patch_size=patch_size, strides=strides).eval()


def _least_multiples(strides: Sequence[Sequence[int]]) -> int:
    """Multiples of the total stride that leave each reflection more voxels than it reflects, on every axis.

    Kernels of 7 at the finest level reflect 3 voxels, of 5 at all but the coarsest 2, of 3 there 1.
    """
    needed = [4, *[3] * (len(strides) - 2), 2]

    def enough(number: int, of_axis: Sequence[int]) -> bool:
        sizes = (number * prod(of_axis[level + 1 :]) for level in range(len(of_axis)))
        return all(size >= least for size, least in zip(sizes, needed, strict=True))

    axes = list(zip(*strides, strict=True))
    return next(number for number in count(1) if all(enough(number, of_axis) for of_axis in axes))


def _with_gradient(x: Tensor, which: Tensor) -> Tensor:
    """``x`` (B, ...), with exactly zero gradient outside of ``which``, bool, of its first axes."""
    return torch.where(which.view(*which.shape, *[1] * (x.ndim - which.ndim)), x, x.detach())
