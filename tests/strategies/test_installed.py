"""How strategies are found where talbench is not installed."""

from importlib.metadata import PackageNotFoundError

import strategies
from strategies import build_strategy, installed


def test_without_an_installation_the_shipped_strategies_are_those_of_the_checkout(monkeypatch):
    def distribution(name):
        raise PackageNotFoundError(name)

    shipped = {name: point.value for name, point in installed().items()}
    monkeypatch.setattr(strategies, "distribution", distribution)
    monkeypatch.setattr(strategies, "entry_points", lambda group: ())
    strategies._of_checkout.cache_clear()
    try:
        assert {name: point.value for name, point in installed().items()} == shipped
        assert build_strategy("lofi").name == "lofi"
    finally:
        strategies._of_checkout.cache_clear()
