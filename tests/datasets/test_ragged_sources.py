"""Layouts that users have: understood, or refused with the way out, but never taken for something else."""

import os
from pathlib import Path

import pytest

from nnunetv2_mstkd.datasets.discovery import discover, find_cases
from nnunetv2_mstkd.datasets.input_rules import InputRules, parse_patterns
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.modalities import BRATS_MODALITIES

ONE_CASE = InputRules(one_case=True)


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def content(found):
    return {case.name: {m: path.name for m, path in case.images.items()} for case in found.cases}


def rules(*patterns, one_case=False):
    return InputRules(one_case, parse_patterns(patterns))


def test_stripped_cases_side_by_side(tmp_path):
    names = [f"{case}_{word}_bet.nii.gz" for case in ("P1", "P2") for word in ("t1", "t1ce", "t2", "fla")]
    found = discover(make(tmp_path, *names, "P1_t1_bet_mask.nii.gz"), BRATS_MODALITIES)
    assert found.problems == {}
    assert {name: list(images) for name, images in content(found).items()} == {
        name: list(BRATS_MODALITIES) for name in ("P1", "P2")
    }
    assert [*found.cases[0].aside.values()] == ["brain mask"]


def test_words_on_contrast_name_no_case(tmp_path):
    found = discover(
        make(tmp_path, "P1_pre_contrast_T1.nii", "P1_FLAIR.nii", "P1_T1post.nii"), BRATS_MODALITIES
    )
    assert [list(images) for images in content(found).values()] == [["t1n", "t1c", "t2f"]]


def test_endings_in_capitals_count(tmp_path):
    found = discover(
        make(tmp_path, "P1/P1-t1c.nii.gz", "P1/P1-t2f.NII.GZ", "P1/P1-t2w.NII"), BRATS_MODALITIES
    )
    assert content(found) == {"P1": {"t1c": "P1-t1c.nii.gz", "t2w": "P1-t2w.NII", "t2f": "P1-t2f.NII.GZ"}}


def test_patterns_enter_linked_folders_and_no_circle(tmp_path):
    source, elsewhere = tmp_path / "source", make(tmp_path / "elsewhere", "P2/T1post/a.nii.gz")
    make(source, "P1/T1post/a.nii.gz", ".hidden/P3/T1post/a.nii.gz")
    (source / "P2").symlink_to(elsewhere / "P2")
    (source / "P1" / "all").symlink_to(source)
    found = discover(source, BRATS_MODALITIES, rules=rules("t1c=*/T1post/*.nii.gz"))
    assert content(found) == {"P1": {"t1c": "a.nii.gz"}, "P2": {"t1c": "a.nii.gz"}}


def test_two_versions_of_one_image_are_not_chosen_from(tmp_path):
    found = discover(make(tmp_path, "a/a_T1.nii.gz", "a/a_T1_n4.nii.gz", "a/a_T2.nii.gz"), BRATS_MODALITIES)
    assert found.cases == ()
    assert "2 files for t1n: a_T1.nii.gz, a_T1_n4.nii.gz" in found.problems["a"]
    assert list(found.unusable["a"].images) == ["t2w"]


