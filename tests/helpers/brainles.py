"""brainles-preprocessing in tests: a stand-in with its signatures, or the library where it is installed."""

import importlib.util
import inspect
import json
import runpy
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from places import TESTS

from nnunetv2_mstkd.cli import main

FAKE = TESTS / "helpers" / "fake_brainles"
REAL = importlib.util.find_spec("brainles_preprocessing") is not None
needs_library = pytest.mark.skipif(not REAL, reason="brainles-preprocessing is not installed")


@contextmanager
def stand_in(command, log, monkeypatch, capsys):
    """A function that runs ``command`` with the stand-in: code, output, what the library was asked for."""
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("FAKE_BRAINLES_LOG", str(log))
    _forget()  # the library itself, of an earlier test

    def run(*flags):
        capsys.readouterr()
        code = main([command, *map(str, flags)])
        captured = capsys.readouterr()
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        asked = [json.loads(line) for line in lines]
        return SimpleNamespace(code=code, out=captured.out, err=captured.err, asked=asked)

    yield run
    _forget()


def _forget():
    for name in [n for n in sys.modules if n.partition(".")[0] in ("brainles_preprocessing", "loguru")]:
        del sys.modules[name]


def assert_same_signatures(module, real, *methods):
    """The stand-in's class takes the parameters of the library's class."""
    fake = runpy.run_path(str(FAKE / "brainles_preprocessing" / f"{module}.py"))[real.__name__]
    for method in methods:
        ours, theirs = (list(inspect.signature(getattr(k, method)).parameters) for k in (fake, real))
        assert ours == theirs, f"{real.__name__}.{method}"
