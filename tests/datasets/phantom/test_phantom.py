import os
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk

from nnunetv2_mstkd.datasets.discovery import discover
from nnunetv2_mstkd.datasets.phantom.anatomy import Tissue
from nnunetv2_mstkd.datasets.phantom.phantom import missing_modalities, phantom_case, write_phantom
from nnunetv2_mstkd.datasets.volumes import check_case
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

SHAPE = (40, 48, 36)


def voxels(folder):
    """File name → voxels, for every file below ``folder``."""
    paths = sorted(folder.rglob("*.nii.gz"))
    return {p.name: sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in paths}


def same(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)


@pytest.fixture(scope="module")
def patients():
    return [phantom_case(5, index, (64, 64, 64)) for index in range(6)]


def means(case, modality):
    """Mean intensity per tissue, relative to white matter."""
    image = case.images[modality].astype(float)
    white = image[case.tissues == Tissue.WHITE].mean()
    return {tissue: image[case.tissues == tissue].mean() / white for tissue in Tissue}


def test_edema_is_bright_in_t2f_and_t2w_and_slightly_dark_in_t1(patients):
    for case in patients:
        t2f, t2w, t1n = (means(case, m) for m in ("t2f", "t2w", "t1n"))
        assert t2f[Tissue.EDEMA] > 1.4 * max(t2f[Tissue.GREY], t2f[Tissue.WHITE], t2f[Tissue.CSF])
        assert t2w[Tissue.EDEMA] > 1.15 * max(t2w[Tissue.GREY], t2w[Tissue.WHITE])
        # Fluid is as bright in t2w, and dark in t2f.
        assert t2w[Tissue.CSF] > 0.9 * t2w[Tissue.EDEMA]
        assert t2f[Tissue.CSF] < 0.85
        assert 0.7 < t1n[Tissue.EDEMA] < 0.95


def test_the_rim_shows_in_t1c_only(patients):
    for case in patients:
        t1c = means(case, "t1c")
        others = [t1c[t] for t in Tissue if t not in (Tissue.ENHANCING, Tissue.OUTSIDE, Tissue.VESSEL)]
        assert t1c[Tissue.ENHANCING] > 1.25 * max(others)
        for modality in ("t1n", "t2w", "t2f"):
            values = means(case, modality)
            assert values[Tissue.ENHANCING] == pytest.approx(values[Tissue.EDEMA], rel=0.15)


def test_the_core_is_dark_in_t1c_and_t1n_only(patients):
    for case in patients:
        t1c, t1n = means(case, "t1c"), means(case, "t1n")
        assert t1n[Tissue.NECROSIS] < 0.85 * t1n[Tissue.EDEMA]
        # At this size the thin core takes some brightness from the rim around it.
        assert t1c[Tissue.NECROSIS] < 0.65 * t1c[Tissue.ENHANCING]
        assert t1c[Tissue.NECROSIS] < 0.95 * t1c[Tissue.EDEMA]
        for modality in ("t2w", "t2f"):
            values = means(case, modality)
            assert values[Tissue.NECROSIS] == pytest.approx(values[Tissue.EDEMA], rel=0.2)


def test_images_are_skull_stripped_noisy_and_of_arbitrary_brightness(patients):
    for case in patients:
        brain = case.tissues != Tissue.OUTSIDE
        for image in case.images.values():
            assert image.dtype == np.int16
            assert np.array_equal(image > 0, brain)
            white = image[case.tissues == Tissue.WHITE]
            assert 0.04 < white.std() / white.mean() < 0.3
    gains = [case.images["t1n"][case.tissues == Tissue.WHITE].mean() for case in patients]
    assert max(gains) > 1.2 * min(gains)


