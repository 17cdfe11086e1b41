"""What ``nnUNet_extTrainer`` points at: the trainers by name, imported from where they live.

nnU-Net imports every module of an external folder under a throw-away alias; classes that are only
re-exported here keep their real module, so they can be pickled into worker processes.
"""

from nnunetv2_mstkd.trainers import *  # noqa: F403
