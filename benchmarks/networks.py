"""Time and peak memory of a forward pass without gradients, as ratios to nnU-Net's PlainConvUNet."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.errors import one_line_errors
from benchmarks.harness import Timing, compare, parser, publish, report, table
from benchmarks.peak_memory import peak_of, printed_by
from benchmarks.plans import MODALITIES, mstkd_architecture, stock_architecture
from nnunetv2_mstkd.architectures.shapes import run_on_meta
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.methods import METHODS

Build = Callable[[], nn.Module]

REFERENCE = "PlainConvUNet"
LIMITS = {"MSTKDNet official": 0.34, "MSTKDNet nnunet": 0.30}
_PLAINLY = ", as trained"
_HEADS = 4
_RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)  # nnU-Net's ResEnc presets


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("networks", "Forward passes as ratios to nnU-Net's PlainConvUNet.")
    add_network_flags(options)
    options.add_argument("--amp", action="store_true", help="under autocast to 16 bits (CUDA)")
    options.add_argument("--only-memory", metavar="NETWORK", help="print its peak memory in bytes and end")
    args = options.parse_args(arguments)
    patch = patch_of(args)
    building = builders(patch, residual=args.residual, methods=args.methods or bool(args.only_memory))
    shape = (1, len(MODALITIES), *patch)
    autocast = partial(torch.autocast, args.device) if args.amp else nullcontext
    if args.only_memory:
        build = chosen([args.only_memory], building)[args.only_memory]
        print(_peak_memory(build, shape, args.device, autocast))
        return 0
    memory = {name: _memory_in_a_process_of_its_own(name, args) for name in building}
    networks = {name: build().to(args.device) for name, build in building.items()}
    torch.manual_seed(0)
    x = torch.randn(shape, device=args.device)
    timings = measure(networks, x, args.repeats, args.device, autocast)
    rows = [_row(name, timings, networks, x.shape, memory) for name in timings]
    results = {"patch": list(patch), "amp": args.amp, "rows": rows}
    content = report("networks", args.device, results, packages=("dynamic-network-architectures",))
    sizes, times = ("parameters (M)", "multiply-adds (G)"), ("median (s)", "ratio", "goal")
    header = ("network", *sizes, *times, "difference", "peak memory (GiB)")
    publish(content, table(header, [_cells(row) for row in rows]), args.json)
    return 0


def add_network_flags(options: ArgumentParser) -> None:
    """The patch, and which networks."""
    add = options.add_argument
    add("--size", type=int, nargs="+", default=(128,), metavar="N", help="patch (default 128³)")
    add("--residual", action="store_true", help="ResidualEncoderUNet as well (slow)")
    add("--methods", action="store_true", help="the other methods' released networks as well (very slow)")


def patch_of(args: Namespace) -> tuple[int, ...]:
    """The patch of ``--size``: voxels of each axis, or of all three."""
    return tuple(args.size) * (3 if len(args.size) == 1 else 1)


def chosen(names: Iterable[str], building: Mapping[str, Build]) -> dict[str, Build]:
    """What builds the networks of some names, in the order of ``building``.

    Raises:
        MSTKDError: there is none of a name.
    """
    wanted = set(names)
    for name in wanted - set(building):
        raise MSTKDError(f"no network {name!r} here; choose from {', '.join(building)}")
    return {name: build for name, build in building.items() if name in wanted}


def builders(patch: Sequence[int], *, residual: bool = False, methods: bool = False) -> dict[str, Build]:
    """What builds each network, by name, in eval mode; of methods at the released widths and heads."""
    stock = stock_architecture(patch)
    architectures = {
        REFERENCE: stock,
        "MSTKDNet official": mstkd_architecture(patch, "official"),
        "MSTKDNet nnunet": mstkd_architecture(patch),
    }
    if residual:
        architectures[ResidualEncoderUNet.__name__] = _residual(stock)
    building: dict[str, Build] = {
        name: partial(_network, architecture) for name, architecture in architectures.items()
    }
    for folder in _other_methods() if methods else ():
        building[f"{folder} as released"] = partial(_released, folder, patch)
    return building


def _released(folder: str, patch: Sequence[int]) -> nn.Module:
    torch.manual_seed(0)
    module = import_module(f"nnunetv2_mstkd.methods.{folder}")
    network: nn.Module = module.released(patch, len(MODALITIES))
    return network.requires_grad_(False)


def _peak_memory(build: Build, shape: Sequence[int], device: str, autocast: Callable[[], Any]) -> int:
    """Bytes of the network, its input and two passes."""

    def work() -> None:
        network, x = build().to(device), torch.randn(*shape, device=device)
        with torch.no_grad(), autocast():
            for _ in range(2):
                network(x)

    return peak_of(work, device)


def _memory_in_a_process_of_its_own(name: str, args: Any) -> int:
    arguments = ["--only-memory", name, "--device", args.device, "--size", *map(str, args.size)]
    arguments += [f"--{flag}" for flag in ("amp", "residual") if getattr(args, flag)]
    return int(printed_by("networks", arguments))


def _other_methods() -> list[str]:
    """Folders of methods with a network of their own, beside MST-KDNet's."""
    folders = dict.fromkeys(m.module.split(".")[0] for m in METHODS if "." in m.module)
    return [folder for folder in folders if folder != "mstkd"]