class TestBids:
    FILES = ("ce-gadolinium_T1w", "T1w", "T2w", "FLAIR", "T2star")

    @pytest.fixture
    def root(self, tmp_path):
        names = [
            f"sub-0{s}/ses-{t}/anat/sub-0{s}_ses-{t}_{file}.nii.gz"
            for s, t in ((1, 1), (1, 2), (2, 1))
            for file in self.FILES
        ]
        return make(
            tmp_path / "data", *names, "derivatives/x/readme.txt", "code/run.py", "dataset_description.json"
        )

    @pytest.mark.parametrize(
        ("within", "cases"),
        [
            (".", ["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]),
            ("sub-01", ["sub-01_ses-1", "sub-01_ses-2"]),
            ("sub-01/ses-2", ["sub-01_ses-2"]),
            ("sub-01/ses-2/anat", ["sub-01_ses-2"]),
        ],
    )
    def test_from_the_root_down_to_a_session(self, root, within, cases):
        found = discover(root / within, BRATS_MODALITIES)
        assert found.problems == {}
        assert [case.name for case in found.cases] == cases
        last = found.cases[-1]
        assert last.images["t1c"].name == f"{cases[-1]}_ce-gadolinium_T1w.nii.gz"
        assert last.images["t1n"].name == f"{cases[-1]}_T1w.nii.gz"
        assert [*last.aside.values()] == ["another sequence (T2star)"]

    def test_without_sessions(self, tmp_path):
        found = discover(
            make(tmp_path, "sub-7/anat/sub-7_T1w.nii.gz", "sub-7/anat/sub-7_FLAIR.nii"), BRATS_MODALITIES
        )
        assert content(found) == {"sub-7": {"t1n": "sub-7_T1w.nii.gz", "t2f": "sub-7_FLAIR.nii"}}

    def test_two_runs_are_not_chosen_from(self, tmp_path):
        source = make(tmp_path, *(f"sub-7/anat/sub-7_run-{i}_T1w.nii.gz" for i in (1, 2)))
        assert "2 files for t1n" in discover(source, BRATS_MODALITIES).problems["sub-7"]

    @pytest.mark.parametrize("within", [".", "sub-01", "sub-01/ses-post-op", "sub-01/ses-post-op/anat"])
    def test_sessions_with_hyphens(self, tmp_path, within):
        session = "sub-01/ses-post-op/anat/sub-01_ses-post-op"
        source = make(
            tmp_path, f"{session}_T1w.nii.gz", f"{session}_FLAIR.nii.gz", "sub-02/anat/sub-02_T1w.nii"
        )
        case = discover(source / within, BRATS_MODALITIES).cases[0]
        assert (case.name, list(case.images)) == ("sub-01_ses-post-op", ["t1n", "t2f"])
        assert case.patient == "sub-01"

    @pytest.mark.parametrize(("prefix", "folder"), [("", "sub-01"), ("sub-01_", "sub-01")])
    def test_the_folder_alone_says_the_session(self, tmp_path, prefix, folder):
        names = (f"ses-01/anat/{prefix}T1w", f"ses-01/anat/{prefix}T1ce")
        others = (f"ses-02/anat/{prefix}T2w", f"ses-02/anat/{prefix}FLAIR")
        make(tmp_path, *(f"{folder}/{name}.nii.gz" for name in (*names, *others)))
        cases = {f"{folder}_ses-01": ["t1n", "t1c"], f"{folder}_ses-02": ["t2w", "t2f"]}
        for source in (tmp_path, tmp_path / folder):
            found = discover(source, BRATS_MODALITIES)
            assert {name: list(images) for name, images in content(found).items()} == cases
            assert {case.patient for case in found.cases} == {folder}
        (alone,) = discover(tmp_path / folder / "ses-01", BRATS_MODALITIES).cases
        assert alone.name == f"{folder}_ses-01"

    def test_sessions_of_a_folder_under_another_name(self, tmp_path):
        make(tmp_path, "P1/ses-01/T1.nii", "P1/ses-02/anat/T1.nii", "P1/ses-02/anat/FLAIR.nii")
        found = discover(tmp_path, BRATS_MODALITIES)
        assert {case.name: case.patient for case in found.cases} == {"P1_ses-01": "P1", "P1_ses-02": "P1"}

    def test_a_segmentation_without_a_name_is_of_its_session(self, tmp_path):
        names = (
            f"sub-1/ses-{t}/anat/{name}" for t in (1, 2) for name in (f"sub-1_ses-{t}_T1w.nii", "seg.nii")
        )
        found = discover(make(tmp_path, *names), BRATS_MODALITIES)
        assert found.problems == {}
        assert [c.segmentation.parent.parent.name for c in found.cases] == ["ses-1", "ses-2"]

    def test_subjects_and_sessions_in_which_nothing_is_found_are_named(self, tmp_path, caplog):
        make(tmp_path, "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii", "sub-1/ses-2/T1/scan.nii", "code/x.nii.txt")
        make(tmp_path, "sub-2/T1/scan.nii", "derivatives/x.txt")
        assert list(content(discover(tmp_path, BRATS_MODALITIES))) == ["sub-1_ses-1"]
        assert "hold no image that is looked for, and are not used: sub-2\n" in caplog.text
        assert "hold no image that is looked for, and are not used: ses-2\n" in caplog.text


def test_what_a_case_lacks_and_what_lies_where_nothing_is_searched(tmp_path, caplog):
    make(tmp_path, "P1/P1_T1.nii", "P1/more/P1_FLAIR.nii", "P1/T2/scan.nii", "P1/old/P1_T1.nii")
    make(tmp_path, *(f"P2/{word}.nii" for word in BRATS_MODALITIES), "P2/old/T1.nii")
    assert len(discover(tmp_path, BRATS_MODALITIES).cases) == 2
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{tmp_path / 'P1'} lacks t2w t2f, but its sub-folders that are not searched seem to hold it"
        f" ({tmp_path / 'P1' / 'T2' / 'scan.nii'})"
    )


@pytest.mark.parametrize(
    ("case", "names", "accepted"),
    [
        ("BraTS-GLI-00001-000", ("BraTS-GLI-00001-000-t1n", "BraTS-GLI-00002-000-seg"), False),
        ("BraTS-GLI-00001-000", ("t1n", "BraTS-GLI-00002-000-seg"), False),
        ("P1", ("P1_t1", "BraTS-GLI-00002-000-seg"), False),
        ("P1", ("t1", "BraTS-GLI-00002-000-seg"), True),
        ("BraTS20_Training_355", ("BraTS20_Training_355_t1", "W39_1998.09.19_Segm"), True),
        ("BraTS20_Training_001", ("BraTS20_Training_001_t1", "BraTS20_Training_001_manual_seg"), True),
        ("BraTS-GLI-00001-000", ("BraTS-GLI-00001-000-t1n", "BraTS-GLI-00001_seg"), True),
    ],
)
def test_a_segmentation_of_another_patient(tmp_path, case, names, accepted):
    make(tmp_path, *(f"{case}/{name}.nii.gz" for name in names))
    for source in (tmp_path, tmp_path / case):
        found = discover(source, BRATS_MODALITIES)
        assert bool(found.cases) == accepted
        assert accepted or "is of another case than the images" in next(iter(found.problems.values()))


class TestOnePatientInAFolder:
    @pytest.mark.parametrize(
        ("names", "name"),
        [
            (("PAT0_t1", "PAT0_flair"), "PAT0"),
            (("PAT0_t1", "seg"), "PAT0"),
            (("t1", "flair"), "inbox"),
            (("BraTS-GLI-00001-000-t1c", "BraTS-GLI-00001-000-t2f"), "BraTS-GLI-00001-000"),
        ],
    )
    def test_is_named_by_its_files(self, tmp_path, names, name):
        source = make(tmp_path / "inbox", *(f"{word}.nii.gz" for word in names))
        assert list(content(discover(source, BRATS_MODALITIES))) == [name]

    def test_keeps_its_name_beside_a_second_one(self, tmp_path):
        make(tmp_path, "PAT0_t1.nii", "PAT0_flair.nii")
        alone = discover(tmp_path, BRATS_MODALITIES).cases
        make(tmp_path, "PAT1_t1.nii")
        assert discover(tmp_path, BRATS_MODALITIES).cases[:1] == alone


FOUR = ("1.2.840_t1.nii.gz", "1.2.841_t1ce.nii.gz", "1.2.842_t2.nii.gz", "1.2.843_flair.nii.gz")
SPLIT_CASES = {
    "four prefixes": FOUR,
    "two of them": FOUR[:2],
    "a folder for each sequence": ("T1/a_t1.nii.gz", "T2/b_t2.nii.gz", "FLAIR/c_flair.nii.gz"),
    "parts that make a whole": ("MR1_t1.nii.gz", "MR1_t1ce.nii.gz", "MR2_t2.nii.gz", "MR3_flair.nii.gz"),
}


@pytest.mark.parametrize("names", SPLIT_CASES.values(), ids=SPLIT_CASES)
def test_one_case_that_reads_as_several_is_refused_and_one_case_joins_it(tmp_path, names):
    source = make(tmp_path / "patient", *names)
    with pytest.raises(MSTKDError, match=r"it is likely one case: give --one-case if so; if not, .*--table"):
        discover(source, BRATS_MODALITIES)
    (case,) = discover(source, BRATS_MODALITIES, rules=ONE_CASE).cases
    assert case.name == "patient"
    assert {path.name for path in case.images.values()} == {name.split("/")[-1] for name in names}


SEVERAL_CASES = {
    "the same sequence twice": ("a_t1.nii.gz", "b_t1.nii.gz", "c_t2.nii.gz"),
    "identifiers of a challenge": ("BraTS2021_00001_t1.nii.gz", "BraTS2021_00002_t2.nii.gz"),
    "identifiers by BIDS": ("sub-1_T1w.nii.gz", "sub-2_T2w.nii.gz"),
    "segmentations of their own": ("a_t1.nii.gz", "a_seg.nii.gz", "b_t2.nii.gz", "b_seg.nii.gz"),
    "parts that make no whole": ("a_t1.nii.gz", "a_t2.nii.gz", "b_flair.nii.gz"),
}


@pytest.mark.parametrize("names", SEVERAL_CASES.values(), ids=SEVERAL_CASES)
def test_several_incomplete_cases_stay_several(tmp_path, names):
    assert len(discover(make(tmp_path, *names), BRATS_MODALITIES).cases) > 1


def test_one_case_in_each_folder(tmp_path):
    source = make(tmp_path, "p1/3_T1.nii.gz", "p1/4_T2.nii.gz", "p2/7_T1.nii.gz", "p2/9_FLAIR.nii.gz")
    without = discover(source, BRATS_MODALITIES)
    assert without.cases == ()
    assert "mixes files of several cases: 3, 4; give --one-case if they are one" in without.problems["p1"]
    found = discover(source, BRATS_MODALITIES, rules=ONE_CASE)
    assert {name: list(images) for name, images in content(found).items()} == {
        "p1": ["t1n", "t2w"],
        "p2": ["t1n", "t2f"],
    }


def test_two_patients_of_a_challenge_are_never_joined(tmp_path):
    source = make(tmp_path, "p/BraTS2021_00001_t1.nii.gz", "p/BraTS2021_00002_t2.nii.gz")
    assert "several cases" in discover(source, BRATS_MODALITIES, rules=ONE_CASE).problems["p"]


def test_times_named_t1_and_t2_are_not_sequences(tmp_path):
    words = ("t1", "t1ce", "t2", "flair")
    names = [f"P_{time}_{word}.nii.gz" for time in ("T1", "T2") for word in words]
    found = discover(make(tmp_path, *names), BRATS_MODALITIES)
    assert found.problems == {}
    assert {name: list(images) for name, images in content(found).items()} == {
        name: list(BRATS_MODALITIES) for name in ("P_T1", "P_T2")
    }


class TestNumbers:
    def test_a_word_that_contradicts_the_number(self, tmp_path):
        found = discover(make(tmp_path, "P_flair_0000.nii.gz", "Q_0000.nii.gz"), BRATS_MODALITIES)
        assert [case.name for case in found.cases] == ["Q"]
        assert "the name says t2f, the number says t1n" in found.problems["P_flair"]

    def test_the_sequences_of_one_case_under_names_of_their_own(self, tmp_path):
        found = discover(make(tmp_path, "P_t1_0000.nii.gz", "P_t1ce_0001.nii.gz"), BRATS_MODALITIES)
        assert found.cases == ()
        assert "name the files of one case P_0000, P_0001" in found.problems["P_t1"]

    def test_times_are_no_words_of_sequences(self, tmp_path):
        names = [f"P_{time}_{i:04d}.nii.gz" for time in ("T1", "T2") for i in range(4)]
        found = discover(make(tmp_path, *names, "Q_T2_0000.nii.gz"), BRATS_MODALITIES)
        assert [case.name for case in found.cases] == ["P_T1", "P_T2", "Q_T2"]

    def test_single_numbered_files_of_one_patient(self, tmp_path):
        source = make(tmp_path, *(f"{name}_{i:04d}.nii.gz" for i, name in enumerate("abcd")))
        with pytest.raises(MSTKDError, match="likely one case"):
            discover(source, BRATS_MODALITIES)


class TestPatterns:
    def test_of_names_in_a_flat_folder(self, tmp_path):
        source = make(
            tmp_path,
            *(f"{c}_{w}.nii.gz" for c in ("K1", "K2") for w in ("mpragepost", "flair", "lesion", "swi")),
        )
        given = rules("T1ce=*_mpragepost.nii.gz", "seg=*_lesion*", "ignore=*_swi.nii.gz")
        found = discover(source, BRATS_MODALITIES, rules=given)
        assert content(found)["K2"] == {"t1c": "K2_mpragepost.nii.gz", "t2f": "K2_flair.nii.gz"}
        assert found.cases[1].segmentation.name == "K2_lesion.nii.gz"
        assert [*found.cases[1].aside.values()] == ["ignored"]

    def test_in_case_folders_the_folder_names_the_case(self, tmp_path):
        source = make(tmp_path, "p1/3_post.nii.gz", "p1/4_T2.nii.gz", "p2/9_post.nii.gz")
        found = discover(source, BRATS_MODALITIES, rules=rules("t1c=*_post.nii.gz", one_case=True))
        assert content(found) == {
            "p1": {"t1c": "3_post.nii.gz", "t2w": "4_T2.nii.gz"},
            "p2": {"t1c": "9_post.nii.gz"},
        }

    def test_a_pattern_is_preferred_to_the_name(self, tmp_path):
        source = make(tmp_path, "a/a_T1.nii.gz", "a/a_T1_n4.nii.gz", "a/a_T2.nii.gz")
        found = discover(source, BRATS_MODALITIES, rules=rules("t1n=*_T1_n4.nii.gz"))
        assert content(found) == {"a": {"t1n": "a_T1_n4.nii.gz", "t2w": "a_T2.nii.gz"}}

    def test_of_paths(self, tmp_path):
        source = make(
            tmp_path, *(f"P{i}/{s}/scan.nii.gz" for i in (1, 2) for s in ("T1", "FLAIR", "localizer"))
        )
        found = discover(
            source, BRATS_MODALITIES, rules=rules("t1n=*/T1/*.nii.gz", "flair=*/FLAIR/scan.nii*")
        )
        assert [case.name for case in found.cases] == ["P1", "P2"]
        assert found.cases[1].images == {
            "t1n": source / "P2/T1/scan.nii.gz",
            "t2f": source / "P2/FLAIR/scan.nii.gz",
        }

    def test_of_paths_in_one_case(self, tmp_path):
        source = make(tmp_path / "P", "T1/a.nii.gz", "FLAIR/b.nii.gz")
        given = rules("t1n=T1/*.nii.gz", "t2f=FLAIR/*.nii.gz", one_case=True)
        assert content(discover(source, BRATS_MODALITIES, rules=given)) == {
            "P": {"t1n": "a.nii.gz", "t2f": "b.nii.gz"}
        }
        make(source, "T1/c.nii.gz")
        with pytest.raises(
            MSTKDError, match=r"--one-case: the patterns find 3 cases \(.*\) that are not parts"
        ):
            discover(source, BRATS_MODALITIES, rules=given)

    @pytest.mark.parametrize(
        ("pattern", "matches"),
        [
            ("a[0-9]_x.nii", True),
            ("a[!0-9]_x.nii", False),
            ("a?_x.nii", True),
            ("A1_x.nii", False),
            ("a1.x.nii", False),
        ],
    )
    def test_globs(self, pattern, matches):
        (parsed,) = parse_patterns([f"t1c={pattern}"])
        assert (parsed.match("a1_x.nii") is not None) == matches

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            (["t1c"], "is not NAME=GLOB"),
            (["=x"], "is not NAME=GLOB"),
            (["dwi=*_T1*"], "unknown modality 'dwi'"),
            (["t1c=*_T1post.nii"], "matches no file"),
            (["t1c=*.nii.gz", "t1n=*_T1.nii.gz"], "matches the patterns of t1c and t1n"),
            (["t1c=*/nothing/*.nii.gz"], "no file in .* matches"),
            (["t1c=*[z-a].nii.gz"], r"--pattern t1c='\*\[z-a\].nii.gz' cannot be read: bad character range"),
            (["t1c=*[!].nii.gz"], "cannot be read"),
        ],
    )
    def test_refusals(self, tmp_path, given, says):
        make(tmp_path, "a_T1.nii.gz")
        with pytest.raises(MSTKDError, match=says):
            discover(tmp_path, BRATS_MODALITIES, rules=rules(*given))


