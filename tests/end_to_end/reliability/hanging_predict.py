"""``nnUNetv2_mstkd predict`` that stops with half of one segmentation on the disk.

    python hanging_predict.py CASE MARKER ARGUMENTS...

It makes the file MARKER there and waits for its end.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_mstkd.cli import main

case, marker, *arguments = sys.argv[1:]
write = SimpleITKIO.write_seg


def half(self, array, path, properties):
    write(self, array, path, properties)
    if case in path:
        os.truncate(path, os.path.getsize(path) // 2)
        Path(marker).touch()
        time.sleep(600)


SimpleITKIO.write_seg = half
sys.exit(main(["predict", *arguments]))
