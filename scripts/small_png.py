"""Makes screenshots small: a PNG with a palette of 256 colours, which is all that the pages need."""

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = 256
RGB = 3
"""Bytes of a pixel."""
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4
"""The filters of a row."""


def small(png: bytes) -> bytes:
    """Return a PNG of 8-bit RGB, as Chromium makes it, with a palette. Rare colours become the nearest frequent one.

    Raises:
        ValueError: if it is another kind of PNG.
    """
    parts = dict(_chunks(png))
    width, height, *kind = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    if kind != [8, 2, 0, 0, 0]:
        raise ValueError("the image has not 8-bit RGB without interlacing")
    rows = list(_rows(zlib.decompress(parts[b"IDAT"]), width * RGB))
    pixels = [[row[at : at + RGB] for at in range(0, len(row), RGB)] for row in rows]
    counts = Counter(pixel for row in pixels for pixel in row)
    palette = [colour for colour, _ in counts.most_common(COLOURS)]

    @cache
    def index(colour: bytes) -> int:
        return min(
            range(len(palette)), key=lambda at: sum((a - b) ** 2 for a, b in zip(palette[at], colour, strict=True))
        )

    known = {colour: at for at, colour in enumerate(palette)}
    lines = b"".join(b"\0" + bytes([known[each] if each in known else index(each) for each in row]) for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    written = {b"IHDR": header, b"PLTE": b"".join(palette), b"IDAT": zlib.compress(lines, 9), b"IEND": b""}
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in written.items())


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the names and contents of the chunks. Those of the pixels are joined."""
    at, pixels = len(SIGNATURE), b""
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if name == b"IDAT":
            pixels += data
        else:
            yield name, data
        at += length + 12
    yield b"IDAT", pixels


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _rows(data: bytes, length: int) -> Iterator[bytes]:
    """Yield the rows without their filters (PNG, section 9)."""
    above = bytes(length)
    for start in range(0, len(data), length + 1):
        row, kind = bytearray(data[start + 1 : start + 1 + length]), data[start]
        for at in range(length if kind else 0):
            left = row[at - RGB] if at >= RGB else 0
            corner = above[at - RGB] if at >= RGB else 0
            row[at] = (row[at] + _predicted(kind, left, above[at], corner)) & 255
        above = bytes(row)
        yield above


def _predicted(kind: int, left: int, above: int, corner: int) -> int:
    if kind == PAETH:
        near = left + above - corner
        return min((abs(near - left), 0, left), (abs(near - above), 1, above), (abs(near - corner), 2, corner))[2]
    return {SUB: left, UP: above, AVERAGE: (left + above) // 2}[kind]


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))
