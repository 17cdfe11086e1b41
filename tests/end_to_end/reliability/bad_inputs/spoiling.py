"""Ways to spoil a place that every command would take: see ``test_bad_inputs.py`` for what is there."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from malicious import MakesFolder
from tiny_model import MODALITIES, write_volume

CASE = "BraTS-GLI-00001-000"
SHAPE = (12, 14, 13)  # z, y, x
GRID = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)}
FLIPPED = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CHECKPOINT = "model/fold_0/checkpoint_final.pth"
Spoil = Callable[[Path], object]


def case_file(place: Path, what: str, ending: str = ".nii.gz") -> Path:
    return place / "in" / CASE / f"{CASE}-{what}{ending}"


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, SHAPE).astype(np.int16)


def write(place: Path, what: str, array: np.ndarray, **geometry: Any) -> None:
    write_volume(case_file(place, what), array, **(GRID | geometry))


# ---------------------------------------------------------------- files of the case


def add(what: str) -> Spoil:
    return lambda place: write(place, what, image(0))


def remove(*names: str) -> Spoil:
    return lambda place: [case_file(place, name).unlink() for name in names]


def truncate(place: Path) -> None:
    path = case_file(place, "t1c")
    os.truncate(path, path.stat().st_size // 2)


def truncate_uncompressed(place: Path) -> None:
    path = case_file(place, "t1c")
    case_file(place, "t1c", ".nii").write_bytes(gzip.decompress(path.read_bytes())[:2000])
    path.unlink()


def text(place: Path) -> None:
    case_file(place, "t1c").write_text("<html>not found</html>")


def other_gzip(place: Path) -> None:
    case_file(place, "t1c").write_bytes(gzip.compress(b"x" * 500))


def empty(place: Path) -> None:
    case_file(place, "t1c").write_bytes(b"")


def dangling(place: Path) -> None:
    path = case_file(place, "t1c")
    path.unlink()
    path.symlink_to("gone.nii.gz")


def voxel(value: float) -> Spoil:
    def spoil(place: Path) -> None:
        array = image(1).astype(np.float32)
        array[6, 6, 6] = value
        write(place, "t1c", array)

    return spoil


def constant(value: int) -> Spoil:
    return lambda place: [write(place, name, np.full(SHAPE, value, np.int16)) for name in MODALITIES]


def four_dimensional(place: Path) -> None:
    write(place, "t1c", np.ones((2, *SHAPE), np.int16))


def two_dimensional(place: Path) -> None:
    write(place, "t1c", np.ones(SHAPE[1:], np.int16))


def other_size(place: Path) -> None:
    write(place, "t1c", np.ones((SHAPE[0] - 1, *SHAPE[1:]), np.int16))


def geometry(**changes: Any) -> Spoil:
    return lambda place: write(place, "t1c", image(1), **changes)


def moved_segmentation(place: Path) -> None:
    write(place, "seg", np.ones(SHAPE, np.uint8), origin=(0.0, 0.0, 2.0))


def labels(value: float) -> Spoil:
    def spoil(place: Path) -> None:
        array = np.zeros(SHAPE, np.float32)
        array[5, 5, 5] = value
        write(place, "seg", array)

    return spoil


def duplicate(place: Path) -> None:
    shutil.copytree(place / "in" / CASE, place / "in" / "copy of it")


def flat_channel(number: int) -> Spoil:
    """nnU-Net's flat layout, with one file of this channel number."""

    def spoil(place: Path) -> None:
        path = place / "in" / f"{CASE}_{number:04d}.nii.gz"
        shutil.move(case_file(place, "t1c"), path)
        shutil.rmtree(place / "in" / CASE)

    return spoil


def decathlon(listed: str) -> Spoil:
    """A Decathlon folder with this dataset.json."""

    def spoil(place: Path) -> None:
        for name in ("imagesTr", "labelsTr"):
            (place / "in" / name).mkdir()
        (place / "in" / "dataset.json").write_text(listed)

    return spoil


# ---------------------------------------------------------------- folders and JSON


def folder(name: str) -> Spoil:
    return lambda place: (place / name).mkdir(parents=True)


def file_instead_of(name: str) -> Spoil:
    def spoil(place: Path) -> None:
        shutil.rmtree(place / name)
        (place / name).touch()

    return spoil


def existing_split(place: Path) -> None:
    (place / "preprocessed" / "Dataset005_A").mkdir()
    (place / "preprocessed" / "Dataset005_A" / "splits_final.json").write_text("[]")


def delete(name: str) -> Spoil:
    return lambda place: (place / name).unlink()


def overwrite(name: str, content: str | bytes) -> Spoil:
    raw = content if isinstance(content, bytes) else content.encode()

    def spoil(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(raw)

    return spoil


def edit(name: str, key: str, value: Any = None) -> Spoil:
    """Set a key of a JSON file (``a/b`` is a key within a key), or remove it."""

    def spoil(place: Path) -> None:
        content = json.loads((place / name).read_text())
        *outer, last = key.split("/")
        inner = content
        for part in outer:
            inner = inner[part]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
        (place / name).write_text(json.dumps(content))

    return spoil


def ct_model(place: Path) -> None:
    """A model whose normalisation leaves no voxel value at zero, as far as its plans tell."""
    content = json.loads((place / "model/plans.json").read_text())
    for configuration in content["configurations"].values():
        configuration["normalization_schemes"] = ["CTNormalization"] * 4
    content["foreground_intensity_properties_per_channel"] = {}
    (place / "model/plans.json").write_text(json.dumps(content))
    case_file(place, "t1n").unlink()


def settings(**values: Any) -> Spoil:
    """Trainer settings in the plans of data set 7."""

    def spoil(place: Path) -> None:
        path = place / "preprocessed/Dataset007_Planned/nnUNetPlans.json"
        content = json.loads(path.read_text())
        content["configurations"]["tiny"]["mstkd"].update(values)
        path.write_text(json.dumps(content))

    return spoil


# ---------------------------------------------------------------- checkpoints


def checkpoint(**changes: Any) -> Spoil:
    return lambda place: torch.save(torch.load(place / CHECKPOINT) | changes, place / CHECKPOINT)


def other_checkpoint(place: Path) -> None:
    torch.save({"state_dict": {}}, place / CHECKPOINT)


def malicious_checkpoint(place: Path) -> None:
    torch.save(torch.load(place / CHECKPOINT) | {"x": MakesFolder(place / "owned")}, place / CHECKPOINT)


def truncated_checkpoint(place: Path) -> None:
    os.truncate(place / CHECKPOINT, (place / CHECKPOINT).stat().st_size // 2)


def second_fold_of_another_network(place: Path) -> None:
    content = torch.load(place / CHECKPOINT)
    content["network_weights"] = content["network_weights"] | {"more": torch.zeros(1)}
    (place / "model/fold_1").mkdir()
    torch.save(content, place / "model/fold_1/checkpoint_final.pth")
