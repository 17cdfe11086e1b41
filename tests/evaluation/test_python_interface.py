"""A call from Python leaves what the command leaves."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from evaluated_model import CASES, model_flags

from nnunetv2_mstkd import ComparisonRequest, EvaluationRequest, MSTKDError, compare, evaluate
from nnunetv2_mstkd.cli import main

FILES = ("metrics.csv", "table.md", "table.csv")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def record(folder: Path) -> dict:
    """An evaluation's record without when and where it was made."""
    text = (folder / "evaluation.json").read_text().replace(str(folder), "OUT")
    content = json.loads(text)
    for session in content["sessions"]:
        del session["started"]
    return content


@pytest.fixture
def request_of(models, folder, tmp_path):
    """The request that ``model_flags`` make, of a few subsets."""

    def make(output, **options) -> EvaluationRequest:
        known = {"folds": 0, "cases": folder, "device": "cpu", "mirroring": False, "step_size": 1.0}
        known |= {"readers": 1, "writers": 1, "subsets": ("t1c", "t1c+t2f")}
        return EvaluationRequest(output=tmp_path / output, model=models.regions, **(known | options))

    return make


def test_evaluate_is_the_command(request_of, models, folder, tmp_path):
    flags = (*model_flags(models.regions, folder), "--subsets", "t1c", "t1c+t2f")
    assert main(["evaluate", "-o", str(tmp_path / "typed"), *map(str, flags)]) == 0
    done = evaluate(request_of("called"))
    called, typed = contents(tmp_path / "called"), contents(tmp_path / "typed")
    assert called.keys() == typed.keys()
    for name in called:
        if name != "evaluation.json" and not name.endswith(("summary.json", "modalities.json")):
            assert called[name] == typed[name], name
    assert record(tmp_path / "called") == record(tmp_path / "typed")
    assert (done.scored, done.impossible, done.missing, done.problems) == (6, 0, 0, {})
    assert done.evaluation.metrics["case"].nunique() == 3


def test_segmentations_that_are_there(request_of, whole, folder, tmp_path):
    (tmp_path / "labels").mkdir()
    for case in CASES:
        source = folder / case / f"{case}-seg.nii.gz"
        (tmp_path / "labels" / f"{case}.nii.gz").write_bytes(source.read_bytes())
    places = {"predictions": whole / "predictions" / "t1c", "labels": tmp_path / "labels"}
    with pytest.raises(MSTKDError, match="have no reference in"):
        evaluate(EvaluationRequest(output=tmp_path / "out", **places))
    source = folder / "BraTS-GLI-00003-000" / "BraTS-GLI-00003-000-seg.nii.gz"
    (tmp_path / "labels" / "BraTS-GLI-00003-000.nii.gz").write_bytes(source.read_bytes())
    flags = [word for name, path in places.items() for word in (f"--{name}", str(path))]
    assert main(["evaluate", "-o", str(tmp_path / "typed"), *flags, "--disable_progress_bar"]) == 0
    done = evaluate(EvaluationRequest(output=tmp_path / "out", **places))
    assert done.scored == 3
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "typed" / name).read_bytes()
    assert record(tmp_path / "out") == record(tmp_path / "typed")


def test_a_case_that_fails_is_in_the_result(request_of, folder, tmp_path):
    cases = tmp_path / "cases"
    for case in CASES:
        (cases / case).mkdir(parents=True)
        for path in (folder / case).iterdir():
            (cases / case / path.name).write_bytes(path.read_bytes())
    broken = cases / CASES[0] / f"{CASES[0]}-t1c.nii.gz"
    broken.write_bytes(broken.read_bytes()[:400])
    done = evaluate(request_of("out", cases=cases))
    assert (done.scored, done.missing) == (2, 2)
    ((name, problem),) = done.problems.items()
    assert name == f"{CASES[0]} (2 subsets)"
    assert "t1c" in problem


def test_progress_can_be_watched(request_of):
    seen: list = []

    @contextmanager
    def watch(total):
        seen.append(total)
        yield lambda report: seen.append(report.task.name)

    evaluate(request_of("out", subsets="t2f"), watch)
    assert seen == [3, "t2f", "t2f", "t2f"]


def test_compare_is_the_command(evaluation, tmp_path):
    runs = [str(evaluation("a")), str(evaluation("b", seed=1))]
    output, options = tmp_path / "out", ["--ablation", "--seed", "3", "--resamples", "200"]
    assert main(["compare", *runs, "-o", str(output), "--reference", "b", "--names", "a", "b", *options]) == 0
    typed = contents(output)
    request = ComparisonRequest(
        runs=runs, output=output, reference="b", names=("a", "b"), ablation=True, seed=3, resamples=200
    )
    comparison = compare(request)
    assert contents(output) == typed
    assert comparison.reference == "b"
    assert json.loads((output / "comparison.json").read_text())["command"] == request.command()
