"""Draws a contact sheet as one PNG, for places that show no page: a row of kept samples above a row of dropped ones."""

from __future__ import annotations

import base64
import io
import textwrap

from datacomp_core.leaderboard.site import contact_sheets
from datacomp_core.pictures import pillow_image
from datacomp_core.store import Folder

CARDS = 4  # per kind: side by side they fit the column of a Prefect page
FONT_SIZE = 14
CELL = (contact_sheets.THUMBNAIL + 24, contact_sheets.THUMBNAIL + 24 + 6 * FONT_SIZE)
MARGIN = 8
WIDTH = CELL[0] * 10 // (6 * FONT_SIZE)  # characters of a caption per line


def contact_sheet_png(subset: Folder, shards: Folder) -> bytes:
    """Draw two rows of small images with captions: some kept, some dropped with reasons. Returns PNG."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    # Pillow's default font has few letters beyond English.
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT_SIZE)
    sheet = Image.new("RGB", (CARDS * CELL[0], 2 * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for line, name in enumerate(("kept", "dropped")):
        samples = contact_sheets.table(subset, f"{name}.parquet")
        chosen = [] if samples is None else contact_sheets.cards(shards, contact_sheets.choose(samples, CARDS))
        for place, card in enumerate(chosen):
            left, top = place * CELL[0] + MARGIN, line * CELL[1] + MARGIN
            if card.image:
                picture = pillow_image(base64.b64decode(card.image.partition(",")[2])).convert("RGB")
                scale = contact_sheets.THUMBNAIL / max(picture.size)
                sheet.paste(picture.resize([max(1, round(side * scale)) for side in picture.size]), (left, top))
            else:
                draw.text((left, top), "\n".join(_lines(card.why_blank)), fill="gray", font=font)
            words = [*_lines(card.caption), *_lines(card.reason or name)]
            draw.text((left, top + contact_sheets.THUMBNAIL + MARGIN), "\n".join(words), fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _lines(text: str) -> list[str]:
    """Return two lines for a cell; the rest is truncated."""
    return [*textwrap.wrap(text, WIDTH, max_lines=2, placeholder="..."), "", ""][:2]
