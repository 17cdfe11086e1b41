"""torch.compile as nnU-Net switches it on for CUDA, here with the backend that needs no GPU.

Dynamo traces the networks into one graph each and runs it as it is: this tests that there are no graph
breaks, and the wrappers around networks, teacher and checkpoints; not the kernels of the default backend.
"""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from loop import losses, train
from torch._dynamo import OptimizedModule

from nnunetv2_mstkd.methods.conditioned_dropout import nnUNetTrainerConditionedDropout
from nnunetv2_mstkd.methods.mstkd.trainer import nnUNetTrainerMSTKD, nnUNetTrainerMSTKDUNet
from nnunetv2_mstkd.methods.mstkd.variants import nnUNetTrainerMSTKDJoint


def compile_with(monkeypatch, trainer_class, backend: str) -> None:
    torch._dynamo.reset()
    compile_network = partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(
        torch, "compile", lambda x: compile_network(x) if isinstance(x, torch.nn.Module) else x
    )
    monkeypatch.setattr(trainer_class, "_do_i_compile", lambda self: True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint, nnUNetTrainerConditionedDropout]
)
def test_compiled_training_without_graph_breaks_gives_the_same_losses(
    make_trainer, monkeypatch, trainer_class
):
    settings = (
        {"gradient_shares_every": 1} if "gradient_shares_every" in trainer_class.settings_read() else {}
    )
    plain = train(make_trainer(trainer_class, results="plain", settings=settings))
    compile_with(monkeypatch, trainer_class, "eager")
    compiled = train(make_trainer(trainer_class, results="compiled", settings=settings))
    assert isinstance(compiled.network, OptimizedModule)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
    weights = torch.load(f"{compiled.output_folder}/checkpoint_final.pth", weights_only=False)
    assert not any(key.startswith("_orig_mod") for key in weights["network_weights"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "trainer_class", [nnUNetTrainerMSTKDUNet, nnUNetTrainerMSTKD, nnUNetTrainerConditionedDropout]
)
def test_one_step_with_ahead_of_time_autograd(make_trainer, monkeypatch, trainer_class):
    """The default backend's way to the gradients: the backward graph is made with the forward's."""
    # Gradient shares go through that graph more than once.
    settings = (
        {"gradient_shares_every": 1} if "gradient_shares_every" in trainer_class.settings_read() else {}
    )
    compile_with(monkeypatch, trainer_class, "aot_eager")
    trainer = make_trainer(trainer_class, settings=settings)
    # With one thread PyTorch's CPU convolution returns other strides than it declares to the compiler.
    torch.set_num_threads(2)
    trainer.initialize()
    trainer.on_train_start()
    trainer.current_epoch = trainer.phases.full_epochs
    trainer.on_train_epoch_start()
    before = [p.detach().clone() for p in trainer.network.parameters()]
    result = trainer.train_step(next(trainer.dataloader_train))
    assert isinstance(trainer.network, OptimizedModule)
    assert math.isfinite(result["loss"])
    assert all(math.isfinite(float(term)) for term in result["terms"].values())
    assert any(not torch.equal(p, b) for p, b in zip(trainer.network.parameters(), before, strict=True))
