"""``nnUNetv2_mstkd plan``: write nnUNetMSTKDPlans.json beside nnU-Net's own plans."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.settings import NETWORKS, PRESETS

if TYPE_CHECKING:
    from nnunetv2_mstkd.plans.options import PlanOptions


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_mstkd plan",
        description="Writes nnUNetMSTKDPlans.json beside nnU-Net's plans, from the same fingerprint."
        " Run nnUNetv2_plan_and_preprocess first; its preprocessed data is used where it is the same.",
    )
    add = parser.add_argument
    add("-d", nargs="+", required=True, metavar="DATASET", help="data set ids or names")
    add("-c", nargs="+", default=[], metavar="CONFIGURATION", help="plan only these (default: all there are)")
    add("--preset", choices=PRESETS, help=f"of MSTKDNet (default {PRESETS[0]}, or the teacher's)")
    add(
        "--network",
        choices=NETWORKS,
        help="mstkdnet (default), or plans: the network of nnU-Net's own planner",
    )
    add(
        "--trainer",
        metavar="TRAINER",
        help="plan for this trainer: its settings are checked, and its network, if it has one of its own"
        " (nnUNetv2_mstkd methods), decides what fits",
    )
    add(
        "--set",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="trainer settings to store in the plans (docs/methods.md)",
    )
    _add_teacher(parser.add_argument_group("a finished model as teacher").add_argument)
    _add_start(parser.add_argument_group("weights to start from").add_argument)
    _add_sizes(parser.add_argument_group("sizes (default: chosen for the GPU memory)").add_argument)
    _add_nnunet_flags(parser.add_argument_group("as in nnUNetv2_plan_experiment").add_argument)
    return parser


def _add_teacher(add: Callable[..., argparse.Action]) -> None:
    add(
        "--teacher",
        metavar="MODEL_FOLDER",
        help="distil from this model; plans for its configuration, spacing, patch size and network",
    )
    add("--teacher-fold", metavar="FOLD", help="of the model (default: the fold that is trained)")
    add("--teacher-checkpoint", metavar="NAME", help="of that fold (default checkpoint_final.pth)")


def _add_start(add: Callable[..., argparse.Action]) -> None:
    add(
        "--init",
        metavar="MODEL",
        help="start from the weights of this model folder or checkpoint (nnU-Net's, or nnssl's pre-trained"
        " ResEncL), also with other input channels; plans for its network and patch size",
    )
    add("--init-fold", metavar="FOLD", help="of the model folder (default: the fold that is trained)")
    add("--init-checkpoint", metavar="NAME", help="of that fold (default checkpoint_final.pth)")


def _add_sizes(add: Callable[..., argparse.Action]) -> None:
    add("--patch-size", type=int, nargs="+", metavar="N", help="voxels per axis, axis order of the plans")
    add("--batch-size", type=int, metavar="N", help="patches per batch")
    add("--min-batch-size", type=int, metavar="N", help="smallest batch to plan for (default 2)")
    add("--base-features", type=int, metavar="N", help="channels of the first stage")
    add("--max-features", type=int, metavar="N", help="upper limit of the channels of a stage")
    add("--max-stages", type=int, metavar="N", help="resolution stages, bottleneck included")
    add(
        "--token-patch",
        type=int,
        nargs="+",
        metavar="N",
        help="bottleneck voxels per token, per axis (1, 2, 4, 8): that of the model whose weights are to fit",
    )


def _add_nnunet_flags(add: Callable[..., argparse.Action]) -> None:
    add(
        "-gpu_memory_target",
        type=float,
        metavar="GB",
        help="GPU memory to plan for (default: the planner's, mostly 8)",
    )
    add(
        "-overwrite_target_spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="for 3d_fullres and its cascade",
    )
    add("-overwrite_plans_name", metavar="NAME", help="of the plans file (default nnUNetMSTKDPlans)")
    add("-preprocessor_name", default="DefaultPreprocessor", metavar="CLASS", help="preprocessor class")
    add("-pl", default="ExperimentPlanner", metavar="CLASS", help="planner class to build on")


def _options(args: argparse.Namespace) -> PlanOptions:
    from nnunetv2_mstkd.plans.options import PlanOptions, has_own_network, named_trainer, parse_assignments

    settings = parse_assignments(entry for entries in args.set for entry in entries)
    base_features = args.base_features
    own_network = args.trainer is not None and has_own_network(named_trainer(args.trainer))
    if own_network and base_features is not None:
        settings, base_features = {"base_features": base_features, **settings}, None
    options = PlanOptions(
        network=args.network or ("plans" if own_network else NETWORKS[0]),
        trainer=args.trainer,
        preset=args.preset or PRESETS[0],
        configurations=tuple(args.c),
        patch_size=tuple(args.patch_size) if args.patch_size else None,
        batch_size=args.batch_size,
        min_batch_size=args.min_batch_size,
        base_features=base_features,
        max_features=args.max_features,
        max_stages=args.max_stages,
        token_patch=tuple(args.token_patch) if args.token_patch else None,
        settings=settings,
    )
    return _with_start(args, _with_teacher(args, options))


def _with_start(args: argparse.Namespace, options: PlanOptions) -> PlanOptions:
    if args.init is None:
        if args.init_fold is not None or args.init_checkpoint is not None:
            raise MSTKDError("--init-fold and --init-checkpoint belong to a model; give --init FOLDER")
        return options
    from nnunetv2_mstkd.plans.starting_weights import with_start

    if not args.init.strip():
        raise MSTKDError("--init '' is no folder or file; give those of a finished model, or leave it out")
    return with_start(
        options,
        Path(args.init),
        _fold(args.init_fold),
        args.init_checkpoint,
        any_network=args.network is None and args.preset is None and args.teacher is None,
    )


def _fold(given: str | None) -> int | str | None:
    return int(given) if given is not None and given.isdecimal() else given


def _with_teacher(args: argparse.Namespace, options: PlanOptions) -> PlanOptions:
    from nnunetv2_mstkd.plans.teacher import with_teacher

    if args.teacher is not None:
        if not args.teacher.strip():
            raise MSTKDError("--teacher '' is no folder; give that of a finished model, or leave it out")
        fold, any_preset = _fold(args.teacher_fold), args.preset is None
        return with_teacher(options, Path(args.teacher), fold, args.teacher_checkpoint, any_preset=any_preset)
    if args.teacher_fold is not None or args.teacher_checkpoint is not None:
        raise MSTKDError("--teacher-fold and --teacher-checkpoint belong to a model; give --teacher FOLDER")
    return options


def run(argv: Sequence[str]) -> int:
    """Plan each data set and print a table and the next command; 2 if one of several failed."""
    args = _parser().parse_args(argv)
    from nnunetv2_mstkd.plans.plan_dataset import plan_dataset
    from nnunetv2_mstkd.plans.report import describe
    from nnunetv2_mstkd.plans.teacher import spacing_of

    options = _options(args)
    spacing = args.overwrite_target_spacing or spacing_of(options)
    failures: dict[str, MSTKDError] = {}
    for dataset in args.d:
        try:
            planned = plan_dataset(
                dataset,
                options,
                planner_name=args.pl,
                gpu_memory_target=args.gpu_memory_target,
                preprocessor_name=args.preprocessor_name,
                target_spacing=spacing,
                name=args.overwrite_plans_name,
            )
            print(describe(planned))
        except MSTKDError as error:
            if len(args.d) == 1:
                raise
            failures[dataset] = error
    for dataset, failure in failures.items():
        print(f"nnUNetv2_mstkd plan: data set {dataset}: error: {failure}", file=sys.stderr)
    return 2 if failures else 0
