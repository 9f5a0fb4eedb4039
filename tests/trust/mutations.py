"""Changes made to the bytes of a file: cut short at every byte, and bits flipped. Numbered, so that a report names them."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reading_process import Outcome, ReadingProcess


class Mutation(NamedTuple):
    """One change. `bit` is -1 for a file cut short to `at` bytes, else the bit of byte `at` that is flipped."""

    at: int
    bit: int

    def apply(self, content: bytes) -> bytes:
        if self.bit < 0:
            return content[: self.at]
        changed = bytearray(content)
        changed[self.at] ^= 1 << self.bit
        return bytes(changed)

    def __str__(self) -> str:
        return f"cut to {self.at} bytes" if self.bit < 0 else f"bit {self.bit} of byte {self.at} flipped"


def all_mutations(content: bytes, every_bit: bool = True) -> list[Mutation]:
    """Every truncation, and a flip of every bit: of zeros among zeros, which are padding, or not `every_bit`, one in each byte."""
    found = [Mutation(at, -1) for at in range(len(content))]
    for at in range(len(content)):
        is_padding = not any(content[max(0, at - 8) : at + 9])
        found += [Mutation(at, bit) for bit in (range(8) if every_bit and not is_padding else [at * 5 % 8])]
    return found


def sampled(mutations: Sequence[Mutation], count: int, seed: str) -> list[Mutation]:
    """`count` of them, the same for the same seed."""
    return random.Random(seed).sample(mutations, min(count, len(mutations)))


def mutated(path: Path, mutations: Sequence[Mutation], reading: ReadingProcess, source: str) -> Iterator[tuple[Mutation, Outcome]]:
    """What comes of reading `source` after each change of the file `path`, which is as it was afterwards."""
    content = path.read_bytes()
    fresh = path.with_name(path.name + ".fresh")
    try:
        for mutation in mutations:
            fresh.write_bytes(mutation.apply(content))
            os.replace(fresh, path)  # another inode: a map of the last one stays whole
            yield mutation, reading.read(source)
    finally:
        path.write_bytes(content)
