"""The main job, end to end, on the built-in phantom: what ``make demo`` runs.

Phantom → convert → nnU-Net's planning and preprocessing → our plans → three trainings of equal length →
prediction of held-out cases with all sequences and with sequences missing → a table of Dice and a picture.

    python examples/phantom_demo.py --out demo

Everything goes through the real commands, in their own processes, and into ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

DATASET = "Dataset900_Phantom"
CONFIGURATION = "3d_fullres"
SHAPE = "56 56 48"
TRAIN_CASES, TEST_CASES = 30, 6
# One size for all: patch, batch, features and number of iterations are the same for the three models.
SIZE = "--patch-size 40 40 32 --batch-size 2 --base-features 8 --max-stages 4"
LENGTH = "num_epochs=10 num_iterations_per_epoch=32 num_val_iterations_per_epoch=4 full_phase=0.5 seed=0"
# name in the table -> (trainer, plans)
MODELS = {
    "nnU-Net, all modalities": ("nnUNetTrainerFullModality", "nnUNetDemoPlans"),
    "nnU-Net + modality dropout": ("nnUNetTrainerModalityDropout", "nnUNetDemoPlans"),
    "MSTKD": ("nnUNetTrainerMSTKD", "nnUNetMSTKDPlans"),
}
SUBSETS = ("t1n+t1c+t2w+t2f", "t1c+t2f", "t2f", "t1n")
REGIONS = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)}


class Demo:
    """Runs the steps in one folder; a log of every command stays there."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.log = self.out / "commands.log"
        self.started = time.monotonic()
        names = ("raw", "preprocessed", "results")
        self.environment = os.environ | {f"nnUNet_{n}": str(self.out / f"nnUNet_{n}") for n in names}
        # Small patches on a CPU: one loader process per core keeps up, and one thread each is fastest.
        self.environment |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "2"}

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def run(self, command: str) -> None:
        """Run one installed command; its output goes to the log, its failure ends the demo."""
        self.say(command.replace(f"{self.out}{os.sep}", ""))
        program, *arguments = shlex.split(command)
        with self.log.open("a") as log:
            log.write(f"\n$ {command}\n")
            log.flush()
            program = str(Path(sysconfig.get_path("scripts")) / program)
            done = subprocess.run([program, *arguments], env=self.environment, stdout=log, stderr=log)
        if done.returncode:
            tail = "\n".join(self.log.read_text().splitlines()[-15:])
            sys.exit(f"{tail}\n\nThe command above failed; its whole output is in {self.log}")

    def path(self, *parts: str) -> str:
        """A path below the demo's folder, quoted for a command."""
        return shlex.quote(str(self.out.joinpath(*parts)))

    # ------------------------------------------------------------ steps

    def make_data(self) -> None:
        for part, cases, seed in (("train", TRAIN_CASES, 1), ("test", TEST_CASES, 2)):
            folder = self.path("phantom", part)
            self.run(f"nnUNetv2_mstkd phantom -o {folder} --cases {cases} --shape {SHAPE} --seed {seed}")
        source = self.path("phantom", "train")
        self.run(f"nnUNetv2_mstkd convert -i {source} -d 900 --name Phantom --format brats2023")

    def plan(self) -> None:
        self.run(f"nnUNetv2_plan_and_preprocess -d 900 -c {CONFIGURATION} -npfp 2 -np 2")
        options = f"-d 900 -c {CONFIGURATION} {SIZE} --set {LENGTH}"
        self.run(f"nnUNetv2_mstkd plan {options}")
        self.run(f"nnUNetv2_mstkd plan --network plans -overwrite_plans_name nnUNetDemoPlans {options}")

    def train(self) -> None:
        for trainer, plans in MODELS.values():
            self.run(f"nnUNetv2_mstkd train 900 {CONFIGURATION} 0 -tr {trainer} -p {plans} -device cpu")

    def predict(self) -> None:
        for subset in SUBSETS:
            self.folder_with_only(subset)
            folders = f"-i {self.path('phantom', f'test_{subset}')}"
            for trainer, plans in MODELS.values():
                out = self.path("predictions", trainer, subset)
                model = f"-d 900 -c {CONFIGURATION} -f 0 -tr {trainer} -p {plans} --disable_tta"
                self.run(f"nnUNetv2_mstkd predict {folders} -o {out} {model} -device cpu")

    def folder_with_only(self, subset: str) -> None:
        """Copy of the test cases in which the other sequences' files really are missing."""
        folder = self.out / "phantom" / f"test_{subset}"
        for case in sorted((self.out / "phantom" / "test").iterdir()):
            (folder / case.name).mkdir(parents=True, exist_ok=True)
            for modality in subset.split("+"):
                name = f"{case.name}-{modality}.nii.gz"
                shutil.copyfile(case / name, folder / case.name / name)

    def predictions(self, model: str, subset: str) -> Path:
        return self.out / "predictions" / MODELS[model][0] / subset

    # ------------------------------------------------------------ results

    def table(self) -> str:
        """Mean Dice over the test cases: one row per model and region, one column per subset."""
        scores = {
            (model, subset): [self.dice(case.name, model, subset) for case in self.test_cases()]
            for model in MODELS
            for subset in SUBSETS
        }
        lines = ["| model | region | " + " | ".join(SUBSETS) + " |", "|---|---|" + "---|" * len(SUBSETS)]
        for model in MODELS:
            for index, region in enumerate(REGIONS):
                cells = [f"{np.mean([s[index] for s in scores[model, subset]]):.2f}" for subset in SUBSETS]
                lines.append(f"| {model} | {region} | " + " | ".join(cells) + " |")
        result = {f"{m} / {s}": np.mean(v, axis=0).round(4).tolist() for (m, s), v in scores.items()}
        (self.out / "dice.json").write_text(json.dumps({"regions": list(REGIONS), "dice": result}, indent=2))
        return "\n".join(lines)

    def test_cases(self) -> list[Path]:
        return sorted((self.out / "phantom" / "test").iterdir())

    def dice(self, case: str, model: str, subset: str) -> list[float]:
        """Dice of WT, TC and ET for one case; the phantom's tumours have every part."""
        truth = read(self.out / "phantom" / "test" / case / f"{case}-seg.nii.gz")
        predicted = read(self.predictions(model, subset) / f"{case}.nii.gz")
        scores = []
        for labels in REGIONS.values():
            a, b = np.isin(truth, labels), np.isin(predicted, labels)
            scores.append(2 * float((a & b).sum()) / max(int(a.sum() + b.sum()), 1))
        return scores

    def overlay(self) -> Path:
        """One test case, columns = subsets, rows = models; the reference beside."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.colors import ListedColormap
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch

        case = self.test_cases()[0]
        truth = read(case / f"{case.name}-seg.nii.gz")
        z = int((truth > 0).sum(axis=(1, 2)).argmax())
        colours = ("#d55e00", "#56b4e9", "#f0e442")  # NCR, ED, ET; Okabe-Ito: safe for the colour-blind
        figure = Figure(figsize=(2.1 * (len(SUBSETS) + 1), 2.2 * len(MODELS) + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(MODELS), len(SUBSETS) + 1)
        for number, (row, model) in enumerate(zip(axes, MODELS, strict=True)):
            columns = {"reference": truth}
            columns |= {s: read(self.predictions(model, s) / f"{case.name}.nii.gz") for s in SUBSETS}
            for axis, (title, labels) in zip(row, columns.items(), strict=True):
                shown = "t2f" if "t2f" in title or title == "reference" else title.split("+")[0]
                axis.imshow(read(case / f"{case.name}-{shown}.nii.gz")[z], cmap="gray")
                style = {"cmap": ListedColormap(colours), "vmin": 1, "vmax": 3, "interpolation": "nearest"}
                axis.imshow(np.ma.masked_equal(labels[z], 0), alpha=0.55, **style)
                axis.set(xticks=[], yticks=[])
                if number == 0:
                    axis.set_title(title, fontsize=9)
            row[0].set_ylabel(model, fontsize=9)
        handles = [Patch(color=c, label=n) for c, n in zip(colours, ("NCR", "ED", "ET"), strict=True)]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)
        picture = self.out / "overlay.png"
        figure.savefig(picture, dpi=130)
        return picture


def read(path: Path) -> np.ndarray:
    """Voxels (Z, Y, X) of a NIfTI file."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


