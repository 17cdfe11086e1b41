"""The benchmark of the loader compares like with like and counts what leaves. Nothing asks for its speed."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import loader

SHAPE, PATCH = ("24", "24", "24"), ("16", "16", "16")
VOXELS, BATCH, CHANNELS = 16**3, 2, 4


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    output = tmp_path_factory.mktemp("loader") / "loader.json"
    options = ["--shape", *SHAPE, "--patch", *PATCH, "--repeats", "2", "--json", str(output)]
    assert loader.main(options) == 0
    return json.loads(output.read_text())


def test_parts_of_the_time(content):
    assert content["benchmark"] == "loader"
    results = content["results"]
    assert results["case"] == {
        "shape": [24] * 3,
        "patch": [16] * 3,
        "batch_size": BATCH,
        "channels": CHANNELS,
        "absent": 1,
    }
    assert all(len(times) == 2 for times in results["seconds"].values())
    parts = (results["seconds"][part] for part in ("masked", "mask", "transforms"))
    for masked, mask, transforms in zip(*parts, strict=True):
        assert mask > 0
        assert mask + transforms < masked
    assert 0 < results["mask_share"] < 1


def test_one_copy_of_the_image_leaves_the_loader(content):
    """Beside it the segmentation at every resolution, and a few bytes per patch and modality."""
    masked, stock = content["results"]["bytes"]["masked"], content["results"]["bytes"]["stock"]
    assert masked["data"] == stock["data"] == BATCH * CHANNELS * VOXELS * 4
    assert masked["target"] == stock["target"]
    added = {name: size for name, size in masked.items() if name not in stock}
    assert added == {"modality_available": BATCH * CHANNELS, "modality_mask": BATCH * CHANNELS * 4}


@pytest.mark.parametrize("absent", [0, 2])
def test_both_loaders_make_the_same_patches(absent):
    with loader.loaders((24,) * 3, (16,) * 3, BATCH, absent) as both:
        batches = []
        for one in both:
            loader._seed(3)
            batches.append(one.generate_train_batch())
    ours, stock = batches
    assert list(ours["keys"]) == list(stock["keys"])
    assert ours["modality_available"].tolist() == [[True] * (CHANNELS - absent) + [False] * absent] * BATCH
    stock["data"][:, CHANNELS - absent :] = 0  # augmentation makes noise of it
    # nnU-Net's blur picks one of two algorithms by its speed.
    torch.testing.assert_close(ours["data"], stock["data"], rtol=1e-3, atol=1e-3)
    for mine, theirs in zip(ours["target"], stock["target"], strict=True):
        assert torch.equal(mine, theirs)


def test_bytes_of_shared_memory_count_once():
    image = torch.zeros(2, 4, 8)
    batch = {"data": image, "target": [image, torch.zeros(3)], "keys": ["a", "b"]}
    assert loader.tensor_bytes(batch) == {"data": 256, "target": 256 + 12}
    assert loader.tensor_bytes({"data": image[:1]}) == {"data": 256}, "a part of a larger tensor holds it"
