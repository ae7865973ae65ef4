"""The worked fixtures of fixtures.json: as graphs, or computed where they have no tensors."""

from tests.fixture_graphs import conv, numbers, pool
from tests.fixture_graphs.build import Case, build
from tests.fixture_graphs.rules import FIXTURES, Array, Fixture

__all__ = ["COMPUTED", "COMPUTED_IDS", "FIXTURES", "GRAPH_IDS", "NOT_YET", "Array", "Case",
           "Fixture", "build"]  # fmt: skip

COMPUTED = numbers.COMPUTED | pool.COMPUTED
NOT_YET = conv.NOT_YET | pool.NOT_YET
COMPUTED_IDS = [
    key for key, fixture in FIXTURES.items() if fixture["op"] in COMPUTED and key not in NOT_YET
]
GRAPH_IDS = [key for key in FIXTURES if key not in NOT_YET and key not in COMPUTED_IDS]
