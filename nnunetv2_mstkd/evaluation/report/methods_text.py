"""``report.txt``: sentences for a methods section, made from what was recorded, with what is to be cited."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_mstkd.evaluation.comparison.facts import UNKNOWN_VERSION, CommonFacts
from nnunetv2_mstkd.evaluation.comparison.runs import ComparedRun, Comparison
from nnunetv2_mstkd.evaluation.metrics.lesionwise import RULES
from nnunetv2_mstkd.evaluation.metrics.policies import POLICIES
from nnunetv2_mstkd.evaluation.record.provenance import reference_of

METHODS_TEXT = "report.txt"
NNUNET = (
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep"
    " learning-based biomedical image segmentation. Nature Methods 18, 203-211 (2021)."
    " doi:10.1038/s41592-020-01008-z"
)
_WILCOXON = "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bulletin 1(6), 80-83 (1945)"
_HOLM = (
    "Holm S. A simple sequentially rejective multiple test procedure. Scandinavian Journal of Statistics"
    " 6(2), 65-70 (1979)"
)
_COLUMNS = 100


class References:
    """What is cited, numbered in the order in which it is first needed."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._listed: dict[str, int] = {}

    def cite(self, reference: str) -> str:
        """Return `` [1]`` for a publication; nothing for an empty one."""
        if not reference:
            return ""
        return f" [{self._listed.setdefault(reference, len(self._listed) + 1)}]"

    def lines(self) -> list[str]:
        """List what was cited."""
        return [f"[{number}] {reference}" for reference, number in self._listed.items()]


def assembled(paragraphs: Sequence[str], references: References) -> str:
    """Put paragraphs and references into one text, wrapped."""
    parts = [textwrap.fill(p, _COLUMNS, break_on_hyphens=False, break_long_words=False) for p in paragraphs]
    cited = [
        textwrap.fill(
            line, _COLUMNS, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
        )
        for line in references.lines()
    ]
    return "\n\n".join([*parts, *(["\n".join(("References", *cited))] if cited else [])]) + "\n"


def software(versions: Mapping[str, str], references: References) -> str:
    """Name the software: ``nnunetv2-mstkd 0.1.0, which extends nnU-Net 2.8.1 [1] (PyTorch 2.9.0)``."""
    known = {name: versions.get(name, UNKNOWN_VERSION) for name in ("nnunetv2-mstkd", "nnunetv2", "torch")}
    return (
        f"nnunetv2-mstkd {known['nnunetv2-mstkd']}, an extension of nnU-Net {known['nnunetv2']}"
        f"{references.cite(NNUNET)} (PyTorch {known['torch']})"
    )


def model_words(model: Mapping[str, Any], reference: str, references: References) -> str:
    """Describe a model: trainer, plans, configuration, folds, inference, and how it learnt about subsets."""
    folds = [str(fold) for fold in model.get("folds") or ()]
    inference = model.get("inference") or {}
    words = [
        f"trainer {model['trainer']}{references.cite(reference)}" if model.get("trainer") else "",
        f"plans {model['plans']}" if model.get("plans") else "",
        f"configuration {model['configuration']}" if model.get("configuration") else "",
        f"fold {folds[0]}" if len(folds) == 1 else "",
        f"mean of the {len(folds)} folds {', '.join(folds)}" if len(folds) > 1 else "",
        _training(model.get("in_force") or {}),
        _inference(inference),
    ]
    return ", ".join(word for word in words if word) or str(
        model.get("name", "a model of which nothing is known")
    )


def _training(in_force: Mapping[str, Any]) -> str:
    """Say which subsets training showed; nothing of trainers that mask nothing."""
    sampler = in_force.get("sampler")
    if not sampler:
        return ""
    full = in_force.get("full_phase")
    before = f", after {100 * float(full):g} % of the epochs with all sequences" if full else ""
    return f"trained on random subsets of the sequences (sampler {sampler}{before})"


def _inference(inference: Mapping[str, Any]) -> str:
    if not inference:
        return ""
    mirrored = inference.get("mirroring")
    words = [] if mirrored is None else ["with mirroring" if mirrored else "without mirroring"]
    step = inference.get("step_size")
    return ", ".join([*words, *([f"windows every {step:g} patches"] if step is not None else [])])


