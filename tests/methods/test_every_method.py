"""What every trainer of ``methods.METHODS`` has to do, written once.

A network is tested once, whichever trainers share it. A trainer that cannot do one of these things refuses it
at start with the reason, and that is tested here too.
"""

from __future__ import annotations

import math
from copy import deepcopy
from functools import cache, partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from loop import losses, train
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from stock_prediction import predicted_by_nnunet
from tiny_dataset import LABELS, plans
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.modules.dropout import _DropoutNd

from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.engines.openvino_network import OpenVINONetwork
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods import METHODS
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.missing_modality import nnUNetTrainerMissingModality
from nnunetv2_mstkd.trainers.step import MaskedBatch

TRAINERS = {method.trainer: method for method in METHODS}
# Distils from a finished model, which its own tests give it.
NEEDS_A_MODEL = {"nnUNetTrainerMSTKDFrozenTeacher"}
# The plan's own network: its planner gives it patches that its strides divide.
OF_THE_PLAN = {
    "nnUNetTrainerFullModality",
    "nnUNetTrainerModalityDropout",
    "nnUNetTrainerConditionedDropout",
    "nnUNetTrainerMSTKDUNet",
}
# 154 million parameters whatever the plan: its own tests have it.
OF_ONE_SIZE = {"nnUNetTrainerMSTKDOfficial"}
# Its scan is an operation of its own.
NOT_CONVERTED = {"nnUNetTrainerIMFuse"}
SMALLER = {"base_features": 8, "token_features": 16, "mlp_features": 64}
# Its tokens have 64 times as many features.
STILL_SMALLER = {"nnUNetTrainerIMFuse": {"base_features": 2}}
PATCH = (16, 16, 16)


def networks() -> list[str]:
    """The first trainer of each network."""
    first: dict[tuple, str] = {}
    for name, method in TRAINERS.items():
        trainer = method.load()
        build = getattr(trainer, "network_of_plan", trainer.build_network_architecture)
        first.setdefault((build.__qualname__, _network_of(trainer)), name)
    return [name for name in first.values() if name not in OF_ONE_SIZE]


def _network_of(trainer) -> tuple:
    return tuple(getattr(trainer, name, None) for name in ("network_class", "preset", "conditioning"))


def settings_of(name: str, **settings) -> dict:
    """Settings that make a training small, of those that this trainer reads."""
    read = TRAINERS[name].load().settings_read()
    small = SMALLER | STILL_SMALLER.get(name, {})
    return {key: value for key, value in small.items() if key in read} | settings


@cache
def build(name: str, patch: tuple[int, ...] = PATCH, channels: int = 4, regions: bool = True) -> nn.Module:
    """The network as nnU-Net builds it for prediction: three heads for regions, four for labels."""
    settings = settings_of(name)
    if "regions" in TRAINERS[name].load().settings_read():
        settings["regions"] = regions
    content = plans(modalities=[f"m{i}" for i in range(channels)], settings=settings, patch=patch)
    manager = PlansManager(content)
    torch.manual_seed(0)
    trainer, configuration = TRAINERS[name].load(), manager.get_configuration("tiny")
    heads = 3 if regions else len(LABELS)
    return trainer.build_network_architecture(manager, configuration, channels, heads, False).eval()


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("patch", [(16, 16, 16), (17, 22, 13), (24, 16), (21, 19)], ids=str)
@pytest.mark.parametrize("name", networks())
def test_takes_any_patch_in_2d_and_3d(name, patch):
    if name in OF_THE_PLAN and any(n % 4 for n in patch):
        pytest.skip("nnU-Net's own network: nnU-Net plans patches that it can take")
    with torch.no_grad():
        assert build(name, patch)(torch.randn(1, 4, *patch)).shape == (1, 3, *patch)


@pytest.mark.parametrize("channels", [1, 2, 7])
@pytest.mark.parametrize("name", networks())
def test_takes_any_number_of_modalities_and_labels(name, channels):
    with torch.no_grad():
        logits = build(name, channels=channels, regions=False)(torch.randn(1, channels, *PATCH))
    assert logits.shape == (1, len(LABELS), *PATCH)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", networks())
def test_a_batch_of_different_subsets_gives_what_its_samples_give(name):
    network = build(name)
    x = torch.randn(4, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    x[0, 1:] = x[1, 0] = x[2, 2:] = 0
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(sample[None]) for sample in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * float(alone.std()))
    assert not torch.allclose(together[0], together[3]), "the modalities have no influence at all"


