"""The allocator's model does what the CUDA caching allocator's documentation says."""

import itertools

import numpy as np

from bench.memory.allocator import CachingAllocator

MIB = 2**20


def test_segments_by_size():
    for size, reserved in (
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (11 * MIB + 5, 12 * MIB),
    ):
        allocator = CachingAllocator()
        allocator.allocate(size)
        assert allocator.reserved == reserved
        # A rest of at most 1 MiB stays with a large block.
        assert allocator.allocated in (-(-size // 512) * 512, reserved)


def test_freed_blocks_are_used_again_best_fit_first():
    allocator = CachingAllocator()
    large, small = allocator.allocate(40 * MIB), allocator.allocate(12 * MIB)
    allocator.release(large)
    allocator.release(small)
    assert allocator.allocate(12 * MIB) == small
    assert allocator.allocate(30 * MIB) == large
    assert allocator.reserved == 52 * MIB


def test_neighbours_merge():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(4 * MIB) for _ in range(5)]
    assert allocator.reserved == 20 * MIB
    for block in (blocks[1], blocks[3], blocks[2]):
        allocator.release(block)
    assert allocator.allocate(12 * MIB) == blocks[1]
    assert allocator.reserved == 20 * MIB


def test_random_traces_neither_lose_nor_share_bytes():
    rng = np.random.default_rng(0)
    allocator, live = CachingAllocator(), {}
    for _ in range(5000):
        if live and rng.random() < 0.5:
            address = list(live)[rng.integers(len(live))]
            allocator.release(address)
            del live[address]
        else:
            size = int(2 ** rng.uniform(0, 26))
            address = allocator.allocate(size)
            assert address not in live
            live[address] = size
        spans = sorted((a, a + s) for a, s in live.items())
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        assert sum(live.values()) <= allocator.allocated <= allocator.reserved
    for address in live:
        allocator.release(address)
    assert allocator.allocated == 0
