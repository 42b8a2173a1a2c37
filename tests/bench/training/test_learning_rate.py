"""The learning rate's factor against the schedules of the public code, in closed form."""

import math

import pytest

from bench.training.optimizer import schedule


def opentad(step, warmup, total):
    """LinearWarmupCosineAnnealingLR from 0 to 1 to 0, with the warmup of this project: one step ahead."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2


def test_training_stops_before_a_longer_schedule_ends():
    # AdaTAD on THUMOS-14: 100 steps per epoch, 60 of 100 epochs, 5 of warmup.
    factors = [schedule(step, 6000, 5 / 60, 100 / 60) for step in range(6000)]
    assert factors == pytest.approx([opentad(step, 500, 10000) for step in range(6000)], abs=1e-12)
    assert factors[499] == factors[500] == 1
    assert factors[-1] == pytest.approx(0.3774, abs=1e-4)


def test_a_schedule_of_its_own_length_ends_near_zero():
    factors = [schedule(step, 40, 0.25) for step in range(40)]
    assert factors == pytest.approx([opentad(step, 10, 40) for step in range(40)], abs=1e-12)
    assert factors[-1] < 0.01
    assert schedule(0, 1, 0.0) == 1
