"""Names of the weights in the authors' checkpoints, and loading them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.architectures.official_token_decoder import ConvUnit
from nnunetv2_mstkd.errors import MSTKDError

_LISTED = 4


def official_network_names(network: nn.Module) -> dict[str, str]:
    """Key in our state dict → key in the authors', for the official preset of MSTKDNet."""
    renames = _network_renames()
    names = {}
    for key in network.state_dict():
        name = _with_block_levels(network, key) if key.startswith("tokens.decoder.") else key
        for pattern, replacement in renames:
            name = pattern.sub(replacement, name)
        names[key] = name
    return names


def load_official(module: nn.Module, names: Mapping[str, str], state_dict: Mapping[str, Tensor]) -> None:
    """Load ``state_dict``, whose keys are the values of ``names``, into ``module``, whose keys are the keys.

    Raises:
        MSTKDError: keys are missing or unknown, or shapes differ; names the first few.
    """
    own = module.state_dict()
    expected = {names[key]: tuple(tensor.shape) for key, tensor in own.items()}
    shared = expected.keys() & state_dict.keys()
    problems = {
        "misses": sorted(expected.keys() - shared),
        "has unknown": sorted(state_dict.keys() - shared),
        "has another shape for": [
            f"{name} {tuple(state_dict[name].shape)} instead of {expected[name]}"
            for name in sorted(shared)
            if tuple(state_dict[name].shape) != expected[name]
        ],
    }
    found = [f"{what} {_some(items)}" for what, items in problems.items() if items]
    if found:
        raise MSTKDError(
            f"the checkpoint does not fit this {type(module).__name__}: it {'; it '.join(found)}; "
            "give the network's own state dict, and build it for the checkpoint's patch, channels and classes"
        )
    module.load_state_dict({key: state_dict[names[key]] for key in own})


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def _network_renames() -> list[tuple[re.Pattern[str], str]]:
    """Patterns and replacements, applied one after another."""
    return [(re.compile(pattern), replacement) for pattern, replacement in _patterns()]


def _patterns() -> Iterable[tuple[str, str]]:
    yield r"^encoder\.stages\.0\.conv", "conv1a"
    yield r"^encoder\.stages\.0\.blocks\.0", "conv1b"
    for stage in (1, 2, 3):
        yield rf"^encoder\.stages\.{stage}\.conv", f"ds{stage}"
        for block, letter in enumerate("ab"):
            yield rf"^encoder\.stages\.{stage}\.blocks\.{block}", f"conv{stage + 1}{letter}"
        yield rf"^decoder\.stages\.{stage - 1}\.reduce", f"up{5 - stage}conva"
        yield rf"^decoder\.stages\.{stage - 1}\.block", f"up{5 - stage}convb"
    for block, letter in enumerate("abcd"):
        yield rf"^content_blocks\.{block}", f"conv4{letter}"
    yield r"^style_conv", "convc"
    yield r"^merge_conv", "convco"
    yield r"^decoder\.seg_layers\.0", "up1conv"
    yield r"\.norm([12])\.", r".gn\1."

    yield r"^tokens\.transformer\.position_table", "Unetr.transformer.embeddings.position_embeddings"
    yield r"^tokens\.transformer\.patch_embedding", "Unetr.transformer.embeddings.patch_embeddings"
    yield r"^tokens\.transformer\.layers", "Unetr.transformer.layer"
    yield r"^tokens\.transformer\.encoder_norm", "Unetr.transformer.encoder_norm"
    yield r"\.attention\.", ".attn."
    yield r"\.mlp\.0\.", ".mlp.w_1."
    yield r"\.mlp\.3\.", ".mlp.w_2."

    # Where we always have a list of lifting units, theirs has the single one itself.
    yield r"^tokens\.decoder\.lift\.2\.0", "Unetr.decoder9"
    yield r"^tokens\.decoder\.lift_input", "Unetr.decoder0"
    yield r"^tokens\.decoder\.fuse_input", "Unetr.decoder0_header"
    for tap, layer in enumerate((3, 6, 9, 12)):
        yield rf"^tokens\.decoder\.lift\.{tap}", f"Unetr.decoder{layer}"
        yield rf"^tokens\.decoder\.fuse\.{tap}", f"Unetr.decoder{layer}_upsampler"


def _with_block_levels(network: nn.Module, key: str) -> str:
    """Put in the level ``block`` that wraps units and convolutions of the authors' token decoder."""
    parts: list[str] = []
    module = network
    for name in key.split(".")[:-1]:
        module = module.get_submodule(name)
        wrapped = isinstance(module, (ConvUnit, _ConvNd))
        parts += [name, "block"] if wrapped else [name]
    return ".".join([*parts, key.rpartition(".")[2]])
