"""File names of the Brain Imaging Data Structure: ``sub-01_ses-02_ce-gadolinium_T1w``.

Source: Brain Imaging Data Structure 1.10, "Magnetic Resonance Imaging" and derivatives' "Imaging data types".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mstkd.datasets.listing import entries
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import resolve

_NAME = re.compile(r"(sub-[0-9A-Za-z]+)((?:_[A-Za-z]+-[^_]+)*)_([A-Za-z0-9]+)")
DATA_TYPES = ("anat", "dwi", "perf", "swi")  # folders that hold images which a model may know

# Images that are no T1w, T2w or FLAIR: left aside, unless the model has a modality of that name.
_OTHER = """
    pdw t2star t2starw t1map t2map pdmap r1map r2map t1rho mtr mtw mtsat inplanet1 inplanet2 pdt2 mp2rage
    unit1 swi gre megre vfa mese irt1 mpm tb1tfl bold sbref cbv phase dwi epi fieldmap phasediff phase1 phase2
    magnitude magnitude1 magnitude2 asl m0scan aslcontext pet ct adc fa md trace mask defacemask probseg xfm
    boldref chimap angio
"""
_OTHER_SUFFIXES = frozenset(_OTHER.split())
_AFTER_CONTRAST = re.compile(
    r"(post)?(gd|gad|gado|gadolinium|contrast|enhanced)|t1c|t1ce|t1gd|ce", re.IGNORECASE
)
# Values of ce that say there is none: ce-none, ce-pre, ce-nogad.
_WITHOUT_CONTRAST = re.compile(
    r"(no|non|none|not|pre|without|before|wo|un|native|off|false|0)(ce|gd|gad|gado|gadolinium|contrast|enhanced)?",
    re.IGNORECASE,
)
_LESION = re.compile(r"lesions?|tumou?r|roi|glioma", re.IGNORECASE)
_OF_ANATOMY = re.compile(r"aseg|aparc|aparcaseg|carpet|malf|synthseg", re.IGNORECASE)


@dataclass(frozen=True)
class BidsName:
    """A name taken apart.

    Attributes:
        subject: ``"sub-01"``.
        entities: key → value of what lies between subject and suffix, as ``{"ses": "02", "ce": "gd"}``.
        suffix: the last word, as it is written.
    """

    subject: str
    entities: dict[str, str]
    suffix: str

    @property
    def case(self) -> str:
        """Subject and session: one examination."""
        session = self.entities.get("ses")
        return f"{self.subject}_ses-{session}" if session else self.subject

    def read(
        self, modalities: Sequence[str], segmentation_names: Collection[str]
    ) -> tuple[str | None, str | None, str | None]:
        """Which modality of the model the image is.

        Returns:
            (modality or ``"seg"``, why the file is left aside, why it cannot be understood); at most one of
            them is not None, and none for a suffix that is unknown.
        """
        suffix = self.suffix.lower()
        if self.entities.get("part") in ("phase", "real", "imag"):
            return None, f"the {self.entities['part']} part of a complex image", None
        described = f"{self.entities.get('label', '')} {self.entities.get('desc', '')}"
        if suffix in segmentation_names or (suffix == "mask" and _LESION.search(described)):
            return (
                (None, "segmentation of anatomy", None)
                if _OF_ANATOMY.search(described)
                else ("seg", None, None)
            )
        wanted = self.suffix
        if suffix == "t1w":
            acquisition, contrast = self.entities.get("acq", ""), self.entities.get("ce")
            without = contrast is not None and _WITHOUT_CONTRAST.fullmatch(contrast)
            if without and _AFTER_CONTRAST.fullmatch(acquisition):
                return None, None, f"it says both ce-{contrast} and acq-{acquisition}"
            if acquisition.lower() == "post" and contrast is None:
                return (
                    None,
                    None,
                    "acq-post of a T1w may be before or after contrast; BIDS has ce-gadolinium for it",
                )
            if (contrast is not None and not without) or _AFTER_CONTRAST.fullmatch(acquisition):
                wanted = "t1c"
        try:
            return resolve(wanted, modalities), None, None
        except MSTKDError:
            known = suffix in _OTHER_SUFFIXES or suffix in ("t1w", "t2w", "flair")
            return None, (f"another sequence ({self.suffix})" if known else None), None


def parse_bids(stem: str) -> BidsName | None:
    """Take a file name without its ending apart; None where it is no BIDS name."""
    match = _NAME.fullmatch(stem)
    if match is None:
        return None
    pairs = (entity.split("-", 1) for entity in match[2].split("_") if entity)
    return BidsName(match[1], {key.lower(): value for key, value in pairs}, match[3])


def is_bids_case(name: str) -> bool:
    """Whether a case is named ``sub-01`` or ``sub-01_ses-02``."""
    return re.fullmatch(r"sub-[0-9A-Za-z]+(_ses-[0-9A-Za-z-]+)?", name) is not None


def subject_of(case: str) -> str | None:
    """``"sub-01_ses-pre-op"`` → ``"sub-01"``; None where the name says no session."""
    match = re.fullmatch(r"(.+)_ses-[0-9A-Za-z-]+", case)
    return match and match[1]


def is_subject_folder(folder: Path) -> bool:
    """Whether a folder is named ``sub-01``."""
    return folder.name.startswith("sub-")


def is_session_folder(folder: Path) -> bool:
    """Whether a folder is named ``ses-02``."""
    return folder.name.startswith("ses-")


def session_of(folder: Path) -> tuple[str, str] | None:
    """``sub-01/ses-02/anat`` → ``("sub-01", "ses-02")``; None for a folder of no session."""
    session = folder.parent if folder.name in DATA_TYPES else folder
    return (session.parent.name, session.name) if is_session_folder(session) else None


def below(folder: Path) -> list[Path]:
    """The folders of a subject or a session that hold its images: ``anat``, ``ses-02/anat``.

    Raises:
        MSTKDError: one may not be listed.
    """
    found = []
    for path in (p for p in entries(folder) if p.is_dir()):
        if path.name in DATA_TYPES:
            found.append(path)
        elif is_session_folder(path):
            found += [path, *below(path)]
    return found
