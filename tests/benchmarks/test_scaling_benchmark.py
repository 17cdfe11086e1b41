"""The benchmark of scaling counts right and reports what it should. How fast a step is, is not asked here."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.plans import mstkd_architecture
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.counting import count, tokens_at
from benchmarks.scaling.measuring import in_fresh_process, measure
from benchmarks.scaling.networks import Configuration
from benchmarks.scaling.planned import planned_patches

unix = pytest.mark.skipif(sys.platform == "win32", reason="resource, forkserver")


def counted(patch, token_patch=None, modalities=4):
    return count(mstkd_architecture(patch, token_patch=token_patch), patch, modalities, 3)


@pytest.mark.parametrize(("patch", "token_patch"), [((64, 64, 64), 2), ((128, 128), 4)])
def test_linear_layers_and_attention_are_counted_as_worked_out(patch, token_patch):
    kwargs = mstkd_architecture(patch, token_patch=token_patch)["arch_kwargs"]
    layers, width, hidden = (kwargs[f"token_{key}"] for key in ("layers", "features", "mlp_features"))
    found = counted(patch, token_patch)
    assert found.tokens == (16 if len(patch) == 2 else 64)
    assert found.attention == layers * 2 * found.tokens**2 * width
    assert found.linear == layers * found.tokens * (4 * width**2 + 2 * width * hidden)
    assert found.convolutions > found.linear


def test_a_further_modality_is_a_further_input_channel_of_one_convolution():
    one, two, three = (counted((32, 32), modalities=n).convolutions for n in (1, 2, 3))
    assert three - two == two - one == 32 * 32 * 9 * 16


@pytest.mark.parametrize("share", [0.01, 0.05, 0.10])
def test_the_number_of_tokens_at_which_attention_has_a_share(share):
    """Counted on both sides of it, with the token patch that the number was worked out for."""
    at = tokens_at(counted((512, 512), 2), share)
    below, above = ((int(at**0.5) // 2 + step) * 32 for step in (0, 2))
    assert counted((below, below), 2).share < share * 1.02
    assert counted((above, above), 2).share > share


def test_thresholds_grow_with_what_a_token_covers():
    rows = scaling.thresholds(2)
    assert [row["token_patch"] for row in rows] == [1, 2, 4, 8]
    assert [row["voxels_per_token"] for row in rows] == [8, 16, 32, 64]
    numbers = [row["tokens"]["0.05"] for row in rows]
    assert numbers == sorted(numbers)
    assert all(row["tokens"]["0.01"] < row["tokens"]["0.05"] < row["tokens"]["0.1"] for row in rows)


def test_attention_stays_below_five_per_cent_of_what_is_planned_for_24_gb():
    rows = planned_patches(["2D"], 24)
    assert {row["planner"] for row in rows} == {"nnunetv2_mstkd", "nnunetv2"}
    for row in rows:
        assert row["patch"] == [1024, 1024]
        assert row["attention_share"] < 0.05


@unix
@pytest.mark.slow
def test_a_step_is_measured(capsys):
    result = measure(Configuration((32, 32), token_patch=1), "cpu", repeats=2)
    assert len(result["seconds"]) == 2
    assert min(result["seconds"]) > 0
    assert result["peak_bytes"] >= 0


@unix
@pytest.mark.slow
def test_a_step_in_a_process_of_its_own():
    """The weights alone, with their gradients, are more than 50 MB."""
    result = in_fresh_process(Configuration((32, 32)), "cpu", repeats=1)
    assert result["peak_bytes"] > 50e6


@pytest.mark.slow
def test_counting_only(tmp_path, capsys):
    output = tmp_path / "scaling.json"
    varied = ["--patches", "32", "64", "--modalities", "2", "--token-patches", "4", "1", "--at", "64"]
    assert scaling.main(["--count-only", *varied, "--data-sets", "--json", str(output)]) == 0
    results = json.loads(output.read_text())["results"]
    assert [row["group"] for row in results["steps"]] == ["patch", "patch", "modalities", "tokens", "tokens"]
    assert [row["tokens"] for row in results["steps"]] == [64, 64, 64, 8, 512]
    assert all("seconds" not in row for row in results["steps"])
    assert results["planned"] == []
    assert "tokens: 64x64x64, 4, 512" in capsys.readouterr().out
