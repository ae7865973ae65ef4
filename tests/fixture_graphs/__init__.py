"""The worked fixtures of fixtures.json: as graphs, or computed where they have no tensors."""

from tests.fixture_graphs import numbers, pool
from tests.fixture_graphs.build import Case, build
from tests.fixture_graphs.rules import FIXTURES, Array, Fixture

__all__ = ["COMPUTED", "COMPUTED_IDS", "FIXTURES", "GRAPH_IDS", "Array", "Case", "Fixture", "build"]

COMPUTED = numbers.COMPUTED | pool.COMPUTED
COMPUTED_IDS = [key for key, fixture in FIXTURES.items() if fixture["op"] in COMPUTED]
GRAPH_IDS = [key for key in FIXTURES if key not in COMPUTED_IDS]
