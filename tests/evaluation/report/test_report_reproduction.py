"""What the report says of models and calls, and the commands that do it again."""

import html
import json
import os
import re

from report_pages import Page

from nnunetv2_mstkd.evaluation.comparison.compare import compare_runs
from nnunetv2_mstkd.evaluation.comparison.loading import load_runs
from nnunetv2_mstkd.evaluation.record.provenance import settings_in_force
from nnunetv2_mstkd.evaluation.report.cells import NONE
from nnunetv2_mstkd.evaluation.report.page import write_report


def recorded(evaluation):
    """Two seeds and another run, the first of which was made in two calls and looked at in a third."""
    folders = [evaluation(f"s{i}", seed=i) for i in range(2)] + [evaluation("other", seed=5, gain=0.1)]
    for number, folder in enumerate(folders):
        path = folder / "evaluation.json"
        record = json.loads(path.read_text())
        record["model"] |= {"checkpoint": "checkpoint_final.pth", "folds": [0, 3]}
        record["model"] |= {"plans": f"Plans{number}", "configuration": "3d_fullres"}
        record["model"]["settings"] = {"full_phase": 0.4, "seed": number}
        if number < 2:
            record["model"]["folder"] = f"/results of/{number}"
            record["model"]["in_force"] = {"seed": 9, "optimizer": "sgd", "weights": {"kl": 0.2}}
        first = {"started": "2026-11-24T10:15:02.5", "versions": {}, "scored": 80}
        first |= {"command": f"nnUNetv2_mstkd evaluate -f 0 3 -o out{number} --subsets t1c"}
        first |= {"directory": "/work"} if number == 0 else {}
        first |= {"git": "c0ffee" * 6 + "beef-dirty"}
        sessions = [first, first | {"started": "2026-11-25T10:15:02.5", "git": "d" * 40, "scored": 1}]
        sessions += [first | {"git": "e" * 40, "scored": 0}]
        record |= {
            "git": "d" * 40,
            "sessions": sessions if number == 0 else sessions[:1],
            "command": f"nnUNetv2_mstkd evaluate -f 0 3 -o out{number}",
        }
        path.write_text(json.dumps(record))
    return folders


def test_what_was_compared_and_how_to_do_it_again(evaluation, tmp_path):
    folders = recorded(evaluation)
    runs = load_runs([f"{folders[0]},{folders[1]}", str(folders[2])], ["seeds", "other"])
    path, command = tmp_path / "report.html", "nnUNetv2_mstkd compare 'a b' c"
    write_report(compare_runs(runs, resamples=200), (), path, command=command)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert [row[:1] + row[2:] for row in page.table("Evaluations")[1:]] == [
        [name, identity + "ab" * 5, "0, 3", seed, "6", "c0ffeec0ffee-dirty" + more]
        for name, identity, seed, more in (
            ("seeds", "00", "0", ", dddddddddddd"),
            ("seeds", "01", "1", ""),
            ("other", "05", "2", ""),
        )
    ]
    for expected in ("00" + "ab" * 31, "checkpoint_final.pth", "nnunetv2 2.8.1", "c0ffee" * 6 + "beef-dirty"):
        assert expected in text
    assert "seeds, evaluation 2 of 2" in text
    assert "2026-11-25 10:15:02 UTC: 1 scores, commit dddddddddddd" in text
    settings = page.table("Settings in force")
    assert settings[0] == ["Setting", "seeds", "other"]
    assert settings[1:] == [
        ["seed", "0, 1", "2"],
        ["optimizer", "sgd", NONE],
        ["weights", '{"kl": 0.2}', NONE],
        ["full_phase", "0.4", "0.4"],
    ]
    assert "<strong>0.4</strong>" in text
    assert "<strong>sgd</strong>" not in text
    assert "&#34;full_phase&#34;: 0.4" in text
    shown = re.findall(r'<code id="command-\d">(.*?)</code>', text, re.DOTALL)
    train = "nnUNetv2_mstkd train Dataset900_Phantom 3d_fullres {} -tr nnUNetTrainerMSTKD -p Plans{}"
    preprocess = "nnUNetv2_preprocess -d 900 -plans_name Plans{} -c 3d_fullres"
    evaluate = "nnUNetv2_mstkd evaluate -f 0 3 -o out{}"
    copy = "cp -n '/results of/{0}/plans.json' \"$nnUNet_preprocessed\"/Dataset900_Phantom/Plans{0}.json"
    assert [html.unescape(command) for command in shown] == [
        "\n".join(line.format(i) for i in (0, 1) for line in (copy, preprocess)),
        "\n".join(train.format(fold, plans) for plans in (0, 1) for fold in (0, 3)),
        "\n".join(train.format(fold, 2) for fold in (0, 3)),
        *(
            typed + f"{evaluate.format(i)} --subsets t1c\n{evaluate.format(i)}"
            for i, typed in enumerate(("# typed in /work\n", "", ""))
        ),
        f"# typed in {os.getcwd()}\nnnUNetv2_mstkd compare 'a b' c",
    ]
    copied = [button["data-copies"] for button in page.of("button") if "data-copies" in button]
    assert copied == [f"command-{i}" for i in range(1, 8)]
    assert "SD of seeds" in page.table("Dice (%): spread")[0]


def test_what_training_wrote_down_is_in_force(tmp_path):
    (tmp_path / "debug.json").write_text(
        json.dumps(
            {
                "num_epochs": "40",
                "optimizer_name": "adamw",
                "term_weights": "{'kl': 0.2}",
                "seed": "None",
                "network": "MSTKDNet",
                "initial_lr": "0.003",
            }
        )
    )
    known = {"num_epochs": 40, "optimizer": "adamw", "weights": {"kl": 0.2}, "initial_lr": 0.003}
    trainer = "nnUNetTrainerMSTKD"
    assert settings_in_force(tmp_path, trainer) == known
    assert settings_in_force(tmp_path / "none", trainer) == {}
    assert settings_in_force(tmp_path, "nnUNetTrainer") == {}, "not a trainer of this plugin"
    (tmp_path / "debug.json").write_text("{")
    assert settings_in_force(tmp_path, trainer) == {}
