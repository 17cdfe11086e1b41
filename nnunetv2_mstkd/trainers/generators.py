"""Builds the two batch generators of a missing-modality trainer."""

from __future__ import annotations

from typing import Any

from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunetv2_mstkd.datasets.availability import Availability, describe
from nnunetv2_mstkd.datasets.unlabelled import unlabelled_cases
from nnunetv2_mstkd.trainers.data_loader import MaskedPatchLoader, WatchedAugmenter
from nnunetv2_mstkd.transforms import ModalityMaskingTransform


def build_generators(trainer: nnUNetTrainer) -> tuple[Any, Any]:
    """Training and validation generators: nnU-Net's own, except that training batches carry a mask.

    nnU-Net's ``get_dataloaders`` names its loader class inside the function, so the function is laid out
    here again; pipelines, patch sizes and process numbers are asked from the trainer and from nnU-Net.

    Args:
        trainer: has, beyond nnU-Net's own, ``modalities``, ``subset_sampler()``,
            ``case_availability(cases)``, ``seed``, ``unlabelled_share`` and ``unlabelled_on``.
    """
    train_pipeline, validation_pipeline, initial_patch = _pipelines(trainer)
    train_set, validation_set = trainer.get_tr_and_val_datasets()
    patch = trainer.configuration_manager.patch_size
    options = {
        "oversample_foreground_percent": trainer.oversample_foreground_percent,
        "probabilistic_oversampling": trainer.probabilistic_oversampling,
    }
    known = trainer.case_availability((*train_set.identifiers, *validation_set.identifiers))
    available = {case: known.flags(case) for case in known.entries}
    _report(trainer, known, train_set.identifiers, validation_set.identifiers)
    sizes, labels = (trainer.batch_size, initial_patch, patch), trainer.label_manager
    train_loader = MaskedPatchLoader(
        train_set,
        *sizes,
        labels,
        transforms=train_pipeline,
        available=available,
        unlabelled=unlabelled_cases(trainer.dataset_json),
        unlabelled_share=trainer.unlabelled_share,
        unlabelled_on=trainer.unlabelled_on,
        **options,
    )
    sizes = (trainer.batch_size, patch, patch)
    validation_loader = MaskedPatchLoader(
        validation_set, *sizes, labels, transforms=validation_pipeline, available=available, **options
    )
    processes = get_allowed_n_proc_DA()
    generators = (
        _generator(train_loader, trainer, processes, cached=max(6, processes // 2), stream=0),
        _generator(validation_loader, trainer, processes // 2, cached=max(3, processes // 4), stream=1),
    )
    for generator in generators:
        next(generator)  # start the workers now, so that a loading error shows before training
    return generators


def _report(trainer: nnUNetTrainer, known: Availability, training: list[str], validation: list[str]) -> None:
    """Repeat in the log what the cases of this fold lack."""
    for title, cases in (("Training", training), ("Validation", validation)):
        lines = "\n".join(describe(known.of(cases)))
        trainer.print_to_log_file(f"{title} cases: {lines}", add_timestamp=False)


def _pipelines(trainer: nnUNetTrainer) -> tuple[Any, Any, Any]:
    """nnU-Net's training transforms with the masking after them, its validation transforms, and the
    size of the patch that the training transforms start from."""
    config, labels = trainer.configuration_manager, trainer.label_manager
    scales = trainer._get_deep_supervision_scales()
    rotation, dummy_2d, initial_patch, mirror_axes = (
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    seg_options = {
        "is_cascaded": trainer.is_cascaded,
        "foreground_labels": labels.foreground_labels,
        "regions": labels.foreground_regions if labels.has_regions else None,
        "ignore_label": labels.ignore_label,
    }
    training = trainer.get_training_transforms(
        config.patch_size,
        rotation,
        scales,
        mirror_axes,
        dummy_2d,
        use_mask_for_norm=config.use_mask_for_norm,
        **seg_options,
    )
    masking = ModalityMaskingTransform(trainer.modalities, trainer.subset_sampler())
    validation = trainer.get_validation_transforms(scales, **seg_options)
    return ComposeTransforms([training, masking]), validation, initial_patch


def _generator(
    loader: nnUNetDataLoader, trainer: nnUNetTrainer, processes: int, cached: int, stream: int
) -> Any:
    """Wrap a loader as nnU-Net does: in this process for ``nnUNet_n_proc_DA=0``, else in workers."""
    if get_allowed_n_proc_DA() == 0:
        return SingleThreadedAugmenter(loader, None)
    processes = max(1, processes)
    seeds = None
    if trainer.seed is not None:
        # Distinct per worker, per rank and per generator, and anew when a training is continued; the order
        # in which workers deliver stays free.
        first = trainer.seed + 1000003 * (2 * trainer.local_rank + stream) + 7919 * trainer.current_epoch
        seeds = [(first + worker) % 2**32 for worker in range(processes)]
    return WatchedAugmenter(
        data_loader=loader,
        transform=None,
        num_processes=processes,
        num_cached=cached,
        seeds=seeds,
        pin_memory=trainer.device.type == "cuda",
        wait_time=0.002,
    )
