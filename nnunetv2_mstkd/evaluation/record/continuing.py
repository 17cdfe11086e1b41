"""Several calls of ``evaluate`` on one folder: what a later call may change, and which call scored what.

Scores belong to the code that computed them. A call that finds everything scored writes the tables anew,
perhaps with another policy; the versions and the commit that the record names stay those of the scores.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.record.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.record.record import (
    IMAGE_ROLE,
    RECORD_FILE,
    SEGMENTATION_ROLE,
    EvaluatedCase,
    Evaluation,
    EvaluationRecord,
    Session,
    read_evaluation,
    write_record,
)
from nnunetv2_mstkd.evaluation.record.score_store import ScoreStore
from nnunetv2_mstkd.files import locked_folder, writable_folder
from nnunetv2_mstkd.modalities import all_subsets, format_subset

# What cannot differ between two calls on one folder: fields of the record, keys of its ``model``.
_SAME_FIELDS = ("dataset", "modalities", "regions", "lesionwise", "ignore", "prediction_label_map")
_SAME_OF_MODEL = ("id", "inference")


def open_folder(folder: Path, record: EvaluationRecord) -> EvaluationRecord:
    """Make the folder this evaluation's.

    Returns:
        The record, with what earlier calls have scored there.

    Raises:
        MSTKDError: it holds something else, or an evaluation of another model, with other settings or of
            other files.
    """
    content = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    # Whoever shares the work writes the record first: it is there by now.
    if content and not (folder / RECORD_FILE).exists():
        raise MSTKDError(f"{folder} is not empty and holds no evaluation; give another folder with -o")
    if content:
        _check_same_evaluation(read_evaluation(folder), record)
    return note_session(record, None, writable_folder(folder))


def _check_same_evaluation(earlier: Evaluation, new: EvaluationRecord) -> None:
    folder, old = earlier.folder, earlier.record
    different = [name.replace("_", " ") for name in _SAME_FIELDS if getattr(old, name) != getattr(new, name)]
    different += [f"model {key}" for key in _SAME_OF_MODEL if old.model.get(key) != new.model.get(key)]
    if different:
        raise MSTKDError(
            f"{folder} holds an evaluation with other {', '.join(different)}; give another folder with -o"
        )
    store = ScoreStore(folder)
    for name in sorted(old.cases.keys() & new.cases.keys()):
        scores = store.read(name)
        changed = _changed_file(old.cases[name], new.cases[name], scores.subsets.keys())
        if changed is None:
            continue
        # A call that was stopped leaves segmentations, to be scored by this one.
        segmented = changed.startswith(IMAGE_ROLE) and any(
            earlier.prediction(name, subset).is_file() for subset in old.subsets
        )
        if scores.started or segmented:
            done = "scored" if scores.started else "segmented"
            raise MSTKDError(
                f"the {changed} of case {name} is not what was {done} in {folder}; give another folder with"
                f" -o, or remove cases/{name}.json there, and its segmentations, to do this case again"
            )


def _changed_file(old: EvaluatedCase, new: EvaluatedCase, scored: Collection[str]) -> str | None:
    """Return what of a case is another file than before, or None.

    An image that came or went counts; of the segmentations only those that were scored do.
    """
    if old.label_map != new.label_map:
        return "reading of the label values"
    unscored = {role for role in old.files if role.startswith(SEGMENTATION_ROLE)}
    unscored -= {SEGMENTATION_ROLE + subset for subset in scored}
    roles = (old.files.keys() & new.files.keys()) - unscored
    roles |= {role for role in old.files.keys() ^ new.files.keys() if role.startswith(IMAGE_ROLE)}
    return next((role for role in sorted(roles) if old.files.get(role) != new.files.get(role)), None)


def new_session(command: str) -> Session:
    """Start a session now, with the code that runs now."""
    started = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return Session(started, command, versions(), git_commit(), directory=os.getcwd())


@contextmanager
def listed_session(
    record: EvaluationRecord, session: Session, folder: Path, work: Collection[tuple[str, str]]
) -> Iterator[None]:
    """List a session in the folder's record while it works; however it ends, note how much it added.

    Args:
        work: the cases under subsets that it is to score.
    """
    if work:
        note_session(record, session, folder)
    try:
        yield
    finally:
        note_session(record, replace(session, scored=ScoreStore(folder).count(work)), folder)


def note_session(record: EvaluationRecord, session: Session | None, folder: Path) -> EvaluationRecord:
    """Write the record with the sessions so far and this one, and return it.

    A session is listed once, as it is now; one that added nothing is left out, unless it is the first.
    """
    with locked_folder(folder):
        record = merge_earlier_scores(record, folder)
        if session is not None:
            start = (session.started, session.command)
            others = [s for s in record.sessions if (s.started, s.command) != start]
            record = _with_sessions(record, others if session.scored == 0 and others else [*others, session])
        write_record(record, folder)
    return record


def _with_sessions(record: EvaluationRecord, sessions: Sequence[Session]) -> EvaluationRecord:
    made = [session for session in sessions if session.scored != 0] or sessions
    if made:
        record = replace(record, versions=made[-1].versions, git=made[-1].git)
    return replace(record, sessions=tuple(sessions))


def merge_earlier_scores(record: EvaluationRecord, folder: Path) -> EvaluationRecord:
    """Return the record with the sessions of the folder's own, and its cases and subsets that have scores.

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
    record = replace(
        record,
        subsets=order,
        cases={name: _with_subsets(case, asked[name], order) for name, case in cases.items()},
        predictions={**old.predictions, **record.predictions},
    )
    return _with_sessions(record, old.sessions)


def table_order(modalities: Sequence[str], subsets: Collection[str]) -> tuple[str, ...]:
    """Return subsets, as ``format_subset`` prints them, in the order of tables."""
    names = (format_subset(subset, modalities) for subset in all_subsets(modalities))
    return tuple(name for name in names if name in subsets)


def _joined(old: EvaluatedCase | None, new: EvaluatedCase | None) -> EvaluatedCase:
    """Return the case as it is now, with the digests of segmentations that an earlier call scored."""
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
