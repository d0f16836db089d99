"""How much a file may ask for: every cap of every reader, each with its reason.

A file is data from a stranger. Its sizes are checked against these caps, and against the bytes that
the file really has, before anything is allocated. A cap is far above what real models need, so that
nobody meets it by accident, and far below what would hurt a service.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "MAX_HDF5_ENTRIES",
    "MAX_HEADER_BYTES",
    "MAX_JSON_BYTES",
    "MAX_JSON_DEPTH",
    "MAX_NAME_LENGTH",
    "MAX_NESTING",
    "MAX_RANK",
    "MAX_TENSORS",
    "MAX_ZIP_MEMBERS",
    "PICKLE_MAX_BYTES",
    "PICKLE_MAX_CONTAINERS",
    "PICKLE_MAX_COPIED_BYTES",
    "PICKLE_MAX_GLOBAL_LENGTH",
    "PICKLE_MAX_INTEGER_BYTES",
    "PICKLE_MAX_MARKS",
    "PICKLE_MAX_MEMO",
    "PICKLE_MAX_OPCODES",
    "PICKLE_MAX_STACK",
    "PICKLE_MAX_STRING_BYTES",
    "max_tensor_bytes",
]

KIB: Final = 1 << 10
MIB: Final = 1 << 20

# --- Archives -----------------------------------------------------------------------------------

#: Members of a zip archive. PyTorch writes one for each storage: a checkpoint of 5,000 tensors with
#: Adam's two moments has 15,000.
MAX_ZIP_MEMBERS: Final = 1 << 16

# --- Text ---------------------------------------------------------------------------------------

#: A JSON text (a Keras config, an architecture in metadata). A thousand Keras layers take about 1 MB;
#: the rest is room for a vocabulary. Parsed JSON takes about ten times its text.
MAX_JSON_BYTES: Final = 16 * MIB

#: Nesting of a JSON text. Keras nests a layer about six deep, and models in models add six each. Python's own
#: parser fails with RecursionError near a thousand.
MAX_JSON_DEPTH: Final = 128

#: Header of a safetensors file: about 120 bytes for each tensor, and an architecture in the metadata. (The
#: safetensors package itself allows 100 MB, which would parse to about 1 GB.)
MAX_HEADER_BYTES: Final = 16 * MIB

#: Entries (messages, links, tree nodes, heap objects) of an HDF5 file. A Keras layer takes about 150 of them, an
#: optimizer's moments the same again; read, an entry takes about 200 bytes.
MAX_HDF5_ENTRIES: Final = 1 << 21

#: Name of a tensor, layer or archive member, in characters: paths of deep models have about 200.
MAX_NAME_LENGTH: Final = 4096

# --- Tensors ------------------------------------------------------------------------------------

#: Tensors in one file, for the reason given for :data:`MAX_ZIP_MEMBERS`.
MAX_TENSORS: Final = 1 << 16

#: Dimensions of one tensor: NumPy's own limit.
MAX_RANK: Final = 64

#: Nesting of mappings and sequences that hold tensors. Checkpoints of training frameworks nest about ten.
MAX_NESTING: Final = 100


def max_tensor_bytes(file_bytes: int) -> int:
    """Return how many bytes the tensors of a file of ``file_bytes`` bytes may take together.

    A tensor can be larger than the bytes that hold it: half precision is read as float32 (twice), a
    broadcast dimension repeats one element, a compressed chunk unfolds. Sixteen times the file is beyond
    all honest cases but the broadcast and the all-zero chunk of small files, for which 64 MiB are always
    allowed. A shape bomb (a few bytes that ask for terabytes) is far above both.

    Parameters
    ----------
    file_bytes
        Size of the file on disk, in bytes.

    Returns
    -------
    int
        The cap, in bytes.
    """
    return 64 * MIB + 16 * file_bytes


# --- Pickles (PyTorch) --------------------------------------------------------------------------

#: A whole pickle. A tensor takes about 150 bytes of it (its numbers lie outside), so 64 MiB are room for the
#: plain values, such as a vocabulary or a loss curve, that a checkpoint carries along.
PICKLE_MAX_BYTES: Final = 64 * MIB

#: Opcodes in a pickle. A tensor takes about 50, so a state dict of 1,000 tensors takes 50,000; four million are two to
#: three seconds of our interpreter and a vocabulary of a million words.
PICKLE_MAX_OPCODES: Final = 4_000_000

#: Dicts, lists, tuples, sets and described objects in a pickle. An opcode of one byte makes an object of 64
#: or more, so this is what bounds memory: about 200 MB in the worst case.
PICKLE_MAX_CONTAINERS: Final = 1_000_000

#: Bytes that calls and states may copy from values that the pickle made before: twice the largest pickle, because an
#: honest one copies each value once. Without it, a value named again and again through the memo would multiply.
PICKLE_MAX_COPIED_BYTES: Final = 2 * PICKLE_MAX_BYTES

#: Values on the stack. Pickle writes dicts and lists in batches of 1,000; only a tuple stands on it whole.
PICKLE_MAX_STACK: Final = 200_000

#: Entries of the memo. Pickle numbers them from zero, one for each object, so a larger number is damage.
PICKLE_MAX_MEMO: Final = PICKLE_MAX_OPCODES

#: Marks open at one time, which is how deep a pickle nests while it is being read.
PICKLE_MAX_MARKS: Final = 256

#: One string or bytes value; the text of a configuration that is carried along is the longest honest one.
PICKLE_MAX_STRING_BYTES: Final = 16 * MIB

#: Module or name of a global.
PICKLE_MAX_GLOBAL_LENGTH: Final = 256

#: Bytes of one integer. State dicts have 64-bit ones; a random generator's state in a checkpoint may have 128.
PICKLE_MAX_INTEGER_BYTES: Final = 32
