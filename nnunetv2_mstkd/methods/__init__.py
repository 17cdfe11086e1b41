"""Every trainer by name: what ``-tr`` finds, the folder that holds it, and the paper that it comes from.

To add a method, add its folder and its lines here. The classes are imported when first used: a network of a
method can be had without nnU-Net's training code.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nnunetv2_mstkd.settings import Setting

_NNUNET = "Isensee et al., Nature Methods 2021"
_FILM = "norms: FiLM, AAAI 2018; ModDrop++, MICCAI 2022"
_MSTKD = "MST-KDNet, arXiv 2507.22626"


@dataclass(frozen=True)
class Method:
    """One trainer of the list.

    Attributes:
        trainer: name for ``-tr``.
        module: that holds its class, below this package.
        title: what it is, in a line.
        paper: that it comes from.
    """

    trainer: str
    module: str
    title: str
    paper: str

    @property
    def page(self) -> str:
        """The page of the documentation that explains it."""
        return f"docs/methods/{self.module.split('.')[0]}.md"

    def load(self) -> Any:
        """The trainer's class."""
        return getattr(import_module(f"{__name__}.{self.module}"), self.trainer)


METHODS = (
    Method("nnUNetTrainerFullModality", "baselines", "nnU-Net on all modalities", _NNUNET),
    Method("nnUNetTrainerModalityDropout", "baselines", "nnU-Net with modality dropout", _NNUNET),
    Method("nnUNetTrainerConditionedDropout", "conditioned_dropout", "dropout, told what is absent", _FILM),
    Method("nnUNetTrainerMSTKD", "mstkd.trainer", "MST-KD, teacher: its own past", _MSTKD),
    Method("nnUNetTrainerMSTKDUNet", "mstkd.trainer", "MST-KD for the plan's own network", _MSTKD),
    Method("nnUNetTrainerMSTKDJoint", "mstkd.variants", "teacher: a second network", _MSTKD),
    Method("nnUNetTrainerMSTKDShared", "mstkd.variants", "teacher: the network itself", _MSTKD),
    Method("nnUNetTrainerMSTKDFrozenTeacher", "mstkd.variants", "teacher: a finished model", _MSTKD),
    Method("nnUNetTrainerMSTKDOfficial", "mstkd.official", "MST-KDNet as released", _MSTKD),
    Method("nnUNetTrainerMSTKD_woTransformerKD", "mstkd.variants", "without token terms", _MSTKD),
    Method("nnUNetTrainerMSTKD_woGSME", "mstkd.variants", "without style terms", _MSTKD),
    Method("nnUNetTrainerMSTKD_woSLKD", "mstkd.variants", "without logit terms", _MSTKD),
    Method("nnUNetTrainerMSTKD_PlainStudent", "mstkd.variants", "without a teacher", _MSTKD),
    Method("nnUNetTrainerRFNet", "rfnet.trainer", "region-aware fusion", "Ding et al., ICCV 2021"),
    Method("nnUNetTrainerRAHVED", "rahved.trainer", "product of experts", "Jeong et al., ACCV 2022"),
    Method("nnUNetTrainerM2FTrans", "m2ftrans.trainer", "masked fusion transformer", "Shi et al., JBHI 2024"),
    Method("nnUNetTrainerMMFormer", "mmformer.trainer", "transformer fusion", "Zhang et al., MICCAI 2022"),
    Method("nnUNetTrainerRMBTS", "rmbts.trainer", "gated fusion, reconstruction", "Chen et al., MICCAI 2019"),
    Method("nnUNetTrainerACN", "acn.trainer", "adversarial co-training", "Wang et al., MICCAI 2021"),
    Method("nnUNetTrainerSMUNet", "smunet.trainer", "style and content", "Azad et al., MIDL 2022"),
    Method("nnUNetTrainerIMFuse", "imfuse.trainer", "fusion by Mamba", "IM-Fuse, MICCAI 2025"),
    Method("nnUNetTrainerDeMoSeg", "demoseg.trainer", "borrowed features", "Yang et al., BIBM 2024"),
)
_BY_NAME = {method.trainer: method for method in METHODS}

__all__ = list(_BY_NAME)


def known_settings() -> dict[str, Setting]:
    """Every setting of the plans that some trainer reads, by name."""
    trainers = [method.load() for method in METHODS]
    return {name: setting for trainer in trainers for name, setting in trainer.settings_read().items()}


def defaults_of(name: str) -> list[Any]:
    """The values that a setting has by default, of all trainers that read it."""
    trainers = [method.load() for method in METHODS]
    reading = [(trainer, trainer.settings_read()) for trainer in trainers]
    return [getattr(t, known[name].attribute_for(name)) for t, known in reading if name in known]


def known_terms() -> tuple[str, ...]:
    """Names that the setting ``weights`` may hold, of all trainers."""
    weights = [getattr(method.load(), "default_weights", {}) for method in METHODS]
    return tuple(dict.fromkeys(name for names in weights for name in names))


def __getattr__(name: str) -> Any:
    if name not in _BY_NAME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _BY_NAME[name].load()


def __dir__() -> list[str]:
    return sorted({*globals(), *_BY_NAME})
