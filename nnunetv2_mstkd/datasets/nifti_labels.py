"""Names and colours of labels inside a NIfTI file, where viewers look for them.

The header extension holds a Caret label table as XML, under code 0: what TotalSegmentator writes into its
multi-label files (``totalsegmentator/nifti_ext_header.py``, read at 398ff34). Readers that do not know it
step over it, as the format demands.
"""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree

from nnunetv2_mstkd.datasets.nifti import opened
from nnunetv2_mstkd.datasets.regions import NamedLabel
from nnunetv2_mstkd.errors import MSTKDError

_HEADER_BYTES, _BEGIN = 348, 352  # of nifti1.h; the four bytes between say whether extensions follow
_CODE = 0  # of the extension; nifti1_io.h has 30 for Caret, TotalSegmentator and its readers 0
_COMPRESSION = 6  # zlib's own default; Python's is 9, several times as slow for a few percent


def add_label_table(source: Path, target: Path, labels: Sequence[NamedLabel]) -> None:
    """Copy a NIfTI file, its header extended by a table of the labels.

    Args:
        source: ``.nii`` or ``.nii.gz``, NIfTI-1, header and voxels in one.
        target: ``.nii``, or ``.nii.gz``, which is compressed; the same content gives the same bytes.
        labels: may be empty; then there is no table.

    Raises:
        MSTKDError: the source is truncated or damaged.
        OSError: the target cannot be written.
    """
    try:
        _copy_with_table(source, target, labels)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise MSTKDError(f"{source} is truncated or damaged ({error})") from None


def _copy_with_table(source: Path, target: Path, labels: Sequence[NamedLabel]) -> None:
    with opened(source) as stream, target.open("wb") as file:
        head = stream.read(_BEGIN)
        order = next((order for order in "<>" if _is_nifti1(head, order)), None)
        if order is not None and labels:
            (offset,) = struct.unpack_from(f"{order}f", head, 108)
            earlier = stream.read(int(offset) - _BEGIN) if head[_HEADER_BYTES] else b""
            stream.seek(int(offset))
            head = _extended(head, order, earlier, label_table_xml(labels).encode("utf-8"))
        if not target.name.endswith(".gz"):
            _copy(head, stream, file)
            return
        with gzip.GzipFile("", "wb", _COMPRESSION, file, mtime=0) as compressed:
            _copy(head, stream, compressed)


def _is_nifti1(head: bytes, order: str) -> bool:
    whole = len(head) == _BEGIN and struct.unpack_from(f"{order}i", head)[0] == _HEADER_BYTES
    return whole and head[344:347] == b"n+1"


def _copy(head: bytes, stream: BinaryIO | gzip.GzipFile, file: BinaryIO | gzip.GzipFile) -> None:
    file.write(head)
    shutil.copyfileobj(stream, file, 1 << 20)


def _extended(head: bytes, order: str, earlier: bytes, content: bytes) -> bytes:
    """The header, its earlier extensions, and one more (a multiple of 16 bytes, as nifti1.h demands)."""
    size = -(-(len(content) + 8) // 16) * 16
    extension = struct.pack(f"{order}2i", size, _CODE) + content.ljust(size - 8)
    result = bytearray(head)
    struct.pack_into(f"{order}f", result, 108, float(_BEGIN + len(earlier) + size))
    result[_HEADER_BYTES] = 1
    return bytes(result) + earlier + extension


def label_table_xml(labels: Sequence[NamedLabel]) -> str:
    """Return the table as Caret's XML: a key, a name and red, green, blue of 0 to 1 for each label."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    table = ElementTree.SubElement(volume, "LabelTable")
    for label in labels:
        channels = (int(label.color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        colors = {n: f"{c:.6g}" for n, c in zip(("Red", "Green", "Blue"), channels, strict=True)}
        attributes = {"Key": str(label.value), **colors, "Alpha": "1"}
        ElementTree.SubElement(table, "Label", attributes).text = label.name
    ElementTree.SubElement(volume, "StudyMetaDataLinkSet")
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
