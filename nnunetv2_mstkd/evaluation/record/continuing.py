"""Which calls of ``evaluate`` made an evaluation: scores belong to the code that computed them.

A call that finds everything scored writes the tables anew, perhaps with another policy; the versions and the
commit that the record names stay those of the scores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.record.record import (
    RECORD_FILE,
    SEGMENTATION_ROLE,
    EvaluatedCase,
    EvaluationRecord,
    Session,
    read_evaluation,
)
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.modalities import all_subsets, format_subset


def begun(command: str) -> Session:
    """A session that starts now, with the code that runs now."""
    started = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return Session(started, command, versions(), git_commit(), directory=os.getcwd())


def with_session(record: EvaluationRecord, session: Session | None, folder: Path) -> EvaluationRecord:
    """The record with the sessions that ``folder`` knows already, and with this one.

    Hold the folder's lock: several calls may share the work. A session is listed once, as it is now; one that
    added nothing is left out, unless it is the first.
    """
    sessions: list[Session] = []
    if (folder / RECORD_FILE).is_file():
        sessions += read_evaluation(folder).record.sessions
    if session is not None:
        others = [s for s in sessions if (s.started, s.command) != (session.started, session.command)]
        sessions = others if session.scored == 0 and others else [*others, session]
    made = [s for s in sessions if s.scored != 0] or sessions
    if made:
        record = replace(record, versions=made[-1].versions, git=made[-1].git)
    return replace(record, sessions=tuple(sessions))


def with_earlier_scores(record: EvaluationRecord, folder: Path) -> EvaluationRecord:
    """The record with the cases, and the subsets of each, that the folder's own lists and that have scores.

    What never got a score is forgotten with the call that asked for it: a case that cannot be scored does not
    count as missing for ever once it is left out. Hold the folder's lock: several calls may share the work.
    """
    if not (folder / RECORD_FILE).is_file():
        return record
    old, store = read_evaluation(folder).record, ScoreStore(folder)
    asked = {name: set(record.subsets_of(name)) for name in record.cases}
    for name in old.cases:
        scored = store.read(name).subsets.keys() & set(old.subsets_of(name))
        if scored:
            asked.setdefault(name, set()).update(scored)
    order = table_order(record.modalities, set(record.subsets).union(*asked.values()))
    cases = {name: _joined(old.cases.get(name), record.cases.get(name)) for name in asked}
    return replace(
        record,
        subsets=order,
        cases={name: _with_subsets(case, asked[name], order) for name, case in cases.items()},
        predictions={**old.predictions, **record.predictions},
    )


def table_order(modalities: Sequence[str], subsets: Collection[str]) -> tuple[str, ...]:
    """Subsets, as ``format_subset`` prints them, in the order of tables."""
    names = (format_subset(subset, modalities) for subset in all_subsets(modalities))
    return tuple(name for name in names if name in subsets)


def _joined(old: EvaluatedCase | None, new: EvaluatedCase | None) -> EvaluatedCase:
    """The case as it is now, with the digests of segmentations that an earlier call scored."""
    if new is None:
        assert old is not None, "a case is asked for by one of the two"
        return old
    if old is None:
        return new
    earlier = {role: digest for role, digest in old.files.items() if role.startswith(SEGMENTATION_ROLE)}
    return replace(new, files={**earlier, **new.files})


def _with_subsets(case: EvaluatedCase, asked: Collection[str], order: tuple[str, ...]) -> EvaluatedCase:
    own = tuple(name for name in order if name in asked)
    return replace(case, subsets=None if own == order else own)
