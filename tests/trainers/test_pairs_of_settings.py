"""Any two settings together train a step of each phase, or are refused in one line that says why."""

from __future__ import annotations

from itertools import combinations
from math import isfinite

import pytest
import torch
from loop import losses, train
from stock_prediction import predicted_by_nnunet
from test_starting_weights_setting import finished_model
from tiny_dataset import MODALITIES

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.data_loader import LABELLED_KEY
from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY, MASK_KEY

PATCH = (16, 16)
# Settings that go with most others, until one of those below says otherwise.
COMMON = {"teacher": "shared", "num_epochs": 2, "gradient_shares_every": 1}
MODEL = "a model folder"
ADAPTER = {"init": MODEL, "conditioning": "absence", "train_only": "conditioning"}
UNLABELLED = {"mstkd": {"unlabelled": ["case_1"]}}
SETTINGS = {
    "init": {"init": MODEL},
    "adapter": ADAPTER,
    "conditioning": {"conditioning": "absence"},
    "borrowing": {"borrowing": "stem"},
    "weight_average": {"weight_average": 0.9},
    "reconstruction": {"full_phase_task": "reconstruction", "full_phase": 0.5},
    "difficulty": {"sampler": "difficulty", "single_weight": 2},
    "skip": {"teacher_on_incomplete": "skip"},
    "unlabelled": {},
    "warm_start": {"teacher": "warm_start", "full_phase": 0.5},
    "joint": {"teacher": "joint"},
    "nested": {"teacher": "nested"},
    "folder": {"teacher": MODEL},
}
REFUSED = {
    (
        "adapter",
        "borrowing",
    ): r"would freeze \d+ tensors that .* it borrows no features; leave borrowing",
    ("adapter", "reconstruction"): "learns nothing while nothing is absent, but .* full phase of 1 epochs",
    ("adapter", "warm_start"): "learns nothing while nothing is absent, but .* full phase of 1 epochs",
    ("adapter", "nested"): "learns nothing while nothing is absent, but .* full phase of 1 epochs",
    ("reconstruction", "joint"): "a joint teacher learns from the start: set another teacher",
}


def together(first: str, second: str) -> dict | None:
    """The settings of both; ``None`` where they say different things of one."""
    one, other = SETTINGS[first], SETTINGS[second]
    return None if any(other[key] != one[key] for key in one.keys() & other.keys()) else one | other


# What other tests join often enough; each pair takes a quarter of a second.
LATER = {"init", "skip", "joint"}
PAIRS = [
    pytest.param(pair, id="-".join(pair), marks=pytest.mark.slow if LATER.intersection(pair) else ())
    for pair in combinations(SETTINGS, 2)
    if together(*pair) is not None
]
# Many at once, which go together.
CROWDS = [
    ("reconstruction", "borrowing", "conditioning", "weight_average", "difficulty", "init", "nested"),
    ("reconstruction", "borrowing", "weight_average", "warm_start", "unlabelled"),
    ("adapter", "weight_average", "difficulty", "skip", "folder", "unlabelled"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(finished_model(tmp_path_factory.mktemp("model"), patch=PATCH))


def batch_of(trainer, unlabelled: bool) -> dict:
    """As the loader gives it; the second case lacks a modality, or else a segmentation."""
    draw = torch.Generator().manual_seed(0)
    scales = trainer._get_deep_supervision_scales()
    sizes = [[round(n * f) for n, f in zip(PATCH, scale, strict=True)] for scale in scales]
    batch = {
        "data": torch.randn(2, len(MODALITIES), *PATCH, generator=draw),
        "target": [torch.randint(0, 2, (2, 3, *size), generator=draw).float() for size in sizes],
        MASK_KEY: torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0]]),
        BATCH_AVAILABLE_KEY: torch.tensor([[True] * 4, [True, True, unlabelled, True]]),
    }
    batch["data"][1, 2] *= unlabelled
    return batch | ({LABELLED_KEY: torch.tensor([True, False])} if unlabelled else {})


def trained(trainer, extra: bool) -> list[float]:
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    found = []
    for epoch in range(trainer.num_epochs):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        drawn = extra and not trainer.in_full_phase and trainer.why_nothing_unlabelled() is None
        found.append(float(trainer.train_step(batch_of(trainer, drawn))["loss"]))
    return found


def trainer_with(make_trainer, model: str, names, results="results", **more):
    """A trainer with the settings of these names, and whether there are cases without a segmentation."""
    settings = COMMON | {key: value for name in names for key, value in SETTINGS[name].items()} | more
    settings = {key: model if value == MODEL else value for key, value in settings.items()}
    extra = UNLABELLED if "unlabelled" in names else {}
    made = make_trainer(
        methods.nnUNetTrainerMSTKDUNet, settings=settings, patch=PATCH, extra=extra, results=results
    )
    return made, bool(extra)


@pytest.mark.parametrize("pair", PAIRS)
def test_two_settings_train_or_are_refused_in_one_line(make_trainer, model, pair):
    if pair not in REFUSED:
        assert all(map(isfinite, trained(*trainer_with(make_trainer, model, pair))))
        return
    with pytest.raises(MSTKDError, match=REFUSED[pair]) as refused:
        trained(*trainer_with(make_trainer, model, pair))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("crowd", CROWDS, ids="-".join)
def test_many_settings_go_on_with_c_exactly_and_stock_nnunet_predicts(
    make_trainer, model, monkeypatch, crowd
):
    length = {"num_epochs": 4, "save_every": 1, "num_iterations_per_epoch": 1}

    def make(results: str):
        return trainer_with(make_trainer, model, crowd, results=results, **length)[0]

    whole = train(make("whole"))
    for stop in (1, 3):
        train(make(f"stopped_{stop}"), epochs=stop)
        again = make(f"stopped_{stop}")
        again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
        assert losses(train(again)) == losses(whole)

    x = torch.randn(len(MODALITIES), 1, *PATCH, generator=torch.Generator().manual_seed(2))
    x[1:3] = 0
    found = predicted_by_nnunet(whole, x, monkeypatch)
    whole.set_deep_supervision_enabled(False)
    with whole._exported(), torch.no_grad():
        expected = whole.network.eval()(x[None, :, 0])[0]
    # nnU-Net keeps logits in 16 bits.
    torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=2e-3 * float(expected.abs().max()))
