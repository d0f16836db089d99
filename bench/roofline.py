"""The machine's limits, measured here and now, and the time that a cell cannot go below.

The C source in ``roofline/roofline.c`` is compiled on first use for one instruction set, into ``bench/build/``, and
measured in the same process as everything that is compared with it::

    roofline = Roofline("avx512")
    roofline.peak()                  # multiply-adds, FLOP/s
    roofline.peak("int8")          # products of int8, operations/s
    roofline.bandwidth(393_216)      # loads over a working set of that many bytes, bytes/s
    roofline.limit_seconds(cell)
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from .cells import Cell, ComputeType

__all__ = [
    "Phase",
    "Roofline",
    "RooflineError",
    "cache_bytes",
    "cold_bytes",
    "limit_seconds",
    "native_isa",
    "phases",
    "working_sets",
]

_HERE: Final = Path(__file__).resolve().parent
_SOURCE: Final = _HERE / "roofline" / "roofline.c"
_BUILD: Final = _HERE / "build"

#: Compiler flags of each instruction set, by the names that LSTM_ENGINE_ISA takes.
_FLAGS: Final[dict[str, tuple[str, ...]]] = {
    "avx512": ("-DROOFLINE_AVX512", "-mavx512f", "-mfma"),
    "avx2": ("-DROOFLINE_AVX2", "-mavx2", "-mfma"),
    "neon": ("-DROOFLINE_NEON",),
    # One lane at a time is what this set is; the vectorizer would measure the baseline's vectors instead.
    "scalar": ("-fno-tree-vectorize", "-fno-tree-slp-vectorize"),
}

#: One short run: long enough for the clock, short enough to fall between the host's interruptions.
_RUN_SECONDS: Final = 3e-4

#: Ways to walk a working set: at how many places at once, and whether to and fro instead of round and round.
_MOST_STREAMS: Final = 8
_WALKS: Final = ((1, False), (1, True), (_MOST_STREAMS, False), (_MOST_STREAMS, True))

#: Largest piece that is walked forward even on the way back.
_LARGEST_CHUNK: Final = 1 << 16

#: About how much is read untimed before a run.
_WARM_BYTES: Final = 1 << 26

#: Floating-point operations that one cell's activations and state update are worth at the multiply-add peak: 72 cycles
#: for 16 cells (69 to 75 measured on Zen 4, AVX-512 and AVX2 alike), each cycle 32 operations there: five exponentials
#: and three divisions. Stated in operations, it follows the clock and the width of the vectors.
ACTIVATION_FLOPS: Final = 72 * 32 / 16

#: Types with instructions of their own, by their number in the C source.
_DOT_KINDS: Final[dict[ComputeType, int]] = {"bfloat16": 0, "int8": 1}

#: Flags for instructions that only some CPUs of a set have, by the macro that the compiler defines for those.
_EXTENSIONS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "avx512": (
        ("__AVX512BF16__", "-mavx512bf16"),
        ("__AVX512VNNI__", "-mavx512vnni"),
        ("__AMX_TILE__", "-mamx-tile"),
        ("__AMX_BF16__", "-mamx-bf16"),
        ("__AMX_INT8__", "-mamx-int8"),
    ),
    "neon": (
        ("__ARM_FEATURE_DOTPROD", "-march=armv8.2-a+dotprod"),
        ("__ARM_FEATURE_BF16_VECTOR_ARITHMETIC", "-march=armv8.2-a+dotprod+bf16"),  # the last one given counts
    ),
}

_FLOAT_BYTES: Final = 4


class RooflineError(RuntimeError):
    """The roofline cannot be measured here: no compiler, or an instruction set that this CPU or compiler lacks."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a call that reads the same weights ``repeats`` times, with ``flops`` of arithmetic each time.

    ``working_set`` is how many bytes of weights are read between two readings of the same one: it decides which level
    of the memory holds them.
    """

    weight_bytes: int
    working_set: int
    flops: float
    repeats: int
    compute_type: ComputeType = "float32"


def phases(cell: Cell) -> Iterator[Phase]:
    """Yield the phases that a call must go through, layer by layer and direction by direction.

    The input of a whole sequence is known at once, so its kernel is read once a call and serves all steps; the
    recurrent kernel is read again at every step, because the state it is applied to is not known before.
    """
    gates, item = 4 * cell.hidden, cell.weight_item_bytes
    recurrent_bytes = item * cell.hidden * gates
    dense_bytes = _FLOAT_BYTES * cell.directions * cell.hidden * cell.dense
    all_bytes = cell.directions * sum(item * size * gates + recurrent_bytes for size in cell.input_sizes) + dense_bytes
    rows = cell.batch * cell.filled  # that are at work in a step, in the mean
    for size in cell.input_sizes:
        for _ in range(cell.directions):
            kernel_flops = 2.0 * rows * cell.time * size * gates
            yield Phase(item * size * gates, all_bytes, kernel_flops, 1, cell.compute_type)
            recurrent_set = all_bytes if cell.streaming else recurrent_bytes
            recurrent_flops = 2.0 * rows * cell.hidden * gates
            yield Phase(recurrent_bytes, recurrent_set, recurrent_flops, cell.time, cell.compute_type)
    if cell.dense:
        flops = 2.0 * rows * cell.time * cell.directions * cell.hidden * cell.dense
        yield Phase(dense_bytes, all_bytes, flops, 1)


def _read_by_one_core(phase: Phase, cell: Cell) -> int:
    """Return the working set that decides how fast one of the cell's cores loads a phase's weights, in bytes."""
    if cell.cold:
        return cold_bytes()
    own = -(-phase.working_set // cell.threads)
    # Each core has a second level for its own part; what does not fit there lies in a level that all of them share.
    return own if own <= cache_bytes().get("L2", 1 << 20) else phase.working_set


def working_sets(cell: Cell) -> set[int]:
    """Return the working sets whose bandwidth the limit of a cell needs, in bytes."""
    return {_read_by_one_core(phase, cell) for phase in phases(cell)}


def limit_seconds(cell: Cell, peak: Callable[[ComputeType], float], bandwidth: Callable[[int], float]) -> float:
    """Return the time that the cell's cores cannot go below for one call of ``cell``.

    For each phase the longer of loading its weights and doing its arithmetic, plus the activations, which depend on
    the products and have nothing to hide behind at the end of a step. Threads share all of it evenly, each with its own
    part of the weights and the bandwidth of a core alone.

    Parameters
    ----------
    cell
        The shape.
    peak
        Operations a second of one core in products of a type; float32's is the multiply-add peak.
    bandwidth
        Bytes a second that loads of one core reach over a working set of the given bytes.
    """

    def seconds(phase: Phase) -> float:
        loads = phase.weight_bytes / bandwidth(_read_by_one_core(phase, cell))
        return max(loads, phase.flops / peak(phase.compute_type))

    products = sum(phase.repeats * seconds(phase) for phase in phases(cell))
    updates = cell.batch * cell.filled * cell.time * cell.layers * cell.directions * cell.hidden
    return (products + updates * ACTIVATION_FLOPS / peak("float32")) / cell.threads


def cold_bytes() -> int:
    """Return how many bytes must be read to have nothing else in the caches: twice the largest, 64 MiB at least."""
    return max(2 * max(cache_bytes().values(), default=0), 64 << 20)


def cache_bytes() -> dict[str, int]:
    """Return the sizes of the data caches of the CPU we run on, ``{"L1": ..., "L2": ..., "L3": ...}``, from sysfs.

    Empty where the system does not say.
    """
    sizes: dict[str, int] = {}
    get_affinity = getattr(os, "sched_getaffinity", None)
    cpu = min(get_affinity(0)) if get_affinity is not None else 0
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    for index in sorted(Path(f"/sys/devices/system/cpu/cpu{cpu}/cache").glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction" and size[:-1].isdigit() and size[-1] in units:
            sizes[f"L{level}"] = int(size[:-1]) * units[size[-1]]
    return dict(sorted(sizes.items()))


def _compiler() -> str:
    for candidate in (os.environ.get("CC", "").split(" ")[0], "cc", "gcc", "clang"):
        if candidate and shutil.which(candidate):
            return candidate
    raise RooflineError("roofline: no C compiler was found; install gcc or clang, or set CC")


def _native_macros() -> str:
    """Return the macros that the compiler defines for this CPU."""
    native = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"
    command = [_compiler(), native, "-dM", "-E", "-x", "c", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def native_isa() -> str:
    """Return the best instruction set of this CPU, as the compiler sees it.

    Raises
    ------
    RooflineError
        If there is no compiler.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "neon"
    seen = _native_macros()
    if "__AVX512F__" in seen:
        return "avx512"
    return "avx2" if "__AVX2__" in seen and "__FMA__" in seen else "scalar"