def _residual(stock: dict[str, Any]) -> dict[str, Any]:
    kwargs = dict(stock["arch_kwargs"])
    stages = kwargs["n_stages"]
    del kwargs["n_conv_per_stage"]
    kwargs |= {
        "n_blocks_per_stage": list(_RESIDUAL_BLOCKS[:stages]),
        "n_conv_per_stage_decoder": [1] * (stages - 1),
    }
    name = f"{ResidualEncoderUNet.__module__}.{ResidualEncoderUNet.__qualname__}"
    return {**stock, "network_class_name": name, "arch_kwargs": kwargs}


def _network(architecture: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        len(MODALITIES),
        _HEADS,
        deep_supervision=False,
    )
    return network.eval().requires_grad_(False)


def measure(
    networks: dict[str, nn.Module],
    x: Tensor,
    repeats: int,
    device: str,
    autocast: Callable[[], Any] = nullcontext,
) -> dict[str, Timing]:
    """Forward passes in turns; MSTKDNet also the way it runs while gradients are taken."""

    def forward(network: nn.Module, grad: bool) -> Tensor:
        # No weight asks for a gradient here, so nothing is recorded: only the shortcuts are off.
        with torch.set_grad_enabled(grad), autocast():
            return network(x)

    functions = {}
    for name, network in networks.items():
        functions[name] = partial(forward, network, False)
        if name in LIMITS:
            functions[name + _PLAINLY] = partial(forward, network, True)
    return compare(functions, repeats=repeats, device=device)


def _row(
    name: str,
    timings: dict[str, Timing],
    networks: dict[str, nn.Module],
    shape: torch.Size,
    memory: dict[str, int],
) -> dict[str, Any]:
    network = networks[name.removesuffix(_PLAINLY)]
    with FlopCounterMode(display=False) as counter:
        run_on_meta(network, shape)
    row = {
        "network": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
        "seconds": list(timings[name].seconds),
        "median": timings[name].median,
        "ratio": timings[name].median / timings[REFERENCE].median,
        "ratio_of_fastest": min(timings[name].seconds) / min(timings[REFERENCE].seconds),
        "memory_bytes": memory.get(name),
    }
    if name in LIMITS:
        plainly = timings[name + _PLAINLY].result
        largest = (timings[name].result - plainly).abs().max() / plainly.std()
        row |= {"goal": LIMITS[name], "difference": float(largest)}
    return row


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["network"],
        f"{row['parameters'] / 1e6:.1f}",
        f"{row['multiply_adds'] / 1e9:.0f}",
        f"{row['median']:.3f}",
        f"{row['ratio']:.3f}",
        f"{row['goal']:.2f}" if "goal" in row else "-",
        f"{row['difference']:.1e}" if "difference" in row else "-",
        "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:.2f}",
    )


if __name__ == "__main__":
    sys.exit(main())
