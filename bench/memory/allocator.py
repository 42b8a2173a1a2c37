"""A simulated CUDA caching allocator: the addresses and segments that a sequence of requests would take.

Follows the documented and observed behaviour of PyTorch's ``CUDACachingAllocator`` with default settings and
one stream: requests are rounded to 512 bytes; small ones (at most 1 MiB) come from segments of 2 MiB, larger
ones from segments of 20 MiB, and from 10 MiB on from segments of their own size rounded to 2 MiB; the
smallest free block that fits is taken and split; freed neighbours merge; segments are released by
``empty_cache`` alone.
"""

from __future__ import annotations

import bisect
import dataclasses

ROUNDING = 512
SMALL_REQUEST = 2**20
SMALL_SEGMENT = 2 * 2**20
LARGE_SEGMENT = 20 * 2**20
OWN_SEGMENT = 10 * 2**20
SEGMENT_ROUNDING = 2 * 2**20
SEGMENT_GAP = 2**50
"""Distance between segments, so that blocks of two segments are never neighbours."""


def rounded(size: int) -> int:
    """Return the bytes that are allocated for a request of ``size`` bytes."""
    return -(-size // ROUNDING) * ROUNDING


@dataclasses.dataclass
class Block:
    """A part of a segment, in use or free, and its neighbours' addresses."""

    size: int
    small: bool
    free: bool
    before: int | None
    after: int | None


class CachingAllocator:
    """Simulates ``allocate`` and ``release``; ``reserved`` and ``allocated`` are in bytes."""

    def __init__(self) -> None:
        self.allocated = 0
        self.reserved = 0
        self._blocks: dict[int, Block] = {}
        self._free: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        self._next_segment = 0

    def allocate(self, size: int) -> int | None:
        """Return the address of a new block of ``size`` bytes, or None for zero bytes."""
        size = rounded(size)
        if size == 0:
            return None
        small = size <= SMALL_REQUEST
        pool = self._free[small]
        place = bisect.bisect_left(pool, (size, -1))
        address = pool.pop(place)[1] if place < len(pool) else self._new_segment(size, small)
        block = self._blocks[address]
        rest = block.size - size
        if rest >= ROUNDING if small else rest > SMALL_REQUEST:
            self._blocks[address + size] = Block(rest, small, True, address, block.after)
            if block.after is not None:
                self._blocks[block.after].before = address + size
            block.size, block.after = size, address + size
            bisect.insort(pool, (rest, address + size))
        block.free = False
        self.allocated += block.size
        return address

    def release(self, address: int | None) -> None:
        """Free a block and merge it with free neighbours."""
        if address is None:
            return
        block = self._blocks[address]
        self.allocated -= block.size
        block.free = True
        if block.after is not None and self._blocks[block.after].free:
            self._take_out(block.after)
            self._merge(address, block.after)
        if block.before is not None and self._blocks[block.before].free:
            self._take_out(block.before)
            before = block.before
            self._merge(before, address)
            address = before
        bisect.insort(self._free[block.small], (self._blocks[address].size, address))

    def empty_cache(self) -> None:
        """Release the segments that are free as a whole, as ``torch.cuda.empty_cache`` does."""
        for pool in self._free.values():
            whole = [address for _, address in pool if self._is_segment(address)]
            for address in whole:
                self._take_out(address)
                self.reserved -= self._blocks.pop(address).size

    def _is_segment(self, address: int) -> bool:
        block = self._blocks[address]
        return block.before is None and block.after is None

    def _new_segment(self, size: int, small: bool) -> int:
        if small:
            length = SMALL_SEGMENT
        elif size < OWN_SEGMENT:
            length = LARGE_SEGMENT
        else:
            length = -(-size // SEGMENT_ROUNDING) * SEGMENT_ROUNDING
        address = self._next_segment
        self._next_segment += SEGMENT_GAP
        self._blocks[address] = Block(length, small, True, None, None)
        self.reserved += length
        return address

    def _take_out(self, address: int) -> None:
        block = self._blocks[address]
        pool = self._free[block.small]
        pool.pop(bisect.bisect_left(pool, (block.size, address)))

    def _merge(self, address: int, after: int) -> None:
        block, taken = self._blocks[address], self._blocks.pop(after)
        block.size += taken.size
        block.after = taken.after
        if taken.after is not None:
            self._blocks[taken.after].before = address
