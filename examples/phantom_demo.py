"""The main job, end to end, on the built-in phantom: what ``make demo`` runs.

Phantom → convert → nnU-Net's planning and preprocessing → our plans → three trainings of equal length →
prediction of held-out cases that lack files → evaluation of every model under every subset of the sequences →
comparison: tables, figures and report.html.

    python examples/phantom_demo.py --out demo

Everything goes through the real commands, in their own processes, and into ``--out``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

DATASET = "Dataset900_Phantom"
CONFIGURATION = "3d_fullres"
SHAPE = "48 48 40"
TRAIN_CASES, TEST_CASES = 24, 4
# One size for all: patch, batch, features and number of iterations are the same for the three models.
SIZE = "--patch-size 32 32 32 --batch-size 2 --base-features 8 --max-stages 4"
LENGTH = "num_epochs=10 num_iterations_per_epoch=24 num_val_iterations_per_epoch=2 full_phase=0.5 seed=0"
# name in the table -> (trainer, plans)
MODELS = {
    "nnU-Net, all modalities": ("nnUNetTrainerFullModality", "nnUNetDemoPlans"),
    "nnU-Net + modality dropout": ("nnUNetTrainerModalityDropout", "nnUNetDemoPlans"),
    "MSTKD": ("nnUNetTrainerMSTKD", "nnUNetMSTKDPlans"),
}
# What the cases of a hospital may have; evaluate goes through all fifteen subsets.
PRESENT = ("t1c", "t2f")
REFERENCE = "nnU-Net + modality dropout"


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
        """What a user does: segment a folder in which files are missing."""
        folder = self.out / "phantom" / "incomplete"
        for case in sorted((self.out / "phantom" / "test").iterdir()):
            (folder / case.name).mkdir(parents=True)
            for modality in PRESENT:
                name = f"{case.name}-{modality}.nii.gz"
                shutil.copyfile(case / name, folder / case.name / name)
        folders = f"-i {self.path('phantom', 'incomplete')} -o {self.path('predictions')}"
        trainer, plans = MODELS["MSTKD"]
        model = f"-d 900 -c {CONFIGURATION} -f 0 -tr {trainer} -p {plans} --disable_tta"
        self.run(f"nnUNetv2_mstkd predict {folders} {model} -device cpu")

    def evaluate(self) -> None:
        cases = f"--cases {self.path('phantom', 'test')} --disable_tta -device cpu -npp 1 -nps 1"
        for trainer, plans in MODELS.values():
            model = f"-d 900 -c {CONFIGURATION} -f 0 -tr {trainer} -p {plans}"
            self.run(f"nnUNetv2_mstkd evaluate {model} {cases} -o {self.path('evaluations', trainer)}")

    def compare(self) -> None:
        runs = " ".join(self.path("evaluations", trainer) for trainer, _ in MODELS.values())
        names = " ".join(map(shlex.quote, MODELS))
        out = f"-o {self.path('comparison')} --names {names} --reference {shlex.quote(REFERENCE)}"
        self.run(f"nnUNetv2_mstkd compare {runs} {out}")

    def tables(self) -> str:
        """Mean Dice of each model, as ``evaluate`` writes it: a column per subset."""
        shown = []
        for name, (trainer, _) in MODELS.items():
            lines = (self.out / "evaluations" / trainer / "table.md").read_text().splitlines()
            table = [line for line in lines if line.startswith("|") and "HD95" not in line]
            shown += [name, "", *table, ""]
        return "\n".join(shown)


NEXT = """Everything above and more, with figures and statistics: open
  {report}

Also there ({out}):
  predictions   predictions/: cases that have only t1c and t2f, and modalities.json
  evaluations   evaluations/<trainer>/: metrics.csv, table.md, segmentations by subset
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
    for step in (demo.make_data, demo.plan, demo.train, demo.predict, demo.evaluate, demo.compare):
        step()
    demo.say("done")
    print(f"\nMean Dice of {TEST_CASES} held-out phantom cases by sequences present:\n\n{demo.tables()}")
    print(NEXT.format(out=demo.out, dataset=DATASET, report=demo.out / "comparison" / "report.html"))


if __name__ == "__main__":
    main()