@pytest.mark.slow
@pytest.mark.parametrize("name", networks())
def test_openvino_gives_what_pytorch_gives(name, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_mstkd_cache", str(tmp_path))
    network = build(name)
    x = torch.randn(3, 4, *PATCH, generator=torch.Generator().manual_seed(1))
    x[0, 1:] = x[1, 0] = 0
    engine = OpenVINONetwork(network, name, name)
    with torch.inference_mode():
        expected, found = network(x), engine(x)
    assert engine.converts == (name not in NOT_CONVERTED)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))


@pytest.mark.parametrize("name", networks())
def test_nothing_and_everything_absent_stays_finite(name):
    """A patch of pure background, with and without gradients."""
    network = deepcopy(build(name)).train()
    logits = network(torch.zeros(2, 4, *PATCH))
    assert logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


# ---------------------------------------------------------------- training


def masked_step(make_trainer, name: str, regions: bool):
    """A trainer in its masking phase, without dropout, and a batch that hides half of the modalities."""
    trainer = make_trainer(TRAINERS[name].load(), regions=regions, settings=settings_of(name))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.current_epoch = trainer.phases.full_epochs
    for module in trainer.network.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    if hasattr(trainer, "teaching") and trainer.distils:
        trainer.teaching.start_epoch()
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(2, 4, *PATCH, generator=draw)
    channels, values = (3, 2) if regions else (1, 4)
    target = torch.randint(0, values, (2, channels, *PATCH), generator=draw).float()
    scales = trainer._get_deep_supervision_scales()
    levels = [target[(..., *(slice(None, None, round(1 / s)) for s in scale))] for scale in scales or []]
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0]]).float()
    torch.manual_seed(2)  # some draw noise in their passes
    return trainer, MaskedBatch(data, mask, levels if scales else target, (True, True))


MASKING = [n for n, m in TRAINERS.items() if issubclass(m.load(), nnUNetTrainerMissingModality)]


@pytest.mark.parametrize("regions", [True, False], ids=["regions", "labels"])
@pytest.mark.parametrize("name", [n for n in MASKING if n not in NEEDS_A_MODEL | OF_ONE_SIZE])
def test_what_is_masked_has_no_influence_on_the_segmentation(make_trainer, name, regions):
    trainer, batch = masked_step(make_trainer, name, regions)
    changed = batch.data + 5 * (1 - batch.mask)[..., None, None, None]
    first = trainer.compute_losses(batch)
    torch.manual_seed(2)
    again = trainer.compute_losses(MaskedBatch(changed, batch.mask, batch.target, batch.complete))
    torch.testing.assert_close(first.terms["segmentation"], again.terms["segmentation"])
    trainer.backward(again.total)
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    assert gradients
    assert all(g.isfinite().all() for g in gradients)
    expected = {name for name, weight in trainer.weights.items() if weight > 0}
    if not (hasattr(trainer, "teaching") and trainer.distils and trainer.teacher in ("joint", "shared")):
        expected.discard("teacher_segmentation")  # its teacher does not learn any more
    assert set(first.terms) == expected


# MSTKD with terms left out: all code that they run is MSTKD's.
ABLATIONS = {f"nnUNetTrainerMSTKD_wo{part}" for part in ("TransformerKD", "GSME", "SLKD")}
LEARNS_FROM_STOCK_DATA = [n for n in TRAINERS if n not in NEEDS_A_MODEL | OF_ONE_SIZE | ABLATIONS]


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNS_FROM_STOCK_DATA)
def test_three_epochs_stopped_and_continued_then_stock_nnunet_predicts(make_trainer, monkeypatch, name):
    settings = settings_of(
        name, num_epochs=3, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1, save_every=1
    )
    make = partial(make_trainer, TRAINERS[name].load(), settings=settings)
    whole = train(make(results="whole"))
    assert all(map(math.isfinite, losses(whole)))
    train(make(results="stopped"), epochs=2)
    again = make(results="stopped")
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    train(again)
    assert losses(again) == losses(whole)
    expected = unwrap(whole.network).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in unwrap(again.network).state_dict().items())

    x = torch.randn(4, *PATCH, generator=torch.Generator().manual_seed(2))
    x[1:3] = 0
    found = predicted_by_nnunet(whole, x, monkeypatch)
    network = unwrap(whole.network).eval()
    whole.set_deep_supervision_enabled(False)
    with torch.no_grad():
        expected = network(x[None])[0]
    # nnU-Net keeps logits in 16 bits.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in networks() if n in MASKING])
