"""``python -m benchmarks.study.results WHAT``: the study's tables as Markdown, for docs/benchmarks.md.

Every number is read or computed from the study's folder: the comparisons, the evaluations they name, the
training logs and the plans. Dice in %, mean of the regions; ``inc`` is the mean over the incomplete subsets.
``--keep`` writes the scores of each comparison to a file, which gives the same tables without the folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.errors import one_line_errors
from benchmarks.study.arms import FORWARD, LEARNING_PASS, Arm
from benchmarks.study.cost import forward_flops, step_cost
from benchmarks.study.curve import curve_tables
from benchmarks.study.kept import keep, read_kept
from benchmarks.study.markdown import NONE, difference, percent, table
from benchmarks.study.parts import ALL_ARMS, PARTS, Comparison, Part
from benchmarks.study.scores import INCOMPLETE, ComparisonFolder, Scores
from benchmarks.study.timing import FULL, MASKED, epoch_times
from benchmarks.study.unlabelled import FEW_BAR, PSEUDO_LABELS, UNLABELLED
from benchmarks.study.workplace import RECORD
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.files import read_json

_ARM_OF = {arm.title: arm for arm in ALL_ARMS.values()}


def score_table(comparison: Scores) -> list[str]:
    """Means per arm, by number of modalities."""
    heads = [
        f"inc{comparison.incomplete}",
        "full",
        *(f"{n} of {comparison.count}" for n in comparison.groups[2:]),
    ]
    rows = []
    for name in comparison.names:
        values = [percent(comparison.means.loc[name, group]) for group in comparison.groups]
        seeds = len(comparison.by_patient[name])  # rounds through all patients, of one model or a fold each
        rows.append([_named(name, comparison), str(seeds), *values, percent(comparison.seed_std(name))])
    return table(["way", "seeds", *heads, "seeds' SD of inc"], rows)


def _named(name: str, comparison: Scores) -> str:
    return f"**{name}**" if name == comparison.reference else name


def difference_table(comparison: Scores) -> list[str]:
    """Differences to the reference: over all incomplete subsets, with one modality, with all."""
    groups = (INCOMPLETE, 1, comparison.count)
    columns = [comparison.differences(group) for group in groups]
    rows = [
        [name, *(difference(column[name]) for column in columns)]
        for name in comparison.names
        if name != comparison.reference
    ]
    return table([f"minus {comparison.reference}", "inc", "one modality", "full"], rows)


def region_table(comparison: Scores) -> list[str]:
    """The same over the incomplete subsets per region."""
    found = comparison.region_differences()
    others = [name for name in comparison.names if name != comparison.reference]
    rows = [[name, *(difference(of[name]) for of in found.values())] for name in others]
    return table(["inc, per region", *found], rows)


def tables(comparison: Scores) -> list[str]:
    """All that scores alone say."""
    return [
        *score_table(comparison),
        "95 % bootstrap interval over patients, Wilcoxon's p with Holm's correction:",
        "",
        *difference_table(comparison),
        *region_table(comparison),
    ]


def _arm_of(title: str) -> Arm:
    if title not in _ARM_OF:
        raise MSTKDError(
            f"the study has no way of training '{title}' any more; run python -m benchmarks.study again with"
            " the same parts, which compares anew"
        )
    return _ARM_OF[title]


def _folder(out: Path, model: dict[str, Any]) -> Path:
    name = "__".join(str(model[key]) for key in ("trainer", "plans", "configuration"))
    return next((out / "nnUNet_results").glob(f"*/{name}"))


def cost_table(out: Path, comparison: ComparisonFolder) -> list[str]:
    """Steps, student-step equivalents (multiply-adds of the reference's network), and measured times."""
    unit = _folder(out, comparison.models(comparison.reference)[0])
    rows = [[name, *_costs(out, comparison.models(name), _arm_of(name), unit)]
            for name in comparison.names]  # fmt: skip
    head = [
        "way",
        "steps, all + masked",
        "multiply-adds of a pass, relative",
        "student steps",
        "training, s per run",
    ]
    return table([*head, "s per step, all modalities", "s per step, masked"], rows)


def _student_steps(folder: Path, model: dict[str, Any], arm: Arm, unit: Path) -> float:
    """Compute of a training, in steps of the network of the model folder ``unit``."""
    settings = model["settings"]
    steps, epochs = settings["num_iterations_per_epoch"], settings["num_epochs"]
    full = round(settings.get("full_phase", 0.0) * epochs)
    if arm.step_cost is None:
        plans, of_unit = (read_json(path / "plans.json") for path in (folder, unit))
        dataset, own = read_json(folder / "dataset.json"), dict(arm.settings)
        cost = step_cost(arm.trainer, plans, model["configuration"], dataset, own, of_unit)
        return float(steps * cost * (full * arm.full_cost + (epochs - full)))
    ratio = forward_flops(folder) / forward_flops(unit)
    return ratio * steps * (full * LEARNING_PASS + (epochs - full) * arm.step_cost)


def _costs(out: Path, models: Sequence[dict[str, Any]], arm: Arm, unit: Path) -> list[str]:
    settings, folders = models[0]["settings"], [_folder(out, model) for model in models]
    steps, epochs = settings["num_iterations_per_epoch"], settings["num_epochs"]
    full = round(settings.get("full_phase", 0.0) * epochs)
    ratio = forward_flops(folders[0]) / forward_flops(unit)
    student = _student_steps(folders[0], models[0], arm, unit)
    runs = [epoch_times(next(folder.glob("fold_*"))) for folder in folders]
    per_step = {
        phase: [time.seconds / steps for run in runs for time in run if time.phase == phase]
        for phase in (FULL, MASKED)
    }
    seconds = [f"{median(values):.3f}" if values else NONE for values in per_step.values()]
    if not arm.masks:
        full, seconds = epochs, seconds[::-1]
    total = mean(sum(time.seconds for time in run) for run in runs)
    return [
        f"{full * steps} + {(epochs - full) * steps}",
        f"{ratio:.2f}",
        f"{student:.0f}",
        f"{total:.0f}",
        *seconds,
    ]


def teacher_lines(out: Path, comparison: ComparisonFolder) -> list[str]:
    """How many patients were labelled, and what pseudo-labels cost beside the training on them."""
    labelled = read_json(out / RECORD)["labelled"]
    text = f"Labelled: {labelled} patients of each fold, drawn by the training's seed."
    pseudo, teacher = ALL_ARMS[PSEUDO_LABELS].title, ALL_ARMS[FEW_BAR]
    if pseudo in comparison.names:
        model = comparison.models(pseudo)[0]
        folder = _folder(out, model)
        cost = _student_steps(folder, model, teacher, folder)  # of the same length and network
        text += (
            f' The pseudo-labels are those of "{teacher.title}" of the same fold and seed: its {cost:.0f}'
            f' student steps come on top of those of "{pseudo}".'
        )
    return [text, ""]


def comparisons_in(out: Path) -> list[tuple[Part, Comparison, ComparisonFolder]]:
    """The comparisons of a study's folder.

    Raises:
        MSTKDError: there is none.
    """
    found = [
        (part, wanted, ComparisonFolder(out / wanted.folder))
        for part in PARTS.values()
        for wanted in part.comparisons
        if (out / wanted.folder / "comparison.json").is_file()
    ]
    if not found:
        raise MSTKDError(f"{out} holds no comparison yet; run python -m benchmarks.study -o {out}")
    return found


def report(out: Path) -> list[str]:
    """The tables of every comparison in the folder.

    Raises:
        MSTKDError: there is none.
    """
    out, lines = out.resolve(), []
    found = comparisons_in(out)
    for part, _, comparison in found:
        patients, policy = comparison.record["patients"], comparison.record["policy"]
        lines += [f"### {part.about} (`{comparison.folder.name}`)", ""]
        lines += [f"{patients} patients, empty masks by `{policy}`. Dice in %, mean of the regions.", ""]
        if set(UNLABELLED) & set(part.arms):
            lines += teacher_lines(out, comparison)
        lines += tables(comparison)
        lines += [
            "Wall time of the logs' epochs, online validation included (per step: median). A student step"
            f" is a forward ({FORWARD:.2f}) and a backward pass of the reference's network:",
            "",
        ]
        lines += cost_table(out, comparison)
    return lines + curve_tables(found)


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study.results", description=__doc__)
    parser.add_argument("what", type=Path, metavar="WHAT", help="folder of the study, or a file of --keep")
    keep_help = "write the scores of each comparison to a file in this folder, instead of tables"
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help=keep_help)
    arguments = parser.parse_args(argv)
    if arguments.what.is_file():
        print("\n".join(tables(read_kept(arguments.what))))
    elif arguments.keep is None:
        print("\n".join(report(arguments.what)))
    else:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        for _, wanted, comparison in comparisons_in(arguments.what):
            keep(comparison, arguments.keep / f"{wanted.folder}.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
