"""Where things are, whatever folder a test is moved to."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DATA = TESTS / "data"  # golden values
SHARED = (ROOT / ".." / "shared").resolve()  # real data that is not in the repository; it may be absent