def test_compiled_without_graph_breaks_gives_the_same_loss(make_trainer, monkeypatch, name):
    """The wrappers and the graphs, with the backend that needs no GPU."""
    trainer, batch = masked_step(make_trainer, name, regions=True)
    expected = trainer.compute_losses(batch).total
    torch._dynamo.reset()
    compile_network = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda x: compile_network(x) if isinstance(x, nn.Module) else x)
    monkeypatch.setattr(TRAINERS[name].load(), "_do_i_compile", lambda self: True)
    compiled, batch = masked_step(make_trainer, name, regions=True)
    assert isinstance(compiled.network, OptimizedModule)
    torch.testing.assert_close(compiled.compute_losses(batch).total, expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- refusals at start

WITH_A_NETWORK_OF_ITS_OWN = [n for n in MASKING if TRAINERS[n].load().network_class is not None]


@pytest.mark.parametrize("name", WITH_A_NETWORK_OF_ITS_OWN)
def test_a_cascade_is_refused_where_every_channel_is_a_modality(make_trainer, name):
    def cascade(content: dict) -> None:
        content["configurations"]["before"] = dict(content["configurations"]["tiny"])
        content["configurations"]["tiny"]["previous_stage"] = "before"

    with pytest.raises(MSTKDError, match="no place for the segmentation of a cascade's previous stage"):
        make_trainer(TRAINERS[name].load(), change=cascade, settings=settings_of(name)).initialize()


# Its outputs at lower resolutions are those of nnU-Net's own networks.
HAS_LOWER_OUTPUTS = {"nnUNetTrainerDeMoSeg"}


@pytest.mark.parametrize("name", [n for n in WITH_A_NETWORK_OF_ITS_OWN if n not in HAS_LOWER_OUTPUTS])
def test_deep_supervision_is_refused_where_there_are_no_lower_outputs(make_trainer, name):
    settings = settings_of(name, enable_deep_supervision=True)
    with pytest.raises(MSTKDError, match="no lower-resolution outputs"):
        make_trainer(TRAINERS[name].load(), settings=settings).initialize()


@pytest.mark.parametrize("name", TRAINERS)
def test_a_setting_that_the_trainer_does_not_read_is_refused(make_trainer, name):
    with pytest.raises(MSTKDError, match=f"{name} does not read the setting 'learning_rate'"):
        make_trainer(TRAINERS[name].load(), settings={"learning_rate": 0.5})


@pytest.mark.parametrize("name", [n for n in MASKING if "weights" in TRAINERS[n].load().settings_read()])
def test_a_loss_that_the_trainer_does_not_have_is_refused(make_trainer, name):
    with pytest.raises(MSTKDError, match=f"{name} has no term 'magic'"):
        make_trainer(TRAINERS[name].load(), settings={"weights": {"magic": 1}})


# ---------------------------------------------------------------- the list


@pytest.mark.parametrize("name", [n for n in TRAINERS if n not in NEEDS_A_MODEL | OF_ONE_SIZE])
def test_the_list_says_what_it_needs(make_trainer, name):
    trainer = make_trainer(TRAINERS[name].load(), settings=settings_of(name))
    trainer.initialize()
    needs = trainer.needs()
    assert ("teacher" in needs) == bool(getattr(trainer, "distils", False))
    assert ("discriminator" in needs) == bool(getattr(trainer, "adversaries", {}))


FOLDERS = sorted({m.module.split(".")[0] for m in METHODS if "." in m.module})
# Written from a description that does not name its authors' keys.
WITHOUT_RELEASED_KEYS = {"demoseg"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_builds_its_network_as_released(folder):
    with torch.device("meta"):
        network = import_module(f"nnunetv2_mstkd.methods.{folder}").released((64, 64, 64), input_channels=4)
    assert not network.training
    if folder not in WITHOUT_RELEASED_KEYS:
        with pytest.raises(MSTKDError, match=r"does not fit this .*: it misses"):
            network.load_released_state_dict({})
    logits = run_on_meta(network, (1, 4, 64, 64, 64))
    assert logits.shape[0] == 1
    assert logits.shape[2:] == (64, 64, 64)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.trainer)
def test_every_method_has_a_page(method):
    page = Path(__file__).parents[2] / method.page
    headings = [line for line in page.read_text().splitlines() if line.startswith("## ")]
    assert headings[:5] == [
        "## Idea",
        "## What is trained with what loss",
        "## What runs at inference",
        "## What differs from the released code, and why",
        "## Cost",
    ]
