"""``preview/CASE.png``: the slice with most tumour in three planes, over every sequence that was used.

Drawn with Pillow, not with matplotlib: several threads write cases side by side, and a figure would take them
longer than all the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from nnunetv2_mstkd.datasets.regions import Regions, painting_order, region_colors, region_mask
from nnunetv2_mstkd.datasets.volumes import geometry_of, read_any
from nnunetv2_mstkd.errors import MSTKDError
from nnunetv2_mstkd.evaluation.figures.choice import BACKGROUNDS
from nnunetv2_mstkd.evaluation.figures.overlay import best_slice, grey, overlay
from nnunetv2_mstkd.evaluation.figures.volumes import OrientedVolume, oriented
from nnunetv2_mstkd.files import atomic_path
from nnunetv2_mstkd.inference.writing import PREVIEWS
from nnunetv2_mstkd.outputs.label_maps import LabelMap

STRIP = "nnunetv2-mstkd strip"  # key of the PNG's text that says where the first row is
_ALPHA = 0.35
_WIDTH, _GAP, _MARGIN = 960, 6, 10  # pixels: of the three planes together, between and around them
_INK, _MUTED, _PAPER = "#FFFFFF", "#A8B0B8", "#000000"
_LEFT = 26  # pixels before the planes: room for the patient's side
_LARGE, _SMALL, _LINE = 17, 14, 20  # pixels, heights of letters and of a small line
_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class _Plane:
    """One plane of the case: how a volume is cut, and how large a pixel is.

    Attributes:
        name: for people.
        index: cuts a volume (Z, Y, X).
        upside_down: rows count upwards.
        spacing: mm of rows and columns.
    """

    name: str
    index: tuple[int | slice, ...]
    upside_down: bool
    spacing: tuple[float, float]

    def cut(self, volume: np.ndarray) -> np.ndarray:
        """Return the slice as it is seen: patient's right at the left, front or top above."""
        part = volume[self.index]
        return part[::-1] if self.upside_down else part


def preview_file(folder: Path, case: str) -> Path:
    """Where a case's preview is."""
    return folder / PREVIEWS / f"{case}.png"


def write_preview(
    path: Path,
    case: str,
    segmentation: LabelMap,
    images: Mapping[str, Path],
    regions: Regions,
    notes: Sequence[str],
) -> None:
    """Draw a case.

    Args:
        path: the PNG.
        segmentation: as it was read.
        images: modality → file, those that the segmentation is based on.
        regions: name → label values in the file.
        notes: lines under the case's name.

    Raises:
        MSTKDError: an image cannot be read or lies on another grid.
    """
    arrays = {name: _on_grid_of(segmentation, images[name]) for name in _ordered(images)}
    labels = oriented(segmentation.image, grid=segmentation.grid)
    picture, strip = draw(case, labels, arrays, regions, notes)
    path.parent.mkdir(parents=True, exist_ok=True)
    information = PngInfo()
    information.add_text(STRIP, " ".join(map(str, strip)))
    with atomic_path(path) as temporary:
        picture.save(temporary, pnginfo=information)


def _on_grid_of(segmentation: LabelMap, path: Path) -> np.ndarray:
    """An image (Z, Y, X), oriented as the segmentation will be."""
    try:
        image = read_any(path)
    except MSTKDError as error:
        raise MSTKDError(f"no preview: {error}") from None
    if image.GetSize() != segmentation.image.GetSize():
        raise MSTKDError(f"no preview: {path} has another shape than the segmentation")
    difference = geometry_of(image).difference(geometry_of(segmentation.image)) if segmentation.grid else None
    if difference:
        raise MSTKDError(f"no preview: {path} and the segmentation differ in {difference}")
    return oriented(image).array


def _ordered(images: Mapping[str, Path]) -> list[str]:
    """Those in which tumour is seen best come first."""
    known = [name for name in BACKGROUNDS if name in images]
    return [*known, *(name for name in images if name not in known)]


