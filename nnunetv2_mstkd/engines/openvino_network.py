"""A network that OpenVINO runs on the CPU: layers fused, memory planned ahead of the pass."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nnunetv2_mstkd.engines.converted_models import ConvertedModels, digest_of, opened_cache
from nnunetv2_mstkd.engines.staged_norms import with_staged_norms
from nnunetv2_mstkd.errors import MSTKDError

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

_MODEL_FILE = "network.xml"
_PACKAGES = ("nnunetv2-mstkd", "openvino", "torch", "dynamic-network-architectures")
# A compiled network keeps the memory of its pass. Five folds of small windows are kept at hand; of large ones
# compiling the next fold anew costs less than memory for all.
_SMALL_VOXELS = 2**18
_MOST_SMALL = 8


class OpenVINONetwork(nn.Module):
    """Stands in for a network in nnU-Net's predictor, and has OpenVINO compute it in float32.

    The network is converted at the first pass, for the shape of its input and the weights that are loaded
    then, and kept in the user's cache. Batches may later be smaller: they are filled up. What cannot be
    converted runs in PyTorch, and a warning says so.

    Args:
        network: in PyTorch, for one output; deep supervision off.
        described: what decides what it computes beside layers and weights, see :func:`digest_of`.
        name: of the model, in messages.
    """

    def __init__(self, network: nn.Module, described: str, name: str) -> None:
        super().__init__()
        self.network = network
        self.described, self.name = described, name
        self.converts = True
        self._weights: Mapping[str, Any] = network.state_dict()
        self._compiled: OrderedDict[tuple[int, tuple[int, ...]], openvino.CompiledModel] = OrderedDict()
        self._batch = 0  # the largest so far
        self._digests: dict[tuple[int, tuple[int, ...]], str] = {}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take the weights of a fold. They must live on: one that is known is told by its identity."""
        self._weights = state_dict
        if not self.converts:
            return self.network.load_state_dict(state_dict, *args, **kwargs)
        return None

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, heads, *patch) float32 of windows (B, C, *patch) float32 on the CPU."""
        compiled = self._compiled_for(self._filled_shape(x)) if self.converts else None
        if compiled is None:
            logits: Tensor = self.network(x)
            return logits
        missing = self._batch - len(x)
        filled = torch.cat((x, x.new_zeros(missing, *x.shape[1:]))) if missing else x.contiguous()
        return torch.from_numpy(compiled(filled.numpy())[0])[: len(x)]

    def _filled_shape(self, x: Tensor) -> tuple[int, ...]:
        self._batch = max(self._batch, len(x))
        return (self._batch, *x.shape[1:])

    def _compiled_for(self, shape: tuple[int, ...]) -> openvino.CompiledModel | None:
        key = id(self._weights), shape
        if key in self._compiled:
            self._compiled.move_to_end(key)
            return self._compiled[key]
        small = shape[0] * torch.Size(shape[2:]).numel() <= _SMALL_VOXELS
        while len(self._compiled) >= (_MOST_SMALL if small else 1):
            self._compiled.popitem(last=False)
        try:
            self._compiled[key] = self._read_or_convert(shape)
        # Whatever an operation without a counterpart raises: PyTorch and OpenVINO have errors of many kinds.
        except Exception as error:
            logger.debug("converting %s", self.name, exc_info=True)
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("%s cannot be converted for OpenVINO (%s); it runs in PyTorch", self.name, reason)
            self.converts = False
            self.network.load_state_dict(self._weights)
            return None
        return self._compiled[key]

    def _read_or_convert(self, shape: tuple[int, ...]) -> openvino.CompiledModel:
        if self._cache is None:
            return _compile(self._convert(shape))
        key = self._digest(shape)
        found = self._cache.find(key)
        if found is not None:
            try:
                return _compile(found / _MODEL_FILE)
            except Exception:  # RuntimeError of many kinds: the files are broken, or gone again
                logger.debug("reading %s", found, exc_info=True)
                self._cache.discard(key)
        model = self._convert(shape)
        try:
            kept = self._cache.add(key, lambda folder: _save(model, folder / _MODEL_FILE))
        except MSTKDError as error:
            logger.warning("the converted network is not kept: %s", error)
            return _compile(model)
        return _compile(kept / _MODEL_FILE)

    @cached_property
    def _cache(self) -> ConvertedModels | None:
        return opened_cache()

    def _digest(self, shape: tuple[int, ...]) -> str:
        """Digest with the present weights; read once, because large folds are compiled case by case."""
        of_fold = id(self._weights), shape
        if of_fold not in self._digests:
            self._digests[of_fold] = digest_of(self.network, self._weights, self.described, shape, _PACKAGES)
        return self._digests[of_fold]

    def _convert(self, shape: tuple[int, ...]) -> openvino.Model:
        import openvino

        logger.info("%s: converting for OpenVINO, once for these weights and this patch", self.name)
        start = time.perf_counter()
        # Outside inference mode, whose tensors an export cannot take.
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # A copy: OpenVINO takes the memory of the weights, and those of the next fold come into it.
            network = deepcopy(self.network)
            network.load_state_dict(self._weights)
            exported = torch.export.export(with_staged_norms(network), (torch.zeros(shape),), strict=False)
            with _root_logger_as_it_was():
                model = openvino.convert_model(exported)
        model.reshape(list(shape))
        logger.debug("converted in %.1f s", time.perf_counter() - start)
        return model


@contextmanager
def _root_logger_as_it_was() -> Iterator[None]:
    """OpenVINO's converter turns the root logger to errors only, and leaves it so where it fails."""
    root = logging.getLogger()
    level, filters, handlers = root.level, root.filters[:], root.handlers[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def _compile(model: openvino.Model | Path) -> openvino.CompiledModel:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    return openvino.Core().compile_model(model, "CPU", settings)


def _save(model: openvino.Model, path: Path) -> None:
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)
    for written in path.parent.iterdir():
        with written.open("rb+") as stream:
            os.fsync(stream.fileno())
