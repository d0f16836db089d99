"""How much a file may ask for: every cap of every reader, each with its reason.

A file is data from a stranger. Its sizes are checked against these caps, and against the bytes that
the file really has, before anything is allocated. A cap is far above what real models need, so that
nobody meets it by accident, and far below what would hurt a service.

What a caller allows holds for all that one call reads: :func:`reading` sets it, and each reader asks
:func:`current_limits` where it needs a cap.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import Final

from lstm_engine.errors import FormatError, UnsupportedModelError

__all__ = [
    "MAX_BODIES",
    "MAX_RANK",
    "WAY_OUT",
    "Limits",
    "current_limits",
    "nonfinite_allowed",
    "reading",
    "spend_packed",
    "tensor_room",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20

#: Dimensions of one tensor: NumPy's own limit, so the one cap that cannot be raised.
MAX_RANK: Final = 64

#: Graphs of ONNX in nodes of graphs: exporters write two or three, and each takes a few of Python's frames.
MAX_BODIES: Final = 12

#: What a message about a cap ends with: the cap's field completes it.
WAY_OUT: Final = "if you trust the file, raise limits=le.Limits({}=...)"

#: What Python's own recursion limit leaves room for.
_DEEPEST: Final = {"json_depth": 256, "nesting": 256}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a file may ask for; give one with higher caps to a loader if you trust a file that needs them.

    ``le.load(path, limits=le.Limits(json_bytes=1 << 26))``

    Parameters
    ----------
    tensor_bytes
        Bytes that all tensors of a file may take in memory together, whatever its size: room for the broadcast
        tensors and all-zero chunks of small files. A shape bomb (a few bytes that ask for terabytes) is far above.
        What is packed of them for the kernels may take as much again.
    tensor_growth
        Bytes that the tensors may take in addition for each byte of the file. A tensor can be larger than the bytes
        that hold it: half precision is read as float32 (twice), a broadcast dimension repeats one element, a
        compressed chunk unfolds. Sixteen is beyond all honest cases.
    tensors
        Tensors in one file. A checkpoint of 5,000 tensors with Adam's two moments has 15,000.
    nesting
        Depth of mappings and sequences that hold tensors, at most 256. Checkpoints of training frameworks nest about
        ten deep.
    name_length
        Characters in the name of a tensor, layer or archive member: paths of deep models have about 200.
    zip_members
        Members of a zip archive. PyTorch writes one for each storage.
    json_bytes
        Bytes of a JSON text (a Keras configuration, an architecture in metadata). A thousand Keras layers take about
        1 MB; the rest is room for a vocabulary. Parsed JSON takes about ten times its text, at worst thirty times. Of
        a small archive that unpacks to a long text: an eighth of that, and sixteen for each byte of the archive.
    json_depth
        Depth of a JSON text, at most 256. Keras nests a layer about six deep, and models in models add six each.
    header_bytes
        Bytes of a safetensors header: about 120 for each tensor, and an architecture in the metadata. (The
        safetensors package itself allows 100 MB, which would parse to about 1 GB.)
    hdf5_entries
        Entries (messages, links, tree nodes, heap objects) of an HDF5 file. A Keras layer takes about 150 of them,
        an optimizer's moments the same again; read, an entry takes about 200 bytes. Of a small archive that unpacks
        to a large file: a sixteenth of that, and one for each four bytes of the archive.
    pickle_bytes
        Bytes of a whole pickle (PyTorch). A tensor takes about 150 of them (its numbers lie outside), so this is room
        for the plain values, such as a vocabulary or a loss curve, that a checkpoint carries along.
    pickle_opcodes
        Opcodes in a pickle. A tensor takes about 50, so a state dict of 1,000 tensors takes 50,000; two million are one
        or two seconds of our interpreter and a vocabulary of half a million words.
    pickle_containers
        Dicts, lists, tuples, sets and described objects in a pickle. An opcode of one byte makes an object of 64 or
        more, so this is what bounds memory: about 200 MB in the worst case.
    pickle_copied_bytes
        Bytes that calls and states may copy from values that the pickle made before: twice the largest pickle, because
        an honest one copies each value once. Without it, a value named again and again through the memo would multiply.
    pickle_stack
        Values on the stack. Pickle writes dicts and lists in batches of 1,000; only a tuple stands on it whole.
    pickle_marks
        Marks open at one time, which is how deep a pickle nests while it is being read.
    pickle_string_bytes
        Bytes of one string or bytes value; the text of a configuration that is carried along is the longest honest one.
    pickle_global_length
        Characters in the module or name of a global.
    pickle_integer_bytes
        Bytes of one integer. State dicts have integers of 8; a random generator's state in a checkpoint may have 16.
    onnx_entries
        Fields of an ONNX model: nodes, names, attributes, arrays, and eight bytes of packed numbers as one more. A node
        takes about ten of them; parsed, a field takes about 200 bytes.
    onnx_value_bytes
        Bytes of the values that an ONNX graph holds at one time in a call. What broadcasting can make of a few bytes
        has no other bound; constant parts, computed at load, are bound by the caps on tensors.
    onnx_loop_nodes
        Nodes that the loops and branches of an ONNX graph run in one call. A recurrent layer that was written as a loop
        has about 50 for each step, so this is a million steps, some minutes; a loop may have no end of its own.

    Raises
    ------
    UnsupportedModelError
        If a cap is no whole number from 1 to its highest value.
    """

    tensor_bytes: int = 48 * MIB
    tensor_growth: int = 16
    tensors: int = 1 << 16
    nesting: int = 100
    name_length: int = 4096
    zip_members: int = 1 << 16
    json_bytes: int = 16 * MIB
    json_depth: int = 128
    header_bytes: int = 16 * MIB
    hdf5_entries: int = 1 << 21
    pickle_bytes: int = 64 * MIB
    pickle_opcodes: int = 2_000_000
    pickle_containers: int = 1_000_000
    pickle_copied_bytes: int = 128 * MIB
    pickle_stack: int = 200_000
    pickle_marks: int = 256
    pickle_string_bytes: int = 16 * MIB
    pickle_global_length: int = 256
    pickle_integer_bytes: int = 32
    onnx_entries: int = 1 << 18
    onnx_value_bytes: int = 1 << 32
    onnx_loop_nodes: int = 50_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value, most = getattr(self, field.name), _DEEPEST.get(field.name, 1 << 62)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise UnsupportedModelError(
                    f"limits: expected {field.name} to be a whole number from 1 to {most:,}, found {value!r:.60}"
                )

    def of_tensors(self, file_bytes: int) -> int:
        """Return how many bytes the tensors of a file of ``file_bytes`` bytes may take together."""
        return self.tensor_bytes + self.tensor_growth * file_bytes


