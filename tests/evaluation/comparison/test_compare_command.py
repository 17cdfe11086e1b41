"""The command: what it writes, what it refuses, and that nothing is left half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from nnunetv2_mstkd.commands import compare as command
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.report import output


def save_figures(comparison, folder: Path) -> list:
    folder.mkdir()
    for suffix in ("png", "svg"):
        (folder / f"heatmap.{suffix}").write_text("figure")
    files = {suffix: folder / f"heatmap.{suffix}" for suffix in ("png", "svg")}
    return [SimpleNamespace(key="heatmap", title="Heat map", caption="", **files)]


def write_report(comparison, figures, path: Path, *, command: str) -> None:
    path.write_text(f"<p>{command}</p>")


@pytest.fixture
def rooms(monkeypatch):
    """Figures and report that are quickly made."""
    monkeypatch.setattr(output, "save_figures", save_figures)
    monkeypatch.setattr(output, "write_report", write_report)
    monkeypatch.setattr(
        output, "git_commit", lambda: "c0ffee"
    )  # whoever edits beside us changes the real one


@pytest.fixture
def folders(evaluation):
    return [str(evaluation("a")), str(evaluation("b", seed=1, gain=0.02))]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results" / "comparison"


def call(*arguments) -> int:
    return command.run([*map(str, arguments), "--resamples", "200"])


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("rooms")
class TestWrites:
    def test_everything(self, folders, out, capsys):
        options = (
            "--names",
            "x",
            "y",
            "--reference",
            "y",
            "--ablation",
            "--published",
            "fets2024",
            "--seed",
            7,
        )
        assert call(*folders, "-o", out, *options) == 0
        assert listing(out) == [
            "ablation.csv", "comparison.json", "comparison.md", "differences.csv", "figures/heatmap.png",
            "figures/heatmap.svg", "means.csv", "published.csv", "report.html", "report.txt",
        ]  # fmt: skip
        record = json.loads((out / "comparison.json").read_text())
        assert (record["reference"], record["policy"], record["patients"], record["seed"]) == (
            "y",
            "brats",
            6,
            7,
        )
        assert record["command"].startswith(f"nnUNetv2_mstkd compare {folders[0]} {folders[1]} -o {out}")
        assert [run["name"] for run in record["runs"]] == ["x", "y"]
        evaluated = record["runs"][0]["evaluations"][0]
        assert evaluated["folder"] == folders[0]
        assert evaluated["command"].startswith("nnUNetv2_mstkd evaluate")
        assert evaluated["versions"]["nnunetv2"]
        assert record["versions"]["scipy"]
        assert record["git"] == "c0ffee"
        text = (out / "comparison.md").read_text()
        assert "![Heat map](figures/heatmap.png)" in text
        assert record["command"] in text
        assert record["command"] in (out / "report.html").read_text()
        printed = capsys.readouterr().out
        assert "x WT: -2." in printed
        assert f"report: {out / 'report.html'}" in printed

    def test_tables_can_be_read_again(self, folders, out):
        call(*folders, "-o", out)
        means, differences = (pd.read_csv(out / f"{name}.csv") for name in ("means", "differences"))
        assert len(means) == 2 * 3 * 2 * 17
        assert len(differences) == 3 * 2 * 17
        assert set(differences["run"]) == {"b"}
        assert not (out / "ablation.csv").exists()

    def test_an_older_comparison_is_replaced(self, folders, out):
        call(*folders, "-o", out, "--ablation")
        call(*folders, "-o", out)
        assert "ablation.csv" not in listing(out)
        assert os.listdir(out.parent) == ["comparison"]

    def test_the_same_command_writes_the_same_bytes(self, folders, out):
        contents = []
        for _ in range(2):
            call(*folders, "-o", out)
            contents.append({name: (out / name).read_bytes() for name in listing(out)})
        assert contents[0] == contents[1]


@pytest.mark.usefixtures("rooms")
class TestRefuses:
    def test_a_folder_of_something_else(self, folders, out):
        call(*folders, "-o", out)
        (out / "notes.txt").write_text("mine")
        with pytest.raises(MSTKDError, match=r"holds notes\.txt, which is not a comparison's"):
            call(*folders, "-o", out)
        assert (out / "notes.txt").read_text() == "mine"

    def test_a_folder_with_files_of_the_same_names(self, folders, out):
        out.mkdir(parents=True)
        (out / "means.csv").write_text("mine")
        with pytest.raises(MSTKDError, match=r"holds means\.csv"):
            call(*folders, "-o", out)

    def test_nothing_that_a_look_at_the_folder_left(self, folders, out):
        call(*folders, "-o", out)
        (out / ".DS_Store").write_bytes(b"Bud1")
        (out / "figures" / "Thumbs.db").write_bytes(b"")
        call(*folders, "-o", out)
        assert (out / "means.csv").is_file()

    def test_figures_that_are_not_ours(self, folders, out):
        call(*folders, "-o", out)
        (out / "figures" / "slides.pptx").write_text("mine")
        with pytest.raises(MSTKDError, match="holds figures"):
            call(*folders, "-o", out)

    @pytest.mark.parametrize("inside", ["", "comparison", "deep/comparison"])
    def test_an_output_inside_a_run(self, folders, inside):
        before = listing(Path(folders[1]))
        with pytest.raises(MSTKDError, match=r"is inside the run .*/b"):
            call(*folders, "-o", Path(folders[1]) / inside)
        assert listing(Path(folders[1])) == before

    def test_an_output_that_holds_a_run(self, folders):
        with pytest.raises(MSTKDError, match="holds a, which is not"):
            call(*folders, "-o", Path(folders[0]).parent)

    def test_a_file(self, folders, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(MSTKDError, match="is a file"):
            call(*folders, "-o", tmp_path / "file")

    def test_numbers_without_meaning(self, folders, out):
        with pytest.raises(MSTKDError, match="--seed is -1"):
            call(*folders, "-o", out, "--seed", "-1")
        with pytest.raises(MSTKDError, match="--resamples is 5"):
            command.run([*folders, "-o", str(out), "--resamples", "5"])


@pytest.mark.parametrize("step", ["save_figures", "write_report"])
def test_a_failure_leaves_the_older_comparison_alone(folders, out, rooms, monkeypatch, step):
    call(*folders, "-o", out, "--seed", "1")
    before = {name: (out / name).read_bytes() for name in listing(out)}

    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(output, step, fail)
    with pytest.raises(RuntimeError):
        call(*folders, "-o", out, "--seed", "2")
    assert {name: (out / name).read_bytes() for name in listing(out)} == before
    assert os.listdir(out.parent) == ["comparison"]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "nnunetv2_mstkd.cli", "compare", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_the_command_as_typed(folders, out):
    done = run(*folders, "-o", out, "--resamples", 200)
    assert done.returncode == 0, done.stderr
    assert "Dice against a, incomplete subsets" in done.stdout
    assert {"comparison.json", "comparison.md", "means.csv", "differences.csv", "report.html"} <= set(
        listing(out)
    )
    assert any(name.endswith(".svg") for name in listing(out / "figures"))


@pytest.mark.slow
def test_a_refusal_is_one_line_and_writes_nothing(evaluation, out):
    done = run(evaluation("a"), evaluation("b", policy="nnunet"), "-o", out)
    assert done.returncode == 2
    assert done.stderr.startswith("nnUNetv2_mstkd compare: error: different empty-mask policies")
    assert done.stderr.count("\n") == 1
    assert not out.parent.exists()
