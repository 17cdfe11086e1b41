"""From runs to a :class:`Comparison`."""

from __future__ import annotations

from collections.abc import Sequence

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.comparison.ablation import ablation_table
from nnunetv2_mstkd.evaluation.comparison.agreement import check_agreement
from nnunetv2_mstkd.evaluation.comparison.differences import differences_table, means_table
from nnunetv2_mstkd.evaluation.comparison.facts import common_facts
from nnunetv2_mstkd.evaluation.comparison.published import read_published
from nnunetv2_mstkd.evaluation.comparison.ranks import rank_table
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.comparison.statistics import Bootstrap
from nnunetv2_mstkd.evaluation.comparison.values import check_references, layout_of, run_values, scores_table

DEFAULT_RESAMPLES = 10_000


def compare_runs(
    runs: Sequence[ComparedRun],
    *,
    reference: str | None = None,
    ablation: bool = False,
    published: str | None = None,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> Comparison:
    """Compare runs over the same cases.

    Args:
        reference: name of the run that differences are taken from; by default the first.
        ablation: make the ablation table, the reference being the full method.
        published: ``brats2024`` or ``fets2024``, to set the published numbers beside.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Raises:
        MSTKDError: the runs cannot be compared; the message says what differs.
    """
    reference = runs[0].name if reference is None else reference
    if ablation and len(runs) < 2:
        raise MSTKDError("--ablation sets runs beside the full method; give at least two runs")
    check_agreement(runs)
    records = [evaluation.record for run in runs for evaluation in run.evaluations]
    layout, record = layout_of(runs), records[0]
    values = {run.name: run_values(run, layout) for run in runs}
    first = values[runs[0].name]
    for name, run in values.items():
        check_references(runs[0].name, first.volumes, name, run.volumes, list(layout.patients))
    bootstrap = Bootstrap(len(layout.patient_names), seed=seed, resamples=resamples)
    means = means_table(values, layout, bootstrap)
    of_others = None if published is None else read_published(published)
    return Comparison(
        runs=tuple(runs),
        reference=reference,
        facts=common_facts(records, layout.scored),
        policy=record.policy,
        modalities=record.modalities,
        subsets=record.subsets,
        regions=record.regions,
        scores=scores_table(list(values), list(values.values()), layout),
        means=means,
        differences=differences_table(values, reference, layout, bootstrap),
        ablation=ablation_table(means, reference, layout.regions, layout.metrics) if ablation else None,
        published=of_others,
        ranks=None if of_others is None else rank_table(of_others, means, runs),
        seed=seed,
        resamples=resamples,
    )
