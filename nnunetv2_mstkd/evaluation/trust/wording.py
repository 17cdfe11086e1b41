"""What was measured and checked, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nnunetv2_mstkd.evaluation.trust.check import Checked
from nnunetv2_mstkd.trust.calibration import Calibration
from nnunetv2_mstkd.trust.conformal import patients_needed
from nnunetv2_mstkd.trust.estimator import BAD_DICE


def what_is_known(calibration: Calibration) -> str:
    """Return the table that the command prints: median and 90 % interval per subset and region."""
    facts, regions = calibration.facts, list(calibration.regions)
    lines = [
        f"measured on {calibration.cases} cases of {calibration.patients} patients ({calibration.kind}, by"
        f" {calibration.known_by}); Dice: median over patients and an interval for 90 % of new cases",
        "",
        *_head(["subset", "cases", *regions]),
    ]
    estimators = {region: calibration.estimator(region) for region in regions}
    for subset in sorted(set(facts.subsets.tolist()), key=lambda text: (text.count("+"), text)):
        here = facts.subsets == subset
        cells = []
        for region in regions:
            found = facts.regions[region].rows(here)
            typical = float(np.median(found.predicted)), _median(found.agreement)
            estimate = estimators[region].estimate(subset, *typical)
            cells.append(
                f"{estimate.median:.2f} ({estimate.interval.low:.2f} to {estimate.interval.high:.2f})"
            )
        lines.append(_row([subset, len(np.unique(facts.cases[here])), *cells]))
    lines.append("")
    for region in regions:
        lines.append(f"{region}: {_depends(calibration, region)}; {_rule(estimators[region].rule)}")
    needed = patients_needed(0.05)
    if calibration.patients < needed:
        lines.append(f"fewer than {needed} patients: the intervals have no upper end, or none at all")
    return "\n".join(lines)


def _median(values: np.ndarray) -> float:
    return float(np.nanmedian(values)) if not np.isnan(values).all() else float("nan")


def _depends(calibration: Calibration, region: str) -> str:
    signals, shown = calibration.signals.get(region, ()), calibration.shown.get(region, {})
    if signals:
        sure = "shown" if shown.get("beyond_chance") else "not shown beyond chance"
        return f"uses {' and '.join(signals)} beyond the subset ({sure} to help; the row is a typical case)"
    if not shown.get("changes"):
        return "too few patients to tell what it depends on beyond the subset"
    return "nothing beyond the subset helped"


def _rule(rule: Any) -> str:
    if rule.threshold is None:
        return f"no case had a Dice below {BAD_DICE}, so there is no rule when to look"
    return (
        f"look where at most {rule.threshold:.2f} is expected: misses at most {100 * rule.miss_rate:.0f} % of"
        f" those below {BAD_DICE} ({rule.bad} such of {rule.bad_patients} patients), flags"
        f" {100 * rule.flagged:.0f} % of all"
    )


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), "|" + "---|" * len(cells)]


def _row(cells: Iterable[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def how_it_held(results: Sequence[Checked], how: str) -> str:
    """Return the tables of a check."""
    lines = [f"{how}; every patient counts as one, intervals (95 %) are over patients", ""]
    lines += _head(
        ["region", "patients", "cases by subsets", f"Dice below {BAD_DICE}", "coverage (90 % wanted)",
         "lowest subset", "of those below", "of the others", "mean width", "no interval",
         "volume error covered"]
    )  # fmt: skip
    for found in results:
        by_subset = {name: value for name, value in found.by_subset.items() if not np.isnan(value)}
        lowest = min(by_subset, key=lambda s: by_subset[s]) if by_subset else None
        lines.append(
            _row(
                [
                    found.region, found.patients, found.rows, found.bad, _with_ends(found.coverage, _percent),
                    "-" if lowest is None else f"{_percent(by_subset[lowest])} ({lowest})",
                    *map(_percent, found.by_dice), _number(found.width), _percent(found.without_interval),
                    _percent(found.volume_coverage),
                ]
            )
        )  # fmt: skip
    lines += [
        f"{found.region}: {found.untold} rows left out, of subsets that no other patient has"
        for found in results
        if found.untold
    ]
    lines += ["", *_head(["region", "flagged", "missed of those below", "stated at most", "signals chosen"])]
    for found in results:
        signals = ", ".join(f"{name} {count} times" for name, count in found.signals.items())
        rates = map(_percent, (found.flagged, found.missed, found.stated))
        lines.append(_row([found.region, *rates, signals]))
    lines += [
        "",
        f"finding a Dice below {BAD_DICE}: AUROC (within one subset), area under the risk-coverage curve",
        "",
    ]
    names = list(dict.fromkeys(name for found in results for name in found.aurc))
    lines += _head(["region", *names])
    for found in results:
        lines.append(_row([found.region, *(_found_by(found, name) for name in names)]))
    lines += ["", "AUROC of the expected Dice minus that of", ""]
    rivals = list(dict.fromkeys(name for found in results for name in found.against))
    lines += _head(["region", *rivals])
    for found in results:
        cells = [_with_ends(found.against.get(name), lambda v: f"{v:+.2f}") for name in rivals]
        lines.append(_row([found.region, *cells]))
    return "\n".join(lines)


def _found_by(found: Checked, name: str) -> str:
    if name not in found.aurc:
        return "-"
    area = _number(found.aurc[name], 3)
    if name not in found.auroc:
        return area
    within = found.auroc_within.get(name)
    inner = "" if within is None else f" ({_number(within[0])})"
    return f"{_with_ends(found.auroc[name], _number)}{inner}; {area}"


def _with_ends(values: tuple[float, float, float] | None, show: Any) -> str:
    if values is None or np.isnan(values[0]):
        return "-"
    return f"{show(values[0])} [{show(values[1])}, {show(values[2])}]"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def _number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def as_json(found: Checked) -> Mapping[str, Any]:
    """Return everything that a check found, nan as null."""
    return {name: _plain(value) for name, value in vars(found).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if np.isnan(value) else round(value, 4)
    return value
