"""Print the table for docs/reliability.md."""

from bad_inputs import BAD_INPUTS, markdown

print(f"{len(BAD_INPUTS)} bad inputs\n\n{markdown()}", end="")
