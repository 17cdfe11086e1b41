"""The table of bad inputs: what is wrong, and what the command says of it.

``test_bad_inputs.py`` runs every row; ``PYTHONPATH=tests/helpers:tests/end_to_end/reliability python -m
bad_inputs`` prints the table that ``docs/reliability.md`` shows.
"""

from __future__ import annotations

from bad_inputs.convert import CONVERT, OF_CASES
from bad_inputs.plan import PLAN, TRAIN
from bad_inputs.predict import PREDICT, PREPARE
from bad_inputs.rows import BadInput

BAD_INPUTS: tuple[BadInput, ...] = (*OF_CASES, *CONVERT, *PREPARE, *PREDICT, *PLAN, *TRAIN)


def markdown() -> str:
    """The table of the documentation: rows of several commands that read alike are one."""
    commands: dict[tuple[str, str], list[str]] = {}
    for row in BAD_INPUTS:
        says = row.says.replace("{p}/", "").replace("{{", "{").replace("}}", "}")
        commands.setdefault((row.what, says), []).append(row.command)
    lines = ["| command | what is wrong | it says |", "|---|---|---|"]
    for (what, says), names in commands.items():
        lines.append(f"| {', '.join(names)} | {what} | `… {says} …` |")
    return "\n".join(lines) + "\n"
