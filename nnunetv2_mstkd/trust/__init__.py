"""What a segmentation is worth: measured on cases that the model has not learnt from, stored with the model.

``nnUNetv2_mstkd trust`` fills ``trust.json`` from evaluations (:mod:`nnunetv2_mstkd.evaluation.trust`); this
room reads it and says, for a new case, what to expect of each region. docs/trust.md has the method.
"""

from __future__ import annotations

from nnunetv2_mstkd.trust.expectation import Expectations, Expected, expected
from nnunetv2_mstkd.trust.storage import find_trust

__all__ = ["Expectations", "Expected", "expected", "find_trust"]
