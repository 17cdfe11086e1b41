"""The study's folder: its layout, the environment of its commands, and what size it is of."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.study.described import DescribedData
from benchmarks.study.sizes import SIZES, Size, Training
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json

BASE_PLANS = "nnUNetMSTKDPlans"
# Plans of each network: name, flags of ``nnUNetv2_mstkd plan``.
PLANS_OF = {
    "mstkdnet": (BASE_PLANS, ""),
    "plans": ("StudyStockPlans", "--network plans -overwrite_plans_name StudyStockPlans"),
    "official": ("StudyOfficialPlans", "--preset official -overwrite_plans_name StudyOfficialPlans"),
    # A method's own network takes patch, batch and strides from the plans of ours.
    "own": (BASE_PLANS, ""),
}
RECORD = "study.json"


class Workplace:
    """One folder that holds everything of a study."""

    def __init__(self, out: Path, data: DescribedData, size_name: str, device: str, jobs: int) -> None:
        self.out, self.size_name, self.device, self.jobs = out.resolve(), size_name, device, jobs
        if "," in str(self.out):
            raise MSTKDError(f"{self.out} has a comma, which separates runs for compare; choose another -o")
        self.data = data
        self.size: Size = SIZES[size_name]
        self.training: Training = self.size.training(data.configuration, patients=data.real)
        claim(self.out, data, size_name)
        folders = {n: self.out / f"nnUNet_{n}" for n in ("raw", "preprocessed", "results")}
        for folder in (*folders.values(), self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.raw, self.preprocessed, self.results = folders.values()
        self.environment = os.environ | {f"nnUNet_{n}": str(f) for n, f in folders.items()}
        if self.training.loader_processes is not None:
            # nnU-Net's planner needs one process.
            self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}
        if device == "cpu":
            threads = max(1, (os.cpu_count() or 1) // jobs)
            self.environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def run(self, log: str, command: str, **environment: str) -> None:
        """Run one installed command; its output goes to a log.

        Raises:
            MSTKDError: it failed.
        """
        program, *arguments = shlex.split(command)
        path = self.out / "logs" / f"{log}.log"
        with path.open("a") as stream:
            stream.write(f"\n$ {command}\n")
            stream.flush()
            done = subprocess.run(
                [str(Path(sysconfig.get_path("scripts")) / program), *arguments],
                env=self.environment | environment,
                stdout=stream,
                stderr=stream,
                check=False,
            )
        if done.returncode:
            raise MSTKDError(f"a command of the study failed, see {path}: {command}")

    @property
    def splits(self) -> Path:
        """nnU-Net's split of the training patients."""
        return self.splits_of(self.data.dataset)

    def splits_of(self, dataset: str) -> Path:
        """The split of one of the study's data sets."""
        return self.preprocessed / dataset / "splits_final.json"

    def plans(self, name: str, dataset: str | None = None) -> Path:
        """A plans file, by its name; of the study's main data set, or of another."""
        return self.preprocessed / (dataset or self.data.dataset) / f"{name}.json"

    def claim_labelled(self, number: int) -> None:
        """Write down how many patients are labelled where few are, or refuse another number.

        Raises:
            MSTKDError: the folder holds trainings with another number.
        """
        path = self.out / RECORD
        record = read_json(path)
        known = record.setdefault("labelled", number)
        if known != number:
            raise MSTKDError(
                f"{self.out} holds a study with {known} labelled patients, not {number}; choose another -o,"
                f" or --labelled {known}"
            )
        write_json(record, path)


def claim(out: Path, data: DescribedData, size_name: str) -> None:
    """Write down size and data in a new folder, or refuse others than the folder has.

    Numbers that an older record lacks are taken as equal; one without data is of the phantom.

    Raises:
        MSTKDError: the folder holds a study of another size or of other data, or of this size when its
            numbers were others.
    """
    numbers = SIZES[size_name].record(data.configuration, patients=data.real)
    path = out / RECORD
    if not path.exists():
        _check_older(out, data, size_name, numbers)
        out.mkdir(parents=True, exist_ok=True)
        write_json({"size": size_name, "numbers": numbers, "data": data.record()}, path)
        return
    record = read_json(path)
    if record["size"] != size_name:
        raise MSTKDError(
            f"{out} holds a study of size '{record['size']}', not '{size_name}'; choose another -o, or --size"
            f" {record['size']}"
        )
    _check_data(out, record.get("data", {"kind": "phantom"}), data.record())
    changed = {key: old for key, old in record["numbers"].items() if key in numbers and numbers[key] != old}
    if changed:
        key, old = next(iter(changed.items()))
        raise MSTKDError(
            f"{out} holds a study of size '{size_name}' with {key} = {old!r}, now it is {numbers[key]!r};"
            " choose another -o"
        )


def _check_older(out: Path, data: DescribedData, size_name: str, numbers: dict[str, Any]) -> None:
    """See whether a folder from before sizes were written down is of this one."""
    labels = out / "nnUNet_raw" / data.dataset / "labelsTr"
    found = len(list(labels.glob("BraTS-*"))) if labels.is_dir() else 0
    if found and not data.real and found != numbers["train"]:
        raise MSTKDError(
            f"{out} holds a study of {found} training patients, size '{size_name}' has"
            f" {numbers['train']}; choose another -o"
        )


def _check_data(out: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            raise MSTKDError(
                f"{out} holds a study with {key} {_short(old.get(key))}, not {_short(new.get(key))}; choose"
                " another -o, or the same data"
            )


def _short(value: Any) -> str:
    return f"of {len(value)} names" if isinstance(value, list) else repr(value)
