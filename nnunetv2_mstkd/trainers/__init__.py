"""nnU-Net's training loop with modalities masked; the trainers that it serves are in ``methods``."""
