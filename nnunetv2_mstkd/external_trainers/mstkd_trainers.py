"""What ``nnUNet_extTrainer`` points at: the trainers by name, imported from where they live.

nnU-Net imports every module of an external folder under a throw-away alias; classes that are only
re-exported here keep their real module, so they can be pickled into worker processes. It asks the module for
one name; handing that on imports this one trainer and no other.
"""

from nnunetv2_mstkd.methods import __all__, __dir__, __getattr__  # noqa: F401
