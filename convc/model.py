"""A compiled model: numpy in, numpy out."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ir
from convc import debug, settings
from convc.algorithms import Algorithm
from convc.backend.target import Target, check_runnable, target_named
from convc.budget import Pair, Planned, within
from convc.compile_arguments import (
    check_algorithms,
    check_by_image,
    check_graph,
    check_memory,
    check_passes,
    check_threads,
    check_tuning,
)
from convc.errors import InputError
from convc.forcing import check_choices, check_names
from convc.images import Pieces, linked, pieces, smaller_pieces
from convc.indices import Bound, bounds, check_weights
from convc.lowering import Kernels, Lowering
from convc.passes import PIPELINE, Pass, optimised
from convc.plan import Plan, check_capacity, check_values, plan
from convc.program import Program
from convc.runtime.executable import Executable
from convc.runtime.memory import address, give_back
from convc.select import Asked, check_accuracy, choices_in
from convc.tuning import BUDGET
from convc.tuning.database import measured
from convc.tuning.records import Context, Row, Times, read_lines, times_of
from ir.types import described

Array = npt.NDArray[Any]
LOG = logging.getLogger("convc")


@dataclass(frozen=True)
class Options:
    """How a graph is compiled.

    ``tuning`` holds measured times, None for those of the database; ``tune`` the seconds that
    measuring may take before; ``memory`` the bytes that constants and arena may take;
    ``by_image`` whether batches may be run image by image.
    """

    threads: int
    accuracy: str
    algorithms: tuple[tuple[str, str], ...]
    target: Target
    passes: tuple[Pass, ...]
    tuning: tuple[Row, ...] | None = None
    tune: float = 0.0
    memory: int | None = None
    by_image: bool = True

    def times(self) -> Times:
        """Measured times that apply here."""
        if self.tuning is None:
            return measured(self.target, self.threads)
        return times_of(self.tuning, Context.of(self.target, self.threads))


def compile(
    graph: ir.Graph,
    threads: int | None = None,
    accuracy: str = "fast",
    algorithms: Mapping[str, str] | None = None,
    target: str | None = None,
    passes: Sequence[Pass] | None = None,
    tune: bool | float = False,
    tuning: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    by_image: bool = True,
) -> Model:
    """Compile a graph to native code: a ``Model``, to be called with arrays.

    ``graph``: with symbolic extents, code is made for each set of values of theirs when arrays
    first have them; what is wrong with the other arguments is said before.
    ``threads``: at most so many (default: ``CONVC_NUM_THREADS``, else what this process may use).
    ``accuracy``: "fast", or "exact", which leaves out the algorithms that do more than reorder
    sums, those with a stated error bound.
    ``algorithms``: node name to algorithm name, to force a choice (default: the fastest, as
    measured or predicted).
    ``target``: "avx512", "avx2", "plain" or "neon" (default: ``CONVC_TARGET``, else the best one
    that runs here).
    ``passes``: functions from graph to graph, which run in this order (default:
    ``convc.passes.PIPELINE``); composite ops need ``expand_composites`` among them.
    ``tune``: first measure how long each algorithm takes for each op, where this machine's
    database does not know it, for at most so many seconds (True: 30; default: do not measure).
    ``tuning``: a file of times, which ``convc tune --export`` wrote, to go by instead of the
    database; not together with ``tune``.
    ``memory``: how many bytes prepared weights and intermediate results may take (default: no
    limit); algorithms, and ways to run batches, that need more are not chosen.
    ``by_image``: where it pays, the first ops of a network run for one image of a batch after the
    other, which stay in the caches so; False lets every op run over the whole batch.

    Raises ``InputError`` for an argument of a wrong kind or value, ``AlgorithmError`` where no
    algorithm, or not the forced one, computes a node, ``TargetError`` for a target that does not
    run here, ``CapacityError`` for what does not fit into memory, ``LoadError`` for a file of
    times that cannot be read, ``ir.Error`` for what passes make of the graph.
    """
    check_graph(graph)
    check_threads(threads)
    check_accuracy(accuracy)
    check_algorithms(algorithms)
    check_names(graph, algorithms or {})
    if passes is not None:
        check_passes(passes)
    check_tuning(tune, tuning)
    check_memory(memory)
    check_by_image(by_image)
    chosen = target_named(target)
    check_runnable(chosen)
    options = Options(
        settings.usable_threads(threads or settings.default_threads()),
        accuracy,
        tuple(sorted((algorithms or {}).items())),
        chosen,
        tuple(PIPELINE if passes is None else passes),
        None if tuning is None else read_lines(Path(tuning)),
        BUDGET if tune is True else float(tune),
        memory,
        by_image,
    )
    if options.tuning and not options.times():
        LOG.warning("%s: no times for %s; going by predictions",
                    tuning, Context.of(options.target, options.threads))  # fmt: skip
    return Model(graph, options)


@dataclass(frozen=True)
class Stages:
    """What became of a static graph on its way to machine code."""

    graph: ir.Graph
    optimised: ir.Graph
    algorithms: Mapping[str, Algorithm]
    plan: Plan
    target: Target


def stages(graph: ir.Graph, options: Options) -> Stages:
    """Take a static graph through passes, selection, lowering and planning."""
    check_values(graph)
    improved = optimised(graph, options.passes)
    check_weights(improved)
    check_choices(dict(options.algorithms), graph, options.target)
    forced = renamed(dict(options.algorithms), graph, improved)
    make = _Planner(improved, options, forced, options.times())
    cut = pieces(improved, options.by_image, options.threads)
    if options.memory is None:
        made = make(cut)
    else:
        others = smaller_pieces(improved, options.by_image, options.threads)
        made = within(options.memory, options.threads, chain([cut], others), make)
    check_capacity(made.plan, options.threads)
    chosen = {choice.node.name: choice.chosen.algorithm for choice in made.choices}
    done = Stages(graph, improved, chosen, made.plan, options.target)
    return debug.report(done, options.passes)


@dataclass(frozen=True)
class _Planner:
    """Takes an optimised graph, in pieces, through selection, lowering and planning.

    What is made on the way is kept for the next time.
    """

    graph: ir.Graph
    options: Options
    forced: Mapping[str, str]
    times: Times
    asked: Asked = field(default_factory=dict)
    kernels: Kernels = field(default_factory=dict)

    def __call__(self, cut: Pieces, given_up: Collection[Pair] = ()) -> Planned:
        how = self.options.target, self.options.accuracy, self.forced, self.times
        made = tuple(choices_in(cut, *how, given_up, self.asked))
        chosen = {choice.node.name: choice.chosen.algorithm for choice in made}
        programs = (self._lowered(piece.graph, chosen) for piece in cut)
        program = linked(self.graph, zip(cut, programs, strict=True))
        return Planned(cut, made, plan(program))

    def _lowered(self, graph: ir.Graph, chosen: Mapping[str, Algorithm]) -> Program:
        return Lowering(graph, chosen, self.options.target, self.kernels, self.forced).program()


def renamed(forced: Mapping[str, str], before: ir.Graph, after: ir.Graph) -> dict[str, str]:
    """Choices by the name of a node that a pass has fused into another: they move there."""
    names = {node.name for node in after.nodes}
    before = ir.expand(before) if forced else before
    moved: dict[str, str] = {}
    for name, algorithm in forced.items():
        value = name
        while value not in names:
            readers = before.consumers(value)
            if before.producer(value) is None or len(readers) != 1:
                break
            value = readers[0].name
        moved[value if value in names else name] = algorithm
    return moved


class Model:
    """Call it with arrays in the order of the inputs, or ``run`` it with arrays by name.

    Calls from several threads may overlap. Arrays that are not C-contiguous are copied; any other
    mismatch raises ``ir.InputError``.
    """

    def __init__(self, graph: ir.Graph, options: Options) -> None:
        self.graph, self.options = graph, options
        self._special: OrderedDict[tuple[tuple[str, int], ...], _Special] = OrderedDict()
        self._limit = settings.number("CONVC_SPECIALISATIONS")
        self._static = not graph.symbols
        self._names = tuple(graph.inputs)
        self._fixed = self._specialise({}) if self._static else None

    def __call__(self, *arrays: Array, **named: Array) -> Any:
        """The output, or a tuple of them where the graph has several."""
        if named:
            raise ir.InputError(f"{'=, '.join(named)}=: call model.run({{...}}) for arrays by name")
        if len(arrays) != len(self._names):
            listed = ", ".join(f"{name}: {type}" for name, type in self.graph.inputs.items())
            given = f"{len(arrays)} arrays for the inputs {listed or '(none)'}"
            hint = "give them in this order, or call model.run({...}) for arrays by name"
            raise ir.InputError(f"graph '{self.graph.name}': {given}; {hint}")
        results = self._run(arrays)
        return results[0] if len(results) == 1 else results

    def run(
        self, inputs: Mapping[str, Array], outputs: Mapping[str, Array] | None = None
    ) -> dict[str, Array]:
        """Outputs by name. Arrays given in ``outputs`` are written to instead of new ones."""
        if not isinstance(inputs, Mapping):
            hint = "give a dict of input names and arrays, or call model(...) with the arrays alone"
            raise InputError(f"run takes arrays by name, not {described(inputs)}; {hint}")
        if inputs.keys() != self.graph.inputs.keys():
            ir.check_inputs(self.graph, inputs)
        results = self._run(tuple(inputs[name] for name in self._names), outputs)
        return dict(zip(self.graph.outputs, results, strict=True))

    def __repr__(self) -> str:
        how = f"{self.options.target.name}, threads: {self.options.threads}"
        return f"<Model of {self.graph!r}, {how}>"

    def stages(self, **sizes: int) -> Stages:
        """The stages of compilation, for given values of the symbolic extents.

        Raises ``ir.ShapeError`` for names and values that the graph cannot have, ``InputError``
        where some are missing.
        """
        return stages(self._bound(sizes), self.options)

    def executable(self, **sizes: int) -> Executable:
        """The machine code for given values of the symbolic extents; raises as ``stages``."""
        self._bound(sizes)
        return (self._fixed or self._specialise(sizes)).executable

    def _bound(self, sizes: Mapping[str, int]) -> ir.Graph:
        """The graph with all of its symbolic extents given."""
        graph = self.graph.bind(sizes) if sizes else self.graph
        if graph.symbols:
            missing = ", ".join(sorted(graph.symbols))
            hint = f"give each as an int, as in {min(graph.symbols)}=8"
            raise InputError(f"graph '{self.graph.name}' needs sizes for {missing}; {hint}")
        return graph

    def _run(
        self, arrays: Sequence[Array], outputs: Mapping[str, Array] | None = None
    ) -> tuple[Array, ...]:
        special = self._fixed
        if special is None or not special.accepts(arrays):
            arrays, special = self._checked(arrays)
        for position, what, bound in special.bounds:
            bound.check(what, arrays[position])
        results = special.allocate() if outputs is None else special.given(outputs, arrays)
        special.executable.run(
            [address(array) for array in arrays], [address(array) for array in results]
        )
        return results

    def _checked(self, arrays: Sequence[Array]) -> tuple[Sequence[Array], _Special]:
        """The slow path: raise for what does not fit, copy what is not contiguous."""
        env = ir.check_inputs(self.graph, dict(zip(self._names, arrays, strict=True)))
        contiguous = [np.require(np.asarray(a), requirements=["C", "A"]) for a in arrays]
        return contiguous, self._fixed or self._specialise(env)

    def _specialise(self, env: Mapping[str, int]) -> _Special:
        key = tuple(sorted(env.items()))
        special = self._special.get(key)
        if special is not None:
            with suppress(KeyError):  # another thread may have dropped it just now
                self._special.move_to_end(key)
        else:
            if env:
                LOG.info("compiling %s for %s", self.graph.name, dict(env))
            graph = self.graph.bind(env) if env else self.graph
            if self.options.tune:
                from convc.tuning.tuner import tune  # itself a user of models

                LOG.info("measuring algorithms for %s", graph.name)
                tune(graph, self.options, self.options.tune)
            made = stages(graph, self.options)
            known, target, (plan, data) = bounds(made.optimised), made.target, made.plan.split()
            del made  # the weights go one by one, as they are packed
            give_back()
            executable = Executable(plan, target, self.options.threads, data)
            special = _Special(graph, known, executable)
            give_back()
            self._special[key] = special
            if len(self._special) > self._limit:
                old, _ = self._special.popitem(last=False)
                LOG.warning("%s: code for %s dropped, %d sizes are kept (CONVC_SPECIALISATIONS)",
                            self.graph.name, dict(old), self._limit)  # fmt: skip
        return special

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self.graph, replace(self.options, tune=0.0))


class _Special:
    """The executable for one set of sizes, and the arrays it takes and gives."""

    def __init__(self, graph: ir.Graph, known: Mapping[str, Bound], executable: Executable) -> None:
        self.executable = executable
        self.inputs = [(t.static_shape, t.dtype.numpy) for t in graph.inputs.values()]
        types = [graph.types[value] for value in graph.outputs.values()]
        self.outputs = [(t.static_shape, t.dtype.numpy) for t in types]
        self.names = tuple(graph.outputs)
        self.bounds = [
            (position, f"input '{name}'", known[name])
            for position, name in enumerate(graph.inputs)
            if name in known
        ]

    def accepts(self, arrays: Sequence[Array]) -> bool:
        """Whether the arrays can be used as they are; if not, the slow path says why."""
        for array, (shape, dtype) in zip(arrays, self.inputs, strict=True):
            if type(array) is not np.ndarray or array.shape != shape or array.dtype != dtype:
                return False
            flags = array.flags
            if not (flags.c_contiguous and flags.aligned):
                return False
        return True

    def allocate(self) -> tuple[Array, ...]:
        return tuple([np.empty(shape, dtype) for shape, dtype in self.outputs])

    def given(self, outputs: Mapping[str, Array], inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Output arrays by name, checked, also for overlaps; those not given are made."""
        for name in outputs.keys() - set(self.names):
            raise InputError(f"no output {name!r}; outputs: {', '.join(self.names)}")
        results: list[Array] = []
        for name, (shape, dtype) in zip(self.names, self.outputs, strict=True):
            array = outputs.get(name)
            if array is None:
                array = np.empty(shape, dtype)
            if not isinstance(array, np.ndarray):
                given = type(array).__name__
                raise InputError(f"output {name!r} must be a numpy array, got {given}")
            flags = array.flags
            fits = array.shape == shape and array.dtype == dtype and flags.c_contiguous
            if not (fits and flags.writeable and flags.aligned):
                raise InputError(
                    f"output {name!r} must be a writeable, C-contiguous {dtype}{list(shape)}, "
                    f"got {array.dtype}{list(array.shape)}"
                )
            if any(np.may_share_memory(array, other) for other in (*inputs, *results)):
                raise InputError(f"output {name!r} overlaps an input or another output")
            results.append(array)
        return tuple(results)
