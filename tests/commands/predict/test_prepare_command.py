"""``nnUNetv2_mstkd prepare``: what it writes, and that plain nnU-Net then gives what predict gives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.cli import main

WHOLE, PARTIAL = "BraTS-GLI-00001-000", "BraTS-GLI-00002-000"


@pytest.fixture
def prepare(capsys):
    from types import SimpleNamespace

    def run(source, output, *flags):
        capsys.readouterr()
        code = main(["prepare", "-i", str(source), "-o", str(output), *map(str, flags)])
        captured = capsys.readouterr()
        return SimpleNamespace(code=code, out=captured.out, err=captured.err)

    return run


def stock_predict(source, output, *, results):
    """The real nnUNetv2_predict, unmodified, in a process of its own."""
    command = Path(sys.executable).with_name("nnUNetv2_predict")
    model = ["-d", "990", "-c", "3d_fullres", "-tr", "nnUNetTrainer", "-p", "nnUNetPlans", "-f", "0"]
    options = ["-device", "cpu", "--disable_tta", "-npp", "0", "-nps", "0"]  # 0: no worker processes
    done = subprocess.run(
        [command, "-i", source, "-o", output, *model, *options], capture_output=True, text=True,
        env={**os.environ, "nnUNet_results": str(results), "nnUNet_extTrainer": ""}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def channels(folder, case):
    return {path.name.split("_")[-1].split(".")[0]: path for path in sorted(folder.glob(f"{case}_*.nii.gz"))}


@pytest.mark.slow
def test_plain_nnunet_segments_a_prepared_folder_as_predict_does(
    models, brats, prepare, predict, files, tmp_path
):
    source = tmp_path / "in"
    shutil.copytree(brats, source)
    mixed = source / "mixed"  # not compressed, one constant, one absent
    for index, modality in ((0, "t1n"), (3, "t2f")):
        files.write_volume(mixed / f"mixed-{modality}.nii", files.volume(40 + index))
    files.write_volume(mixed / "mixed-t1c.nii", np.full(files.shape, 3, dtype=np.int16))

    done = prepare(source, tmp_path / "flat", "-m", models.labels)
    assert (done.code, done.err) == (0, "")
    stock_predict(tmp_path / "flat", tmp_path / "stock", results=models.results)
    assert predict(source, tmp_path / "ours", model=models.labels).code == 0

    for case in (WHOLE, PARTIAL, "mixed"):
        ours, stock = (sitk.ReadImage(str(tmp_path / by / f"{case}.nii.gz")) for by in ("ours", "stock"))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(stock))
        for what in ("Spacing", "Origin", "Direction"):
            np.testing.assert_allclose(*(getattr(i, f"Get{what}")() for i in (ours, stock)), atol=1e-5)
    records = [json.loads((tmp_path / by / "modalities.json").read_text()) for by in ("flat", "ours")]
    assert records[0] == records[1]


class TestFiles:
    def test_links_and_zero_placeholders(self, prepare, models, brats, files, tmp_path):
        prepare(brats, tmp_path / "flat", "-m", models.labels)
        found = channels(tmp_path / "flat", PARTIAL)
        assert list(found) == ["0000", "0001", "0002", "0003"]
        for number, modality in (("0001", "t1c"), ("0003", "t2f")):
            assert not os.path.isabs(os.readlink(found[number]))
            assert found[number].resolve() == (brats / PARTIAL / f"{PARTIAL}-{modality}.nii.gz").resolve()
        for number in ("0000", "0002"):
            assert not found[number].is_symlink()
            image = sitk.ReadImage(str(found[number]))
            assert not sitk.GetArrayViewFromImage(image).any()
            assert image.GetSize() == files.shape[::-1]
            np.testing.assert_allclose(image.GetDirection(), files.geometry["direction"], atol=1e-6)
        others = {p.name for p in (tmp_path / "flat").iterdir() if not p.name.endswith(".nii.gz")}
        assert others == {"modalities.json"}

    def test_modalities_that_are_not_asked_for_are_placeholders(
        self, prepare, models, brats, files, tmp_path
    ):
        prepare(brats, tmp_path / "flat", "-m", models.labels, "--modalities", "T1Gd", "flair")
        found = channels(tmp_path / "flat", WHOLE)
        assert [bool(files.read_array(path).any()) for path in found.values()] == [False, True, False, True]
        entry = json.loads((tmp_path / "flat" / "modalities.json").read_text())[WHOLE]
        assert entry == {"used": ["t1c", "t2f"], "absent": [], "constant": [], "ignored": ["t1n", "t2w"]}

    def test_copies(self, prepare, models, brats, tmp_path):
        prepare(brats, tmp_path / "flat", "-m", models.labels, "--copy")
        assert not any(path.is_symlink() for path in (tmp_path / "flat").iterdir())
        source = brats / WHOLE / f"{WHOLE}-t1c.nii.gz"
        assert channels(tmp_path / "flat", WHOLE)["0001"].read_bytes() == source.read_bytes()

    def test_prepared_again_it_replaces_the_links_and_not_what_they_lead_to(
        self, prepare, models, brats, tmp_path
    ):
        before = (brats / WHOLE / f"{WHOLE}-t1n.nii.gz").read_bytes()
        prepare(brats, tmp_path / "flat", "-m", models.labels)
        prepare(brats, tmp_path / "flat", "-m", models.labels, "--modalities", "t2f")
        assert (brats / WHOLE / f"{WHOLE}-t1n.nii.gz").read_bytes() == before
        assert not channels(tmp_path / "flat", WHOLE)["0000"].is_symlink()

    def test_a_grid_that_differs_in_the_last_digits_is_rewritten(self, prepare, models, files, tmp_path):
        case = files.write_case(tmp_path / "in", "case", ("t1n",))
        files.write_volume(case / "case-t1c.nii.gz", files.volume(1), spacing=(0.9004, 1.0, 1.2))
        assert prepare(tmp_path / "in", tmp_path / "flat", "-m", models.labels).code == 0
        found = channels(tmp_path / "flat", "case")
        assert found["0000"].is_symlink()
        assert not found["0001"].is_symlink()
        spacings = {sitk.ReadImage(str(path)).GetSpacing() for path in found.values()}
        assert len(spacings) == 1
        np.testing.assert_array_equal(files.read_array(found["0001"]), files.volume(1))


class TestChannelOrder:
    def test_of_a_data_set_json(self, prepare, brats, files, tmp_path):
        order = ("FLAIR", "T1w", "t1gd", "T2w")  # the Decathlon's
        path = tmp_path / "dataset.json"
        path.write_text(json.dumps(files.dataset_json(order)))
        assert prepare(brats, tmp_path / "flat", "--dataset_json", path).code == 0
        for number, modality in (("0000", "t2f"), ("0001", "t1n"), ("0002", "t1c"), ("0003", "t2w")):
            assert channels(tmp_path / "flat", WHOLE)[number].resolve().name == f"{WHOLE}-{modality}.nii.gz"

    def test_of_a_data_set_id_without_configuration(self, prepare, models, brats, tmp_path, monkeypatch):
        monkeypatch.setenv("nnUNet_results", str(models.results))
        flags = ["-d", "990", "-tr", "nnUNetTrainer", "-p", "nnUNetPlans"]
        assert prepare(brats, tmp_path / "flat", *flags).code == 0
        assert len(channels(tmp_path / "flat", PARTIAL)) == 4

    def test_of_convert_where_nothing_is_named_and_says_so(self, prepare, brats, tmp_path):
        done = prepare(brats, tmp_path / "flat")
        assert done.code == 0
        assert (
            done.err
            == "no model named: channels are t1n, t1c, t2w, t2f, as nnUNetv2_mstkd convert has them\n"
        )


class TestPlaceholderForCT:
    """CT normalisation makes something else than zero of zero."""

    @pytest.fixture
    def model(self, files, tmp_path):
        schemes = ("CTNormalization", "NoNormalization", "NoNormalization", "NoNormalization")
        plans = files.plans_json(normalization=schemes)
        return files.write_model(tmp_path / "model", files.dataset_json(), plans)

    def test_takes_the_mean_where_the_others_fill_the_grid(self, prepare, model, files, tmp_path):
        whole = files.volume(1, border=0) + 1
        files.write_volume(tmp_path / "in" / "case" / "case-t1c.nii.gz", whole)
        assert prepare(tmp_path / "in", tmp_path / "flat", "-m", model).code == 0
        found = channels(tmp_path / "flat", "case")
        assert (files.read_array(found["0000"]) == 40).all()
        assert not files.read_array(found["0002"]).any()

    def test_is_refused_where_it_would_change_the_crop(self, prepare, model, files, tmp_path):
        files.write_case(tmp_path / "in", "case", ("t1c",))
        done = prepare(tmp_path / "in", tmp_path / "flat", "-m", model)
        assert done.code == 2
        assert "a placeholder for t1n cannot be zero" in done.err
        assert list((tmp_path / "flat").iterdir()) == []

    def test_is_refused_without_statistics(self, prepare, files, tmp_path):
        path = tmp_path / "dataset.json"
        path.write_text(json.dumps(files.dataset_json(("CT", "t1c"))))
        files.write_case(tmp_path / "in", "case", ("t1c",))
        done = prepare(tmp_path / "in", tmp_path / "flat", "--dataset_json", path)
        assert done.code == 2
        assert "no placeholder for CT is known" in done.err


class TestImagesOfTheUsers:
    """``-o`` may be a folder with images: none of them is written over."""

    @pytest.fixture
    def images(self, tmp_path, files):
        folder = tmp_path / "ds" / "imagesTr"
        for channel in (0, 1):
            files.write_volume(folder / f"a_{channel:04d}.nii.gz", files.volume(channel))
        return folder

    def refused(self, done, images, before):
        assert done.code == 2
        (line,) = done.err.splitlines()[-1:]
        assert {path.name: path.read_bytes() for path in images.iterdir()} == before
        return line

    def test_that_are_read_through_links(self, prepare, images, tmp_path):
        before = {path.name: path.read_bytes() for path in images.iterdir()}
        view = tmp_path / "view"
        view.mkdir()
        for name in before:
            (view / name).symlink_to(images / name)
        done = prepare(view, images, "--dataset_json", self.described(tmp_path))
        assert "a_0000.nii.gz is itself an image that is read" in self.refused(done, images, before)

    def test_of_a_case_of_the_same_name(self, prepare, images, files, tmp_path):
        before = {path.name: path.read_bytes() for path in images.iterdir()}
        files.write_volume(tmp_path / "other" / "a_0000.nii.gz", files.volume(5))
        done = prepare(tmp_path / "other", images, "--dataset_json", self.described(tmp_path))
        assert "a_0000.nii.gz is there and was not written by" in self.refused(done, images, before)

    @staticmethod
    def described(folder):
        names = dict(enumerate(("T1", "T1ce", "T2", "FLAIR")))
        content = {"channel_names": names, "labels": {"background": 0}, "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder / "dataset.json"


def renamed(brats, target):
    """The case without t1n and t2w, under names that do not tell, and without a common first part."""
    target.mkdir()
    shutil.copy(brats / PARTIAL / f"{PARTIAL}-t1c.nii.gz", target / "301_mprage_KM.nii.gz")
    shutil.copy(brats / PARTIAL / f"{PARTIAL}-t2f.nii.gz", target / "501_FLAIR_reg.nii.gz")
    return target


def test_a_case_under_other_names_is_prepared_alike(brats, prepare, files, tmp_path):
    source = renamed(brats, tmp_path / "patient")
    refused = prepare(source, tmp_path / "no", "--pattern", "t1c=*_mprage_KM.nii.gz")
    assert refused.code == 2
    assert "give --one-case if so" in refused.err
    assert not (tmp_path / "no").exists()
    done = prepare(source, tmp_path / "a", "--one-case", "--pattern", "t1c=*_mprage_KM.nii.gz")
    assert (done.code, done.out.splitlines()[0]) == (0, "[1/1] patient: t1c+t2f")
    rows = (
        "case,sequence,path",
        "patient,T1ce,patient/301_mprage_KM.nii.gz",
        "patient,FLAIR,patient/501_FLAIR_reg.nii.gz",
    )
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    assert main(["prepare", "--table", str(tmp_path / "cases.csv"), "-o", str(tmp_path / "b")]) == 0
    prepare(brats / PARTIAL, tmp_path / "c")
    for channel in range(4):
        truth = files.read_array(tmp_path / "c" / f"{PARTIAL}_{channel:04d}.nii.gz")
        for folder in ("a", "b"):
            np.testing.assert_array_equal(
                files.read_array(tmp_path / folder / f"patient_{channel:04d}.nii.gz"), truth
            )
