"""Every command of the README, run as it stands there; only paths, length and device are put in."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.S)
COMMANDS = [line.split("    #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
# Settings that make a training of minutes out of one of days; everything else is what a user gets.
SHORT = {
    "num_epochs": 2,
    "num_iterations_per_epoch": 2,
    "num_val_iterations_per_epoch": 1,
    "save_every": 1,
}


def test_the_readme_has_the_commands_that_are_run_here():
    starts = [" ".join(c.split()[:2]) for c in COMMANDS]
    assert starts == [
        "make demo", "make test", "pip install",
        "nnUNetv2_mstkd convert", "nnUNetv2_plan_and_preprocess -d",
        *(
            f"nnUNetv2_mstkd {c}"
            for c in ("plan", "train", "predict", "evaluate", "trust", "train", "evaluate", "compare")
        ),
    ]  # fmt: skip


def test_the_readme_can_be_read_in_three_minutes():
    assert len(README.split()) <= 700


def test_the_readme_begins_with_the_trainer_that_lost_to_none():
    """The first training is the one whose row in the table of results is bold, and no mean is above it."""
    trainings = [c for c in COMMANDS if " train " in c]
    assert "-tr nnUNetTrainerConditionedDropout" in trainings[0]
    rows = re.findall(r"^\| (.+?) \| \**([\d.]+)\** \|", README, flags=re.M)
    bold = [float(mean) for way, mean in rows if way.startswith("**")]
    assert bold == [max(float(mean) for _, mean in rows)]


def test_make_demo_and_make_test_run_what_the_tests_run():
    for target, expected in (("demo", "examples/phantom_demo.py --out demo"), ("test", "-m pytest")):
        printed = subprocess.run(
            ["make", "-n", "-C", ROOT, target], capture_output=True, text=True, check=True
        ).stdout
        assert expected in printed
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_on_a_shelf():
    """The index lists every page but those of single methods, which ``nnUNetv2_mstkd methods`` prints."""
    docs = ROOT / "docs"
    links = re.findall(r"\]\(([^)#]+\.md)\)", (docs / "index.md").read_text())
    listed = {(docs / link).resolve() for link in links}
    methods = {page for page in PAGES if page.parent == docs / "methods"}
    assert set(PAGES) - listed - methods == {docs / "index.md"}


@pytest.fixture(scope="module")
def work(new_workplace):
    """A workplace whose /path/to/... are phantom cases; some of those to predict lack files."""
    work = new_workplace("readme")
    shape = "--shape 32 32 32"
    work.run(f"nnUNetv2_mstkd phantom -o BraTS2024 --cases 5 {shape} --seed 1")
    work.run(f"nnUNetv2_mstkd phantom -o cases --cases 2 {shape} --seed 2 --missing 0.6")
    return work


def shorten(work) -> None:
    """Put the short length into every plans file there is."""
    for plans in (work.preprocessed / "Dataset226_BraTS2024GLI").glob("nnUNet*Plans.json"):
        content = json.loads(plans.read_text())
        for configuration in content["configurations"].values():
            configuration["mstkd"] = SHORT | configuration.get("mstkd", {})
        plans.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def segmentations(work) -> dict[str, list[str]]:
    """Run the README's commands in their order; what each prediction wrote."""
    written = {}
    for command in COMMANDS:
        if command.startswith(("make", "pip")):
            continue  # make demo: below; make test: CI; pip install: test_wheel.py
        here = command.replace("/path/to", str(work.root))
        if re.search(r"train |predict |evaluate ", here):
            here += " -device cpu"
        shorten(work)
        work.run(here)
        if "predict " in here:
            words = shlex.split(here)
            written[command] = sorted(p.name for p in Path(words[words.index("-o") + 1]).glob("*.nii.gz"))
    return written


@pytest.mark.slow
def test_every_nnunet_command_of_the_readme_in_its_order(work, segmentations):
    assert len(segmentations) == 1
    cases = sorted(p.name for p in (work.root / "cases").iterdir())
    for command, written in segmentations.items():
        assert written == [f"{case}.nii.gz" for case in cases], command
    record = json.loads((work.root / "out" / "modalities.json").read_text())
    assert set(record) == set(cases)
    assert any(entry["absent"] for entry in record.values()), "nothing was missing"
    assert sitk.ReadImage(str(work.root / "out" / f"{cases[0]}.nii.gz")).GetSize() == (32, 32, 32)
    for name in ("mstkd", "dropout"):
        table = (work.root / "eval" / name / "table.md").read_text()
        assert "| t1n+t1c+t2w+t2f | Avg. |" in table
    assert (work.root / "comparison" / "report.html").stat().st_size > 50_000
    assert len(list((work.root / "out" / "preview").glob("*.png"))) == len(cases)
    assert "Segmentations of 2 cases" in (work.root / "out" / "index.html").read_text()
    (trust,) = work.results.glob("*/*/trust.json")
    assert trust.parent.name.startswith("nnUNetTrainerConditionedDropout__")


@pytest.mark.slow
def test_a_killed_training_continues_to_the_losses_of_an_uninterrupted_one(work, segmentations):
    length = "num_epochs=4 num_iterations_per_epoch=2 num_val_iterations_per_epoch=1 save_every=1 seed=3"
    size = "--patch-size 24 24 24 --batch-size 2 --base-features 4"
    name = "-overwrite_plans_name nnUNetContinuePlans"
    work.run(f"nnUNetv2_mstkd plan -d 226 -c 3d_fullres {size} {name} --set {length}")
    train = "nnUNetv2_mstkd train 226 3d_fullres 0 -tr nnUNetTrainerMSTKD -p nnUNetContinuePlans -device cpu"
    model = "nnUNetTrainerMSTKD__nnUNetContinuePlans__3d_fullres"
    fold = work.results / "Dataset226_BraTS2024GLI" / model / "fold_0"

    def final_losses() -> list[float]:
        checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
        return checkpoint["logging"]["train_losses"]

    work.environment["nnUNet_n_proc_DA"] = "0"
    work.run(train)
    whole = final_losses()
    assert len(whole) == 4
    shutil.rmtree(fold)
    process = work.start(train)
    latest = fold / "checkpoint_latest.pth"
    # The third epoch's checkpoint: distillation has begun, its teacher is in it.
    wait_until(
        lambda: latest.exists() and torch.load(latest, weights_only=False)["current_epoch"] >= 3, process
    )
    process.kill()
    process.wait()
    work.run(f"{train} --c")
    assert final_losses() == whole
