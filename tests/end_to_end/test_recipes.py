"""The blocks of docs/recipes.md, run by a shell in their order; paths, size, length and device are put in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from nnssl_checkpoint import write_checkpoint

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.S)
SMALL = "--patch-size 16 16 16 --batch-size 2 --base-features 4"
ALL_FOLDS, FOLDS = "0 1 2 3 4", (0, 1)  # two of them do all that five do
SHORT = "num_epochs=2 num_iterations_per_epoch=1 num_val_iterations_per_epoch=1"


def on_the_phantom(block: str, root: Path) -> str:
    """The block with this test's paths, a small network, short trainings of two folds and no GPU."""
    folds = " ".join(map(str, FOLDS))

    def put_in(line: str) -> str:
        if "nnUNetv2_mstkd plan " in line:
            settings = SHORT if "--set " in line else f"--set {SHORT}"
            return f"{line} {settings} {'' if re.search('--(teacher|init) ', line) else SMALL}"
        if re.search(r"nnUNetv2_(mstkd )?(train|predict|evaluate) ", line):
            line += " -device cpu"
        if re.search(r"nnUNetv2_(mstkd )?(predict|evaluate) ", line):
            line += " --disable_tta"
            if " -d " in line and " -f " not in line:
                line += f" -f {folds}"  # as it is, nnU-Net's five
        return line

    block = block.replace("/path/to", str(root)).replace(ALL_FOLDS, folds)
    return "\n".join(map(put_in, block.splitlines()))


def make_by_hand(work) -> None:
    """Cases that lack files, and of their data set what a user writes: dataset.json and the labels."""
    work.run("nnUNetv2_mstkd phantom -o mine --cases 3 --shape 24 24 24 --seed 4 --missing 0.5")
    folder = work.raw / "Dataset300_Mine"
    (folder / "labelsTr").mkdir(parents=True)
    for case in (work.root / "mine").iterdir():
        shutil.copyfile(case / f"{case.name}-seg.nii.gz", folder / "labelsTr" / f"{case.name}.nii.gz")
    names, labels = ("t1n", "t1c", "t2w", "t2f"), ("background", "NCR", "ED", "ET", "RC")
    content = {
        "channel_names": {str(number): name for number, name in enumerate(names)},
        "labels": {name: value for value, name in enumerate(labels)},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def work(new_workplace):
    """Data set 226, converted and preprocessed from a phantom; cases to predict and to evaluate."""
    work = new_workplace("recipes")
    for folder, cases, seed, flags in (
        ("source", 5, 1, ""), ("cases", 1, 2, "--missing 0.6"), ("test_cases", 1, 3, "")
    ):  # fmt: skip
        size = f"--cases {cases} --shape 24 24 24 --seed {seed} {flags}"
        work.run(f"nnUNetv2_mstkd phantom -o {folder} {size}")
    work.run("nnUNetv2_mstkd convert -i source -d 226 --name BraTS2024GLI --format brats2024")
    work.run("nnUNetv2_plan_and_preprocess -d 226 -c 3d_fullres")
    make_by_hand(work)
    (work.root / "openmind").mkdir()
    write_checkpoint(work.root / "openmind" / "checkpoint_final.pth")
    return work


@pytest.mark.slow
@pytest.mark.timeout(2400)  # ten trainings and five evaluations
def test_every_block_in_its_order(work):
    scripts = str(sysconfig.get_path("scripts"))
    environment = work.environment | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    for block in BLOCKS:
        if "MODEL_FOLDER" in block and not (work.root / "MODEL_FOLDER").exists():
            (finished,) = work.results.glob("*/nnUNetTrainerModalityDropout__nnUNetDropoutPlans__3d_fullres")
            (work.root / "MODEL_FOLDER").symlink_to(finished)
        script = on_the_phantom(block, work.root)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            capture_output=True, text=True, env=environment, cwd=work.root,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        if "-d 300" in block:
            assert "of 3 cases lack modalities:" in done.stdout
    for folder in ("out", "out2", "out3"):
        assert len(list((work.root / folder).glob("*.nii.gz"))) == 1
    (student,) = work.results.glob("*/nnUNetTrainerMSTKDUNet__nnUNetStudentPlans__3d_fullres")
    assert (student / "fold_0" / "checkpoint_final.pth").is_file()
    for model in ("dropout", "mstkd"):
        folds = sorted(path.name for path in (work.root / "cv" / model).iterdir())
        assert folds == [f"fold_{fold}" for fold in FOLDS]
    table = (work.root / "cv" / "comparison" / "comparison.md").read_text()
    assert f"| {len(FOLDS)} |" in table, "each patient is validated by one fold"
    assert (work.root / "eval" / "test" / "dropout" / "table.md").is_file()
