"""The source conventions as data: how each release names its cases and numbers its tissues.

Sources: the BraTS 2020, 2021, 2023 (pre-treatment) and 2024 (post-treatment, arXiv 2405.18368) and FeTS 2022
data descriptions; for the Medical Segmentation Decathlon the ``dataset.json`` of Task01_BrainTumour.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_mstkd.errors import MSTKDError

# Tissue -> label value in every converted data set, whatever the source (BraTS 2023/2024 numbering).
TISSUES: dict[str, int] = {"NCR": 1, "ED": 2, "ET": 3, "RC": 4}


AUTO = "auto"  # in place of a format's name: find out


@dataclass(frozen=True)
class DatasetFormat:
    """One release.

    Attributes:
        name: what ``--format`` takes.
        title: for people.
        case_id: pattern of a whole case name; its group ``patient`` names the patient.
        source_labels: tissue → the value that the release gives it.
    """

    name: str
    title: str
    case_id: re.Pattern[str]
    source_labels: Mapping[str, int]

    @property
    def values(self) -> frozenset[int]:
        """Every value a segmentation of this release may hold, background included."""
        return frozenset({0, *self.source_labels.values()})

    @property
    def label_map(self) -> dict[int, int]:
        """Source value → value in the converted data set, background included."""
        return {0: 0, **{value: TISSUES[tissue] for tissue, value in self.source_labels.items()}}

    def patient(self, case: str) -> str:
        """The patient of a case: BraTS-GLI's last number is a time point; elsewhere a case is a patient."""
        match = self.case_id.fullmatch(case) or _TIME_POINT.fullmatch(case)
        return match["patient"] if match else case


# A case id with a time point, in any release of 2023 or later (GLI, SSA, PED, ...), or by BIDS.
_TIME_POINT = re.compile(
    r"(?P<patient>BraTS-[A-Za-z]+-\d{5}(?=-\d{3}$)|sub-[A-Za-z0-9]+(?=_ses-[A-Za-z0-9-]+$))[-_].+"
)

_ET_IS_4 = {"NCR": 1, "ED": 2, "ET": 4}
_ET_IS_3 = {"NCR": 1, "ED": 2, "ET": 3}


def _formats() -> Iterable[DatasetFormat]:
    rows: tuple[tuple[str, str, str, dict[str, int]], ...] = (
        ("brats2020", "BraTS 2020", r"(?P<patient>BraTS20_\w+_\d{3})", _ET_IS_4),
        ("brats2021", "BraTS 2021", r"(?P<patient>BraTS2021_\d{5})", _ET_IS_4),
        # Time points count from 000 before treatment (2023) and from 100 after it (2024).
        ("brats2023", "BraTS 2023 adult glioma", r"(?P<patient>BraTS-GLI-\d{5})-0\d\d", _ET_IS_3),
        ("brats2024", "BraTS 2024 adult glioma", r"(?P<patient>BraTS-GLI-\d{5})-1\d\d", _ET_IS_3 | {"RC": 4}),
        ("fets2022", "FeTS 2022", r"(?P<patient>FeTS2022_\d{5})", _ET_IS_4),
        # FeTS 2024 went on with the cases of 2022, under their names.
        ("fets2024", "FeTS 2024", r"(?P<patient>FeTS202[24]_\d{5})", _ET_IS_4),
        # The Decathlon numbers edema before necrosis ("non-enhancing tumor").
        ("msd", "MSD Task01_BrainTumour", r"(?P<patient>BRATS_\d{3})", {"NCR": 2, "ED": 1, "ET": 3}),
    )
    return (DatasetFormat(name, title, re.compile(case), labels) for name, title, case, labels in rows)


FORMATS: dict[str, DatasetFormat] = {fmt.name: fmt for fmt in _formats()}


def formats_with_values(values: Iterable[int]) -> list[str]:
    """Names of the formats whose segmentations may hold all of ``values``."""
    return [name for name, fmt in FORMATS.items() if fmt.values.issuperset(values)]


def formats_with_names(cases: Iterable[str]) -> list[str]:
    """Names of the formats in which every one of ``cases`` is a regular case name."""
    cases = list(cases)
    return [name for name, fmt in FORMATS.items() if all(fmt.case_id.fullmatch(case) for case in cases)]


def detect_format(cases: Iterable[str], values: Iterable[int]) -> DatasetFormat:
    """The one format that fits both the case names and the label values.

    Raises:
        MSTKDError: none fits or several do; the message lists them.
    """
    cases, values = sorted(cases), sorted(values)
    by_name, by_value = formats_with_names(cases), formats_with_values(values)
    fitting = [name for name in by_name if name in by_value]
    if len(fitting) == 1:
        return FORMATS[fitting[0]]
    seen = f"case names like {cases[0]} and label values {', '.join(map(str, values))}"
    if fitting:
        raise MSTKDError(f"--format auto: {seen} fit {' and '.join(fitting)}; say which with --format")
    raise MSTKDError(
        f"--format auto: {seen} fit no format (names fit {' or '.join(by_name) or 'none'}, values fit"
        f" {' or '.join(by_value) or 'none'}); say which with --format"
    )


def check_name(fmt: DatasetFormat, case: str, values: Iterable[int]) -> None:
    """Refuse a case that is named as in another release, where its label values mean other tissues.

    Edema is 2 in BraTS 2023 and 1 in the Decathlon; 4 is ET until 2021, and the resection cavity in 2024.

    Args:
        values: those of its segmentation.

    Raises:
        MSTKDError: naming the other release.
    """
    names = formats_with_names([case])
    if fmt.name in names:
        return
    for other in (FORMATS[name] for name in names):
        for value in sorted(values):
            tissues = [_tissue(value, each) for each in (other, fmt)]
            if None not in tissues and tissues[0] != tissues[1]:
                raise MSTKDError(
                    f"named as in {other.title}, where the label {value} is {tissues[0]}, not {tissues[1]} as"
                    f" in {fmt.name}; use --format {other.name}, or rename the case if that is wrong"
                )


def _tissue(value: int, fmt: DatasetFormat) -> str | None:
    return next((tissue for tissue, number in fmt.source_labels.items() if number == value), None)


def patient_of(case: str, dataset_json: Mapping[str, Any]) -> str:
    """The patient of a case: as ``convert`` noted it, else by the form of the name, else the case itself."""
    record = dataset_json.get("mstkd", {})
    noted = record.get("patients", {}).get(case)
    if noted is not None:
        return str(noted)
    known = FORMATS.get(record.get("format", ""))
    match = _TIME_POINT.fullmatch(case)
    return known.patient(case) if known else match["patient"] if match else case
