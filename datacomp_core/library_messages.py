"""Rewords what libraries say about bad input: without memory addresses, and without advice to load pickled objects. numpy
advises to load an array of Python objects with `allow_pickle`, which runs any code in the file.
"""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"<(?:[\w.]*\.)?(?P<kind>\w+)(?: (?:object|instance))? at 0x[0-9A-Fa-f]+>")
_BYTES = ("BytesIO", "BufferedReader", "FileIO", "ZipExtFile", "S3File")
NEVER = "objects of Python, which are never loaded"
OBJECTS = f"it contains {NEVER}: save plain arrays"
OTHER = f"it is not in numpy's format, or it contains {NEVER}: save plain arrays"
_OTHER = re.compile(
    r"Cannot load file containing pickled data when allow_pickle=False"
    r"|This file contains pickled \(object\) data\.(?:[^\n]*`?pickle\.load\(\)`?\.?)?"
    r"|Failed to interpret file .{0,400}? as a pickle",
    re.DOTALL,
)
_OBJECTS = re.compile(
    r"Object arrays cannot be loaded when allow_pickle=False|Array can't be memory-mapped: Python objects in dtype\.?"
)


def plain_message(text: str) -> str:
    """Return the text without memory addresses and without numpy's advice to unpickle."""
    if " at 0x" in text:
        text = _ADDRESS.sub(lambda found: "the file" if found["kind"] in _BYTES else found["kind"], text)
    if "pickle" in text or "Python objects" in text:
        text = _OBJECTS.sub(OBJECTS, _OTHER.sub(OTHER, text))
    return text