def test_tumours_differ_in_place_and_size_and_lie_in_the_brain(patients):
    centres = np.array([np.argwhere(case.segmentation > 0).mean(axis=0) for case in patients])
    assert (centres.std(axis=0) > 2).all()
    sizes = [int((case.segmentation > 0).sum()) for case in patients]
    assert max(sizes) > 1.3 * min(sizes)
    for case in patients:
        assert case.segmentation.dtype == np.uint8
        assert (case.tissues[case.segmentation > 0] != Tissue.OUTSIDE).all()
        assert 0.005 < (case.segmentation > 0).sum() / (case.tissues != Tissue.OUTSIDE).sum() < 0.25


def test_necrosis_is_wrapped_in_the_rim(patients):
    from scipy.ndimage import binary_dilation

    for case in patients:
        around = binary_dilation(case.segmentation == 1) & (case.segmentation != 1)
        assert (case.segmentation[around] == 3).mean() > 0.8


@pytest.mark.parametrize("shape", [(24, 24, 24), (32, 32, 32), (24, 40, 31), (96, 32, 24)])
def test_every_part_is_there_at_any_size(shape):
    for index in range(10):
        case = phantom_case(0, index, shape)
        assert case.segmentation.shape == shape
        assert np.bincount(case.segmentation.ravel(), minlength=4)[1:].min() >= 6


@pytest.mark.slow
def test_brats_size():
    case = phantom_case(0, 0, (240, 240, 155))
    brain = (case.tissues != Tissue.OUTSIDE).sum() / 1e6  # litres
    assert 1.0 < brain < 2.5
    assert np.bincount(case.segmentation.ravel())[1:].min() > 1000


def test_same_seed_same_voxels_whatever_the_number_of_cases_and_processes(tmp_path):
    write_phantom(tmp_path / "a", cases=2, shape=SHAPE, seed=7)
    write_phantom(tmp_path / "b", cases=3, shape=SHAPE, seed=7, num_processes=2)
    write_phantom(tmp_path / "c", cases=2, shape=SHAPE, seed=8)
    a, b, c = (voxels(tmp_path / name) for name in "abc")
    assert len(a) == 10
    assert same(a, {name: b[name] for name in a})
    assert not any(np.array_equal(a[name], c[name]) for name in a)
    assert not np.array_equal(a["BraTS-GLI-90000-000-t1n.nii.gz"], a["BraTS-GLI-90001-000-t1n.nii.gz"])


def test_files_are_those_of_a_brats_2023_case(tmp_path):
    (folder,) = write_phantom(tmp_path / "a", cases=1, shape=SHAPE, seed=0)
    (case,) = discover(tmp_path / "a", BRATS_MODALITIES).cases
    assert case.name == folder.name == "BraTS-GLI-90000-000"
    assert set(case.images) == set(BRATS_MODALITIES)
    geometry = check_case({**case.images, "seg": case.segmentation})
    assert geometry.size == SHAPE
    assert geometry.spacing == (1, 1, 1)
    assert geometry.origin == (0, -47, 0)
    written = voxels(folder)
    expected = phantom_case(0, 0, SHAPE)
    assert np.array_equal(written[f"{case.name}-t1c.nii.gz"].T, expected.images["t1c"])
    assert written[f"{case.name}-seg.nii.gz"].dtype == np.uint8
    assert np.array_equal(written[f"{case.name}-seg.nii.gz"].T, expected.segmentation)


def test_missing_sequences(tmp_path):
    absent = [missing_modalities(3, index, 0.5) for index in range(400)]
    assert max(map(len, absent)) == 3
    for modality in BRATS_MODALITIES:
        assert 0.38 < np.mean([modality in names for names in absent]) < 0.58
    assert missing_modalities(3, 0, 0.0) == frozenset()
    write_phantom(tmp_path / "all", cases=4, shape=SHAPE, seed=3)
    write_phantom(tmp_path / "some", cases=4, shape=SHAPE, seed=3, missing=0.5)
    complete, incomplete = voxels(tmp_path / "all"), voxels(tmp_path / "some")
    expected = {f"BraTS-GLI-{90000 + i}-000-{m}.nii.gz" for i in range(4) for m in absent[i]}
    assert expected
    assert complete.keys() - incomplete.keys() == expected
    assert same(incomplete, {name: complete[name] for name in incomplete})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": 0}, "--cases 0 is out of range"),
        ({"cases": 10_001}, "--cases 10001 is out of range"),
        ({"shape": (32, 23, 32)}, "--shape 32 23 32: give three sizes of 24 to 512"),
        ({"shape": (32, 32)}, "give three sizes"),
        ({"seed": -1}, "--seed -1 is negative"),
        ({"missing": 1.0}, r"--missing 1\.0"),
        ({"missing": -0.1}, r"--missing -0\.1"),
    ],
)
def test_bad_arguments(tmp_path, change, message):
    with pytest.raises(MSTKDError, match=message):
        write_phantom(tmp_path / "a", **({"cases": 1, "shape": SHAPE, "seed": 0} | change))
    assert not (tmp_path / "a").exists()


