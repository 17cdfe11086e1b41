"""What each case has, found out from the converter's record and from the raw images."""

import json
import os
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_mstkd.cli import main
from nnunetv2_mstkd.datasets import availability as module
from nnunetv2_mstkd.datasets.availability import (
    FILE_NAME,
    Availability,
    Entry,
    describe,
    load_availability,
    recorded,
    store_availability,
)
from nnunetv2_mstkd.datasets.volumes import is_constant
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

MODALITIES = ("T2", "ADC", "DWI")


@pytest.fixture
def raw(tmp_path, files):
    """A hand-made raw data set: ``case_1`` has an all-zero ADC, ``case_2`` a DWI of nothing but 7.5."""
    folder, rng = tmp_path / "raw" / "Dataset005_Hand", np.random.default_rng(0)
    constants = {("case_1", 1): 0.0, ("case_2", 2): 7.5}
    for case, channel in product(("case_0", "case_1", "case_2"), range(3)):
        array = rng.normal(size=(5, 6, 7)).astype(np.float32)
        if (case, channel) in constants:
            array[:] = constants[case, channel]
        files.write_volume(folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz", array)
    channel_names = {str(i): name for i, name in enumerate(MODALITIES)}
    content = {"channel_names": channel_names, "labels": {"background": 0, "lesion": 1}, "numTraining": 3}
    (folder / "dataset.json").write_text(json.dumps({**content, "file_ending": ".nii.gz"}))
    return folder


@pytest.fixture
def preprocessed(tmp_path):
    folder = tmp_path / "preprocessed"
    folder.mkdir()
    return folder


@pytest.fixture
def read(monkeypatch):
    """The names of the cases whose images are read, in the order of reading."""
    cases = []
    original = module.absent_modalities

    def spy(job):
        cases.append(job.case)
        return original(job)

    monkeypatch.setattr(module, "absent_modalities", spy)
    return cases


def store(raw, preprocessed):
    return store_availability(raw, preprocessed, MODALITIES, num_processes=1)


def edit(raw: Path, **changes) -> None:
    file = raw / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


class TestConstantVolumes:
    @pytest.mark.parametrize("value", [0, -1024, 100.1, 1e-20, 3e8])
    def test_one_value_everywhere(self, value):
        assert is_constant(np.full((3, 4, 5), value, dtype=np.float32))

    def test_rounding_is_no_contrast_and_one_voxel_is(self):
        volume = np.full((3, 4, 5), 100.1, dtype=np.float32)
        volume[1] = np.nextafter(volume[1], np.float32(np.inf))
        assert is_constant(volume)
        volume[2, 3, 4] += 0.01
        assert not is_constant(volume)

    def test_integers_do_not_overflow(self):
        volume = np.full((3, 4, 5), -128, dtype=np.int8)
        volume[0, 0, 0] = 127
        assert not is_constant(volume)


class TestRawImages:
    def test_whole_constant_volumes_count_as_absent(self, raw, preprocessed):
        availability = store(raw, preprocessed)
        assert availability.incomplete == {"case_1": ("ADC",), "case_2": ("DWI",)}
        assert availability.flags("case_1") == (True, False, True)
        assert load_availability(preprocessed, MODALITIES) == availability

    def test_the_file_is_keyed_by_name(self, raw, preprocessed):
        store(raw, preprocessed)
        content = json.loads((preprocessed / FILE_NAME).read_text())
        assert content["modalities"] == list(MODALITIES)
        assert content["cases"]["case_2"]["absent"] == ["DWI"]
        assert content["cases"]["case_2"]["source"] == "raw"

    def test_several_processes_find_the_same(self, raw, preprocessed):
        one = store(raw, preprocessed)
        (preprocessed / FILE_NAME).unlink()
        assert store_availability(raw, preprocessed, MODALITIES, num_processes=2) == one

    def test_a_second_run_reads_only_what_changed(self, raw, preprocessed, read, files):
        store(raw, preprocessed)
        assert read == ["case_0", "case_1", "case_2"]
        store(raw, preprocessed)
        assert len(read) == 3
        changed = raw / "imagesTr" / "case_0_0000.nii.gz"
        files.write_volume(changed, np.zeros((5, 6, 7), np.float32))
        os.utime(changed, ns=(0, 0))  # the clock of the file system may be too coarse to see the change
        assert store(raw, preprocessed).incomplete["case_0"] == ("T2",)
        assert read[3:] == ["case_0"]

    def test_cases_that_came_and_went(self, raw, preprocessed, read, files):
        store(raw, preprocessed)
        for channel in range(3):
            (raw / "imagesTr" / f"case_0_{channel:04d}.nii.gz").rename(
                raw / "imagesTr" / f"case_9_{channel:04d}.nii.gz"
            )
        assert set(store(raw, preprocessed).entries) == {"case_1", "case_2", "case_9"}
        assert read[3:] == ["case_9"]
        assert set(load_availability(preprocessed, MODALITIES).entries) == {"case_1", "case_2", "case_9"}

    @pytest.mark.parametrize("damage", ["not json", '{"modalities": ["T2", "ADC", "DWI"]}', "[]"])
    def test_a_damaged_file_is_made_anew(self, raw, preprocessed, damage):
        (preprocessed / FILE_NAME).write_text(damage)
        assert store(raw, preprocessed).incomplete.keys() == {"case_1", "case_2"}

    def test_other_channel_names_void_the_file(self, raw, preprocessed):
        store(raw, preprocessed)
        assert load_availability(preprocessed, ("ADC", "T2", "DWI")).entries == {}

    def test_files_listed_in_dataset_json(self, raw, preprocessed):
        images = [f"imagesTr/case_1_{channel:04d}.nii.gz" for channel in (2, 1, 0)]
        edit(raw, dataset={"listed": {"images": images, "label": "labelsTr/case_1.nii.gz"}})
        assert store(raw, preprocessed).incomplete == {"listed": ("ADC",)}


class TestRecord:
    def test_the_converters_record_is_trusted_and_its_images_are_not_read(self, raw, preprocessed, read):
        record = {"patients": {"case_0": "p0", "case_1": "p1"}, "incomplete_cases": {"case_0": ["T2"]}}
        edit(raw, mstkd=record)
        availability = store(raw, preprocessed)
        assert read == ["case_2"]
        assert availability.incomplete == {"case_0": ("T2",), "case_2": ("DWI",)}
        assert availability.entries["case_1"] == Entry((), "record")

    def test_a_record_that_came_later_replaces_what_was_read(self, raw, preprocessed):
        store(raw, preprocessed)
        edit(raw, mstkd={"patients": {"case_1": "p"}, "incomplete_cases": {"case_1": ["T2"]}})
        assert store(raw, preprocessed).incomplete["case_1"] == ("T2",)

    def test_a_record_that_is_gone_is_not_believed_any_longer(self, raw, preprocessed, read):
        edit(raw, mstkd={"incomplete_cases": {"case_0": ["T2"]}})
        store(raw, preprocessed)
        edit(raw, mstkd={})
        assert "case_0" not in store(raw, preprocessed).incomplete
        assert read == ["case_1", "case_2", "case_0"]

    def test_aliases_mean_the_canonical_names(self):
        content = {"mstkd": {"incomplete_cases": {"a": ["FLAIR", "T1"]}}}
        assert recorded(content, BRATS_MODALITIES).present("a") == ("t1c", "t2w")


class TestRefusals:
    def test_a_case_without_any_modality(self, raw, preprocessed, files):
        for channel in range(3):
            files.write_volume(
                raw / "imagesTr" / f"case_1_{channel:04d}.nii.gz", np.ones((5, 6, 7), np.uint8)
            )
        with pytest.raises(MSTKDError, match=r"no modality at all in 1 of 3 cases.*: case_1;"):
            store(raw, preprocessed)
        assert not (preprocessed / FILE_NAME).exists()

    def test_a_case_with_too_few_images(self, raw, preprocessed):
        (raw / "imagesTr" / "case_1_0001.nii.gz").unlink()
        with pytest.raises(
            MSTKDError, match=r"case case_1 has 2 channels .*_0000.*_0002.*names 3 \(T2, ADC, DWI"
        ):
            store(raw, preprocessed)

    def test_a_damaged_image(self, raw, preprocessed):
        (raw / "imagesTr" / "case_1_0001.nii.gz").write_bytes(b"nothing")
        with pytest.raises(MSTKDError, match="case case_1: its images cannot be read"):
            store(raw, preprocessed)


class TestReport:
    def test_counts_per_modality_and_per_set(self):
        absent = [(), (), ("ADC",), ("ADC", "DWI")]
        entries = {f"case_{i}": Entry(names, "raw") for i, names in enumerate(absent)}
        assert describe(Availability(MODALITIES, entries)) == [
            "2 of 4 cases lack modalities:",
            "  cases  lack",
            "      2  ADC",
            "      1  DWI",
            "  cases  have exactly",
            "      2  T2+ADC+DWI",
            "      1  T2+DWI",
            "      1  T2",
        ]

    def test_complete_data(self):
        entries = {"a": Entry((), "record"), "b": Entry((), "record")}
        assert describe(Availability(MODALITIES, entries)) == [
            "all 2 cases have all 3 modalities: T2, ADC, DWI"
        ]

    def test_a_modality_that_no_case_has_is_warned_of(self):
        entries = {"a": Entry(("ADC",), "raw"), "b": Entry(("T2", "ADC"), "raw")}
        assert describe(Availability(MODALITIES, entries))[-1].startswith(
            "warning: none of these cases has ADC;"
        )

    def test_seven_modalities_do_not_flood_the_log(self):
        names = tuple(f"m{i}" for i in range(7))
        absent = [
            tuple(n for n, keep in zip(names, keeps, strict=True) if not keep)
            for keeps in product((0, 1), repeat=7)
        ]
        entries = {f"c{i}": Entry(a, "raw") for i, a in enumerate(absent) if len(a) < 7}
        lines = describe(Availability(names, entries))
        assert len(lines) < 30
        assert lines[-1] == "    112  112 other sets"

    def test_convert_warns_of_a_modality_that_never_is_there(self, tmp_path, nnunet, files, capsys):
        files.write_case(tmp_path / "src", "BraTS-GLI-00000-000", channels=("t1n", "t2f"))
        argv = ["-i", str(tmp_path / "src"), "-d", "1", "--name", "A", "--format", "brats2023"]
        assert main(["convert", *argv, "--num-processes", "1"]) == 0
        assert "warning: none of these cases has t1c, t2w;" in capsys.readouterr().out
