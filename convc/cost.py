"""What the cost models assume of a processor: rates of arithmetic and of memory.

They choose between algorithms, so ratios matter more than absolute times.
"""

from __future__ import annotations

from convc.backend.target import Target

CLOCK = 4.0e9  # Hz
UNITS = 2  # vector multiply-adds per cycle
MEMORY = 20e9  # bytes a second of copying on one core
L2, L3 = 1 << 20, 16 << 20  # bytes


def slowness(target: Target) -> float:
    """How much longer a multiply-add takes than where it is one instruction."""
    return 1.0 if target.fused_multiply_add else 2.0


def stream_bytes(size: float) -> float:
    """Bytes a second of reading a buffer of that size again and again, on one core."""
    return 120e9 if size < L2 // 2 else 60e9 if size < L3 else 30e9


def cold_seconds(size: float, resident: float) -> float:
    """What reading weights takes where others have been read since.

    ``resident``: the bytes of all weights of the network; they stay in the caches or they do not.
    """
    return size / stream_bytes(max(size, resident))
