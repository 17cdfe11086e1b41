"""The study's folder: its layout, the environment of its commands, and what size it is of."""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

from benchmarks.phantom_study.sizes import SIZES, Size
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json, write_json

DATASET_ID = 900
DATASET = "Dataset900_Phantom"
CONFIGURATION = "3d_fullres"
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

    def __init__(self, out: Path, size_name: str, device: str, jobs: int) -> None:
        self.out, self.size_name, self.device, self.jobs = out.resolve(), size_name, device, jobs
        self.size: Size = SIZES[size_name]
        claim(self.out, size_name)
        folders = {n: self.out / f"nnUNet_{n}" for n in ("raw", "preprocessed", "results")}
        for folder in (*folders.values(), self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        self.raw, self.preprocessed, self.results = folders.values()
        self.environment = os.environ | {f"nnUNet_{n}": str(f) for n, f in folders.items()}
        if self.size.loader_processes is not None:
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
        return self.preprocessed / DATASET / "splits_final.json"

    def plans(self, name: str) -> Path:
        """A plans file, by its name."""
        return self.preprocessed / DATASET / f"{name}.json"


def claim(out: Path, size_name: str) -> None:
    """Write down the size in a new folder (or one from before sizes were written down), or refuse another.

    Numbers that an older record lacks are taken as equal.

    Raises:
        MSTKDError: the folder holds a study of another size, or of this size when its numbers were others.
    """
    size, path = SIZES[size_name].record(), out / RECORD
    if not path.exists():
        labels = out / "nnUNet_raw" / DATASET / "labelsTr"
        found = len(list(labels.glob("BraTS-*"))) if labels.is_dir() else size["train"]
        if found != size["train"]:
            raise MSTKDError(
                f"{out} holds a study of {found} training patients, size '{size_name}' has"
                f" {size['train']}; choose another -o"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_json({"size": size_name, "numbers": size}, path)
        return
    record = read_json(path)
    if record["size"] != size_name:
        raise MSTKDError(
            f"{out} holds a study of size '{record['size']}', not '{size_name}'; choose another -o, or --size"
            f" {record['size']}"
        )
    changed = {key: old for key, old in record["numbers"].items() if key in size and size[key] != old}
    if changed:
        key, old = next(iter(changed.items()))
        raise MSTKDError(
            f"{out} holds a study of size '{size_name}' with {key} = {old!r}, now it is {size[key]!r}; choose"
            " another -o"
        )