class TestTable:
    def write(self, folder, text):
        (folder / "cases.csv").write_text(text, encoding="utf-8")
        return folder / "cases.csv"

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    def test_names_every_file(self, tmp_path, mark):
        make(tmp_path, "x/1.nii.gz", "x/2.nii.gz", "x/3.nii.gz")
        rows = (
            "Case,sequence,note,path",
            "A,T1ce,,x/1.nii.gz",
            "",
            f"A,seg,,{tmp_path}/x/3.nii.gz",
            "B,FLAIR,,x/2.nii.gz",
        )
        table = self.write(tmp_path, "\ufeff" + "\n".join(rows).replace(",", mark))
        found = discover(table, BRATS_MODALITIES)
        assert content(found) == {"A": {"t1c": "1.nii.gz"}, "B": {"t2f": "2.nii.gz"}}
        assert found.cases[0].segmentation == tmp_path / "x" / "3.nii.gz"

    def test_bad_rows_are_bad_cases(self, tmp_path):
        make(tmp_path, "1.nii.gz")
        table = self.write(
            tmp_path, "case,sequence,path\nA,t1,1.nii.gz\nA,T1w,1.nii.gz\nB,adc,1.nii.gz\nC,t1,2.nii.gz"
        )
        problems = discover(table, BRATS_MODALITIES).problems
        assert "2 files for t1n" in problems["A"]
        assert "cases.csv, line 4: unknown modality 'adc'" in problems["B"]
        assert "cases.csv, line 5: no file" in problems["C"]

    def test_a_file_in_two_rows(self, tmp_path):
        make(tmp_path, "x/1.nii.gz", "2.nii.gz")
        (tmp_path / "link.nii.gz").symlink_to(tmp_path / "2.nii.gz")
        table = self.write(
            tmp_path,
            "case,sequence,path\nA,t1,x/1.nii.gz\nA,flair,x/../x/1.nii.gz\nB,t1,2.nii.gz\nC,t2,link.nii.gz",
        )
        problems = discover(table, BRATS_MODALITIES).problems
        assert "lists 1.nii.gz in line 2 (A, t1) and line 3 (A, flair)" in problems["A"]
        assert "lists 2.nii.gz in line 4 (B, t1) and line 5 (C, t2)" in problems["B"]
        assert problems["C"] == problems["B"]

    def test_a_column_of_patients(self, tmp_path):
        make(tmp_path, *(f"{i}.nii" for i in range(5)))
        rows = ("case,patient,sequence,path", "A,p,t1,0.nii", "A,,t2,1.nii", "B,p,t1,2.nii", "C,,t1,3.nii")
        found = discover(self.write(tmp_path, "\n".join(rows)), BRATS_MODALITIES)
        assert {case.name: case.patient for case in found.cases} == {"A": "p", "B": "p", "C": None}
        found = discover(self.write(tmp_path, "\n".join((*rows, "A,q,flair,4.nii"))), BRATS_MODALITIES)
        assert found.problems == {"A": "cases.csv, line 6: patient q, but p above; keep one"}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no rows"),
            ("case,sequence,path\n", "no rows"),
            ("case,path\nA,x", "no column 'sequence'"),
            ("case,sequence,path\nA,,x", "line 2: case, sequence or path is empty"),
            ("case,sequence,path\n../A,t1,x", "line 2: '../A' cannot name a file"),
        ],
    )
    def test_tables_that_are_none(self, tmp_path, text, says):
        with pytest.raises(MSTKDError, match=says):
            discover(self.write(tmp_path, text), BRATS_MODALITIES)

    def test_rules_do_not_go_with_it(self, tmp_path):
        table = self.write(tmp_path, "case,sequence,path\nA,t1,x")
        with pytest.raises(MSTKDError, match="do not go with it"):
            discover(table, BRATS_MODALITIES, rules=ONE_CASE)


