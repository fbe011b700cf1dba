"""Renames many samples at once: rewrites tar headers in a buffer, vectorised over the samples, without touching contents. Two
common forms are handled here: plain ustar members, where only name and checksum change, and the output of webdataset's writer
(img2dataset's downloads), where each member follows a pax header that contains only its time. That header is dropped, and the
member's header becomes the fixed one of `tar.header`, so that the time of a download is not in the bytes. Anything else is
reported as unsuitable, unchanged, for `frame_anew`.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.sample_members import USUAL, MemberNames
from datacomp_core.tar import BLOCK, TarDamageError, header, walk

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

NAME = 100
PAX_BLOCKS = 2  # a pax header and its one block of data
_COLUMNS = np.arange(NAME)
_REGULAR, _PAX, _SLASH, _DOT, _UNDERSCORE = b"0x/._"
_EVEN = np.uint64(0x00FF00FF00FF00FF)
_USTAR = np.frombuffer(b"ustar", np.uint8)
_JSON = np.frombuffer(b"json\0", np.uint8)
_MTIME = np.frombuffer(b" mtime=", np.uint8)
_FIXED = np.frombuffer(header("", 0), np.uint8)
_FIXED_SUM = int(_FIXED[:124].sum() + _FIXED[135:148].sum() + _FIXED[156:].sum()) + 8 * 32


class Members(NamedTuple):
    """The n-th members of some samples: whose they are, and the blocks from header (included) to end (excluded)."""

    sample: Ints
    head: Ints
    stop: Ints


class Renamed(NamedTuple):
    """`fits`: the sample was renamed in place; `stripped`: only its members are written, one after another.

    `stems` are the keys that the samples had, each with its dot, shape (n, 100).
    """

    fits: Flags
    stripped: Flags
    members: list[Members]
    stems: Bytes


class _Change(NamedTuple):
    members: Members
    name: Bytes
    size: Bytes
    checksum: Ints


def names_of(keys: list[str]) -> Bytes:
    """Keys, each with the dot that follows it, as bytes of shape (n, 100), filled with zeros."""
    return np.array([f"{key}.".encode() for key in keys], f"S{NAME}").view(np.uint8).reshape(len(keys), NAME)


def rename(blocks: Bytes, begins: Ints, ends: Ints, names: Bytes, usual: Flags | None = None) -> Renamed:
    """Rename the members of n samples to `<key>.<extension>`, in place.

    `blocks` has shape (b, 512); sample i is in blocks `begins[i]` to `ends[i]`, no two of them in the same; `names` is of
    `names_of`. What does not fit (other extended headers, other things between members, members of two samples, a wrong
    checksum), or whose members have other names (not `usual`), is left as it is.
    """
    at, fits, stripped = begins.copy(), begins < ends, np.zeros(len(begins), np.bool_)
    fits &= True if usual is None else usual
    stems = np.zeros((len(begins), NAME), np.uint8)
    changes: list[_Change] = []
    while len(live := np.flatnonzero(fits & (at < ends))):
        head = at[live]
        if (pax := blocks[head, 156] == _PAX).any():
            who = live[pax]
            stripped[who] = True
            fits[who] = (head[pax] + PAX_BLOCKS < ends[who]) & _only_time(blocks, head[pax], ends[who])
            head = (head + PAX_BLOCKS * pax)[fits[live]]
            live = live[fits[live]]
        change, good, stem = _member(blocks, live, head, names)
        first = at[live] == begins[live]
        stems[live[first]] = stem[first]
        fits[live] = good & (stems[live] == stem).all(axis=1)
        at[live] = change.members.stop
        changes.append(change)
    fits &= at == ends
    for change in changes:
        _apply(blocks, change, fits, stripped)
    return Renamed(fits, stripped, [change.members for change in changes], stems)


def _only_time(blocks: Bytes, head: Ints, ends: Ints) -> Flags:
    """Whether pax headers hold one record, `<two digits> mtime=...`, and nothing else."""
    size, good = _octal(blocks[head, 124:135])
    data = blocks[np.minimum(head + 1, ends - 1)]
    length = (data[:, 0].astype(np.int64) - 48) * 10 + data[:, 1] - 48
    return good & (length == size) & (data[:, 2:9] == _MTIME).all(axis=1)


def _member(blocks: Bytes, live: Ints, head: Ints, names: Bytes) -> tuple[_Change, Flags, Bytes]:
    """The change one member a sample needs, whether it can be made, and its stem with the dot, shape (n, 100)."""
    block = blocks[head]
    size, good = _octal(block[:, 124:135])
    stated, is_number = _octal(block[:, 148:154])
    found = _sums(block) - block[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * 32
    good &= is_number & (stated == found) & (block[:, 156] == _REGULAR) & (block[:, 345] == 0)
    good &= (block[:, 257:262] == _USTAR).all(axis=1)
    old, own = block[:, :NAME], names[live]
    fresh, stem, has_both = _alike(old, own) or _one_by_one(old, own)
    checksum = stated - old.sum(axis=1, dtype=np.int64) + fresh.sum(axis=1, dtype=np.int64)
    members = Members(live, head, head + 1 + -(-size // BLOCK))
    return _Change(members, fresh, block[:, 124:135], checksum), good & has_both, stem


def _alike(old: Bytes, own: Bytes) -> tuple[Bytes, Bytes, Flags] | None:
    """Return the result of `_one_by_one`, several times faster, for names that differ only in their stems; None for others.

    The n-th members of a download's samples are like this: stems of equal length, one extension.
    """
    if not len(old):
        return None
    name, key = bytes(old[0]).split(b"\0", 1)[0], bytes(own[0]).rstrip(b"\0")
    slash = name.rfind(b"/")
    dot = name.find(b".", slash + 1)
    total = len(key) + len(name) - dot - 1
    if dot <= slash + 1 or total > NAME or not name[:dot].isascii():
        return None
    stems = old[:, :dot]
    odd = (stems == _SLASH) | (stems == _DOT) | (stems == 0) | (stems >= 128)
    if not (
        np.array_equal(old[:, dot:], np.broadcast_to(old[0, dot:], (len(old), NAME - dot)))
        and np.array_equal(odd, np.broadcast_to(odd[0], odd.shape))
        and (own[:, len(key) - 1] == _DOT).all()
        and not own[:, len(key) :].any()
        and not (old[:, :2] == _UNDERSCORE).all(axis=1).any()
    ):
        return None
    fresh, stem = np.zeros_like(own), np.zeros_like(own)
    fresh[:, : len(key)] = own[:, : len(key)]
    fresh[:, len(key) : total] = np.frombuffer(name[dot + 1 :].lower(), np.uint8)
    stem[:, : dot + 1] = old[:, : dot + 1]
    return fresh, stem, np.ones(len(old), np.bool_)


def _one_by_one(old: Bytes, own: Bytes) -> tuple[Bytes, Bytes, Flags]:
    """New names, stems with the dot, shapes (n, 100), and whether a member can have them, of any old names."""
    ended = old == 0
    name_length = np.where(ended.any(axis=1), ended.argmax(axis=1), NAME)[:, None]
    name = np.where(name_length > _COLUMNS, old, 0)
    slashes = name[:, ::-1] == _SLASH
    slash = np.where(slashes.any(axis=1), NAME - 1 - slashes.argmax(axis=1), -1)[:, None]
    dots = (name == _DOT) & (slash < _COLUMNS)
    dot = np.where(dots.any(axis=1), dots.argmax(axis=1), -1)[:, None]
    good = (dot > slash + 1)[:, 0] & ~(name[:, :2] == _UNDERSCORE).all(axis=1)
    good &= ~((name >= 128) & (dot < _COLUMNS)).any(axis=1)
    length = _lengths(own)
    extension = np.take_along_axis(name, np.clip(_COLUMNS - length + dot + 1, 0, NAME - 1), axis=1)
    extension += 32 * ((extension >= 65) & (extension <= 90)).astype(np.uint8)
    total = length + name_length - dot - 1
    good &= (total <= NAME)[:, 0]
    fresh = np.where(length > _COLUMNS, own, np.where(total > _COLUMNS, extension, 0)).astype(np.uint8)
    return fresh, np.where(dot >= _COLUMNS, name, 0).astype(np.uint8), good


def _sums(blocks: Bytes) -> Ints:
    """The sum of each row's 512 bytes, shape (n,): eight bytes are added at once, in lanes of 16 bits, which hold 64 of them."""
    words = np.ascontiguousarray(blocks).view(np.uint64)
    lanes = (words & _EVEN).sum(axis=1) + (words >> np.uint64(8) & _EVEN).sum(axis=1)
    return lanes.view(np.uint16).reshape(-1, 4).sum(axis=1, dtype=np.int64)


