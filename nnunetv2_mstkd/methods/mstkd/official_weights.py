"""Names of the weights in the authors' checkpoints, and loading them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn
from torch.nn.modules.conv import _ConvNd

from nnunetv2_mstkd.methods.mstkd.official_decoder import ConvUnit


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
