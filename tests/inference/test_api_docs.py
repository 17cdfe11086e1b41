"""Every code block of docs/api.md, run as it stands there, with the comments' promises checked."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
from places import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/api.md").read_text(), re.S)
# `name, name  # ('a',) ('b',)`: what the line prints, where the comment is a literal.
PRINTED = re.compile(r"^\s*print\((.*)\)  # (.*)$", re.M)


@pytest.fixture
def here(models, brats, files, tmp_path, monkeypatch):
    """A folder with everything that the blocks name."""
    monkeypatch.chdir(tmp_path)
    for module in ("inference.segmenter", "evaluation.scoring.request"):
        monkeypatch.setattr(f"nnunetv2_mstkd.{module}.default_device", lambda: "cpu")
    shutil.copytree(models.regions, "MODEL_FOLDER", ignore=shutil.ignore_patterns("fold_1"))
    modalities = ("T2", "DWI b1000")
    files.write_model(
        tmp_path / "PROSTATE_MODEL", files.dataset_json(modalities), files.plans_json(modalities)
    )
    case = brats / "BraTS-GLI-00002-000"
    for target in ("t1c", "flair", "t2", "patient_a/t1c", "patient_b/t1c"):
        Path(target).parent.mkdir(exist_ok=True)
        modality = "t2f" if target == "flair" else "t1c"
        shutil.copy(case / f"{case.name}-{modality}.nii.gz", f"{target}.nii.gz")
    shutil.copytree(case, tmp_path / "cases" / case.name)
    image = sitk.ReadImage("t1c.nii.gz")
    labels = sitk.Cast(sitk.GreaterImageFilter().Execute(image, 0.0), sitk.sitkUInt8)
    sitk.WriteImage(labels, f"cases/{case.name}/{case.name}-seg.nii.gz")
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_block(here, block, capsys):
    space: dict = {}
    exec(block, space)
    assert capsys.readouterr().out.splitlines() == [comment for _, comment in PRINTED.findall(block)]
    for path in re.findall(r'output="([^"]+gz)"', block):
        assert sitk.ReadImage(path).GetSize() == sitk.ReadImage("t1c.nii.gz").GetSize()
    for patient in re.findall(r'"(patient_\w)"', block):
        assert Path("out", f"{patient}.nii.gz").is_file()
    if "comparison" in space:
        assert set(space["comparison"].differences["subset"]) == {"Avg.", "t1c", "t1c+t2f"}
        assert Path("comparison", "report.html").is_file()
        assert space["done"].evaluation.prediction("BraTS-GLI-00002-000", "t1c").is_file()
    if "tumour_ml" in space:
        assert space["tumour_ml"] > 0


def test_the_page_has_blocks():
    assert len(BLOCKS) == 7
