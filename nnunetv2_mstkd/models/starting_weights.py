"""Weights that a training starts from: of nnU-Net's checkpoints, and of nnssl's pre-training (OpenMind)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunetv2_mstkd.architectures.shapes import input_convolutions
from nnunetv2_mstkd.architectures.starting_weights import (
    ABSENT,
    Fitted,
    Shares,
    fit_weights,
    input_channels_in,
    knows_modalities,
    names_of_tensors,
)
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.models.checkpoint_files import safe_load
from nnunetv2_mstkd.models.folder import (
    FINAL_CHECKPOINT,
    Fold,
    dataset_modalities,
    open_model_folder,
    read_dataset_json,
)

# nnU-Net never transfers the segmentation heads.
HEADS = ".seg_layers."
_TOKENS = "tokens.transformer.patch_embedding.weight"
# The key by which nnssl's files are known, and how dynamic_network_architectures names the parts.
ADAPTATION_PLAN = "nnssl_adaptation_plan"
_ENCODER, _STEM = "encoder.stages", "encoder.stem"


@dataclass(frozen=True)
class StartingWeights:
    """The content of a checkpoint, as far as another training may start from it.

    Attributes:
        origin: file, for messages.
        tensors: by their names in nnU-Net's networks.
        dataset_json: that the network was trained with; ``None`` where nobody says.
        encoder_only: only the encoder is meant to be taken.
        training: data set and fold that it was trained on; ``None`` where nobody says.
    """

    origin: str
    tensors: Mapping[str, Tensor]
    dataset_json: Mapping[str, Any] | None = None
    encoder_only: bool = False
    training: tuple[str, str] | None = None

    @property
    def modalities(self) -> tuple[str, ...] | None:
        """Names of the input channels in their order; ``None`` if unknown."""
        return None if self.dataset_json is None else dataset_modalities(self.dataset_json)


@dataclass(frozen=True)
class Start:
    """How a network starts.

    Attributes:
        values: for the network's tensors, by the first name of each.
        lines: for the log: what was taken and what was left, in numbers.
        left: names of the tensors that keep their own values.
        unused: names in the source that the network has no place for.
        as_it_is: nnU-Net's own ``-pretrained_weights`` does the same with the file.
    """

    values: Mapping[str, Tensor]
    lines: tuple[str, ...]
    left: tuple[str, ...]
    unused: tuple[str, ...]
    as_it_is: bool


def existing(source: Path) -> Path:
    """``source``, a model folder or a file.

    Raises:
        MSTKDError: there is neither.
    """
    if not source.exists():
        raise MSTKDError(f"starting weights not found: {source}; give a model folder or a checkpoint (.pth)")
    return source


def checkpoint_of(source: Path, wanted: Fold | None, own: Fold, checkpoint: str | None = None) -> Path:
    """The file that the weights are in.

    Args:
        source: a model folder, or a file.
        wanted: fold of the model folder; ``None`` is the fold that is trained, or the only one there is.
        own: fold that is trained.
        checkpoint: name of the file in the fold's folder; by default checkpoint_final.pth.

    Raises:
        MSTKDError: there is no such model, fold or file.
    """
    if existing(source).is_file():
        return source
    model, name = open_model_folder(source), checkpoint or FINAL_CHECKPOINT
    there = [path.parent.name.removeprefix("fold_") for path in model.path.glob(f"fold_*/{name}")]
    fold = wanted
    if fold is None:
        fold = there[0] if len(there) == 1 and str(own) not in there else own
    model.folds((fold,), name, "choose with plan --init-fold and --init-checkpoint")
    return model.path / f"fold_{fold}" / name


def read_starting_weights(file: Path) -> StartingWeights:
    """Read a checkpoint safely.

    Raises:
        MSTKDError: the file holds more than nnU-Net stores, is no checkpoint, or is of a network that none of
            nnU-Net's can start from.
    """
    content = safe_load(file)
    tensors = content.get("network_weights")
    if not isinstance(tensors, Mapping):
        raise MSTKDError(f"{file} has no 'network_weights'; it is not a checkpoint of nnU-Net's training")
    if ADAPTATION_PLAN in content:
        return StartingWeights(str(file), _encoder_of(file, content), encoder_only=True)
    given = content.get("init_args")
    arguments = given if isinstance(given, Mapping) else {}
    plans, trained = arguments.get("plans"), None
    if isinstance(plans, Mapping):
        trained = str(plans.get("dataset_name")), str(arguments.get("fold"))
    return StartingWeights(str(file), tensors, _dataset_json(file, arguments), training=trained)


def model_folder_of(file: Path) -> Path | None:
    """The model folder that a checkpoint lies in, if it does."""
    folder = file.resolve().parent.parent
    return folder if all((folder / name).is_file() for name in ("dataset.json", "plans.json")) else None


def _dataset_json(file: Path, arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Of the model folder that the file lies in, or as the training kept it in the file."""
    folder = model_folder_of(file)
    if folder is not None:
        return read_dataset_json(folder / "dataset.json")
    kept = arguments.get("dataset_json")
    return kept if isinstance(kept, Mapping) and "labels" in kept else None


