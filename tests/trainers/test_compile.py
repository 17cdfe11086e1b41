"""torch.compile as nnU-Net switches it on for CUDA, here with the backend that needs no GPU.

Dynamo traces the networks into one graph each and runs it as it is: this tests that there are no graph
breaks, and the wrappers around networks, teacher and checkpoints; not the kernels of the default backend.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from loop import losses, train
from torch._dynamo import OptimizedModule

from nnunetv2_mstkd.trainers import nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint


@pytest.mark.slow
@pytest.mark.parametrize("trainer_class", [nnUNetTrainerMSTKD, nnUNetTrainerMSTKDJoint])
def test_compiled_training_without_graph_breaks_gives_the_same_losses(
    make_trainer, monkeypatch, trainer_class
):
    settings = {"gradient_shares_every": 1}
    plain = train(make_trainer(trainer_class, results="plain", settings=settings))
    torch._dynamo.reset()
    compile_network = partial(torch.compile, backend="eager", fullgraph=True)
    monkeypatch.setattr(
        torch, "compile", lambda x: compile_network(x) if isinstance(x, torch.nn.Module) else x
    )
    monkeypatch.setattr(trainer_class, "_do_i_compile", lambda self: True)
    compiled = train(make_trainer(trainer_class, results="compiled", settings=settings))
    assert isinstance(compiled.network, OptimizedModule)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
    weights = torch.load(f"{compiled.output_folder}/checkpoint_final.pth", weights_only=False)
    assert not any(key.startswith("_orig_mod") for key in weights["network_weights"])
