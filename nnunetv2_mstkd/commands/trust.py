"""``nnUNetv2_mstkd trust``: put into a model what its segmentations are worth, or check what is said."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_mstkd.commands.arguments import add_model_arguments, chosen_model_folder
from nnunetv2_mstkd.errors import MSTKDError

_SHARED = 0.1  # share of rows with the same numbers: two cases may agree by chance, many do not
_EPILOG = """The cases must be such that the evaluated folds have not learnt from them: each fold's validation
cases (evaluate -f 0 -o A; evaluate -f 1 -o B; ...; trust --evaluation A B ...), or cases that no fold has
seen (evaluate -f 0 1 2 3 4 --cases FOLDER). predict and Segmenter then say for every case what to expect
(docs/trust.md). --check measures, on patients left out in turn, how often the intervals cover and how well
bad cases are found; with a model it measures what that model's trust.json says of these other cases."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd trust",
        description="Writes trust.json into a model: what to expect of its segmentations.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_model_arguments(parser)
    add(
        "--evaluation",
        metavar="OUT",
        type=Path,
        nargs="+",
        required=True,
        help="folders of nnUNetv2_mstkd evaluate: all folds of a cross-validation, or held-out cases",
    )
    add(
        "--held_out",
        action="store_true",
        help="none of the cases was trained on: you state it where nnUNet_preprocessed is not here to tell",
    )
    add(
        "--check",
        action="store_true",
        help="write nothing into the model; measure whether what is said holds",
    )
    add("-o", metavar="FILE.json", type=Path, help="with --check: also write everything that was found")
    return parser


def run(argv: Sequence[str]) -> int:
    """Write ``trust.json`` and print what it says, or check."""
    arguments = _parser().parse_args(argv)
    if arguments.check:
        _check(arguments)
        return 0
    folder = _model_folder(arguments)
    if folder is None:
        raise MSTKDError("name the model by -d DATASET -c CONFIGURATION or -m MODEL_FOLDER, or give --check")
    if arguments.o is not None:
        raise MSTKDError("-o belongs to --check; trust.json is written into the model's folder")
    from nnunetv2_mstkd.evaluation.trust.measure import measure, read_evaluations, table_for_people
    from nnunetv2_mstkd.evaluation.trust.wording import what_is_known
    from nnunetv2_mstkd.models.folder import open_model_folder
    from nnunetv2_mstkd.trust.storage import write_trust

    model = open_model_folder(folder)
    calibration = measure(model, read_evaluations(arguments.evaluation), held_out=arguments.held_out)
    path = write_trust(model, calibration, table_for_people(calibration.facts))
    print(f"{path}: {what_is_known(calibration)}")
    return 0


def _model_folder(arguments: argparse.Namespace) -> Path | None:
    """The model that the flags name; ``None`` where they name none."""
    named = any(getattr(arguments, flag) is not None for flag in ("d", "m", "tr", "p", "c"))
    return chosen_model_folder(arguments) if named else None


def _check(arguments: argparse.Namespace) -> None:
    from nnunetv2_mstkd.evaluation.trust.check import check, summarise, transported
    from nnunetv2_mstkd.evaluation.trust.collecting import collect_facts
    from nnunetv2_mstkd.evaluation.trust.measure import check_is_about, read_evaluations
    from nnunetv2_mstkd.evaluation.trust.wording import as_json, how_it_held
    from nnunetv2_mstkd.files import writable_folder, write_json
    from nnunetv2_mstkd.models.folder import open_model_folder
    from nnunetv2_mstkd.trust.storage import read_trust

    if arguments.o is not None:
        writable_folder(arguments.o.absolute().parent)
    evaluations = read_evaluations(arguments.evaluation)
    folder = _model_folder(arguments)
    if folder is None:
        facts = collect_facts(evaluations, "ml")
        how = "by cross-validation over the patients of these evaluations"
        results = [check(facts, region) for region in facts.regions]
    else:
        model = open_model_folder(folder)
        known = read_trust(model)
        if known is None:
            raise MSTKDError(
                f"{folder} has no trust.json to be checked; leave the model away, or make it first"
            )
        check_is_about(known, model, evaluations, held_out=arguments.held_out)
        facts = collect_facts(evaluations, known.unit)
        if facts.shared_with(known.facts) > _SHARED:
            raise MSTKDError(
                f"these are cases that {folder}/trust.json was made from; give other cases, or leave the"
                " model away for a cross-validation"
            )
        how = f"what {folder} says, on these other cases"
        results = [
            summarise([transported(known.facts, known.signals.get(region, ()), facts, region)], region)
            for region in known.regions
            if region in facts.regions
        ]
    print(how_it_held(results, how))
    if arguments.o is not None:
        write_json({found.region: as_json(found) for found in results}, arguments.o)
