"""Panels side by side with their captions, and the legend: what one picture is made of."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from kdcache.errors import readable
from kdcache.pictures.panels import COLOURS

PAPER, INK, PALE = (255, 255, 255), (20, 20, 20), (105, 105, 105)
GAP = 12
NARROWEST = 230  # of a column: captions need room
MOST_ACROSS = 6  # columns side by side; more go below
_TITLE, _TEXT = 20, 15  # font sizes
_LINE = 1.3  # of the font's size


@dataclass(frozen=True, kw_only=True)
class Column:
    """What one of them says: its name, a line of numbers, panels one below the other."""

    name: str
    numbers: str
    panels: tuple[Image.Image, ...]


def picture(title: Sequence[str], columns: Sequence[Column], legend: Sequence[str]) -> Image.Image:
    """Columns side by side below a title, the legend at the bottom."""
    bands = [columns[start : start + MOST_ACROSS] for start in range(0, len(columns), MOST_ACROSS)]
    drawn = [_titled(title), *(_side_by_side(band) for band in bands), _legend(legend)]
    return _below(drawn)


def contact_sheet(
    title: str, rows: Sequence[tuple[str, Sequence[Column]]], legend: Sequence[str]
) -> Image.Image:
    """A row a person, half as large: its title, then its columns' panels side by side."""
    drawn = [_titled([title])]
    for name, columns in rows:
        halved = [
            Column(
                name=column.name,
                numbers=column.numbers,
                panels=tuple(panel.reduce(2) for panel in column.panels),
            )
            for column in columns
        ]
        drawn += [_text_line(name, _TEXT, INK), _side_by_side(halved)]
    return _below([*drawn, _legend(legend)])


def png_bytes(image: Image.Image) -> bytes:
    """A whole PNG file."""
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=False, compress_level=6)
    return written.getvalue()


def _side_by_side(columns: Sequence[Column]) -> Image.Image:
    drawn = [_column(column) for column in columns]
    width = sum(one.width for one in drawn) + GAP * (len(drawn) - 1)
    paper = Image.new("RGB", (width, max(one.height for one in drawn)), PAPER)
    x = 0
    for one in drawn:
        paper.paste(one, (x, 0))
        x += one.width + GAP
    return paper


def _column(column: Column) -> Image.Image:
    width = max(NARROWEST, *(panel.width for panel in column.panels))
    named = [_text_line(column.name, _TEXT + 1, INK, width)]
    named += [_text_line(column.numbers, _TEXT - 1, PALE, width)]
    height = sum(part.height for part in named) + sum(p.height + 4 for p in column.panels)
    paper = Image.new("RGB", (width, height), PAPER)
    y = 0
    for line in named:
        paper.paste(line, (0, y))
        y += line.height
    for panel in column.panels:
        paper.paste(panel, (0, y))
        y += panel.height + 4
    return paper


def _titled(lines: Sequence[str]) -> Image.Image:
    first = _text_line(lines[0], _TITLE, INK)
    return _below([first, *(_text_line(line, _TEXT, PALE) for line in lines[1:])], gap=0)


def _legend(lines: Sequence[str]) -> Image.Image:
    font, high = _font(_TEXT), int(_TEXT * _LINE)
    parts = [(f"{side} of the person", colour) for side, colour in COLOURS.items()]
    parts[-1] = ("middle", COLOURS["middle"])
    width = sum(high + 6 + _width(name, font) + 2 * GAP for name, _ in parts)
    keys = Image.new("RGB", (width, high + 4), PAPER)
    draw, x = ImageDraw.Draw(keys), 0
    for name, colour in parts:
        draw.rectangle((x, 3, x + high - 6, high - 3), fill=colour)
        draw.text((x + high + 2, 0), name, font=font, fill=INK)
        x += high + 6 + _width(name, font) + 2 * GAP
    return _below([keys, *(_text_line(line, _TEXT - 1, PALE) for line in lines)], gap=0)


def _below(parts: Sequence[Image.Image], gap: int = GAP) -> Image.Image:
    """One below the other, with a margin where there is a gap."""
    width = max(part.width for part in parts) + 2 * gap
    paper = Image.new("RGB", (width, sum(part.height + gap for part in parts) + gap), PAPER)
    y = gap
    for part in parts:
        paper.paste(part, (gap, y))
        y += part.height + gap
    return paper


def _text_line(text: str, size: int, colour: tuple[int, int, int], most: int = 0) -> Image.Image:
    """One line of text, cut where it is wider than `most` pixels (0: never)."""
    font, text = _font(size), readable(text).replace("\n", " ")
    if most and _width(text, font) > most:
        while text and _width(f"{text}..", font) > most:
            text = text[:-1]
        text += ".."
    line = Image.new("RGB", (max(1, _width(text, font)), int(size * _LINE) + 2), PAPER)
    ImageDraw.Draw(line).text((0, 0), text, font=font, fill=colour)
    return line


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # Pillow's own: the same everywhere


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(font.getlength(text)) + 2
