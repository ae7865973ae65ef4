"""ONNX's conformance suite, interpreted and native."""

from __future__ import annotations

import pytest

from convc import onnx_backend
from tests.onnx.conformance import EXCEPTIONS, FIRST, WHOLE, cases, core, failures

LEAST = {"conv": 17, "pool": 52, "linear": 18, "activation": 48, "norm": 55, "softmax": 21,
         "arithmetic": 66, "reduction": 112, "movement": 164, "training": 59, "expanded": 234,
         "small": 14, "light": 8}  # fmt: skip
"""How many cases of a family pass at least."""
LEAST_OF_CORE, LEAST_OF_ALL = 835, 868
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
    """Prints how many cases of each family pass, and how many others have known operators."""
    failed: dict[str, str] = {}
    for name, least in LEAST.items():
        wrong = failures(name, reference)
        right = len(cases()[name]) - len(wrong)
        print(f"{name:12} {right} of {len(cases()[name])}")
        assert right >= least, wrong
        failed |= wrong
    total = sum(len(cases()[name]) for name in LEAST)
    in_core = len(core() - failed.keys())
    print(f"{in_core} of {len(core())} cases of the operators of convolutional networks pass,")
    print(f"{total - len(failed)} of {total} with those of related operators; what does not:")
    for case in failed:
        print(f"  {case}: {EXCEPTIONS.get(case, failed[case])}")
    others = [case for case in cases()["other"] if onnx_backend.is_compatible(case.model)]
    print(f"of {len(cases()['other'])} other cases, {len(others)} have operators that are known")
    assert failed.keys() <= EXCEPTIONS.keys(), failed
    assert in_core >= LEAST_OF_CORE
    assert total - len(failed) >= LEAST_OF_ALL
