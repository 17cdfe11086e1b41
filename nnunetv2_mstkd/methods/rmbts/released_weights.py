"""Names of the weights in the authors' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

_MODALITIES = ("flair", "t1c", "t1", "t2")  # in the order of channels
_UNITS = {"first": "c1", "second": "c2", "third": "c3", "up": "c1", "merge": "c2", "out": "out"}
_TENSORFLOW_SCOPE = "Model/"
_TENSORFLOW_RENAMES = {
    rf"^{_TENSORFLOW_SCOPE}": "",
    r"^(se|image_de)_([a-z0-9]+)_*/": r"\1_\2/",
    r"/MLP/": "/mlp/",
    r"/adaptive_resblock(\d)/res(\d)/conv3d/conv3d/": r"/res_\1/conv\2/conv/",
    r"/conv3d/": "/conv/",
    r"/dense/": "/linear/",
    r"/instance_norm/InstanceNorm/": "/norm/",
    r"/(kernel|gamma)$": "/weight",
    r"/beta$": "/bias",
    r"/": ".",
}
_OPTIMIZER_SLOT = re.compile(r"/Adam(_\d+)?$")


def released_names(network: nn.Module) -> dict[str, str]:
    """Key in our state dict → the authors' name of that weight, their scopes joined by dots.

    Args:
        network: with the released number of modalities; others get names that no checkpoint has.
    """
    renames: dict[str, str | Callable[[re.Match[str]], str]] = {
        r"^encoder\.(\d)\.(\d+)\.(\w+)": lambda f: f"ce_{_modality(f[2])}.e{int(f[1]) + 1}_{_UNITS[f[3]]}",
        r"^fusions\.(\d)\.gate": lambda f: f"att_c{int(f[1]) + 1}",
        r"^fusions\.(\d)\.mix": lambda f: f"fusion_c{int(f[1]) + 1}",
        r"^decoder\.steps\.(\d)\.(\w+)": lambda f: f"mask_de.d{int(f[1]) + 1}_{_UNITS[f[2]]}",
        r"^decoder\.head": "mask_de.seg_logit.conv",
        r"^reconstruction\.head": "G_logit.conv",
        r"^reconstruction\.style_encoders\.(\d+)\.code": lambda f: f"se_{_modality(f[1])}.se_logit.conv",
        r"^reconstruction\.style_encoders\.(\d+)\.convs\.(\d)": lambda f: (
            f"se_{_modality(f[1])}.c_{f[2]}.conv"
        ),
        r"^reconstruction\.decoders\.(\d+)": lambda f: f"image_de_{_modality(f[1])}",
        r"\bmodulation\.hidden\.(\d)": lambda f: f"mlp.linear_{int(f[1]) // 2}.linear",
        r"\bmodulation\.gain": "mlp.mu.linear",
        r"\bmodulation\.shift": "mlp.sigma.linear",
        r"\bblocks\.(\d)\.first": r"res_\1.conv1.conv",
        r"\bblocks\.(\d)\.second": r"res_\1.conv2.conv",
        # Theirs count from the coarsest level.
        r"\bsteps\.(\d)\.conv": lambda f: f"conv_{2 - int(f[1])}.conv",
        r"\bsteps\.(\d)\.norm": lambda f: f"layer_norm_{2 - int(f[1])}",
    }
    names = {}
    for key in network.state_dict():
        name = key
        for pattern, replacement in renames.items():
            name = re.sub(pattern, replacement, name)
        names[key] = name
    return names


def from_tensorflow(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Variables of a TensorFlow checkpoint with dots for scopes and kernels in PyTorch's layout.

    Other state dicts stay as they are.

    Args:
        variables: arrays or tensors by name; the optimizer's are left out.
    """
    if not any(name.startswith(_TENSORFLOW_SCOPE) for name in variables):
        return dict(variables)
    converted = {}
    for variable, value in variables.items():
        if variable.startswith(_TENSORFLOW_SCOPE) and not _OPTIMIZER_SLOT.search(variable):
            name = variable
            for pattern, replacement in _TENSORFLOW_RENAMES.items():
                name = re.sub(pattern, replacement, name)
            tensor = torch.as_tensor(value)
            # (*kernel, in, out) → (out, in, *kernel)
            converted[name] = tensor.movedim((-1, -2), (0, 1)) if tensor.ndim > 1 else tensor
    return converted


def _modality(number: str) -> str:
    return dict(enumerate(_MODALITIES)).get(int(number), f"modality{number}")
