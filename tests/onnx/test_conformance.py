"""ONNX's conformance suite: its node cases, interpreted and native."""

from __future__ import annotations

import pytest

from convc import onnx_backend
from tests.onnx.conformance import EXCEPTIONS, FAMILIES, FIRST, cases, failure, failures

LEAST = {"conv": 17, "pool": 50, "linear": 18, "activation": 46, "norm": 53, "softmax": 21,
         "arithmetic": 47, "reduction": 112, "movement": 150, "training": 59}  # fmt: skip
"""How many cases a family has at least: fewer means that they are not found any more."""
REST = tuple(name for name in FAMILIES if name not in FIRST)


@pytest.mark.parametrize("reference", [True, False], ids=["interpreted", "native"])
@pytest.mark.parametrize("name", FIRST)
def test_a_family_conforms(name: str, reference: bool) -> None:
    assert len(cases()[name]) >= LEAST[name]
    assert dict(failures(name, reference)) == {}


@pytest.mark.parametrize("name", REST)
def test_another_family_conforms_interpreted(name: str) -> None:
    assert len(cases()[name]) >= LEAST[name]
    failed = dict(failures(name, True))
    assert failed.keys() <= EXCEPTIONS.keys(), failed


@pytest.mark.slow
def test_the_whole_suite() -> None:
    """Prints how many cases of each family pass, and which operators the others need."""
    unexpected: dict[str, str] = {}
    missing: dict[str, int] = {}
    for name, members in cases().items():
        passed = 0
        for case in members:
            if not onnx_backend.is_compatible(case.model):
                kind = case.name if name == "expanded" else case.model.graph.node[0].op_type
                missing[kind] = missing.get(kind, 0) + 1
                continue
            reason = failure(case, True) or failure(case, False)
            passed += reason is None
            if reason is not None and case.name not in EXCEPTIONS:
                unexpected[case.name] = reason
        print(f"{name:12} {passed} of {len(members)}")
    print("operators that are missing:", missing)
    print("known exceptions:", EXCEPTIONS)
    assert unexpected == {}