def comparison_text(comparison: Comparison) -> str:
    """Return ``report.txt`` of a comparison."""
    references, scores, common = References(), comparison.scores, comparison.facts
    policy = POLICIES.get(comparison.policy)
    versions = {package: _listed(found) for package, found in common.versions.items()}
    first = (
        f"{_evaluated(common, len(comparison.runs))} on {_counted(scores['case'].nunique(), 'case')} of"
        f" {_counted(scores['patient'].nunique(), 'patient')}{_of_datasets(common)} with"
        f" {software(versions, references)}. {_segmented(common, comparison.modalities)}"
        f"{_absent(common)}. Dice and the 95th percentile of the Hausdorff distance (HD95, mm) were computed"
        f" for {', '.join(comparison.regions)}"
        + (
            f"; empty masks were scored by the policy '{comparison.policy}' ({policy.source})"
            if policy
            else ""
        )
        + "."
        + _lesionwise(common.lesionwise)
    )
    models = "; ".join(f"{run.name}: {_run_words(run, references)}" for run in comparison.runs)
    second = (
        "Means have 95 % percentile bootstrap intervals over patients"
        f" ({comparison.resamples} resamples, seed {comparison.seed})."
    )
    if len(comparison.runs) > 1:
        second += (
            f" Differences to {comparison.reference} are paired within patients; p-values are of two-sided"
            f" Wilcoxon signed-rank tests{references.cite(_WILCOXON)} with Holm's"
            f" correction{references.cite(_HOLM)} over the rows of each table."
        )
    if comparison.without:
        second += f" Left out of every run: {', '.join(comparison.without)}."
    return assembled([first, f"Runs. {models}.", second], references)


def _evaluated(common: CommonFacts, runs: int) -> str:
    """Begin the first sentence: ``3 models in 2 runs were evaluated``."""
    models = _counted(common.models, "model") if common.models else ""
    finished = _counted(common.finished, "folder") if common.finished else ""
    what = [words for words in (models, f"{finished} of finished segmentations" if finished else "") if words]
    number = common.models + common.finished
    where = "" if number == runs else f" in {_counted(runs, 'run')}"
    return f"{' and '.join(what)}{where} {'was' if number == 1 else 'were'} evaluated"


def _of_datasets(common: CommonFacts) -> str:
    if len(common.datasets) > 1:  # the cases are the same: other names, or folds of several data sets
        return f" of data that the evaluations name {_listed(common.datasets)}"
    return f" of {common.datasets[0]}" if common.datasets else ""


def _segmented(common: CommonFacts, modalities: Sequence[str]) -> str:
    """Say from how many subsets cases were segmented; "every case" only where it is every one."""
    names = f"sequences ({', '.join(modalities)})"
    if common.fewest == common.most == common.subsets:
        return f"Every case was segmented from {_counted(common.subsets, 'subset')} of its {names}"
    each = _counted(common.most, "subset")
    if common.fewest != common.most:
        each = f"{common.fewest} to {each}"
    return f"Each case was segmented from {each} of the {names}, {common.subsets} different ones in all"


def _absent(common: CommonFacts) -> str:
    """Say what stood for an absent sequence; of finished segmentations nobody knows."""
    if not common.models:
        return ""
    whose = "the input of models" if common.finished else "the network's input"
    return f"; an absent one was zero in {whose}, after normalisation"


def _listed(words: Sequence[str]) -> str:
    """Print ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _lesionwise(rules: str | None) -> str:
    known = RULES.get(rules or "")
    return "" if known is None else f" Single lesions were scored by the rules {known.name} ({known.source})."


def _run_words(run: ComparedRun, references: References) -> str:
    """Describe a run by its first evaluation; the others are its folds or seeds."""
    record = run.evaluations[0].record
    model = record.model
    trainer = model.get("trainer")
    words = model_words(model, reference_of(trainer) if trainer else "", references)
    if not record.predicted:
        words = f"finished segmentations in {words}"
    count = len(run.evaluations)
    return words + (f" (the first of {count} evaluations: folds or seeds)" if count > 1 else "")
