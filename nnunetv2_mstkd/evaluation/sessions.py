"""Which calls of ``evaluate`` made an evaluation: scores belong to the code that computed them.

A call that finds everything scored writes the tables anew, perhaps with another policy; the versions and the
commit that the record names stay those of the scores.
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from nnunetv2_mstkd.evaluation.provenance import git_commit, versions
from nnunetv2_mstkd.evaluation.results import RECORD_FILE, EvaluationRecord, Session, read_evaluation


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