def _lengths(names: Bytes) -> Ints:
    return (names != 0).sum(axis=1)[:, None]


def _apply(blocks: Bytes, change: _Change, fits: Flags, stripped: Flags) -> None:
    sample, head = change.members.sample, change.members.head
    anew = fits[sample] & stripped[sample]
    if anew.any():
        blocks[head[anew]] = _FIXED
        blocks[head[anew], 124:135] = change.size[anew]
        change.checksum[anew] = _FIXED_SUM + (change.name[anew].sum(axis=1, dtype=np.int64) + change.size[anew].sum(axis=1))
    some = fits[sample]
    blocks[head[some], :NAME] = change.name[some]
    blocks[head[some], 148:154] = (change.checksum[some, None] >> np.arange(15, -1, -3) & 7) + 48


def _octal(digits: Bytes) -> tuple[Ints, Flags]:
    """The numbers that rows of octal digits state, and whether they are such."""
    value = digits - np.uint8(48)  # what is below "0" wraps around
    return value.astype(np.int64) @ (8 ** np.arange(digits.shape[1] - 1, -1, -1)), np.asarray((value < 8).all(axis=1))


def frame_anew(data: bytes, key: str, names: MemberNames = USUAL) -> tuple[str, bytes | None, bytes]:
    """Return one sample with new headers, for any old ones; bytes between its members are left out.

    Returns the key that it had, its json, and the bytes. TarDamageError if it is not whole, or not one sample.
    """
    file, members, stems = io.BytesIO(data), dict[str, bytes](), set[str]()
    for member in walk(file, len(data), whole=False):
        stem, extension = names.split(member.name)
        if stem:
            stems.add(stem)
            members[extension] = data[member.data : member.data + member.size]
    if len(stems) != 1:
        raise TarDamageError(0, f"it contains {len(stems)} samples")
    pieces: list[bytes] = []
    for extension, content in names.canonical(members).items():
        pieces += (header(f"{key}.{extension}", len(content)), content, bytes(-len(content) % BLOCK))
    return stems.pop(), members.get("json"), b"".join(pieces)


def json_of(blocks: Bytes, done: Renamed, names: Bytes) -> list[tuple[int, int]]:
    """Where in `blocks` (in bytes, padding included) the json of each renamed sample is; (0, 0) for one without."""
    found = [(0, 0)] * len(done.fits)
    for members in done.members:
        mine = done.fits[members.sample]
        sample, head, stop = members.sample[mine], members.head[mine], members.stop[mine]
        column = np.minimum(_lengths(names[sample]) + np.arange(len(_JSON)), NAME - 1)
        is_json = (np.take_along_axis(blocks[head, :NAME], column, axis=1) == _JSON).all(axis=1)
        for n, start, end in zip(*(values[is_json].tolist() for values in (sample, head + 1, stop)), strict=True):
            found[n] = start * BLOCK, end * BLOCK
    return found
