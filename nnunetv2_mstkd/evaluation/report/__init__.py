"""The report of a comparison: one HTML file that needs no network."""

from nnunetv2_mstkd.evaluation.report.page import write_report

__all__ = ["write_report"]
