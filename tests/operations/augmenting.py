"""Functions that augment, which processes of rounds can import."""

from __future__ import annotations

import os
import time

import numpy as np


def noisy(x, rng):
    return (x + rng.integers(0, 50, x.shape)).astype(np.uint8)


def scaled(x, rng):
    return (x * np.float32(rng.random()))[..., :3]


def coin(x, rng):
    return x[:, ::-1] if rng.random() < 0.5 else x


def in_place(x, rng):
    x += rng.integers(1, 9, x.shape, dtype=x.dtype)
    return x


def same(x, rng):
    return x


def raising(x, rng):
    raise ZeroDivisionError("as it happens")


def raising_for_seven(x, rng):
    if x.flat[0] == 7:
        raise ZeroDivisionError("as it happens")
    return noisy(x, rng)


def other_shape_for_seven(x, rng):
    return x[:, :1] if x.flat[0] == 7 else x


def nothing(x, rng):
    return None


def ragged(x, rng):
    return [[1, 2], [3]]


def printing(x, rng):
    print("a line of fn", os.getpid(), os.nice(0))
    return noisy(x, rng)


def slow(x, rng):
    time.sleep(0.02)
    return noisy(x, rng)
