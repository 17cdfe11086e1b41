"""How many cases lack what, as lines for the terminal and the training log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from nnunetv2_mstkd.datasets.availability import Availability
from nnunetv2_mstkd.modalities import format_subset

# Four modalities have fifteen subsets; seven have 127, of which the log shows the most frequent.
_MOST_SUBSETS = 15


def describe(availability: Availability) -> list[str]:
    """A short table: cases per absent modality and per set of modalities, and a warning for what none has."""
    modalities, cases = availability.modalities, availability.entries
    incomplete = availability.incomplete
    if not incomplete:
        return [f"all {len(cases)} cases have all {len(modalities)} modalities: {', '.join(modalities)}"]
    lacking = Counter(name for absent in incomplete.values() for name in absent)
    lines = [f"{len(incomplete)} of {len(cases)} cases lack modalities:", "  cases  lack"]
    lines += [f"{lacking[name]:>7}  {name}" for name in modalities if lacking[name]]
    lines += ["  cases  have exactly", *_subset_rows(availability)]
    never = [name for name in modalities if lacking[name] == len(cases)]
    if never:
        lines.append(
            f"warning: none of these cases has {', '.join(never)}; nothing is learnt or measured of it"
        )
    return lines


def _subset_rows(availability: Availability) -> Iterator[str]:
    sets = Counter(availability.present(case) for case in availability.entries)
    for present, count in sets.most_common(_MOST_SUBSETS):
        yield f"{count:>7}  {format_subset(present, availability.modalities)}"
    others = sets.most_common()[_MOST_SUBSETS:]
    if others:
        yield f"{sum(count for _, count in others):>7}  {len(others)} other sets"
