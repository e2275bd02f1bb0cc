"""Instructions that Python has no spelling for: bit patterns, 16-bit floats, branch-free selection, prefetch.

16-bit arrays reach the kernels as views of their bits: bfloat16 as uint16, float16 as int16. W is the working type,
float32 or float64.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_HALF, _FLOAT, _DOUBLE = ir.HalfType(), ir.FloatType(), ir.DoubleType()
_FLOATS = (types.float32, types.float64)


def _instruction(define: Callable[..., Any]) -> Any:
    return intrinsic(define)


def _integer(kind: Any) -> ir.IntType:
    return _I32 if kind == types.float32 else _I64


def _real(kind: Any) -> ir.Type:
    return _FLOAT if kind == types.float32 else _DOUBLE


@_instruction
def scale_by_power_of_two(typing: Any, y: Any, shifted: Any) -> Any:
    """Return y·2ⁿ, where `shifted` is n + 1.5·2^(mantissa bits), n's integer lying in its lowest bits.

    A multiplication, not an addition to y's exponent bits: that would turn some NaNs into numbers.
    """
    bits, one = (23, 0x3F800000) if y == types.float32 else (52, 0x3FF0000000000000)
    integer, real = _integer(y), _real(y)

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        power = b.add(b.shl(b.bitcast(args[1], integer), integer(bits)), integer(one))
        return b.fmul(args[0], b.bitcast(power, real))

    return y(y, y), build


@_instruction
def choose(typing: Any, condition: Any, a: Any, b_: Any) -> Any:
    """Return a where condition, else b: without the branch that would stop a loop from vectorising."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.select(args[0], args[1], args[2])

    return a(types.boolean, a, a), build


@_instruction
def keep(typing: Any, value: Any, condition: Any) -> Any:
    """Return value where condition, else +0, by masking its bits: a sum of such terms vectorises."""
    integer, real = _integer(value), _real(value)

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        mask = b.sext(args[1], integer)
        return b.bitcast(b.and_(b.bitcast(args[0], integer), mask), real)

    return value(value, types.boolean), build


@_instruction
def larger(typing: Any, a: Any, b_: Any) -> Any:
    """Return the larger number; with a NaN among them, either.

    One instruction, and reductions of it vectorise. Whoever uses it finds the NaN in the sum that follows.
    """
    real = _real(a)
    name = "llvm.maxnum.f32" if a == types.float32 else "llvm.maxnum.f64"

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        function = cgutils.get_or_insert_function(b.module, ir.FunctionType(real, [real, real]), name)
        return b.call(function, args, fastmath=("nnan", "nsz", "reassoc"))

    return a(a, a), build


