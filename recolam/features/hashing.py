"""Seeded hashes: orders and draws that depend on the seed and the thing itself, never on file order or on ids."""

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recolam.seeding import derive

_HEX_DIGITS = 15  # 60 bits: fits a signed integer


def text_hash(texts: Iterable[str], *, seed: int, stream: str) -> NDArray[np.uint64]:
    """64-bit hashes of `texts`; independent between streams."""
    key = derive(seed, "features", stream).to_bytes(8, "big")
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest() for text in texts)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def unit_draw(texts: Iterable[str], *, seed: int, stream: str) -> NDArray[np.float64]:
    """Uniform draws in [0, 1), one per text."""
    return (text_hash(texts, seed=seed, stream=stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def row_hash(row_id: pl.Series, *, seed: int, stream: str) -> NDArray[np.uint64]:
    """64-bit hashes of rows by their `row_id` (a content hash in hex), vectorised.

    The mixer is SplitMix64 (Steele, Lea and Flood, 2014, https://doi.org/10.1145/2714064.2660195).
    """
    content = row_id.str.head(_HEX_DIGITS).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
    mixed = content + np.uint64(derive(seed, "features", stream))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
