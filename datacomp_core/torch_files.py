"""Explains torch files that cannot be read as plain tensors: what they are and what to do, never torch's own advice.

torch tells whoever cannot read a file to load it without `weights_only`, which runs whatever code stands in it.
"""

from __future__ import annotations

import re
import struct

OBJECTS = re.compile(r"Unsupported (?:global|class|type)", re.IGNORECASE)
GLOBAL = re.compile(r"\bGLOBAL ([\w.]+)")
ADVICE = re.compile(r"weights_only|WeightsUnpickler|add_safe_globals", re.IGNORECASE)
DAMAGED = ("UnpicklingError", "EOFError", "BadZipFile")
DAMAGE = re.compile(
    r"PytorchStreamReader|magic number|hasRecord|enforce fail|unexpected EOF|protocol version|corrupt|storage key", re.IGNORECASE
)
NOT_PICKLED = (LookupError, AttributeError, TypeError, ArithmeticError, UnicodeError, struct.error)
"""The errors that the unpickler raises for bytes that are not a pickle, because it runs them as instructions."""
MOST = 200
PLAIN = "save its state_dict alone, or as safetensors"


def why_unreadable(problem: BaseException) -> str:
    """One clause for what torch (or safetensors) raised, to stand after the file's name."""
    text = " ".join(str(problem).split())
    if OBJECTS.search(text):
        found = GLOBAL.search(text)
        named = f" ({found.group(1)})" if found else ""
        return f"it has Python objects{named} beside or instead of plain tensors, and code in a file is never run: {PLAIN}"
    if ADVICE.search(text):
        return f"it is damaged, or has Python objects, and code in a file is never run: copy it again, or {PLAIN}"
    if type(problem).__name__ in DAMAGED or DAMAGE.search(text) or isinstance(problem, NOT_PICKLED):
        return "it is damaged, or not a file that torch saved: copy it again"
    return f"{type(problem).__name__}: {text[:MOST]}"