@_instruction
def exponent_and_mantissa(typing: Any, x: Any) -> Any:
    """Split a positive normal float64 into (e, m): x = 2ᵉ·m, m in [√½, √2), e as float64."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        # Adding 2⁵²'s bits to a small integer and subtracting 2⁵² converts it without a scalar instruction.
        bits = b.bitcast(args[0], _I64)
        offset = b.sub(bits, _I64(0x3FE6A09E667F3BCD))
        exponent = b.ashr(offset, _I64(52))
        mantissa = b.bitcast(b.sub(bits, b.shl(exponent, _I64(52))), _DOUBLE)
        magic = b.add(exponent, _I64(0x4338000000000000))
        e = b.fsub(b.bitcast(magic, _DOUBLE), ir.Constant(_DOUBLE, 6755399441055744.0))
        return context.make_tuple(b, signature.return_type, (e, mantissa))

    return types.UniTuple(types.float64, 2)(types.float64), build


@_instruction
def widen(typing: Any, x: Any, like: Any) -> Any:
    """Return the stored value x (of any float format, or int8) as the working type of the array `like`."""
    working = like.dtype

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        value, real = args[0], _real(working)
        if x == types.uint16:
            value = b.bitcast(b.shl(b.zext(value, _I32), _I32(16)), _FLOAT)
        elif x == types.int16:
            value = b.fpext(b.bitcast(value, _HALF), _FLOAT)
        elif x == types.int8:
            return b.sitofp(value, real)
        if value.type == real:
            return value
        return b.fpext(value, real) if real == _DOUBLE else b.fptrunc(value, real)

    return working(x, like), build


@_instruction
def narrow(typing: Any, x: Any, like: Any) -> Any:
    """Return x, rounded to nearest even, in the stored format of the array `like`."""
    stored = like.dtype

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        value = args[0]
        if stored == types.float64:
            return value if value.type == _DOUBLE else b.fpext(value, _DOUBLE)
        if value.type == _DOUBLE:
            value = b.fptrunc(value, _FLOAT)
        if stored == types.float32:
            return value
        if stored == types.int16:
            return b.bitcast(b.fptrunc(value, _HALF), _I16)
        bits = b.bitcast(value, _I32)
        last = b.and_(b.lshr(bits, _I32(16)), _I32(1))
        rounded = b.lshr(b.add(b.add(bits, last), _I32(0x7FFF)), _I32(16))
        is_nan = b.fcmp_unordered("uno", value, value)  # rounding could carry a NaN into infinity
        return b.trunc(b.select(is_nan, _I32(0x7FC0), rounded), _I16)

    return stored(x, like), build


@_instruction
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index]; an address outside the array does no harm."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        pointer = b.bitcast(b.gep(data, [args[1]]), cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(function, [pointer, _I32(0), _I32(3), _I32(1)])  # read, into L1, data
        return context.get_dummy_value()

    return types.none(array, types.intp), build


@_instruction
def item_bytes(typing: Any, array: Any) -> Any:
    """Return the bytes of an element as a constant, with which loops unroll; `array.itemsize` is a variable."""
    size = array.dtype.bitwidth // 8

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return _I64(size)

    return types.int64(array), build


LINE = 64  # bytes of a cache line on x86-64 and most arm64 machines


@_instruction
def offset_in_line(typing: Any, array: Any, index: Any) -> Any:
    """Return how many bytes into its cache line array[index] lies."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, b, args[0]).data
        return b.and_(b.ptrtoint(b.gep(data, [args[1]]), _I64), _I64(LINE - 1))

    return types.int64(array, types.intp), build


@_instruction
def stream_line(typing: Any, out: Any, index: Any, tile: Any, k: Any, factor: Any) -> Any:
    """Write factor·tile[k : k + one line] to the line at out[index], past the caches.

    A line that is written whole and not read soon need not be fetched first: that saves a third of a gradient's traffic.
    """
    real = _real(tile.dtype)

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        target = context.make_array(signature.args[0])(context, b, args[0]).data
        source = context.make_array(signature.args[2])(context, b, args[2]).data
        lanes = LINE // (4 if real == _FLOAT else 8)
        vector = ir.VectorType(real, lanes)
        value = b.load(b.bitcast(b.gep(source, [args[3]]), vector.as_pointer()), align=4)
        splat = b.insert_element(ir.Constant(vector, ir.Undefined), args[4], _I32(0))
        splat = b.shuffle_vector(splat, splat, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))
        place = b.bitcast(b.gep(target, [args[1]]), vector.as_pointer())
        store = b.store(b.fmul(value, splat), place, align=LINE)
        store.set_metadata("nontemporal", b.module.add_metadata([_I32(1)]))
        return context.get_dummy_value()

    return types.none(out, types.intp, tile, types.intp, factor), build


@_instruction
def finish_streaming(typing: Any) -> Any:
    """Wait until what was streamed is visible to other threads: such stores are not ordered by themselves."""

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), build


@_instruction
def prefer_wide_vectors(typing: Any) -> Any:
    """Let the loops of the function that calls this use the machine's widest registers.

    LLVM takes 256-bit vectors on several AVX-512 machines, for fear of lower clocks: on a Xeon of 2023 exp then takes
    0.25 ns an element instead of 0.18. Machines without wider registers ignore it.
    """

    def build(context: Any, b: Any, signature: Any, args: Any) -> Any:
        set.add(
            b.function.attributes, '"prefer-vector-width"="512"'
        )  # llvmlite's own add() refuses string attributes
        return context.get_dummy_value()

    return types.none(), build