def test_a_doubt_can_be_looked_at(tmp_path):
    found = find_cases(make(tmp_path, *FOUR), BRATS_MODALITIES)
    assert len(found.cases) == 4
    assert "1.2.840: t1n" in found.doubt


def test_sessions_of_a_bids_subject_are_one_patient():
    from nnunetv2_mstkd.datasets.formats import FORMATS, patient_of

    assert {FORMATS["brats2021"].patient(f"sub-01_ses-{i}") for i in (1, 2)} == {"sub-01"}
    assert patient_of("sub-01_ses-2", {}) == "sub-01"
    assert patient_of("sub-01", {}) == "sub-01"
    assert patient_of("BraTS-GLI-00001-100", {}) == "BraTS-GLI-00001"


def test_a_folder_that_may_not_be_listed_is_one_bad_case(tmp_path, monkeypatch):
    make(tmp_path, "a/a_T1.nii.gz", "closed/closed_T1.nii.gz")
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = discover(tmp_path, BRATS_MODALITIES)
    assert list(content(found)) == ["a"]
    assert found.problems == {"closed": f"cannot list {tmp_path / 'closed'}: Permission denied"}


class TestPathsThatAreNotUtf8:
    LATIN = os.fsdecode(b"M\xfcller")

    @pytest.mark.parametrize(
        "names",
        [("{}/T1.nii",), ("P/{}_T1.nii",), ("{}_T1.nii", "P1_T1.nii"), ("{}_0000.nii",), ("P/{}.nii",)],
    )
    def test_are_bad_cases_without_images(self, tmp_path, names):
        make(tmp_path, *(name.format(self.LATIN) for name in names))
        found = find_cases(tmp_path, BRATS_MODALITIES)
        assert [case.name for case in found.cases] == ["P1"][: len(names) - 1]
        ((name, problem),) = found.problems.items()
        assert "not UTF-8" in problem
        assert problem.isascii()
        assert name.isascii()
        assert found.unusable[name].images == {}

    def test_of_a_source_or_a_table(self, tmp_path):
        source = make(tmp_path / self.LATIN, "T1.nii", "cases.csv")
        for place in (source, source / "cases.csv"):
            with pytest.raises(MSTKDError, match=r"M\\udcfcller.* is not UTF-8"):
                discover(place, BRATS_MODALITIES)


def test_a_name_that_is_too_long_is_refused(tmp_path):
    with pytest.raises(MSTKDError, match="File name too long"):
        discover(tmp_path / ("x" * 300), BRATS_MODALITIES)
    (tmp_path / "cases.csv").write_text(f"case,sequence,path\nA,t1,{'x' * 300}.nii")
    assert "no file" in discover(tmp_path / "cases.csv", BRATS_MODALITIES).problems["A"]
