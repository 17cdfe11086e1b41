"""From evaluations to a model's ``trust.json``, and how well what it says holds.

``measure`` reads evaluations and refuses cases that were learnt from, ``signals`` shows what Dice depends on,
``check`` measures coverage and flags by cross-validation.
"""
