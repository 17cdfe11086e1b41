"""nnU-Net's exporter and importer, and what is known of the model's quality."""

import json
import shutil
import zipfile

import pytest
from made_facts import make_facts
from tiny_model import models  # noqa: F401  a fixture

from nnunetv2_mstkd.models.folder import open_model_folder
from nnunetv2_mstkd.trust import Expectations
from nnunetv2_mstkd.trust.calibration import HELD_OUT, Calibration
from nnunetv2_mstkd.trust.storage import checkpoint_digests, read_trust, write_trust


@pytest.mark.slow
def test_an_exported_and_imported_model_knows_what_it_knew(models, new_workplace):  # noqa: F811
    there, here = new_workplace("exporting"), new_workplace("importing")
    name = f"Dataset990_Tiny/{models.regions.name}"
    path = shutil.copytree(models.regions, there.results / name)
    (there.raw / "Dataset990_Tiny").mkdir()
    for fold in ("fold_0", "fold_1"):  # what a training leaves beside, and the exporter insists on
        (path / fold / "debug.json").write_text(json.dumps({"trainer": "as text"}))
        (path / fold / "progress.png").write_bytes(b"")
        (path / fold / "validation").mkdir()
        (path / fold / "validation" / "summary.json").write_text("{}")
    (path / "dataset_fingerprint.json").write_text("{}")
    model = open_model_folder(path)
    checkpoint = "checkpoint_final.pth"
    calibration = Calibration(
        kind=HELD_OUT,
        known_by="a test",
        folds=((0, 1),),
        checkpoint=checkpoint,
        digests=checkpoint_digests(model, (0, 1), checkpoint),
        inference={},
        modalities=model.modalities,
        regions={"WT": (1, 2, 3)},
        unit="ml",
        facts=make_facts(20),
    )
    write_trust(model, calibration, {})
    trainer, plans, configuration = path.name.split("__")
    there.run(
        f"nnUNetv2_export_model_to_zip -d 990 -o {there.root}/model.zip -c {configuration} -tr {trainer}"
        f" -p {plans} -f 0 1"
    )
    with zipfile.ZipFile(there.root / "model.zip") as archive:
        assert f"{name}/trust.json" not in archive.namelist(), "then the copy would not be needed"
    here.run(f"nnUNetv2_install_pretrained_model_from_zip {there.root}/model.zip")
    imported = open_model_folder(here.results / name)
    assert not (imported.path / "trust.json").exists()
    assert read_trust(imported).to_json() == read_trust(model).to_json()
    assert Expectations.of(imported, (0, 1)).expected(("t1c",), {"WT": 9000.0})["WT"].patients == 20
    debug = json.loads((imported.path / "fold_0" / "debug.json").read_text())
    assert debug["trainer"] == "as text", "what nnU-Net wrote there stays"
