"""ONNX's conformance suite, interpreted and native."""

from __future__ import annotations

import pytest

from convc import onnx_backend
from tests.onnx.conformance import EXCEPTIONS, FIRST, WHOLE, cases, failures

LEAST = {"conv": 17, "pool": 52, "linear": 18, "activation": 48, "norm": 55, "softmax": 21,
         "arithmetic": 66, "reduction": 112, "movement": 164, "training": 59, "expanded": 234,
         "small": 14, "light": 8}  # fmt: skip
"""How many cases of a family pass at least."""
LEAST_OF_ALL = 868
REST = tuple(name for name in LEAST if name not in FIRST and name not in WHOLE)


@pytest.mark.parametrize("reference", [True, False], ids=["interpreted", "native"])
@pytest.mark.parametrize("name", FIRST)
def test_a_family_conforms(name: str, reference: bool) -> None:
    assert len(cases()[name]) >= LEAST[name]
    assert failures(name, reference) == {}


@pytest.mark.parametrize("name", REST)
def test_another_family_conforms_interpreted(name: str) -> None:
    failed = failures(name, True)
    assert failed.keys() <= EXCEPTIONS.keys(), failed
    assert len(cases()[name]) - len(failed) >= LEAST[name]


@pytest.mark.slow
@pytest.mark.parametrize("reference", [True, False], ids=["interpreted", "native"])
def test_the_whole_suite(reference: bool) -> None:
    """Prints how many cases of each family pass, and which operators no family has."""
    total = passed = 0
    unexpected: dict[str, str] = {}
    for name, least in LEAST.items():
        failed = failures(name, reference)
        right = len(cases()[name]) - len(failed)
        print(f"{name:12} {right} of {len(cases()[name])}")
        assert right >= least, failed
        unexpected |= {case: why for case, why in failed.items() if case not in EXCEPTIONS}
        total, passed = total + len(cases()[name]), passed + right
    print(f"{passed} of {total} cases of the named families pass; exceptions: {EXCEPTIONS}")
    others = [case for case in cases()["other"] if onnx_backend.is_compatible(case.model)]
    print(f"of {len(cases()['other'])} other cases, {len(others)} have operators that are known")
    assert unexpected == {}
    assert passed >= LEAST_OF_ALL
