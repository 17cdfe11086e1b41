"""One process of a distributed training on CPU: ``distributed_worker.py RANK WORLD ROOT``.

nnU-Net's ``-num_gpus`` starts NCCL and therefore needs one GPU per process. Here the same trainers run in
gloo processes; what nnU-Net hard-wires for CUDA is put right in :func:`on_cpu`. A world of 1 is a training
without process group, the reference. Everything that is compared is saved to ``ROOT/WORLD_RANK.pth``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods import METHODS

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS / "helpers"), str(TESTS.parent)]  # as pytest has them

GLOBAL_BATCH = 4
TEACHER = "nnUNetTrainer__nnUNetPlans__tiny"  # a finished model below the root
# Trainer, regions, Dice over the batch: student, joint teacher and discriminator in several combinations.
GRADIENT_CASES = {
    "joint, regions, batch Dice": ("nnUNetTrainerMSTKDJoint", True, True),
    "warm start, labels, sample Dice": ("nnUNetTrainerMSTKD", False, False),
    "shared teacher, regions, sample Dice": ("nnUNetTrainerMSTKDShared", True, False),
    "nnU-Net's network, regions, batch Dice": ("nnUNetTrainerMSTKDUNet", True, True),
    "finished teacher, labels, batch Dice": ("nnUNetTrainerMSTKDUNet", False, True, TEACHER),
    "nested subsets, regions, batch Dice": ("nnUNetTrainerMSTKDUNet", True, True, "nested"),
    "modality dropout, labels, batch Dice": ("nnUNetTrainerModalityDropout", False, True),
}
# And every other trainer of the list that has a step of its own.
_ON_THEIR_OWN = {
    "nnUNetTrainerFullModality",  # stock training
    "nnUNetTrainerMSTKDOfficial",  # refused, tested below
    "nnUNetTrainerMSTKDFrozenTeacher",  # as MSTKDUNet above, with a finished teacher
}
for _method in METHODS:
    if _method.trainer not in {case[0] for case in GRADIENT_CASES.values()} | _ON_THEIR_OWN:
        GRADIENT_CASES[f"{_method.title}, regions, sample Dice"] = (_method.trainer, True, False)
# Of nested pairs, one that every process draws alike; the ramped term weighs something in the tested epoch.
ONE_PAIR = {
    "sampler": "weights",
    "subset_weights": {"t1n+t1c+t2w": 1},
    "full_phase": 0.25,
    "weights": {"adversarial": 0.001},
}
LENGTH = {"num_epochs": 4, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, "save_every": 1}


def on_cpu(trainer_class: type) -> type:
    """The trainer on CPU whatever nnU-Net's constructor thinks of a distributed run."""

    class OnCPU(trainer_class):
        def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cpu")):  # noqa: B008
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.device, self.grad_scaler = torch.device("cpu"), None

    OnCPU.__name__ = trainer_class.__name__
    return OnCPU


def make(name: str, *, regions: bool = True, batch_dice: bool = False, settings: dict | None = None) -> Any:
    from tiny_dataset import dataset_json, plans

    from nnunetv2_mstkd import methods

    content = plans(settings=LENGTH | {"seed": 7} | (settings or {}))
    content["configurations"]["tiny"] |= {"batch_size": GLOBAL_BATCH, "batch_dice": batch_dice}
    content["continue_training"] = False
    device = torch.device("cpu")
    trainer = on_cpu(getattr(methods, name))(content, "tiny", 0, dataset_json(regions=regions), device)
    trainer.logger.plot_progress_png = lambda folder: None
    return trainer


def gradients_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def global_batch(regions: bool) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Four samples, their masks and their targets at two resolutions: the same in every process."""
    draw = torch.Generator().manual_seed(0)
    data = torch.randn(GLOBAL_BATCH, 4, 16, 16, 16, generator=draw)
    mask = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]).float()
    channels, values = (3, 2) if regions else (1, 4)
    shape = (GLOBAL_BATCH, channels, 16, 16, 16)
    target = torch.randint(0, values, shape, generator=draw).float()
    return data, mask, [target, target[..., ::2, ::2, ::2]]


def one_step(
    rank: int, world: int, root: Path, name: str, regions: bool, batch_dice: bool, teacher: str | None = None
) -> dict[str, Any]:
    """Gradients of one step in the masking phase on this process's part of the global batch."""
    from nnunetv2_mstkd import methods
    from nnunetv2_mstkd.methods.rahved import network as rahved
    from nnunetv2_mstkd.trainers.base import unwrap
    from nnunetv2_mstkd.trainers.step import MaskedBatch

    rahved.drawn = lambda mean, log_variance: mean  # noise would be another in every process
    known = {"gradient_shares_every": 1, "base_features": 8, "token_features": 16}
    read = getattr(methods, name).settings_read()
    settings = {key: value for key, value in known.items() if key in read}
    if teacher == "nested":
        settings |= {"teacher": teacher, **ONE_PAIR}
    elif teacher is not None:
        settings |= {"teacher": str(root / teacher)}
    trainer = make(name, regions=regions, batch_dice=batch_dice, settings=settings)
    trainer.initialize()
    trainer.current_epoch = trainer.phases.full_epochs  # where the masking phase begins
    trainer.on_train_epoch_start()
    trainer.current_epoch = 2  # a joint teacher's ramped terms weigh something by now
    joint = getattr(getattr(trainer, "teaching", None), "network", None)
    for network in (trainer.network, joint):
        for module in network.modules() if network is not None else ():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    data, mask, target = global_batch(regions)
    part = slice(rank * trainer.batch_size, (rank + 1) * trainer.batch_size)
    complete = (True,) * trainer.batch_size
    targets = [level[part] for level in target]
    supervised = targets if trainer.enable_deep_supervision else targets[0]
    losses = trainer.compute_losses(MaskedBatch(data[part], mask[part], supervised, complete))
    trainer.backward(losses.total)
    found = {"student": gradients_of(unwrap(trainer.network))}
    if joint is not None:
        found["teacher"] = gradients_of(unwrap(joint))
    trainer.after_step()
    for name, adversary in trainer.adversaries.items():
        found[name] = gradients_of(adversary.discriminator)
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    return {
        "gradients": found,
        "bounds": trainer.bounds.scales if hasattr(trainer, "bounds") else {},
        "batch_size": trainer.batch_size,
        "checkpoints": [p.name for p in Path(trainer.output_folder).glob("checkpoint*")],
    }


