"""``nnUNetv2_mstkd predict`` that stops with half of one segmentation on the disk.

    python hanging_predict.py CASE ARGUMENTS...

It prints ``half`` there and waits for its end.
"""

from __future__ import annotations

import os
import sys
import time

from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_mstkd.cli import main

case, *arguments = sys.argv[1:]
write = SimpleITKIO.write_seg


def half(self, array, path, properties):
    write(self, array, path, properties)
    if case in path:
        os.truncate(path, os.path.getsize(path) // 2)
        print("half", flush=True, file=sys.__stdout__)  # predict keeps what libraries print from the user
        time.sleep(600)


SimpleITKIO.write_seg = half
sys.exit(main(["predict", *arguments]))
