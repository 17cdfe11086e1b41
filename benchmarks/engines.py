"""What runs a network on the CPU: PyTorch as the package uses it, OpenVINO, ONNX Runtime, Inductor.

Time of a pass as a ratio to PlainConvUNet in PyTorch, time until the first result, the same less a pass in a
process that finds the network in the cache, peak memory of a process of its own, and how far the logits are
from PyTorch's or those in double precision. An engine that is not installed is left out: ``pip install
onnxruntime onnxscript`` for ONNX Runtime; Inductor needs a C++ compiler.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.errors import one_line_errors
from benchmarks.harness import compare, parser, publish, report, table
from benchmarks.networks import REFERENCE, Build, add_network_flags, builders, chosen, patch_of
from benchmarks.peak_memory import peak_of, printed_by
from benchmarks.plans import MODALITIES
from nnunetv2_mstkd.engines import ENGINES as OF_THE_PACKAGE
from nnunetv2_mstkd.engines import TORCH as PYTORCH
from nnunetv2_mstkd.engines.converted_models import FOLDER_VARIABLE
from nnunetv2_mstkd.engines.openvino_network import OpenVINONetwork

Pass = Callable[[], Tensor]


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("engines", "Networks on the CPU by several engines.", devices=("cpu",), repeats=3)
    add = options.add_argument
    add_network_flags(options)
    add("--networks", nargs="+", metavar="NAME", help="only these, beside PlainConvUNet")
    add(
        "--engines",
        nargs="+",
        choices=tuple(ENGINES),
        default=tuple(ENGINES),
        help="only these, beside torch",
    )
    add(
        "--only-memory", nargs=2, metavar=("NETWORK", "ENGINE"), help="print its peak memory in bytes and end"
    )
    add("--only-start", nargs=2, metavar=("NETWORK", "ENGINE"), help="print the seconds of its start and end")
    add("--exact", action="store_true", help="errors against double precision (32 GB at 128³), not torch")
    args = options.parse_args(arguments)
    patch = patch_of(args)
    x = torch.randn(1, len(MODALITIES), *patch, generator=torch.Generator().manual_seed(0))
    building = builders(patch, residual=args.residual, methods=args.methods)
    for wanted, number_of in ((args.only_memory, _peak_memory), (args.only_start, _start)):
        if wanted:
            name, engine = wanted
            print(number_of(chosen([name], building)[name], engine, x))
            return 0
    building = chosen([REFERENCE, *(args.networks or building)], building)
    pairs = [(name, engine) for name in building for engine in _engines_wanted(args)]
    # Before anything is large here: a new process begins with its parent's peak.
    with _new_cache():
        memory = {pair: _in_a_process_of_its_own("memory", int, *pair, args) for pair in pairs}
    with _new_cache():
        rows = [row for name, build in building.items() for row in measure(name, build, x, args)]
        kept = [pair for pair in pairs if pair[1] in OF_THE_PACKAGE]
        start = {pair: _in_a_process_of_its_own("start", float, *pair, args) for pair in kept}
    for row in rows:
        pair = row["network"], row["engine"]
        row |= {"memory_bytes": memory[pair], "start": start.get(pair)}
    reference = next(row["median"] for row in rows if (row["network"], row["engine"]) == (REFERENCE, PYTORCH))
    for row in rows:
        row["ratio"] = row["median"] and row["median"] / reference
    content = report("engines", "cpu", {"patch": list(patch), "rows": rows})
    header = (
        "network",
        "engine",
        "ready (s)",
        "cached (s)",
        "median (s)",
        "ratio",
        "to torch",
        "error",
        "peak (GiB)",
    )
    publish(content, table(header, [_cells(row) for row in rows]), args.json)
    return 0


def measure(name: str, build: Build, x: Tensor, args: Any) -> list[dict[str, Any]]:
    """One network by every engine, timed in turns: a row each."""
    passes: dict[str, Pass] = {}
    rows: dict[str, dict[str, Any]] = {}
    for engine in _engines_wanted(args):
        rows[engine] = {"network": name, "engine": engine, "median": None, "failure": None}
        start = time.perf_counter()
        try:
            run = ENGINES[engine].prepare(build(), x)
            run()
        except Exception as error:  # what an engine cannot do is a result, whatever it raises
            rows[engine]["failure"] = (str(error).strip() or type(error).__name__).splitlines()[0]
            continue
        passes[engine], rows[engine]["ready"] = run, time.perf_counter() - start
    timings = compare(passes, repeats=args.repeats)
    reference = timings[PYTORCH].result
    if args.exact:
        with torch.enable_grad():  # without shortcuts
            reference = build().double()(x.double())
    for engine, timing in timings.items():
        rows[engine] |= {
            "seconds": list(timing.seconds),
            "median": timing.median,
            "to_torch": timing.median / timings[PYTORCH].median,
            "error": float((timing.result.double() - reference).abs().max() / reference.std()),
        }
    return [*rows.values()]


def _engines_wanted(args: Any) -> list[str]:
    """The engines that are wanted and installed."""
    wanted = [engine for engine in ENGINES if engine == PYTORCH or engine in args.engines]
    return [engine for engine in wanted if all(find_spec(package) for package in ENGINES[engine].packages)]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row["failure"] is not None:
        return row["network"], row["engine"], row["failure"][:30], *["-"] * 6
    return (
        row["network"],
        row["engine"],
        f"{row['ready']:.1f}",
        "-" if row["start"] is None else f"{row['start']:.1f}",
        f"{row['median']:.3f}",
        f"{row['ratio']:.3f}",
        f"{row['to_torch']:.2f}",
        f"{row['error']:.1e}",
        "-" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**30:.2f}",
    )


def _peak_memory(build: Build, engine: str, x: Tensor) -> int:
    """Bytes of the network, of whatever makes it ready, and of two passes."""

    def work() -> None:
        run = ENGINES[engine].prepare(build(), x)
        for _ in range(2):
            run()

    return peak_of(work, "cpu")


def _start(build: Build, engine: str, x: Tensor) -> float:
    """Seconds from the network in memory to its first result, less those of a second pass."""
    network, times = build(), [time.perf_counter()]
    run = ENGINES[engine].prepare(network, x)
    for _ in range(2):
        run()
        times.append(time.perf_counter())
    return (times[1] - times[0]) - (times[2] - times[1])


def _in_a_process_of_its_own(
    what: str, number: type[int] | type[float], name: str, engine: str, args: Any
) -> float | None:
    arguments = [f"--only-{what}", name, engine, "--size", *map(str, args.size)]
    arguments += [f"--{flag}" for flag in ("residual", "methods") if getattr(args, flag)]
    try:
        return number(printed_by("engines", arguments))
    except CalledProcessError:  # what it cannot do is said where it is timed
        return None


@contextmanager
def _new_cache() -> Iterator[None]:
    """A folder for converted networks, of this process and of those that it starts."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {FOLDER_VARIABLE: folder}):
        yield


