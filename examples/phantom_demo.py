"""The main job, end to end, on the built-in phantom: what ``make demo`` runs.

Phantom → convert → nnU-Net's planning and preprocessing → our plans → three trainings with the same network,
optimizer and number of steps → prediction of held-out cases that lack files → evaluation of every model under
every subset of the sequences → comparison: tables, figures and report.html.

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
TRAIN_CASES, TEST_CASES = 16, 3
SIZE = "--patch-size 32 32 32 --batch-size 2 --base-features 8 --max-stages 4"
EPOCHS, ITERATIONS = 8, 20
STEPS = EPOCHS * ITERATIONS
LENGTH = f"num_epochs={EPOCHS} num_iterations_per_epoch={ITERATIONS} num_val_iterations_per_epoch=2"
SEED = "seed=0"
OPTIMIZER = "optimizer=adamw initial_lr=0.003 weight_decay=0.01"
ALL_SEQUENCES = """sampler=weights 'subset_weights={"t1n+t1c+t2w+t2f": 1}'"""
# Two plans files that differ only in the subsets that training draws; the network of both is MSTKDNet.
PLANS = {
    "nnUNetMSTKDPlans": f"{LENGTH} {SEED} {OPTIMIZER}",
    "nnUNetUnmaskedPlans": f"{LENGTH} {SEED} {OPTIMIZER} {ALL_SEQUENCES}",
}
# name in the tables -> (trainer, plans); the last one is the trainer that docs/benchmarks.md recommends
MODELS = {
    "no masking": ("nnUNetTrainerModalityDropout", "nnUNetUnmaskedPlans"),
    "MSTKD": ("nnUNetTrainerMSTKD", "nnUNetMSTKDPlans"),
    "conditioned dropout": ("nnUNetTrainerConditionedDropout", "nnUNetMSTKDPlans"),
}
RECOMMENDED = "conditioned dropout"
# The files that each case to segment has; evaluate goes through all fifteen subsets.
PRESENT = ("t1c", "t2f")


def folder_name(model: str) -> str:
    """The name of a model as the name of a folder."""
    return model.replace(" ", "_")


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

    def evaluation(self, name: str) -> str:
        """The folder of a model's evaluation, quoted for a command."""
        return self.path("evaluations", folder_name(name))

    # ------------------------------------------------------------ steps

    def make_data(self) -> None:
        for part, cases, seed in (("train", TRAIN_CASES, 1), ("test", TEST_CASES, 2)):
            folder = self.path("phantom", part)
            self.run(f"nnUNetv2_mstkd phantom -o {folder} --cases {cases} --shape {SHAPE} --seed {seed}")
        source = self.path("phantom", "train")
        self.run(f"nnUNetv2_mstkd convert -i {source} -d 900 --name Phantom --format brats2023")

    def plan(self) -> None:
        self.run(f"nnUNetv2_plan_and_preprocess -d 900 -c {CONFIGURATION} -npfp 2 -np 2")
        for name, settings in PLANS.items():
            options = f"-d 900 -c {CONFIGURATION} -overwrite_plans_name {name} {SIZE} --set {settings}"
            self.run(f"nnUNetv2_mstkd plan {options}")

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
        trainer, plans = MODELS[RECOMMENDED]
        model = f"-d 900 -c {CONFIGURATION} -f 0 -tr {trainer} -p {plans} --disable_tta"
        self.run(f"nnUNetv2_mstkd predict {folders} {model} -device cpu")

    def evaluate(self) -> None:
        cases = f"--cases {self.path('phantom', 'test')} --disable_tta -device cpu -npp 1 -nps 1"
        for name, (trainer, plans) in MODELS.items():
            model = f"-d 900 -c {CONFIGURATION} -f 0 -tr {trainer} -p {plans}"
            self.run(f"nnUNetv2_mstkd evaluate {model} {cases} -o {self.evaluation(name)}")

    def compare(self) -> None:
        runs = " ".join(map(self.evaluation, MODELS))
        names = " ".join(map(shlex.quote, MODELS))
        out = f"-o {self.path('comparison')} --names {names} --reference {shlex.quote(RECOMMENDED)}"
        self.run(f"nnUNetv2_mstkd compare {runs} {out}")

    def tables(self) -> str:
        """Mean Dice of each model, as ``evaluate`` writes it: a column per subset."""
        shown = []
        for name in MODELS:
            lines = (self.out / "evaluations" / folder_name(name) / "table.md").read_text().splitlines()
            table = [line for line in lines if line.startswith("|") and "HD95" not in line]
            shown += [name, "", *table, ""]
        return "\n".join(shown)


NEXT = """The three models share the network (MSTKDNet), patches, optimizer and number of steps ({steps}).
A first part of them (half, of conditioned dropout a quarter) shows all sequences, the others a random
subset; "no masking" shows all sequences throughout. This is one seed, a short training and {cases} cases:
enough to see what masking does, too little to rank the two masked models. docs/benchmarks.md has the study
with three seeds.

Figures and statistics: open
  {report}

Also there ({out}):
  predictions   predictions/: cases that have only t1c and t2f, and modalities.json
  evaluations   evaluations/<model>/: metrics.csv, table.md, segmentations by subset
  models        nnUNet_results/{dataset}/, training logs and distillation.png in fold_0/
  commands      commands.log

The same commands for your data: README.md.
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
    report = demo.out / "comparison" / "report.html"
    print(NEXT.format(out=demo.out, dataset=DATASET, report=report, steps=STEPS, cases=TEST_CASES))


if __name__ == "__main__":
    main()
