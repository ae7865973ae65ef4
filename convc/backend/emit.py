"""Kernels to LLVM IR.

Each kernel becomes ``void NAME(ptr arguments, i64 begin, i64 end, ptr scratch)``: the arguments are
a table of buffer addresses, ``begin..end`` is the range of tasks to run, and the scratch holds the
large locals, as many bytes as ``scratch_bytes`` says. Unrolled variables are Python integers here,
so their subscripts fold into constant offsets; the varying part of an address is computed once, in
the loop that owns its innermost variable. A square local that is written by rows and read by
columns is transposed in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby

from llvmlite import ir as llvm

from convc.backend.addresses import Addresses, Scope
from convc.backend.functions import EMITTERS
from convc.backend.instructions import (
    BYTE,
    I32,
    I64,
    POINTER,
    TYPES,
    Value,
    gathered,
    strided_load,
    transposed,
    vector_load,
)
from convc.backend.scratch import ON_STACK, local_bytes
from convc.backend.target import ITEM_BYTES, Target
from ir.loops.nodes import (
    Affine,
    Call,
    Const,
    Expr,
    Guard,
    Kernel,
    Load,
    Local,
    Loop,
    Param,
    Position,
    Prefetch,
    Stmt,
    Store,
    flat_index,
    task_count,
)
from ir.loops.verify import verify

ENTRY_TYPE = llvm.FunctionType(llvm.VoidType(), [POINTER, I64, I64, POINTER])
EVERY_LEVEL = 3  # of llvm.prefetch: into all caches


def emit_kernel(module: llvm.Module, kernel: Kernel, target: Target, name: str) -> llvm.Function:
    """Add the kernel to ``module`` as a function of the given name.

    Raises ``KernelError`` for one that is ill-formed: no code is generated from it.
    """
    verify(kernel)
    function = llvm.Function(module, ENTRY_TYPE, name)
    function.attributes.add("nounwind")
    _Emitter(module, function, kernel, target).emit()
    return function


class _Emitter(Addresses):
    def __init__(
        self, module: llvm.Module, function: llvm.Function, kernel: Kernel, target: Target
    ) -> None:
        self.entry = function.append_basic_block("entry")
        super().__init__(self.entry)
        self.module, self.function, self.kernel, self.target = module, function, kernel, target
        self.buffers = {p.name: p for p in kernel.params}
        self.loads: dict[tuple[str, Affine, int, int], Value] = {}  # of this straight line
        self.columns: dict[str, list[Value]] = {}  # transposed square locals, of this line too
        self.memory: dict[Local, Value] = {}
        self.scratch = 0  # bytes given to large locals so far

    def emit(self) -> None:
        arguments, begin, end, _ = self.function.args
        for number, param in enumerate(self.kernel.params):
            slot = self.builder.gep(arguments, [I64(number)], source_etype=POINTER)
            self.bases[param.name] = self.builder.load(slot, typ=POINTER)
        self._start_body("start")
        left = self.kernel.tasks
        for each, alike in groupby(filter(task_count, self.kernel.body), task_count):
            nests = tuple(alike)
            rest = left - each * len(nests)
            later = self._later(begin, rest, left), self._later(end, rest, left)
            own = self.builder.sub(begin, later[0]), self.builder.sub(end, later[1])
            self._nests(nests, *own)
            (begin, end), left = later, rest
        self.builder.ret_void()

    def _later(self, tasks: Value, rest: int, count: int) -> Value:
        """How many of the first ``tasks`` of ``count`` belong to nests further on, which have
        ``rest`` of them: evenly among the others, as tasks of different nests take different
        times, and threads get neighbours."""
        scaled = self.builder.mul(tasks, I64(rest))
        return self.builder.udiv(self.builder.add(scaled, I64(count // 2)), I64(count))

    def _nests(self, nests: Sequence[Stmt], begin: Value, end: Value) -> None:
        """Run tasks ``begin..end`` of nests that have equally many: the first of each, the second
        of each, ... Nests alike work on the same data, which is then still in the cache."""
        with self._runtime_loop(begin, end) as task:
            many, turn = I64(len(nests)), task
            if len(nests) > 1:
                turn, task = self.builder.urem(task, many), self.builder.udiv(task, many)
            places = [self._place(nest, task) for nest in nests]
            self._start_body("task")
            if len(nests) == 1:
                self._task(*places[0])
                return
            after = self.function.append_basic_block("joined")
            cases = [self.function.append_basic_block("turn") for _ in nests]
            switch = self.builder.switch(turn, cases[-1])
            for number, (case, place) in enumerate(zip(cases, places, strict=True)):
                if case is not cases[-1]:
                    switch.add_case(I64(number), case)
                self.builder.position_at_end(case)
                self._forget()
                self.scopes[-1].addresses.clear()  # loops of other nests may have the same names
                self._task(*place)
                self.builder.branch(after)
            self.builder.position_at_end(after)

    def _place(self, nest: Stmt, task: Value) -> tuple[tuple[Stmt, ...], dict[str, Value | int]]:
        """The body inside the parallel loops of a nest, and their variables in a task."""
        loops: list[Loop] = []
        body: tuple[Stmt, ...] = (nest,)
        while len(body) == 1 and isinstance(body[0], Loop) and body[0].kind == "parallel":
            loops.append(body[0])
            body = body[0].body
        values: dict[str, Value | int] = {}
        for loop in reversed(loops):
            if loop.extent == 1:
                values[loop.variable] = loop.start
                continue
            remainder = task
            if loop is not loops[0]:
                remainder = self.builder.urem(task, I64(loop.extent))
                task = self.builder.udiv(task, I64(loop.extent))
            values[loop.variable] = self.builder.add(remainder, I64(loop.start))
        return body, values

    def _task(self, body: tuple[Stmt, ...], values: Mapping[str, Value | int]) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, int)}
        depth = len(self.scopes) - 1
        self.variables |= {n: (depth, v) for n, v in values.items() if not isinstance(v, int)}
        self.constants |= numbers
        self._block(body)
        for name in numbers:
            del self.constants[name]

    def _block(self, body: tuple[Stmt, ...]) -> None:
        for stmt in body:
            if isinstance(stmt, Store):
                self._store(stmt)
            elif isinstance(stmt, Prefetch):
                self._prefetch(stmt)
            elif isinstance(stmt, Local):
                self._local(stmt)
            elif isinstance(stmt, Guard):
                self._guard(stmt)
            else:
                LOOPS[stmt.kind](self, stmt)

    def _serial(self, loop: Loop) -> None:
        with self._runtime_loop(I64(loop.start), I64(loop.stop), nonempty=True) as value:
            self.variables[loop.variable] = (len(self.scopes) - 1, value)
            self._start_body(loop.variable)
            self._block(loop.body)

    def _unrolled(self, loop: Loop) -> None:
        for value in range(loop.start, loop.stop):
            self.constants[loop.variable] = value
            self._block(loop.body)
        del self.constants[loop.variable]

    def _vectorised(self, loop: Loop) -> None:
        self.vector = (loop.variable, loop.start, loop.extent)
        self._block(loop.body)
        self.vector = None

    @contextmanager
    def _runtime_loop(self, start: Value, stop: Value, nonempty: bool = False) -> Iterator[Value]:
        before = self.builder.block
        head, after = (self.function.append_basic_block(n) for n in ("head", "after"))
        if nonempty:
            self.builder.branch(head)
        else:
            self.builder.cbranch(self.builder.icmp_signed("<", start, stop), head, after)
        self.builder.position_at_end(head)
        value = self.builder.phi(I64)
        value.add_incoming(start, before)
        self.scopes.append(Scope(head))
        self._forget()
        yield value
        self.scopes.pop()
        following = self.builder.add(value, I64(1), flags=("nsw",))
        value.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, stop), head, after)
        self.builder.position_at_end(after)
        self._forget()

    def _forget(self) -> None:
        """Values known on a straight line of code are not known beyond it."""
        self.loads.clear()
        self.columns.clear()

    def _start_body(self, name: str) -> None:
        """Close the head block of the current scope, which addresses may still be added to."""
        body = self.function.append_basic_block(name)
        self.builder.branch(body)
        self.builder.position_at_end(body)

    def _guard(self, guard: Guard) -> None:
        position = self._index(guard.index)
        inside = self.builder.and_(
            self.builder.icmp_signed(">=", position, I64(guard.low)),
            self.builder.icmp_signed("<", position, I64(guard.high)),
        )
        with self.builder.if_then(inside):
            self._forget()
            self._block(guard.body)
        self._forget()

    def _local(self, local: Local) -> None:
        """Equal locals share memory: an unrolled loop has only one, however often it runs."""
        if self.buffers.get(local.name) != local:  # forget an earlier array of this name
            self.buffers[local.name] = local
            self.columns.pop(local.name, None)
            for scope in self.scopes:
                scope.addresses = {k: v for k, v in scope.addresses.items() if k[0] != local.name}
        if local not in self.memory:
            with self.builder.goto_block(self.entry):
                large = local_bytes(local) > ON_STACK
                self.memory[local] = self._in_scratch(local) if large else self._on_stack(local)
        self.bases[local.name] = self.memory[local]

    def _on_stack(self, local: Local) -> Value:
        array = llvm.ArrayType(TYPES[local.dtype], math.prod(local.shape))
        memory = self.builder.alloca(array, name=local.name)
        memory.align = 64
        memory.type = POINTER  # llvmlite still makes it a typed pointer
        return memory

    def _in_scratch(self, local: Local) -> Value:
        offset = [I64(self.scratch)]
        self.scratch += local_bytes(local)
        return self.builder.gep(self.function.args[3], offset, source_etype=BYTE)

    def _store(self, store: Store) -> None:
        buffer = self.buffers[store.target.buffer]
        value = self._expression(store.value)
        address, stride, places = self._address(store.target)
        self.columns.pop(store.target.buffer, None)
        align = ITEM_BYTES[buffer.dtype]
        if self.vector is None:
            self.builder.store(value, address, align=align)
        elif stride == 1 and not places:
            self.builder.store(self._splat(value), address, align=align)
        else:
            value = self._splat(value)
            for lane in range(self.vector[2]):
                apart = self._offset(address, lane * stride, buffer.dtype) if not places else None
                element = self.builder.extract_element(value, I32(lane))
                self.builder.store(element, apart or places[lane], align=align)

    def _prefetch(self, prefetch: Prefetch) -> None:
        """Fetch the cache line of the (first lane's) element."""
        kind = llvm.FunctionType(llvm.VoidType(), [POINTER, I32, I32, I32])
        fetch = self.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
        address, *_ = self._address(prefetch.place)
        self.builder.call(fetch, [address, I32(0), I32(EVERY_LEVEL), I32(1)])

    def _expression(self, expr: Expr) -> Value:
        if isinstance(expr, Call):
            args = [self._expression(arg) for arg in expr.args]
            if any(isinstance(arg.type, llvm.VectorType) for arg in args):
                args = [self._splat(arg) for arg in args]
            return EMITTERS[expr.function](self, *args)
        if isinstance(expr, Load):
            return self._load(expr)
        if isinstance(expr, Const):
            return llvm.Constant(
                TYPES[expr.dtype], int(expr.value) if expr.dtype == "i64" else expr.value
            )
        assert isinstance(expr, Position)
        return self._position(expr.index)

    def _load(self, load: Load) -> Value:
        buffer = self.buffers[load.buffer]
        flat = flat_index(load.index, buffer.shape)
        stride = flat.coefficient(self.vector[0]) if self.vector else 0
        lanes = self.vector[2] if self.vector and stride else 1
        key = (load.buffer, self._fold(flat), stride, lanes)
        known = self.loads.get(key)
        affine = all(isinstance(index, Affine) for index in load.index)
        if known is not None and affine:
            return known
        if self._is_column(load, buffer):
            return self._column(load, buffer)
        address, _, places = self._address(load)
        dtype, align = TYPES[buffer.dtype], ITEM_BYTES[buffer.dtype]
        if places:
            value = gathered(self.builder, places, buffer.dtype)
        elif self.vector is None or stride == 0:
            value = self.builder.load(address, typ=dtype, align=align)
        elif stride == 1 and isinstance(buffer, Local):  # in registers, where LLVM can prove it
            wide = llvm.VectorType(dtype, self.vector[2])
            value = self.builder.load(address, typ=wide, align=align)
        elif stride == 1:
            value = vector_load(self, address, self.vector[2], buffer.dtype)
        else:
            value = strided_load(self.builder, address, stride, self.vector[2], buffer.dtype)
        if affine and isinstance(buffer, Param) and not buffer.writable:
            self.loads[key] = value
        return value

    def _is_column(self, load: Load, buffer: Param | Local) -> bool:
        """Whether the lanes run down a square local from its first row, at a known column."""
        affine = [index for index in load.index if isinstance(index, Affine)]
        side = buffer.shape[0] if buffer.shape else 0
        square = buffer.shape == (side, side) and side & (side - 1) == 0
        if self.vector is None or not isinstance(buffer, Local) or not square or len(affine) < 2:
            return False
        row, column = map(self._fold, affine)
        down, across = (index.coefficient(self.vector[0]) for index in affine)
        return (down, across) == (1, 0) and row == Affine() and not column.terms

    def _column(self, load: Load, local: Param | Local) -> Value:
        assert self.vector
        if local.name not in self.columns:
            self.columns[local.name] = self._transposed(local)
        across = load.index[1]
        assert isinstance(across, Affine)
        column = self.columns[local.name][self._fold(across).constant]
        if self.vector[2] == local.shape[0]:
            return column
        first = llvm.Constant(llvm.VectorType(I32, self.vector[2]), list(range(self.vector[2])))
        return self.builder.shuffle_vector(column, column, first)

    def _transposed(self, local: Param | Local) -> list[Value]:
        side = local.shape[0]
        wide = llvm.VectorType(TYPES[local.dtype], side)
        rows = [
            self.builder.load(
                self._offset(self.bases[local.name], row * side, local.dtype), typ=wide,
                align=ITEM_BYTES[local.dtype],
            )
            for row in range(side)
        ]  # fmt: skip
        return transposed(self.builder, rows)


LOOPS: dict[str, Callable[[_Emitter, Loop], None]] = {
    "for": _Emitter._serial,
    "parallel": _Emitter._serial,
    "unroll": _Emitter._unrolled,
    "vector": _Emitter._vectorised,
}
