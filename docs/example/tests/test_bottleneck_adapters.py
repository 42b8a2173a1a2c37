from bottleneck_adapters import BottleneckAdapters

from strategies.testing import check_starts_from_backbone, check_strategy


def test_contract():
    check_strategy(BottleneckAdapters())


def test_training_starts_from_the_backbone():
    check_starts_from_backbone(BottleneckAdapters())
