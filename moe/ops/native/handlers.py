"""Handlers of XLA's foreign function interface, which run tasks on threads.

XLA calls a handler with a frame that has the addresses of all buffers. The
handler starts threads, which take one task after another, and waits for them.
"""

from llvmlite import ir

from moe.ops.native.kernels import (
    BYTES,
    FLOATS,
    I32,
    I64,
    VOID,
    declared,
    loop,
    number,
)
from moe.ops.native.products import Buffer

# Byte offsets in structures of XLA's c_api.h, the same in its versions 0.3
# (jax 0.10) to 0.5 (jax 0.12), for addresses of 64 bits.
_FRAME_EXTENSION, _FRAME_ARGS, _FRAME_RESULTS = 8, 72, 112
_BUFFER_DATA, _BUFFER_DIMS = 24, 40
_EXTENSION_METADATA = 24
# In XLA_FFI_Metadata: two numbers of its version, traits, type of the state.
_METADATA_MAJOR, _METADATA_MINOR = 24, 28
_METADATA_TRAITS, _METADATA_STATE = 32, 40


class Handler:
    """A handler of a module.

    Args:
      module: the module to which it is added.
      name: its name.
      product: its tasks, such as `Rows`: the `ranks` of its arguments and its
        `results` (how many there are), the float32 numbers of `scratch` that
        a thread needs, `count` and `emit`.
      threads: largest number of threads.
      version: major and minor version of XLA's interface.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        product,
        threads: int,
        version: tuple[int, int],
    ):
        self._module, self._product, self._threads = module, product, threads
        self._worker(name)
        self._handler(name, version)

    def _start(self, name):
        kind = ir.FunctionType(BYTES, [BYTES])
        function = ir.Function(self._module, kind, name)
        return function, ir.IRBuilder(function.append_basic_block())

    def _buffers(self, code, words):
        """Reads the buffers from the words that threads share."""
        place, buffers = 2, []
        for rank in self._product.ranks:
            address, *dims = (
                code.load(code.gep(words, [number(place + i)]))
                for i in range(rank + 1)
            )
            buffers.append(Buffer(code.inttoptr(address, FLOATS), dims))
            place += rank + 1
        return buffers

    def _worker(self, name):
        """Adds the function of a thread: it does tasks until none is left."""
        malloc = declared(self._module, 'malloc', BYTES, I64)
        free = declared(self._module, 'free', VOID, BYTES)
        function, code = self._start(f'work_{name}')
        self._work = function
        words = code.bitcast(function.args[0], I64.as_pointer())
        size = 4 * self._product.scratch + 64
        memory = code.call(malloc, [number(size)])
        # The next multiple of 64: vectors do not cross cache lines.
        address = code.add(code.ptrtoint(memory, I64), number(63))
        scratch = code.inttoptr(code.and_(address, number(-64)), FLOATS)
        buffers = self._buffers(code, words)
        count = code.load(code.gep(words, [number(1)]))
        again, body, end = (function.append_basic_block() for _ in range(3))
        code.branch(again)
        code.position_at_end(again)
        task = code.atomic_rmw('add', words, number(1), 'monotonic')
        code.cbranch(code.icmp_signed('<', task, count), body, end)
        code.position_at_end(body)
        self._product.emit(code, buffers, task, scratch)
        code.branch(again)
        code.position_at_end(end)
        code.call(free, [memory])
        code.ret(ir.Constant(BYTES, None))

    def _handler(self, name, version):
        function, code = self._start(name)
        frame, nothing = function.args[0], ir.Constant(BYTES, None)
        extension = _pointer(code, frame, _FRAME_EXTENSION)
        asked = function.append_basic_block()
        called = function.append_basic_block()
        code.cbranch(
            code.icmp_unsigned('!=', extension, nothing), asked, called
        )
        code.position_at_end(asked)
        metadata = _pointer(code, extension, _EXTENSION_METADATA)
        for offset, value in (
            (_METADATA_MAJOR, I32(version[0])),
            (_METADATA_MINOR, I32(version[1])),
            (_METADATA_TRAITS, I32(0)),
            (_METADATA_STATE, number(0)),
        ):
            place = code.gep(metadata, [number(offset)])
            code.store(value, code.bitcast(place, value.type.as_pointer()))
        code.ret(nothing)
        code.position_at_end(called)
        self._run(code, frame)
        code.ret(nothing)

    def _run(self, code, frame):
        """Emits a call: words for the threads, the threads, the end of all."""
        size = 2 + sum(rank + 1 for rank in self._product.ranks)
        words = code.alloca(I64, size)
        for place, value in enumerate(self._words(code, frame)):
            code.store(value, code.gep(words, [number(2 + place)]))
        count = self._product.count(code, self._buffers(code, words))
        code.store(number(0), words)
        code.store(count, code.gep(words, [number(1)]))
        shared = code.bitcast(words, BYTES)
        few = code.icmp_signed('<', count, number(self._threads))
        threads = code.select(few, count, number(self._threads))
        # This thread is one of them.
        others = code.sub(threads, number(1))
        self._with_threads(code, shared, others)

    def _words(self, code, frame):
        """Yields the address and the dimensions of each buffer of a frame."""
        count = self._product.results
        args = _pointer(code, frame, _FRAME_ARGS)
        results = _pointer(code, frame, _FRAME_RESULTS)
        places = [(args, i) for i in range(len(self._product.ranks) - count)]
        places += [(results, i) for i in range(count)]
        for (array, i), rank in zip(places, self._product.ranks, strict=True):
            buffer = _pointer(code, array, 8 * i)
            yield code.ptrtoint(_pointer(code, buffer, _BUFFER_DATA), I64)
            dims = _pointer(code, buffer, _BUFFER_DIMS)
            for axis in range(rank):
                yield code.ptrtoint(_pointer(code, dims, 8 * axis), I64)

    def _with_threads(self, code, shared, others):
        """Starts threads, works, waits for those that could be started."""
        create = declared(self._module, 'pthread_create', I32, *[BYTES] * 4)
        join = declared(self._module, 'pthread_join', I32, I64, BYTES)
        nothing = ir.Constant(BYTES, None)
        ids = code.alloca(I64, self._threads)
        failed = code.alloca(I32, self._threads)
        work = code.bitcast(self._work, BYTES)
        with loop(code, number(0), others, number(1)) as i:
            thread = code.bitcast(code.gep(ids, [i]), BYTES)
            result = code.call(create, [thread, nothing, work, shared])
            code.store(result, code.gep(failed, [i]))
        code.call(self._work, [shared])
        with loop(code, number(0), others, number(1)) as i:
            result = code.load(code.gep(failed, [i]))
            with code.if_then(code.icmp_signed('==', result, I32(0))):
                code.call(join, [code.load(code.gep(ids, [i])), nothing])


def _pointer(code, base, offset: int):
    """Returns the address that is kept `offset` bytes after another."""
    place = code.gep(base, [number(offset)])
    return code.load(code.bitcast(place, BYTES.as_pointer()))
