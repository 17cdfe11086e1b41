"""The setting ``full_phase_task``: the full phase segments masked input and gives all of it back."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from loop import losses, train
from torch import nn

from nnunetv2_mstkd import methods
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.trainers.base import unwrap
from nnunetv2_mstkd.trainers.reconstruction import MaskedReconstruction, reconstruction_error
from nnunetv2_mstkd.trainers.step import MaskedBatch

SETTINGS = {"full_phase_task": "reconstruction", "full_phase": 0.5}
# One trainer for each of the networks, and one that copies its network after the phase.
TRAINERS = ["nnUNetTrainerModalityDropout", "nnUNetTrainerMSTKD"]


def in_phase(make_trainer, name, **settings):
    trainer = make_trainer(getattr(methods, name), settings=SETTINGS | settings)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.on_train_epoch_start()
    for module in trainer.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, 2, (2, 3, 16, 16, 16), generator=draw).float()
    data = torch.randn(2, 4, 16, 16, 16, generator=draw)
    mask = torch.tensor([[1, 0, 0, 1], [1, 1, 1, 0]]).float()
    return trainer, MaskedBatch(data, mask, [target, target[..., ::2, ::2, ::2]], (True, True))


@pytest.mark.parametrize("name", TRAINERS)
def test_a_step_segments_and_gives_back_what_was_hidden(make_trainer, name):
    trainer, batch = in_phase(make_trainer, name, reconstruction_weight=0.25)
    network = unwrap(trainer.network)
    assert not any(p.any() for p in trainer.reconstruction.head.parameters()), "first it gives nothing back"
    nn.init.normal_(trainer.reconstruction.head.weight)
    inputs, features = [], []
    network.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    network.decoder.seg_layers[-1].register_forward_pre_hook(lambda _, given: features.append(given[0]))
    found = trainer.compute_losses(batch)
    (seen,), (of_head,) = inputs, features
    assert not seen[0, 1:3].any()
    assert not seen[1, 3].any()
    zero = (seen == 0)[0, [0, 3]]
    assert torch.equal(zero[0], zero[1]), "the same blocks in all modalities"
    assert 0.3 < zero.float().mean() < 0.7
    blocks = zero[0].float().view(8, 2, 8, 2, 8, 2).mean((1, 3, 5))
    assert set(blocks.unique().tolist()) == {0, 1}
    # The loss is over the whole patch, of everything, hidden or not.
    images = trainer.reconstruction.head(of_head)
    torch.testing.assert_close(found.terms["reconstruction"], (images - batch.data).square().mean())
    total = found.terms["segmentation"] + 0.25 * found.terms["reconstruction"]
    torch.testing.assert_close(found.total, total)
    assert torch.autograd.grad(found.terms["reconstruction"], of_head, retain_graph=True)[0].all()
    trainer.backward(found.total)
    assert trainer.reconstruction.head.weight.grad.any()
    first = next(p for n, p in network.named_parameters() if n.endswith("weight"))
    assert first.grad.any()


def test_what_a_case_lacks_does_not_count():
    images, target = torch.ones(2, 2, 3, 3), torch.zeros(2, 2, 3, 3)
    images[0, 1], images[1, 0] = 7, 3
    available = torch.tensor([[True, False], [True, True]])
    found = reconstruction_error(images=images, target=target, available=available)
    assert found == pytest.approx((1 + 9 + 1) / 3)


def test_a_previous_stage_is_neither_hidden_nor_given_back():
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = nn.Module()
            self.decoder.seg_layers = nn.ModuleList([nn.Conv2d(5, 3, 1)])

    torch.manual_seed(0)
    made = MaskedReconstruction(Small(), 2, 0.5)
    batch = MaskedBatch(torch.ones(1, 3, 16, 24), torch.tensor([[1.0, 0.0]]), torch.zeros(1), (True,))
    x = made.masked(batch)
    assert not x[:, 1].any()
    assert x[:, 2].all()
    assert 0.2 < x[:, 0].mean() < 0.8
    assert made.head.out_channels == 2
    with pytest.raises(MSTKDError, match="Linear has no decoder whose features could give the images back"):
        MaskedReconstruction(nn.Linear(1, 1), 2, 0.5)


def test_ends_with_the_phase_and_leaves_nothing_in_the_model(make_trainer):
    short = {"num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1, "num_epochs": 2}
    trainer = train(make_trainer(methods.nnUNetTrainerModalityDropout, settings=SETTINGS | short))
    assert all(map(math.isfinite, losses(trainer)))
    assert trainer.history.series("terms/reconstruction")[0] == [0]
    assert trainer.history.series("segmentation/segmentation")[0] == [0, 1]
    assert not unwrap(trainer.network).decoder.seg_layers[-1]._forward_pre_hooks
    final = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert "reconstruction" not in final["mstkd"]
    plain = make_trainer(methods.nnUNetTrainerModalityDropout, results="plain")
    plain.initialize()
    assert set(final["network_weights"]) == set(unwrap(plain.network).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "stop"), zip(TRAINERS, (3, 1), strict=True))
def test_a_continued_training_repeats_an_uninterrupted_one(make_trainer, name, stop):
    settings = SETTINGS | {"save_every": 1, "num_iterations_per_epoch": 1, "num_val_iterations_per_epoch": 1}
    make = partial(make_trainer, getattr(methods, name), settings=settings)
    whole = train(make(results="whole"))
    train(make(results="stopped"), epochs=stop)
    again = make(results="stopped")
    again.load_checkpoint(f"{again.output_folder}/checkpoint_latest.pth")
    assert losses(train(again)) == losses(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINERS)
def test_compiled_without_graph_breaks_gives_the_same_loss(make_trainer, monkeypatch, name):
    def loss() -> torch.Tensor:
        trainer, batch = in_phase(make_trainer, name)
        torch.manual_seed(3)
        result = trainer.compute_losses(batch)
        trainer.backward(result.total)
        return result.total

    expected = loss()
    torch._dynamo.reset()
    compile_network = partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", lambda x: compile_network(x) if isinstance(x, nn.Module) else x)
    monkeypatch.setattr(getattr(methods, name), "_do_i_compile", lambda self: True)
    torch.testing.assert_close(loss(), expected, rtol=1e-3, atol=1e-4)


def test_without_a_full_phase_it_is_refused(make_trainer):
    with pytest.raises(MSTKDError, match="for a phase that this training does not have; set full_phase"):
        make_trainer(methods.nnUNetTrainerModalityDropout, settings=SETTINGS | {"full_phase": 0})


@pytest.mark.parametrize("name", ["nnUNetTrainerRFNet", "nnUNetTrainerFullModality"])
def test_others_do_not_read_it(make_trainer, name):
    with pytest.raises(MSTKDError, match=f"{name} does not read the setting 'full_phase_task'"):
        make_trainer(getattr(methods, name), settings={"full_phase_task": "reconstruction"})