def _encoder_of(file: Path, content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The encoder of a pre-trained network of nnssl, under nnU-Net's names.

    The adaptation plan says under which names stem and stages are. What was pre-trained behind them
    (a decoder that fills in, projections) is not meant for a segmentation: nnssl's own fine-tuning leaves it.
    """
    plan = content[ADAPTATION_PLAN]
    try:
        architecture = str(plan["architecture_plans"]["arch_class_name"])
        stages, stem = str(plan["key_to_encoder"]), plan.get("key_to_stem")
    except (KeyError, TypeError, AttributeError):
        raise MSTKDError(f"{file} has an adaptation plan without its keys; it is not nnssl's") from None
    renamed = {f"{stages}.": f"{_ENCODER}."}
    if stem is not None and not f"{stem}.".startswith(f"{stages}."):
        renamed[f"{stem}."] = f"{_STEM}."
    tensors = {
        new + name.removeprefix(old): tensor
        for old, new in renamed.items()
        for name, tensor in content["network_weights"].items()
        if name.startswith(old)
    }
    if not any(name.startswith(f"{_ENCODER}.0.") for name in tensors):
        raise MSTKDError(
            f"{file} is a pre-trained {architecture}, which has no stages of convolutions for a U-Net to"
            " start from; take one of a residual encoder (ResEncL)"
        )
    return tensors


# nnssl's name for dynamic_network_architectures' ResidualEncoderUNet of this shape.
_RES_ENC_L: dict[str, Any] = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 5],
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": [1] * 5,
    "conv_bias": True,
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
_UNETS = "dynamic_network_architectures.architectures.unet"


def planned_architecture(file: Path) -> tuple[dict[str, Any], tuple[int, ...]] | None:
    """The network of a pre-training of nnssl, as a plans file names it, and the patch recommended for it.

    Returns:
        ``None`` for other files, and for networks that only their own code knows.

    Raises:
        MSTKDError: see :func:`read_starting_weights`.
    """
    content = safe_load(file)
    plan = content.get(ADAPTATION_PLAN)
    if plan is None:
        return None
    _encoder_of(file, content)
    described = plan["architecture_plans"]
    name, kwargs = described["arch_class_name"], described.get("arch_kwargs")
    if name == "ResEncL":
        name, kwargs = "ResidualEncoderUNet", _RES_ENC_L
    patch = plan.get("recommended_downstream_patchsize")
    if kwargs is None or patch is None:
        return None
    architecture = {
        "network_class_name": f"{_UNETS}.{name}",
        "arch_kwargs": dict(kwargs),
        "_kw_requires_import": list(
            described.get("arch_kwargs_requiring_import") or ("conv_op", "norm_op", "dropout_op", "nonlin")
        ),
    }
    return architecture, tuple(int(length) for length in patch)


# ---------------------------------------------------------------- input channels


def channel_shares(
    theirs: Sequence[str] | None, number: int, ours: Sequence[str], own_number: int, origin: str
) -> tuple[Shares, str]:
    """How the kernels of our input channels are made of theirs, and that in words.

    Channels beyond the modalities are those of a cascade's previous stage.

    Args:
        theirs: their modalities in channel order; ``None`` if unknown.
        number: their input channels.
        ours: our modalities.
        own_number: our input channels.
        origin: for the message.

    Raises:
        MSTKDError: nothing says which of their channels are ours.
    """
    modalities = number if theirs is None else len(theirs)
    if theirs is None and number == own_number:
        return _rows([{i: 1.0} for i in range(number)], number), "in the order of the file, which names none"
    if modalities == 1:
        rows = [{0: 1 / len(ours)}] * len(ours)
        words = f"the only one ({theirs[0] if theirs else 'not named'})"
        words += f" repeated for {', '.join(ours)} and divided by {len(ours)}" if len(ours) > 1 else ""
    elif theirs is None:
        raise MSTKDError(
            f"{origin} does not name its {number} input channels, and here are {own_number}"
            f" ({', '.join(ours)}); give a checkpoint in its model folder, whose dataset.json names them"
        )
    else:
        rows, words = _by_name(theirs, ours, origin)
    extra, own_extra = number - modalities, own_number - len(ours)
    rows = [*rows, *({modalities + i: 1.0} if extra == own_extra else {} for i in range(own_extra))]
    if own_extra and extra != own_extra:
        words += "; those of the previous stage are left as they are"
    return _rows(rows, number), words


def _by_name(theirs: Sequence[str], ours: Sequence[str], origin: str) -> tuple[list[dict[int, float]], str]:
    place = {name.lower(): channel for channel, name in enumerate(theirs)}
    named = [name for name in ours if name.lower() in place]
    others = [name for name in ours if name.lower() not in place]
    if not named:
        raise MSTKDError(
            f"{origin} is of a network for {', '.join(theirs)}, and none of these is here"
            f" ({', '.join(ours)}); rename channel_names in a dataset.json, or start from one with a single"
            " channel"
        )
    mean = dict.fromkeys(range(len(theirs)), 1 / len(theirs))
    rows = [{place[name.lower()]: 1.0} if name in named else mean for name in ours]
    words = f"{', '.join(named)} by name"
    if others:
        words += f"; {', '.join(others)} from the mean of {', '.join(theirs)}"
    unused = [name for name in theirs if name.lower() not in {own.lower() for own in ours}]
    if unused and not others:
        words += f"; {', '.join(unused)} of the source not used"
    return rows, words


def _rows(rows: Sequence[Mapping[int, float]], number: int) -> Shares:
    return [[row.get(other, 0.0) for other in range(number)] for row in rows]


# ---------------------------------------------------------------- fitting


def start_network(
    network: nn.Module,
    source: StartingWeights,
    dataset_json: Mapping[str, Any],
    input_shape: Sequence[int],
    *,
    heads: bool = True,
) -> Start:
    """Find out what a network starts from.

    Args:
        network: on any device, the meta device included; not changed.
        source: the weights.
        dataset_json: of the data set to train on.
        input_shape: (B, C, ...) that the network takes.
        heads: take the segmentation heads where the labels are the same.

    Raises:
        MSTKDError: the weights do not fit, or nothing says which of their channels are ours.
    """
    ours, words = dataset_modalities(dataset_json), None
    weights, number = dict(source.tensors), input_channels_in(network, source.tensors, input_shape)
    shares = None
    if number is not None:
        shares, words = channel_shares(source.modalities, number, ours, input_shape[1], source.origin)
    elif source.modalities not in (None, ours) and not input_convolutions(network, input_shape):
        raise MSTKDError(
            f"{source.origin} is of a network for {', '.join(source.modalities or ())}, and this network has"
            f" parts for each of {', '.join(ours)}: none can be made of the others; start from a model of the"
            " same modalities"
        )
    same_labels = heads and _labels(source.dataset_json) == _labels(dataset_json)
    if not same_labels:
        weights = {name: tensor for name, tensor in weights.items() if HEADS not in name}
    fitted = fit_weights(network, weights, shares, input_shape)
    _check(source, fitted, weights)
    reason = "not asked for" if not heads else "other labels, or none known"
    unchanged = shares is None or all(row == _unit(i, len(row)) for i, row in enumerate(shares))
    return Start(
        fitted.values,
        tuple(_lines(network, source, fitted, words, None if same_labels else reason)),
        tuple(fitted.left),
        tuple(sorted(set(source.tensors) - fitted.used)),
        unchanged and not _missing(network, source.tensors),
    )


def _unit(place: int, length: int) -> list[float]:
    return [float(i == place) for i in range(length)]


def _missing(network: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Names that nnU-Net would look for and not find."""
    return [name for name in network.state_dict() if name not in weights and HEADS not in name]


def _labels(dataset_json: Mapping[str, Any] | None) -> Any:
    """Labels in the order of the heads; never equal to another's where they are unknown."""
    if dataset_json is None:
        return object()
    return list(dataset_json["labels"].items()), dataset_json.get("regions_class_order")


def _check(source: StartingWeights, fitted: Fitted, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights of another network; heads, settings' parts and what follows an encoder may be left."""
    for name, reason in fitted.left.items():
        if HEADS in name or knows_modalities(name):
            continue
        if source.encoder_only and not name.startswith((f"{_ENCODER}.", f"{_STEM}.")):
            continue
        if reason == ABSENT:
            raise MSTKDError(
                f"{source.origin} does not fit: it has no {name}; it is of another kind of network"
            )
        raise MSTKDError(_misfit(source.origin, name, reason, weights))
    if source.encoder_only and not fitted.values:
        raise MSTKDError(f"{source.origin} does not fit: this network has no {_ENCODER}")


def _misfit(origin: str, name: str, shapes: str, weights: Mapping[str, Tensor]) -> str:
    said = f"{origin} does not fit: {name} is {shapes}"
    if name != _TOKENS:
        return f"{said}; plan with the sizes of its network (--max-stages, ...)"
    patch = " ".join(str(n) for n in weights[name].shape[2:])
    return f"{said}; its tokens need nnUNetv2_mstkd plan --token-patch {patch}"


def _lines(
    network: nn.Module, source: StartingWeights, fitted: Fitted, channels: str | None, no_heads: str | None
) -> Iterator[str]:
    sizes = {names[0]: own.numel() for own, names in names_of_tensors(network)}
    everything = max(sum(sizes.values()), 1)
    taken = sum(sizes[name] for name in fitted.values)
    part = " (the encoder of a pre-trained network)" if source.encoder_only else ""
    yield (
        f"Starting weights: {source.origin}{part}: {len(fitted.values)} of {len(sizes)} tensors,"
        f" {taken / everything:.1%} of the network's values, are taken."
    )
    if channels is not None:
        yield f"Input channels: {channels}."
    kinds: dict[str, list[str]] = {}
    for name in fitted.left:
        kind = f"segmentation heads ({no_heads or 'other shapes'})" if HEADS in name else "decoder"
        kinds.setdefault(knows_modalities(name) or kind, []).append(name)
    for kind, names in kinds.items():
        share = sum(sizes[name] for name in names) / everything
        yield f"Left as they were: {len(names)} tensors, {share:.1%} of the values: {kind}."
    unused = len(set(source.tensors) - fitted.used)
    if unused:
        yield f"Not used: {unused} of {len(source.tensors)} names of the file."
    differing = _differing(network, source.tensors)
    if differing:
        yield (
            f"WARNING: {differing} tensors of the file have several names with different values (a sparse"
            " pre-training leaves untrained copies); those under all_modules, which a pass uses, are taken"
        )


def _differing(network: nn.Module, weights: Mapping[str, Tensor]) -> int:
    def differ(names: Sequence[str]) -> bool:
        there = [weights[name] for name in names if name in weights]
        return any(other is not there[0] and not there[0].equal(other) for other in there)

    return sum(differ(names) for _, names in names_of_tensors(network))
