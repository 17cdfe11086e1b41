"""What ``evaluate`` is asked to do, and the command line that asks for the same."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nnunetv2_mstkd.datasets.input_rules import InputRules, parse_patterns
from nnunetv2_mstkd.engines import TORCH
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.lesionwise import DEFAULT_RULES, RULES
from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES
from nnunetv2_mstkd.inference.folder import Part
from nnunetv2_mstkd.inference.segmenter import default_device
from nnunetv2_mstkd.modalities import Subset, all_subsets, parse_subset
from nnunetv2_mstkd.models.folder import FINAL_CHECKPOINT, Fold

ALL = "all"  # subsets, and training cases
VALIDATION = "val"
DEFAULT = "default"  # lesion-wise rules
_DATASET = re.compile(r"Dataset\d{3}_.+")
_Path = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """One call of ``evaluate``: of a model, or of segmentations that are there already.

    Attributes:
        output: folder for the results. Finished work in it is not done again.
        model: nnU-Net's ``TRAINER__PLANS__CONFIGURATION`` folder.
        folds: fold numbers, or ``"all"``; None takes those that are there.
        checkpoint: file name in each fold's folder.
        cases: ``"val"`` (validation cases of the one fold), ``"all"`` (training cases), a folder, or a table.
        one_case: the images of that folder are one case.
        patterns: which files of that folder are which modality, as ``"t1c=*_T1post.nii.gz"``.
        labels: folder with the references of a folder's cases; None takes those beside the images.
            ``predictions`` need it.
        source_labels: ``labels`` has the label values of the data set's source.
        subsets: ``"all"``, or subsets such as ``"t1c+t2f"``.
        policy: for empty masks; a key of ``policies.POLICIES``.
        lesionwise: score single lesions too, by these rules: a key of ``lesionwise.RULES``, or ``"default"``.
        predictions: score the segmentations of this folder; no model is used.
        step_size: step of the sliding window in patches, in (0, 1].
        mirroring: average over mirrored patches, as nnU-Net does by default.
        device: of the network: ``cuda``, ``cuda:1``, ``cpu``, ``mps``; None takes CUDA where there is a GPU.
        engine: what runs the network: ``torch``, or ``openvino`` (on the CPU; an extra).
        everything_on_device: keep large intermediate results on the GPU.
        trust_checkpoint: read a checkpoint that holds more than nnU-Net stores, which may run code.
        readers: threads that read and preprocess.
        writers: threads that resample, write and score.
        part: which of several calls that share the cases this is.
        executor: ``dask://HOST:PORT`` of a cluster that scores; None scores here.
        verbose: show what nnU-Net prints.

    Raises:
        MSTKDError: a value is out of range or unknown, or two contradict each other.
    """

    output: _Path
    model: _Path | None = None
    folds: Fold | Sequence[Fold] | None = None
    checkpoint: str = FINAL_CHECKPOINT
    cases: _Path = VALIDATION
    one_case: bool = False
    patterns: Sequence[str] = ()
    labels: _Path | None = None
    source_labels: bool = False
    subsets: str | Sequence[str] = ALL
    policy: str = "brats"
    lesionwise: str | None = None
    predictions: _Path | None = None
    step_size: float = 0.5
    mirroring: bool = True
    device: str | torch.device | None = None
    engine: str = TORCH
    everything_on_device: bool = True
    trust_checkpoint: bool = False
    readers: int = 3
    writers: int = 3
    part: Part = field(default_factory=Part)
    executor: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise MSTKDError(f"--policy {self.policy} is not known; there are {', '.join(POLICIES)}")
        if self.lesionwise not in (None, DEFAULT, *RULES):
            raise MSTKDError(f"--lesionwise {self.lesionwise} is not known; there are {', '.join(RULES)}")
        if not 0 < self.step_size <= 1:
            raise MSTKDError(f"step_size {self.step_size} is not in (0, 1]; the default is 0.5")
        if min(self.readers, self.writers) < 0:
            raise MSTKDError("readers and writers are numbers of threads, at least 0 (which counts as 1)")
        if not self.subset_names:
            raise MSTKDError("--subsets names nothing; give all, or subsets like t1c+t2f")
        self._check_what_belongs_together()

    def _check_what_belongs_together(self) -> None:
        if self.input_rules is not None and (self.of_training or self.predictions is not None):
            raise MSTKDError(
                "--pattern and --one-case belong to --cases FOLDER; other cases have their names"
            )
        if self.predictions is not None:
            if self.labels is None:
                raise MSTKDError(
                    "--predictions needs --labels FOLDER, with CASE and the data set's file ending"
                )
            if self.model is not None:
                raise MSTKDError("--predictions needs no model; leave -d and -m away")
            return
        if self.model is None:
            raise MSTKDError("name a model to evaluate, or a folder of predictions")
        if self.of_training and (self.labels is not None or self.source_labels):
            flag = "--source_labels" if self.labels is None else "--labels"
            raise MSTKDError(f"{flag} belongs to --cases FOLDER; training cases have their references")

    @property
    def input_rules(self) -> InputRules | None:
        """How to read the names of a folder's files; None where nothing is said of that."""
        rules = InputRules(self.one_case, parse_patterns(self.patterns))
        return None if rules == InputRules() else rules

    @property
    def of_training(self) -> bool:
        """Whether the cases are those of the data set that the model was trained on."""
        return self.cases in (VALIDATION, ALL)

    @property
    def rules(self) -> str | None:
        """Name of the lesion-wise rules, or None."""
        return DEFAULT_RULES if self.lesionwise == DEFAULT else self.lesionwise

    @property
    def chosen_folds(self) -> tuple[Fold, ...] | None:
        """The folds as a tuple; None leaves the choice to what is there."""
        if self.folds is None:
            return None
        return (self.folds,) if isinstance(self.folds, (int, str)) else tuple(self.folds)

    @property
    def chosen_device(self) -> str:
        """The device by name."""
        return str(self.device or default_device())

    @property
    def subset_names(self) -> tuple[str, ...]:
        """The subsets that are named: ``+`` joins the names of one; a comma separates subsets."""
        texts = (self.subsets,) if isinstance(self.subsets, str) else self.subsets
        return tuple(part for text in texts for part in text.split(",") if part.strip())

    def chosen_subsets(self, modalities: Sequence[str]) -> tuple[Subset, ...]:
        """Return the subsets that are named, in table order.

        Raises:
            MSTKDError: a name is not among ``modalities``.
        """
        every = all_subsets(modalities)
        if self.subset_names == (ALL,):
            return every
        wanted = {parse_subset(name, modalities) for name in self.subset_names}
        return tuple(subset for subset in every if subset in wanted)

    def command(self, folds: Sequence[Fold] | None = None) -> str:
        """Return the command that does the same again, whichever part of the cases this call has.

        A model is named by ``-d``, ``-c``, ``-tr`` and ``-p`` where nnU-Net would find it by that: those mean
        the same model wherever ``nnUNet_results`` leads to it; a folder is of one machine.

        Args:
            folds: those that are there, where the request leaves the choice to that.
        """
        words: list[Any] = ["-o", self.output]
        if self.model is not None:
            words += _model_words(Path(self.model), self.chosen_folds, folds or ())
            words += self._flag("-chk", self.checkpoint, FINAL_CHECKPOINT)
            words += self._flag("--cases", self.cases, VALIDATION)
            words += self.input_rules.words() if self.input_rules else []
            words += self._flag("-step_size", self.step_size, 0.5)
            words += self._flag("-device", self.chosen_device.partition(":")[0], "cuda")
            words += self._flag("--engine", self.engine, TORCH)
            words += self._flag("-npp", self.readers, 3)
        words += self._flag("-nps", self.writers, 3)
        words += self._flag("--predictions", self.predictions) + self._flag("--labels", self.labels)
        words += self._flag("--executor", self.executor)
        for flag, given in (
            ("--disable_tta", not self.mirroring),
            ("--not_on_device", not self.everything_on_device),
            ("--trust_checkpoint", self.trust_checkpoint),
            ("--source_labels", self.source_labels),
        ):
            words += [flag] if given else []
        if self.subset_names != (ALL,):
            words += ["--subsets", *self.subset_names]
        words += self._flag("--lesionwise", self.rules) + self._flag("--policy", self.policy, "brats")
        return shlex.join(("nnUNetv2_mstkd", "evaluate", *map(str, words)))

    @staticmethod
    def _flag(name: str, value: Any, default: Any = None) -> list[Any]:
        return [] if value == default else [name, value]


def _model_words(model: Path, folds: Sequence[Fold] | None, present: Sequence[Fold]) -> list[Any]:
    """Return the flags that name a model and its folds."""
    folder = model.resolve()
    parts = folder.name.split("__")
    if len(parts) == 3 and _DATASET.fullmatch(folder.parent.name):
        trainer, plans, configuration = parts
        named = ["-d", folder.parent.name, "-c", configuration, "-tr", trainer, "-p", plans]
        folds = present if folds is None else folds  # -d without -f means the five folds
    else:
        named = ["-m", str(model)]
    return [*named, *(("-f", *folds) if folds else ())]