NEXT = """
Where everything is ({out}):
  table         dice.md (numbers in dice.json)
  picture       overlay.png
  predictions   predictions/<trainer>/<sequences present>/, each with modalities.json
  models        nnUNet_results/{dataset}/, training logs and distillation.png in fold_0/
  commands      commands.log

For real data (BraTS 2024, say), with nnUNet_raw, nnUNet_preprocessed and nnUNet_results exported:
  nnUNetv2_mstkd convert -i /path/to/BraTS2024 -d 226 --name BraTS2024GLI --format brats2024
  nnUNetv2_plan_and_preprocess -d 226 -c 3d_fullres --verify_dataset_integrity
  nnUNetv2_mstkd plan -d 226
  nnUNetv2_mstkd train 226 3d_fullres 0 -tr nnUNetTrainerMSTKD -p nnUNetMSTKDPlans
  nnUNetv2_mstkd predict -i /path/to/cases -o /path/to/out -d 226 -c 3d_fullres -f 0
"""


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything; emptied first")
    out = parser.parse_args().out
    if out.exists() and any(out.iterdir()) and not (out / "commands.log").exists():
        sys.exit(f"{out} exists and was not made by this demo; give another --out")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    demo = Demo(out)
    for step in (demo.make_data, demo.plan, demo.train, demo.predict):
        step()
    table = demo.table()
    (demo.out / "dice.md").write_text(table + "\n")
    demo.overlay()
    demo.say("done")
    print(f"\nMean Dice of {TEST_CASES} held-out phantom cases by sequences present:\n\n{table}")
    print(NEXT.format(out=demo.out, dataset=DATASET))


if __name__ == "__main__":
    main()
