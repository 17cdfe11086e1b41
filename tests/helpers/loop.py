"""nnU-Net's training loop, with a way to stop as a killed process would."""

from __future__ import annotations

import torch


def losses(trainer) -> list[float]:
    return trainer.logger.get_value("train_losses", None)


def train(trainer, epochs: int | None = None):
    """Train to the end, or for ``epochs`` epochs without the end that nnU-Net gives a training."""
    trainer.on_train_start()
    last = trainer.num_epochs if epochs is None else trainer.current_epoch + epochs
    while trainer.current_epoch < last:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        steps = range(trainer.num_iterations_per_epoch)
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in steps])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            steps = range(trainer.num_val_iterations_per_epoch)
            trainer.on_validation_epoch_end(
                [trainer.validation_step(next(trainer.dataloader_val)) for _ in steps]
            )
        trainer.on_epoch_end()
    if epochs is None:
        trainer.on_train_end()
    return trainer