def _build(isa: str) -> Path:
    """Compile the source for ``isa`` if that was not done yet, and return the library's path."""
    if isa not in _FLAGS:
        raise RooflineError(f"roofline: instruction set {isa!r} is unknown; expected one of {', '.join(_FLAGS)}")
    # -ffp-contract=off: a multiply-add is fused where the source says so and nowhere else.
    flags = list(_FLAGS[isa])
    if isa in _EXTENSIONS:
        macros = _native_macros()
        flags += [flag for macro, flag in _EXTENSIONS[isa] if macro in macros]
    command = [_compiler(), "-std=gnu11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", *flags, str(_SOURCE)]
    # Named by content, so that an edited source or another compiler is never served an old library.
    digest = hashlib.sha256(_SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:12]
    suffix = sysconfig.get_config_var("SHLIB_SUFFIX") or ".so"
    library = _BUILD / f"roofline-{isa}-{digest}{suffix}"
    if library.exists():
        return library
    _BUILD.mkdir(exist_ok=True)
    unfinished = library.with_name(f"{library.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RooflineError(f"roofline: compiling for {isa} failed; {' '.join(command)} said:\n{done.stderr}")
    unfinished.replace(library)
    return library


class Roofline:
    """Measures the multiply-add peak and the load bandwidth of one core with the instructions of ``isa``.

    Parameters
    ----------
    isa
        ``"avx512"``, ``"avx2"``, ``"neon"`` or ``"scalar"``; None for the best one here.

    Raises
    ------
    RooflineError
        If it cannot be compiled here, or this CPU does not have ``isa``.
    """

    def __init__(self, isa: str | None = None) -> None:
        best = native_isa()
        self.isa = best if isa is None else isa
        if self.isa in ("avx512", "avx2", "neon") and self.isa != best and (best, self.isa) != ("avx512", "avx2"):
            raise RooflineError(f"roofline: this CPU has {best}, not {self.isa}")
        library = ctypes.CDLL(str(_build(self.isa)))
        for name in ("flops_per_turn", "block_bytes", "additions_per_turn"):
            getattr(library, f"roofline_{name}").restype = ctypes.c_size_t
        library.roofline_multiply_add_seconds.restype = ctypes.c_double
        library.roofline_multiply_add_seconds.argtypes = [
            ctypes.c_size_t,
            ctypes.c_float,
            ctypes.c_float,
            ctypes.POINTER(ctypes.c_float),
        ]
        library.roofline_dot_operations_per_turn.restype = ctypes.c_size_t
        library.roofline_dot_operations_per_turn.argtypes = [ctypes.c_int]
        library.roofline_dot_seconds.restype = ctypes.c_double
        library.roofline_dot_seconds.argtypes = [ctypes.c_int, ctypes.c_size_t, ctypes.c_float]
        library.roofline_load_seconds.restype = ctypes.c_double
        library.roofline_load_seconds.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_size_t,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_size_t,
            ctypes.c_size_t,
        ]
        library.roofline_clock_seconds.restype = ctypes.c_double
        library.roofline_clock_seconds.argtypes = [ctypes.c_size_t, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)]
        self._library = library
        self._flops_per_turn = int(library.roofline_flops_per_turn())
        self._block_bytes = int(library.roofline_block_bytes())
        self._additions_per_turn = int(library.roofline_additions_per_turn())
        self._turns: dict[ComputeType, int] = {}
        self._passes: dict[tuple[int, tuple[int, bool]], int] = {}
        self._peaks: dict[ComputeType, float] = {}
        self._bandwidth: dict[int, float] = {}
        self._memory: mmap.mmap | None = None
        self._address = 0
        self._room = 0

    # --- arithmetic

    def _multiply_add(self, turns: int) -> float:
        sink = ctypes.c_float()
        return float(self._library.roofline_multiply_add_seconds(turns, 0.5, 1.0, ctypes.byref(sink)))

    def has_products_of(self, compute_type: ComputeType) -> bool:
        """Return whether there is an instruction that multiplies and adds values of the type."""
        kind = _DOT_KINDS.get(compute_type)
        return kind is None or self._library.roofline_dot_operations_per_turn(kind) > 0

    def sample_peak(self, compute_type: ComputeType = "float32") -> float:
        """Return the rate of products and additions of one short run, operations/s.

        For a type that has no instruction of its own here it is that of float32, to which its values are expanded.
        """
        kind = _DOT_KINDS.get(compute_type)
        if kind is None or not self.has_products_of(compute_type):
            compute_type, run, operations = "float32", self._multiply_add, self._flops_per_turn
        else:
            operations = int(self._library.roofline_dot_operations_per_turn(kind))

            def run(turns: int) -> float:
                return float(self._library.roofline_dot_seconds(kind, turns, 0.0))

        if compute_type not in self._turns:
            self._turns[compute_type] = _sized(run, start=1000)
        turns = self._turns[compute_type]
        return turns * operations / run(turns)

    def peak(self, compute_type: ComputeType = "float32") -> float:
        """Return the peak of products and additions, operations/s: the median of short runs, measured once."""
        if compute_type not in self._peaks:
            self._peaks[compute_type] = statistics.median(self.sample_peak(compute_type) for _ in range(9))
        return self._peaks[compute_type]

    def clock(self) -> float:
        """Return the clock of the core under integer work, Hz: the median of short runs."""
        sink = ctypes.c_uint64()

        def run(turns: int) -> float:
            return float(self._library.roofline_clock_seconds(turns, 3, ctypes.byref(sink)))

        turns = _sized(run, start=1000)
        return statistics.median(turns * self._additions_per_turn / run(turns) for _ in range(5))

    # --- memory

    def _reserve(self, size: int) -> None:
        if size <= self._room:
            return
        # Pages as the system gives them. Huge ones were slower here from the third level on (Zen 4, virtual machine:
        # 18 against 25 GB/s at 32 MiB) and no faster below it.
        self._memory = mmap.mmap(-1, size)
        view = np.frombuffer(self._memory, dtype=np.uint8)
        view[:] = 0  # a page that was never written is the same page of zeros as every other
        self._address, self._room = view.ctypes.data, size

    def _round(self, working_set: int) -> int:
        unit = self._block_bytes * _MOST_STREAMS
        return max(1, -(-working_set // unit)) * unit

    def _load(self, size: int, walk: tuple[int, bool], warm_passes: int, passes: int) -> float:
        # Fine chunks for a small set, where a part of it is in the first level; coarse ones for the prefetchers' sake.
        chunk = max(1, min(_LARGEST_CHUNK, size // 64) // self._block_bytes) * self._block_bytes
        streams, pendulum = walk
        return float(
            self._library.roofline_load_seconds(self._address, size, chunk, streams, pendulum, warm_passes, passes)
        )

    def _sample_load(self, size: int, walk: tuple[int, bool]) -> float:
        passes = self._passes.get((size, walk))
        if passes is None:
            # Even, so that a pendulum swings to both sides.
            passes = 2 * _sized(lambda swings: self._load(size, walk, 2, 2 * swings), start=1)
            self._passes[size, walk] = passes
        # Others ran before us. The third level takes several passes until it holds what it can hold.
        warm_passes = 2 * max(1, min(4, _WARM_BYTES // size))
        return size * passes / self._load(size, walk, warm_passes, passes)

    def sample_bandwidth(self, working_set: int) -> float:
        """Return the load rate over ``working_set`` bytes that are read again and again, bytes/s.

        The best of short runs, one for each way to walk the set: what is best depends on how much of it a level holds.
        """
        size = self._round(working_set)
        self._reserve(size)
        return max(self._sample_load(size, walk) for walk in _WALKS)

    def bandwidth(self, working_set: int) -> float:
        """Return the load rate over ``working_set`` bytes, bytes/s: the median of samples, measured once."""
        size = self._round(working_set)
        if size not in self._bandwidth:
            self._bandwidth[size] = statistics.median(self.sample_bandwidth(size) for _ in range(5))
        return self._bandwidth[size]

    def curve(self) -> dict[str, tuple[int, float]]:
        """Return ``{"L1": (working set in bytes, bytes/s), ...}`` down to ``"DRAM"``: inside each level, L3 at several.

        Where the system does not state its caches, sizes that are common stand for them.
        """
        caches = cache_bytes() or {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
        sizes = {name: size // 2 for name, size in caches.items()}
        last, largest = max(caches.items(), key=lambda item: item[1])
        if last == "L3" and "L2" in caches:
            del sizes["L3"]
            size = 2 * caches["L2"]
            while size < largest:
                sizes[f"L3 at {size / (1 << 20):g} MiB"] = size
                size *= 2
        sizes["DRAM"] = min(4 * largest, 256 << 20)
        return {name: (size, self.bandwidth(size)) for name, size in sizes.items()}

    def empty_caches(self) -> None:
        """Read so much that nothing else is left in any cache of this core."""
        size = self._round(cold_bytes())
        self._reserve(size)
        self._load(size, (1, False), 0, 1)

    # --- cells

    def limit_seconds(self, cell: Cell) -> float:
        """Return the time that one core cannot go below for one call of ``cell``; see :func:`limit_seconds`."""
        return limit_seconds(cell, self.peak(), self.bandwidth)


def _sized(run: Callable[[int], float], start: int) -> int:
    """Return a count for which ``run(count)`` takes about ``_RUN_SECONDS``; ``run`` returns its own seconds."""
    count = start
    while True:
        seconds = run(count)
        if seconds >= _RUN_SECONDS / 2:
            return max(1, round(count * _RUN_SECONDS / seconds)) if seconds > _RUN_SECONDS else count
        count *= 2 if seconds <= 0 else max(2, min(64, int(_RUN_SECONDS / seconds)))
