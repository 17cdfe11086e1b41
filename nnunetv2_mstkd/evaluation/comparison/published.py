"""The published numbers, and what is wrong with them, found by computing rather than by quoting.

Source: the tables of the MST-KDNet project page (github.com/Quanato607/MST-KDNet), copied as facts into
``evaluation/comparison/published_results.csv``: Dice in %, HD95 in mm. They enter no statistics.
"""

from __future__ import annotations

from importlib.resources import files

import pandas as pd

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.metrics.presentation import AVERAGE, METRICS
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

SOURCE = "https://github.com/Quanato607/MST-KDNet"
DATASETS = {"brats2024": "BraTS 2024", "fets2024": "FeTS 2024"}
# Fifteen numbers and their mean, each rounded to 0.1, cannot be further apart than 0.1.
TOLERANCE = 0.15
FULL_METHOD = "MST-KDNet"  # in the comparison tables
FULL_ROW = "Ours"  # in the ablation tables
RUNNER_UP = "SMUNet"  # whom the page's headline sets beside it
HEADLINE = "brats2024"  # the data set that the headline is about
WHOLE = "+".join(BRATS_MODALITIES)
_ROW = ["metric", "region", "method"]


def read_published(dataset: str) -> pd.DataFrame:
    """Read the published rows of one data set.

    Returns:
        dataset, table (``comparison`` or ``ablation``), metric, region, method, subset (``Avg.`` is the
        printed average), value, delta (as printed in the ablation; nan elsewhere). Dice in %, HD95 in mm.

    Raises:
        MSTKDError: nothing was published on this data set.
    """
    if dataset not in DATASETS:
        raise MSTKDError(f"no published numbers for '{dataset}'; there are {', '.join(DATASETS)}")
    resource = files("nnunetv2_mstkd.evaluation.comparison") / "published_results.csv"
    with resource.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream)
    return table[table["dataset"] == dataset].reset_index(drop=True)


def _wide(published: pd.DataFrame) -> pd.DataFrame:
    """Lay out the comparison tables: one row per metric, region and method, one column per subset."""
    rows = published[published["table"] == "comparison"]
    wide = rows.pivot(index=_ROW, columns="subset", values="value")
    return wide.reindex(pd.MultiIndex.from_frame(rows[_ROW].drop_duplicates()))


def wrong_averages(published: pd.DataFrame) -> pd.DataFrame:
    """Find rows whose printed average is not the mean of their columns.

    Returns:
        metric, region, method, printed, computed.
    """
    wide = _wide(published)
    table = pd.DataFrame({"printed": wide[AVERAGE], "computed": wide.drop(columns=AVERAGE).mean(axis=1)})
    return table[(table["printed"] - table["computed"]).abs() > TOLERANCE].reset_index()


def repeated_averages(published: pd.DataFrame) -> pd.DataFrame:
    """Find rows whose whole set repeats a wrong average: the true value is not in the table.

    Returns:
        metric, region, method.
    """
    wide = _wide(published).reset_index()
    wrong = wrong_averages(published)[_ROW]
    return wide.loc[wide[WHOLE] == wide[AVERAGE], _ROW].merge(wrong, on=_ROW)


def ablation_disagreements(published: pd.DataFrame) -> pd.DataFrame:
    """Find where the ablation and the comparison table differ about the full method.

    Returns:
        metric, region, ablation, comparison.
    """
    keys = ["metric", "region"]
    averages = published[published["subset"] == AVERAGE]
    ablation = averages[(averages["table"] == "ablation") & (averages["method"] == FULL_ROW)]
    comparison = averages[(averages["table"] == "comparison") & (averages["method"] == FULL_METHOD)]
    both = ablation[[*keys, "value"]].merge(
        comparison[[*keys, "value"]], on=keys, suffixes=("_ablation", "_comparison")
    )
    differing = both[both["value_ablation"] != both["value_comparison"]].reset_index(drop=True)
    return differing.rename(columns={"value_ablation": "ablation", "value_comparison": "comparison"})


def caveats(published: pd.DataFrame) -> list[str]:
    """List what a reader must know beside the published numbers, one sentence or two each."""
    wrong, repeated = wrong_averages(published), repeated_averages(published)
    rows = len(_wide(published))
    texts = [
        "Copied from the authors' project page, not measured here; they enter no statistics of this"
        " comparison. Data, split and preprocessing are not those of the runs above.",
        "The released HD95 gives 0 mm when the prediction or the reference is empty, so that a missed tumour"
        " counts as perfect, and is measured in voxels after a centre crop. Of the policies of evaluate,"
        " official scores empty masks as it does, but measures mm in the whole image: its HD95 is the nearest"
        " to the published one, not the same.",
        "The released training script chooses its best model on the cases that it is tested on.",
    ]
    if len(wrong):
        texts.append(
            f"{len(wrong)} of {rows} printed averages are not the mean of their columns: "
            + "; ".join(_average_text(row) for row in wrong.to_dict("records"))
            + "."
        )
    if len(repeated):
        texts.append(
            "The all-modalities column only repeats such an average, and the true value is not in the table: "
            + "; ".join(
                f"{METRICS[r['metric']].title} {r['region']} {r['method']}" for r in _records(repeated)
            )
            + "."
        )
    texts += _headline(published)
    texts.extend(
        f"The ablation gives the full method {METRICS[row['metric']].title} {row['region']}"
        f" {row['ablation']:.1f}, the comparison table {row['comparison']:.1f}."
        for row in _records(ablation_disagreements(published))
    )
    return texts


def _headline(published: pd.DataFrame) -> list[str]:
    """Say what is wrong with the page's headline "with all modalities"; nothing for another data set."""
    if (published["dataset"] != HEADLINE).any():
        return []
    wide = _wide(published)

    def values(metric: str, method: str, subset: str, without: tuple[str, ...] = ()) -> str:
        rows = wide.xs((metric, method), level=("metric", "method"))[subset]
        named = (f"{region} {value:.1f}" for region, value in rows.items() if region not in without)
        return ", ".join(named)

    lost = repeated_averages(published)
    unknown = tuple(lost.loc[(lost["metric"] == "dice") & (lost["method"] == RUNNER_UP), "region"])
    return [
        f"The page's headline for full modality sets {FULL_METHOD}'s all-modalities Dice"
        f" ({values('dice', FULL_METHOD, WHOLE)}) beside {RUNNER_UP}'s averages over the 15 subsets"
        f" ({values('dice', RUNNER_UP, AVERAGE)}). With all modalities {RUNNER_UP} has"
        f" {values('dice', RUNNER_UP, WHOLE, unknown)}.",
        f"The HD95 that the page gives {FULL_METHOD} with all modalities"
        f" ({values('hd95', FULL_METHOD, AVERAGE)} mm) are its averages over the 15 subsets; its column of"
        f" all modalities has {values('hd95', FULL_METHOD, WHOLE)} mm.",
    ]


def _records(table: pd.DataFrame) -> list[dict]:
    return table.to_dict("records")


def _average_text(row: dict) -> str:
    where = f"{METRICS[row['metric']].title} {row['region']} {row['method']}"
    return f"{where} {row['printed']:.1f} (mean {row['computed']:.1f})"