def draw(
    case: str,
    labels: OrientedVolume,
    volumes: Mapping[str, np.ndarray],
    regions: Regions,
    notes: Sequence[str],
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Draw a row per sequence, a column per plane.

    Returns:
        The picture; and the box (left, top, right, bottom) of its first row.
    """
    box = _body(labels.array, volumes)
    array = labels.array[box]
    planes = _planes(array, regions, labels.spacing)
    colors = region_colors(list(regions))
    widths = [plane.spacing[1] * plane.cut(array).shape[1] for plane in planes]
    scale = (_WIDTH - _GAP * (len(planes) - 1)) / sum(widths)  # pixels per mm
    rows = [
        _row([_panel(plane, grey(volume[box]), array, scale, regions, colors) for plane in planes])
        for volume in volumes.values()
    ]
    top = _MARGIN + _LARGE + 8 + len(notes) * _LINE + 8
    each = _LINE + rows[0].height + _GAP
    size = (_LEFT + rows[0].width + _MARGIN, top + len(rows) * each + _LINE + 2 * _MARGIN)
    picture = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_LEFT, _MARGIN), case, fill=_INK, font=_font(_LARGE))
    for number, note in enumerate(notes):
        y = _MARGIN + _LARGE + 8 + number * _LINE
        pen.text((_LEFT, y), note, fill=_MUTED, font=_font(_SMALL))
    for number, (name, row) in enumerate(zip(volumes, rows, strict=True)):
        pen.text((_LEFT, top + number * each), name, fill=_INK, font=_font(_SMALL))
        picture.paste(row, (_LEFT, top + number * each + _LINE))
    first = top + _LINE
    if len(planes) > 1:
        middles = np.cumsum([0, *(width * scale + _GAP for width in widths)])[:3] + np.multiply(
            widths, scale / 2
        )
        for plane, x in zip(planes, middles, strict=True):
            pen.text((_LEFT + x, top), plane.name, fill=_MUTED, font=_font(_SMALL), anchor="ma")
    if labels.sides_known:
        middle = first + rows[0].height / 2
        pen.text((_LEFT / 2, middle), "R", fill=_INK, font=_font(_SMALL), anchor="mm")
    _add_legend(pen, picture.height - _LINE - _MARGIN, colors)
    return picture, (_LEFT, first, _LEFT + rows[0].width, first + rows[0].height)


def _body(labels: np.ndarray, volumes: Mapping[str, np.ndarray]) -> tuple[slice, ...]:
    """The box around everything that is not background, a little wider."""
    inside = labels != 0
    for volume in volumes.values():
        inside = inside | (volume != 0)
    if not inside.any():
        return (slice(None),) * 3
    sides = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        more = 2 if inside.shape[axis] > 1 else 0
        sides.append(slice(max(int(found[0]) - more, 0), int(found[-1]) + 1 + more))
    return tuple(sides)


def _planes(array: np.ndarray, regions: Regions, spacing: tuple[float, float, float]) -> list[_Plane]:
    """The slices of (Z, Y, X) that show most; one only where there is one."""
    z, y, x = (best_slice(np.moveaxis(array, axis, 0), regions) for axis in range(3))
    every = slice(None)
    planes = [
        _Plane(_PLANES[0], (z, every, every), False, spacing[1:]),
        _Plane(_PLANES[1], (every, y, every), True, (spacing[0], spacing[2])),
        _Plane(_PLANES[2], (every, every, x), True, spacing[:2]),
    ]
    return planes if len(array) > 1 else planes[:1]


def _row(panels: Sequence[Image.Image]) -> Image.Image:
    """Put the planes of one sequence side by side on one ground."""
    height = max(panel.height for panel in panels)
    row = Image.new("RGB", (sum(p.width for p in panels) + _GAP * (len(panels) - 1), height), _PAPER)
    left = 0
    for panel in panels:
        row.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + _GAP
    return row


def _panel(
    plane: _Plane,
    image: np.ndarray,
    labels: np.ndarray,
    scale: float,
    regions: Regions,
    colors: Mapping[str, str],
) -> Image.Image:
    """Paint one slice at its size in pixels, the outline of every region in full colour."""
    background, values = plane.cut(image), plane.cut(labels)
    size = tuple(
        max(1, round(n * mm * scale))
        for n, mm in zip(background.shape[::-1], plane.spacing[::-1], strict=True)
    )
    smooth = Image.fromarray(np.round(255 * background).astype(np.uint8)).resize(
        size, Image.Resampling.BILINEAR
    )
    blocks = np.asarray(Image.fromarray(values.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    painted = overlay(np.asarray(smooth) / 255, blocks, regions, colors, _ALPHA)
    for name in painting_order(regions):
        rim = _rim(region_mask(blocks, regions[name]))
        painted[rim] = [int(colors[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return Image.fromarray(np.round(255 * painted).astype(np.uint8))


def _rim(mask: np.ndarray) -> np.ndarray:
    """Mark the pixels of a mask (Y, X) that have a neighbour outside of it."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _add_legend(pen: ImageDraw.ImageDraw, y: int, colors: Mapping[str, str]) -> None:
    x, font = float(_LEFT), _font(_SMALL)
    for name, color in colors.items():
        pen.rectangle((x, y + 1, x + _SMALL, y + 1 + _SMALL), fill=color)
        pen.text((x + _SMALL + 6, y), name, fill=_INK, font=font)
        x += _SMALL + 6 + pen.textlength(name, font=font) + 22


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the figures: it comes with matplotlib, the same on every machine."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