# ---------------------------------------------------------------- engines


@dataclass(frozen=True)
class Engine:
    """How a network is made ready for inputs like one, and which packages that needs."""

    prepare: Callable[[nn.Module, Tensor], Pass]
    packages: tuple[str, ...] = ()


def _torch(network: nn.Module, x: Tensor) -> Pass:
    return torch.inference_mode()(partial(network, x))


def _openvino(network: nn.Module, x: Tensor) -> Pass:
    """As the package has it."""
    engine = OpenVINONetwork(network, "", "network")

    def run() -> Tensor:
        logits: Tensor = engine(x)
        if not engine.converts:
            raise RuntimeError("not converted")
        return logits

    return torch.inference_mode()(run)


def _onnxruntime(network: nn.Module, x: Tensor) -> Pass:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    return lambda: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def _inductor(network: nn.Module, x: Tensor) -> Pass:
    """``torch.compile`` with constants folded in, in a cache that is new."""
    cache = "TORCHINDUCTOR_CACHE_DIR"
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {cache: folder}):
        compiled = torch.compile(network, options={"freezing": True})
        run = torch.no_grad()(partial(compiled, x))
        run()
    return run


ENGINES = {
    PYTORCH: Engine(_torch),
    "openvino": Engine(_openvino, ("openvino", "platformdirs")),
    "onnxruntime": Engine(_onnxruntime, ("onnxruntime", "onnxscript")),
    "inductor": Engine(_inductor),
}

if __name__ == "__main__":
    sys.exit(main())
