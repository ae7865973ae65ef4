"""``convc bench --ops``: every kind of op beside PyTorch, forward and with gradients."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import numpy.typing as npt

import ir
from convc.backend.target import Target
from convc.errors import InputError
from convc.model import compile
from convc.tools.comparison import difference
from convc.tools.ops_cases import FAMILIES, OpCase
from convc.tools.peers import needed
from convc.tools.progress import Progress
from convc.tools.table import table
from convc.tools.timing import Call, Timing, measure, pause_for
from ir.errors import did_you_mean

HEADER = ("op", "direction", "ms", "PyTorch, ms", "ratio", "difference")
SLOW = 1 / 3  # a ratio below this is pointed out
TOLERANCE = 1e-3  # of the largest magnitude


@dataclass(frozen=True)
class OpResult:
    """One case in one direction: "forward", or "both" with the gradients of all operands.

    ``note`` says why convc is slower, where that is known.
    """

    op: str
    direction: str
    seconds: float
    theirs: float
    error: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """PyTorch's time over convc's: above 1, convc is faster."""
        return self.theirs / self.seconds

    def cells(self) -> tuple[str, ...]:
        return (self.op, self.direction, f"{self.seconds * 1e3:.3f}", f"{self.theirs * 1e3:.3f}",
                f"{self.ratio:.2f}", f"{self.error:.0e}")  # fmt: skip

    @property
    def excuse(self) -> str:
        """What to say of one that is too slow."""
        return f"{self.op}, {self.direction}: {self.note or 'for no reason that is known'}"


@dataclass(frozen=True)
class OpReport:
    """All results of a run."""

    target: str
    threads: int
    results: Sequence[OpResult]

    @property
    def failed(self) -> bool:
        return any(not result.error < TOLERANCE for result in self.results)

    def text(self) -> str:
        ratios = [result.ratio for result in self.results]
        lines = [table(HEADER, [result.cells() for result in self.results]), ""]
        lines.append(f"{self.target}, threads: {self.threads}; PyTorch / convc: "
                     f"geometric mean {statistics.geometric_mean(ratios):.2f}")  # fmt: skip
        slow = [f"  {r.excuse}" for r in self.results if r.ratio < SLOW]
        if slow:
            lines += ["slower than a third of PyTorch:", *slow]
        return "\n".join(lines)

    def plain(self) -> dict[str, object]:
        """For JSON."""
        rows = [{**asdict(result), "ratio": result.ratio} for result in self.results]
        return {"target": self.target, "threads": self.threads, "results": rows}


def measured(patterns: Sequence[str], target: Target, threads: int, rounds: int) -> OpReport:
    """Measure the cases that a pattern names (all without any); shows each when it is done.

    Raises ``InputError`` for a pattern that names none, ``MissingExtraError`` without PyTorch.
    """
    torch = needed("torch")
    torch.set_num_threads(threads)
    progress, results = Progress(), list[OpResult]()
    for case in _named(patterns):
        for direction in ("forward", "both"):
            result = _measured(case, direction, torch, target, threads, rounds)
            results.append(result)
            progress.done("  ".join(result.cells()))
    return OpReport(target.name, threads, results)


def _named(patterns: Sequence[str]) -> Iterator[OpCase]:
    known = {case.name: (family, case) for family, cases in FAMILIES.items() for case in cases}
    for pattern in patterns:
        if not any(fnmatch(name, pattern) or pattern == f for name, (f, _) in known.items()):
            hint = did_you_mean(pattern, (*FAMILIES, *known))
            raise InputError(
                f"--ops: nothing is called {pattern!r}{hint} (families: "
                f"{', '.join(FAMILIES)}; cases: {', '.join(map(repr, known))})"
            )
    for name, (family, case) in known.items():
        if not patterns or any(fnmatch(name, p) or p == family for p in patterns):
            yield case


def _measured(
    case: OpCase, direction: str, torch: Any, target: Target, threads: int, rounds: int
) -> OpResult:
    graph = _graph(case)
    rng = np.random.default_rng(0)
    arrays = [_array(type, case, rng) for type in graph.inputs.values()]
    (y,) = graph.outputs.values()
    upstream = np.asarray(rng.standard_normal(graph.types[y].static_shape, np.float32))
    both = direction == "both"
    model = compile(ir.vjp(graph) if both else graph, threads, target=target.name)
    given = [*arrays, upstream] if both else arrays
    calls: dict[str, Call] = {
        "convc": lambda: model(*given),
        "torch": _torch(case, torch, arrays, upstream if both else None),
    }
    error = _error(calls)
    times: dict[str, Timing] = measure(calls, rounds, pause=pause_for(threads))
    note = case.notes.get(direction, "")
    return OpResult(case.name, direction, times["convc"].median, times["torch"].median, error, note)


def _graph(case: OpCase) -> ir.Graph:
    b = ir.Builder("case")
    operands = [b.input(f"x{number}", type) for number, type in enumerate(case.types)]
    b.output("y", case.emit(b, *operands))
    return b.build()


def _array(type: ir.TensorType, case: OpCase, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = type.static_shape
    if not type.dtype.is_float:
        return rng.integers(0, case.high, shape, dtype=np.int64)
    if case.positive:
        return rng.uniform(0.5, 2.0, shape).astype(np.float32)
    return np.asarray(rng.standard_normal(shape, np.float32))


def _torch(
    case: OpCase, torch: Any, arrays: Sequence[npt.NDArray[Any]],
    upstream: npt.NDArray[Any] | None,
) -> Call:  # fmt: skip
    tensors = [torch.from_numpy(array) for array in arrays]
    if upstream is None:

        def forward() -> Any:
            with torch.inference_mode():
                return (case.twin(torch, *tensors),)

        return forward
    floats = [tensor.requires_grad_() for tensor in tensors if tensor.is_floating_point()]
    g = torch.from_numpy(upstream)

    def both() -> Any:
        y = case.twin(torch, *tensors)
        return (y.detach(), *torch.autograd.grad(y, floats, g))

    return both


def _error(calls: dict[str, Call]) -> float:
    """The largest difference between the results, relative to the largest magnitude of each."""
    ours: Any = calls["convc"]()
    theirs: Any = calls["torch"]()
    pairs = zip(ours if isinstance(ours, tuple) else (ours,), theirs, strict=True)
    return max(difference(mine, np.asarray(other)) for mine, other in pairs)
