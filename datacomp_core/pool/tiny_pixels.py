"""Imitates what the web does to images: saves them again, shrinks them to thumbnails, sets them in banners, mirrors them, or
renders only words.

Only JPEG is written, at a fixed sub-sampling: with one version of Pillow the bytes are the same on every machine.
"""

from __future__ import annotations

import io
import random

from PIL import Image, ImageDraw, ImageFont, ImageOps

from datacomp_core.pool.tiny_source import open_image

PAPER = ((255, 255, 255), (250, 246, 232), (20, 20, 24), (222, 235, 247), (255, 221, 87), (205, 32, 44))


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=2, optimize=False)
    return buffer.getvalue()


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8")


def saved_again(data: bytes, chance: random.Random) -> bytes:
    return jpeg(open_image(data), chance.randint(70, 92))


def thumbnail(data: bytes, chance: random.Random) -> bytes:
    """Longest side 12-24 px."""
    image = open_image(data)
    side = chance.randint(12, 24)
    image.thumbnail((side, side), Image.Resampling.BILINEAR)
    return jpeg(image, 85)


def banner(data: bytes, chance: random.Random) -> bytes:
    """Return the image small in a strip more than three times as wide as it is high."""
    height = chance.randint(24, 36)
    strip = Image.new("RGB", (int(height * chance.uniform(3.2, 5.5)), height), chance.choice(PAPER))
    image = open_image(data)
    image.thumbnail((height, height), Image.Resampling.BILINEAR)
    strip.paste(image, (chance.randint(0, strip.width - image.width), (height - image.height) // 2))
    return jpeg(strip, 80)


def mirrored(data: bytes, chance: random.Random) -> bytes:
    """Return the near-duplicate: mirrored, and saved at low quality."""
    return jpeg(ImageOps.mirror(open_image(data)), chance.randint(12, 30))


def words(text: str, chance: random.Random) -> bytes:
    """Return 64 px of only the text, in Pillow's own font."""
    dark = chance.random() < 0.4
    image = Image.new("RGB", (64, chance.randint(40, 64)), chance.choice(PAPER[2:3] if dark else PAPER[:2]))
    font = ImageFont.load_default(chance.randint(9, 13))
    pen = ImageDraw.Draw(image)
    lines = _wrapped(text, 10)
    colour = tuple(chance.randint(170, 255) if dark else chance.randint(0, 110) for _ in range(3))
    pen.multiline_text((chance.randint(1, 6), chance.randint(1, 8)), "\n".join(lines), fill=colour, font=font, spacing=1)
    return jpeg(image, chance.randint(60, 90))


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
