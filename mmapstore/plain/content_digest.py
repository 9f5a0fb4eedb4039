"""SHA-256 of the values of an array, as a tree: the same for the same values in any file format, byte order or chunking.

The root covers dtype, shape and leaves; `digest_leaves` says which values each leaf covers. README.md has the recipe in ten lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .digest_leaves import Leaves, leaves_of
from .errors import InvalidTypeError, InvalidValueError

HASH_NBYTES = 32
_PIECE = 1 << 16  # elements converted at a time: their buffer stays in the cache of one core
_TEXT_NBYTES = 1 << 20  # of text converted at a time
_PREFIX = np.dtype("<u8")  # the length of a text, in bytes

Array = np.ndarray[Any, np.dtype[Any]]


class LeafDigests:
    """The SHA-256 of each leaf of an array, from blocks of its values.

    Values are hashed in C order, little-endian, bool as the bytes 0 and 1, text of variable length as its length in 8 bytes and
    then its UTF-8 bytes. A block of any strides counts as its values in C order. Values stored contiguously in little-endian order
    are hashed where they lie, others through a buffer of at most 64 Ki elements. hashlib lets other threads run meanwhile, so one
    thread can hash while others read and write; one object is used by one thread at a time.

    Blocks that come in order need no start. Workers that have a part of the array each say where a block starts: a leaf that a
    worker has from its first value to its last is hashed, others are left out, and `merge` collects the leaves of all workers.

    Parameters
    ----------
    dtype : of the values, in any byte order
    is_text : the values are text of variable length: bytes padded with zeros (dtype "S"), or Python strings (dtype object)
    known : leaves that need not be hashed, by number

    Raises InvalidTypeError for Python objects and for compound values, whose bytes are not their values.

    >>> values = np.arange(6, dtype=">i2").reshape(2, 3)
    >>> digests = LeafDigests(values.dtype)
    >>> for row in values:
    ...     digests.update(row)
    >>> digests.root((2, 3)) == content_sha256(values) == content_sha256(values.astype("<i2"))
    True
    """

    def __init__(self, dtype: Any, is_text: bool = False, known: Mapping[int, bytes] | None = None) -> None:
        self.dtype, self._is_text = np.dtype(dtype), is_text
        if not is_text and (self.dtype.hasobject or self.dtype.names is not None or self.dtype.subdtype is not None):
            raise InvalidTypeError(
                f"An array of dtype {self.dtype} has no content digest; expected fixed-size values of one kind (numbers, bool, "
                "dates, bytes, text). Digest each field of its own."
            )
        self.done: dict[int, bytes] = dict(known or {})
        self._itemsize = _PREFIX.itemsize if is_text else self.dtype.itemsize
        self._run = Leaves(0, self._itemsize).run
        self._at = 0
        self._hash = hashlib.sha256()
        self._is_hashing = False

    def update(self, block: Array, start: int | None = None) -> None:
        """Hash the values of `block`, an array of any shape, which is neither kept nor changed.

        `start` is the place of its first value in the C order of the whole array; None continues behind the block before.
        """
        if start is not None and start != self._at:
            self._at, self._is_hashing = start, False
        for piece in self._pieces(block):
            while len(piece):
                run, inside = divmod(self._at, self._run)
                if not inside:
                    self._hash, self._is_hashing = hashlib.sha256(), run not in self.done
                part, piece = piece[: self._run - inside], piece[self._run - inside :]
                if self._is_hashing and self._itemsize:
                    self._hash.update(part.view(np.uint8).data if not self._is_text else _prefixed(part))
                self._at += len(part)
                if self._is_hashing and inside + len(part) == self._run:
                    self.done[run] = self._hash.digest()

    def _pieces(self, block: Array) -> Iterator[Array]:
        """Yield the values as they are hashed, one-dimensional and contiguous."""
        if block.size == 0:
            return
        if self._is_text:
            flat = block.reshape(-1)
            step = max(1, _TEXT_NBYTES // (block.dtype.itemsize + _PREFIX.itemsize))
            yield from (flat[at : at + step] for at in range(0, len(flat), step))
            return
        is_bool = self.dtype.kind == "b"
        little = np.dtype(np.uint8) if is_bool else self.dtype.newbyteorder("<")
        if little == block.dtype and block.flags.c_contiguous:
            yield block.reshape(-1)
            return
        pieces = np.nditer(
            [block.view(np.uint8) if is_bool else block],
            ["external_loop", "buffered"],
            [["readonly"]],
            op_dtypes=[little],
            order="C",
            casting="equiv",
            buffersize=_PIECE,
        )
        for piece in pieces:
            # A byte other than 0 or 1 is a true value as well, where a file holds one.
            yield np.not_equal(piece, 0) if is_bool else np.ascontiguousarray(piece)

    def merge(self, other: LeafDigests) -> None:
        """Take the leaves that `other` has hashed of the same array.

        Raises InvalidValueError if both have hashed a leaf and found different values: the array was changed in between.
        """
        for leaf, found in other.done.items():
            if self.done.setdefault(leaf, found) != found:
                start = leaf * self._run
                raise InvalidValueError(
                    f"Two readings of the values [{start}, {start + self._run}) in C order differ. Expected the same values each "
                    "time: nothing may write to the array meanwhile. Read it again."
                )

    def of(self, shape: tuple[int, ...]) -> list[bytes | None]:
        """Return the hash of each leaf of an array of that shape, None for a leaf of which a value was not given."""
        leaves = leaves_of(shape, self._itemsize)
        if self._is_hashing and self._at == leaves.values and self._at % self._run:
            self.done[self._at // self._run] = self._hash.digest()
        found: list[bytes | None] = [self.done.get(run) for run in range(-(-leaves.values // self._run))]
        for _ in range(leaves.merged):
            pairs = (found[at : at + 2] for at in range(0, len(found), 2))
            found = [None if None in pair else hashlib.sha256(b"".join(filter(None, pair))).digest() for pair in pairs]
        return found

    def root(self, shape: tuple[int, ...]) -> str:
        """Return the digest of the whole array, as 64 hex digits; "" if a value was not given."""
        leaves = self.of(shape)
        return root(self.dtype, shape, [leaf for leaf in leaves if leaf], self._is_text) if None not in leaves else ""


def root(dtype: Any, shape: Sequence[int], leaves: Sequence[bytes], is_text: bool = False) -> str:
    """Return the digest of an array from its dtype, its shape and the hashes of its leaves, as 64 hex digits.

    >>> root(">i2", (2, 3), [hashlib.sha256(np.arange(6, dtype="<i2").tobytes()).digest()]) == content_sha256(
    ...     np.arange(6, dtype="i2").reshape(2, 3)
    ... )
    True
    """
    name = "text" if is_text else np.dtype(dtype).newbyteorder("<").str
    return hashlib.sha256(f"{name} {tuple(map(int, shape))}\n".encode() + b"".join(leaves)).hexdigest()


def content_sha256(values: Array, is_text: bool = False) -> str:
    """Return the content digest of a whole array, as 64 hex digits.

    >>> content_sha256(np.array([True, False])) == content_sha256(np.array([True, False])[::-1][::-1])
    True
    """
    digests = LeafDigests(values.dtype, is_text)
    digests.update(values)
    return digests.root(values.shape)


def _prefixed(texts: Array) -> bytes:
    """Return the bytes of each text behind its length."""
    if texts.dtype.kind != "S":
        encoded = [text if isinstance(text, bytes) else str(text).encode() for text in texts.tolist()]
        return b"".join(len(text).to_bytes(_PREFIX.itemsize, "little") + text for text in encoded)
    lengths = np.char.str_len(texts)
    rows = np.zeros((len(texts), _PREFIX.itemsize + texts.dtype.itemsize), np.uint8)
    rows[:, : _PREFIX.itemsize] = lengths.astype(_PREFIX).view(np.uint8).reshape(len(texts), -1)
    if texts.dtype.itemsize:
        rows[:, _PREFIX.itemsize :] = np.ascontiguousarray(texts).view(np.uint8).reshape(len(texts), -1)
    return rows[np.arange(rows.shape[1]) < _PREFIX.itemsize + lengths[:, None]].tobytes()