#: Columns to which the widest of our instruction sets fills up a packed matrix.
_PACKED_COLUMNS: Final = 16


@dataclass(slots=True)
class _Reading:
    limits: Limits = Limits()
    allow_nonfinite: bool = False
    #: Bytes that packed weights may take, and do take; without bounds as long as no file has been opened.
    packed_room: int | None = None
    packed_bytes: int = 0


# A variable of the context, not of the module: threads and tasks that load at the same time do not see each other's.
_USUAL: Final = _Reading()
_READING: Final = ContextVar("lstm_engine_reading", default=_USUAL)


@contextmanager
def reading(limits: Limits | None, allow_nonfinite: bool) -> Iterator[None]:
    """Let ``limits`` (None for the usual ones) and ``allow_nonfinite`` hold for all that is read in this context.

    Raises
    ------
    UnsupportedModelError
        If an argument is of another type.
    """
    if limits is not None and not isinstance(limits, Limits):
        raise UnsupportedModelError(f"limits: expected a le.Limits or None, found {type(limits).__name__}")
    if not isinstance(allow_nonfinite, bool):
        raise UnsupportedModelError(f"allow_nonfinite: expected True or False, found {allow_nonfinite!r:.60}")
    token = _READING.set(_Reading(limits or Limits(), allow_nonfinite))
    try:
        yield
    finally:
        _READING.reset(token)


def current_limits() -> Limits:
    """Return the caps that hold for what is being read."""
    return _READING.get().limits


def nonfinite_allowed() -> bool:
    """Return whether the weights that are being read may be NaN or infinite."""
    return _READING.get().allow_nonfinite


def tensor_room(file_bytes: int) -> int:
    """Return how many bytes the tensors of the file that is being read may take; its packed weights may as well."""
    current = _READING.get()
    room = current.limits.of_tensors(file_bytes)
    if current is not _USUAL:
        current.packed_room = max(current.packed_room or 0, room)
    return room


def spend_packed(rows: int, columns: int, itemsize: int = 4) -> None:
    """Take a matrix that is about to be packed into account.

    Columns are filled up to whole vectors, so that a matrix of one column takes sixteen times its size; and one tensor
    may be packed for many layers. Neither may make much out of a small file.

    Raises
    ------
    FormatError
        If the packed weights of the file that is being read take more than its tensors may.
    """
    current = _READING.get()
    if current.packed_room is None:
        return
    current.packed_bytes += rows * -(-columns // _PACKED_COLUMNS) * _PACKED_COLUMNS * itemsize
    if current.packed_bytes > current.packed_room:
        raise FormatError(
            f"expected weights that take at most {current.packed_room:,} bytes together once they are packed for the "
            "kernels, found more; " + WAY_OUT.format("tensor_bytes")
        )