def test_only_a_phantom_is_overwritten_and_only_on_request(tmp_path):
    target = tmp_path / "a"
    write_phantom(target, cases=2, shape=SHAPE, seed=0)
    with pytest.raises(MSTKDError, match="use --overwrite"):
        write_phantom(target, cases=1, shape=SHAPE, seed=1)
    write_phantom(target, cases=1, shape=SHAPE, seed=1, overwrite=True)
    assert [p.name for p in target.iterdir()] == ["BraTS-GLI-90000-000"]
    (target / "BraTS-GLI-90000-000" / "notes.txt").touch()
    with pytest.raises(MSTKDError, match=r"also holds notes\.txt, which would be lost"):
        write_phantom(target, cases=1, shape=SHAPE, seed=1, overwrite=True)
    (target / "BraTS-GLI-90000-000" / "notes.txt").unlink()
    (target / "BraTS-GLI-00000-000").mkdir()
    with pytest.raises(MSTKDError, match="it holds BraTS-GLI-00000-000"):
        write_phantom(target, cases=1, shape=SHAPE, seed=1, overwrite=True)
    (target / "BraTS-GLI-00000-000").rmdir()
    (target / "BraTS-GLI-90000-001").symlink_to(tmp_path)
    with pytest.raises(MSTKDError, match="it holds BraTS-GLI-90000-001"):
        write_phantom(target, cases=1, shape=SHAPE, seed=1, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(MSTKDError, match="is a file"):
        write_phantom(tmp_path / "file", cases=1, shape=SHAPE, seed=1)


def test_the_commands_phantom_and_convert_fit_together(tmp_path, nnunet):
    def run(*argv):
        command = [sys.executable, "-m", "nnunetv2_mstkd.cli", *map(str, argv)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)

    shape = ("--shape", 32, 32, 32)
    made = run("phantom", "-o", tmp_path / "src", "--cases", 3, *shape, "--seed", 4, "--missing", 0.4)
    assert made.returncode == 0, made.stderr
    assert "3 synthetic cases of 32x32x32 voxels, seed 4" in made.stdout
    done = run("convert", "-i", tmp_path / "src", "-d", 3, "--name", "P", "--format", "auto")
    assert done.returncode == 0, done.stderr
    assert "of 3 cases lack modalities:" in done.stdout
    refused = run("phantom", "-o", tmp_path / "src", "--cases", 1, "--shape", 8, 8, 8)
    assert refused.returncode == 2
    assert refused.stderr.startswith("nnUNetv2_mstkd phantom: error: --shape 8 8 8: give three sizes")


def test_what_file_managers_and_killed_runs_leave_does_not_count(tmp_path):
    target = tmp_path / "a"
    left = target / ".mstkd-abcdef12-99999-0.BraTS-GLI-90000-000"
    left.mkdir(parents=True)
    long_ago = time.time() - 10 * 24 * 3600
    os.utime(left, (long_ago, long_ago))
    (target / ".DS_Store").touch()
    write_phantom(target, cases=1, shape=SHAPE, seed=1)
    assert sorted(p.name for p in target.iterdir()) == [".DS_Store", "BraTS-GLI-90000-000"]