def whole_and_continued(root: Path) -> dict[str, Any]:
    """Train to the end; again, but stopped and continued after the phase change; what each left."""
    from loop import train

    from nnunetv2_mstkd.trainers.base import unwrap

    found: dict[str, Any] = {}
    for run, stops in (("whole", ()), ("continued", (3,))):
        os.environ |= {"nnUNet_results": str(root / run)}
        for epochs in (*stops, None):
            trainer = make("nnUNetTrainerMSTKD", settings={"gradient_shares_every": 1})
            trainer.objective_config = with_low_caps(trainer.objective_config)
            latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
            if latest.exists():
                trainer.load_checkpoint(str(latest))
            masks, step = [], trainer.train_step
            trainer.train_step = lambda batch, seen=masks, step=step: (
                seen.append(batch["modality_mask"]) or step(batch)
            )
            train(trainer, epochs)
            if dist.is_initialized():
                dist.barrier()
        found[run] = {
            "weights": unwrap(trainer.network).state_dict(),
            "bounds": trainer.bounds.scales,
            "masks": torch.stack(masks),
            "history": trainer.history.epochs,
            "losses": trainer.logger.get_value("train_losses", None),
        }
    return found


def with_low_caps(config: Callable[[], Any]) -> Callable[[], Any]:
    """Caps that the terms exceed: their factors are at work, and have to be the same in all processes."""
    return lambda: replace(config(), caps={"kl": 1e-5, "content": 1e-5, "gram": 1e-5})


def validation(rank: int, regions: bool) -> dict[str, Any]:
    """Online validation in which the samples of rank 1 show two subsets, those of rank 0 one.

    Dice over the batch gathers from all processes, and DDP sends statistics of batch norms to all.
    """
    from nnunetv2_mstkd.transforms.modality_masking import BATCH_AVAILABLE_KEY

    trainer = make("nnUNetTrainerModalityDropout", regions=regions, batch_dice=True)
    trainer.initialize()
    trainer.network.module.register_buffer("statistics", torch.zeros(1))
    data, _, target = global_batch(regions)
    part = slice(rank * trainer.batch_size, (rank + 1) * trainer.batch_size)
    available = torch.ones(trainer.batch_size, 4, dtype=torch.bool)
    if rank == 1:
        available[0] = torch.tensor([True, False, False, False])
    trainer.network.eval()
    trainer.on_validation_epoch_start()
    batch = {"data": data[part], "target": [t[part] for t in target], BATCH_AVAILABLE_KEY: available}
    with torch.no_grad():
        outputs = [trainer.validation_step(batch) for _ in range(2)]
    trainer.on_validation_epoch_end(outputs)
    return {
        "parts": [len(output["parts"]) for output in outputs],
        "dice": trainer.logger.get_value("mean_fg_dice", None)[0],
        "gathers": [m.ddp for m in trainer.loss.modules() if hasattr(m, "ddp")],
        "wrapped": isinstance(trainer.network, nn.parallel.DistributedDataParallel),
    }


def refusal(name: str, **settings: str) -> str:
    try:
        make(name, settings=settings).initialize()
    except MSTKDError as error:
        return str(error)
    return ""


def main(rank: int, world: int, root: Path) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "nnUNet_n_proc_DA": "0",
        "nnUNet_raw": str(root / "raw"),
        "nnUNet_preprocessed": str(root / "preprocessed"),
        "nnUNet_results": str(root / f"results_{world}_{rank}"),
    }
    if world > 1:
        from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet

        dist.init_process_group("gloo", f"file://{root}/rendezvous", rank=rank, world_size=world)
        nnunet.DDP = lambda network, device_ids: nn.parallel.DistributedDataParallel(network)
    found = {case: one_step(rank, world, root, *options) for case, options in GRADIENT_CASES.items()}
    if world > 1:
        found["official"] = refusal("nnUNetTrainerMSTKDOfficial")
        found["skip"] = refusal("nnUNetTrainerMSTKD", teacher_on_incomplete="skip")
        found["validation"] = {regions: validation(rank, regions) for regions in (True, False)}
        found["training"] = whole_and_continued(root)
        dist.destroy_process_group()
    torch.save(found, root / f"{world}_{rank}.pth")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
