"""batchgeneratorsv2 transforms."""

from nnunetv2_mstkd.transforms.modality_masking import ModalityMaskingTransform, mask_modalities
from nnunetv2_mstkd.transforms.subset_samplers import SubsetSampler, build_sampler

__all__ = ["ModalityMaskingTransform", "SubsetSampler", "build_sampler", "mask_modalities"]
