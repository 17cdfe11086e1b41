"""Complete cases without a segmentation, beside those of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunetv2_mstkd.datasets.convert.inspection import BadCasesError, Inspection, inspect_case
from nnunetv2_mstkd.datasets.convert.source_cases import Sources, find_sources, is_decathlon
from nnunetv2_mstkd.datasets.discovery import check_source
from nnunetv2_mstkd.datasets.input_rules import InputRules
from nnunetv2_mstkd.datasets.parallel import run_all
from nnunetv2_mstkd.errors import MSTKDError


@dataclass(frozen=True)
class Unlabelled:
    """The cases that are to train without a segmentation.

    Attributes:
        sources: the cases of a folder of their own, their segmentations left away.
        of_the_source: those of the source that have no segmentation are meant.
        segmentations_not_used: cases that have one.
    """

    sources: Sources
    of_the_source: bool = False
    segmentations_not_used: int = 0

    @classmethod
    def find(
        cls, source: Path, cases: Sources, folder: Path | None, rules: InputRules | None = None
    ) -> Unlabelled:
        """The cases in ``folder``; none without one.

        Args:
            source: the folder of the other cases.
            cases: those cases.
            folder: that of these, or ``source`` itself.
            rules: how names of the source are read; where the folder needs such, it needs the same.

        Raises:
            MSTKDError: no such folder, or no cases.
            BadCasesError: cases that the source has too.
        """
        if folder is None:
            return cls(Sources((), {}))
        check_source(folder)
        if folder.resolve() == source.resolve():
            return cls(Sources((), {}), of_the_source=True)
        if rules is not None:  # a table and the Decathlon's layout need none
            with_names = folder.is_dir() and not is_decathlon(folder)
            rules = replace(rules, of_another_source=True) if with_names else None
        found = find_sources(folder, rules)
        known = {case.name for case in cases.cases}
        twice = {
            case.name: f"is in {source} and in {folder}; leave it in one of them"
            for case in found.cases
            if case.name in known
        }
        if twice:
            raise BadCasesError(twice, len(found.cases))
        images = tuple(replace(case, segmentation=None) for case in found.cases)
        with_one = sum(case.segmentation is not None for case in found.cases)
        return cls(Sources(images, found.problems), segmentations_not_used=with_one)

    def inspected(
        self, of_the_source: Sequence[Inspection], num_processes: int
    ) -> tuple[list[Inspection], tuple[str, ...]]:
        """The complete cases, and the names of those that lack modalities.

        Args:
            of_the_source: its cases, read already.
            num_processes: that read cases.

        Raises:
            BadCasesError: some cases cannot be used.
            MSTKDError: none of them is complete.
        """
        if self.of_the_source:
            inspections = [i for i in of_the_source if i.case.segmentation is None]
        else:
            inspections = run_all(
                inspect_case, self.sources.cases, num_processes=num_processes, title="checking unlabelled"
            )
        problems = {**self.sources.problems, **{i.case.name: i.problem for i in inspections if i.problem}}
        if problems:
            raise BadCasesError(problems, len(self.sources.cases) + len(self.sources.problems))
        complete = [i for i in inspections if not i.absent]
        if not complete and (inspections or self.of_the_source):
            raise MSTKDError(
                f"--unlabelled: none of {len(inspections)} cases without a segmentation has every modality;"
                " a teacher knows no more of them than the student; leave --unlabelled out"
            )
        return complete, tuple(i.case.name for i in inspections if i.absent)
