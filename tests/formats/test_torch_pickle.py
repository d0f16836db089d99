"""The interpreter of PyTorch's pickles: what it reads, and all that it must refuse."""

from __future__ import annotations

import collections
import pickle
import struct
import sys
import time
from typing import Any

import pytest
import torch_support as made
from hypothesis import given
from hypothesis import strategies as st

from lstm_engine.errors import FormatError, UnsafeFileError
from lstm_engine.formats.limits import Limits, reading
from lstm_engine.formats.torch_calls import CALLS, NEW_OBJECTS
from lstm_engine.formats.torch_descriptions import GlobalName, OrderedDictDescription, StorageRef, TensorDescription
from lstm_engine.formats.torch_pickle import read_pickle

LIMITS = Limits()


def read(body: bytes) -> Any:
    return read_pickle(made.pickled(body), "file.pt")[0]


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.complex_numbers(allow_nan=False)
    | st.binary(max_size=300),
    lambda parts: (
        st.lists(parts, max_size=5)
        | st.lists(parts, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(-(2**59), 2**59), parts, max_size=5)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@given(value=PLAIN)
def test_plain_values_are_read_as_python_reads_them(protocol: int, value: Any) -> None:
    data = pickle.dumps(value, protocol)
    assert read_pickle(data, "file.pt") == (value, len(data))


@pytest.mark.parametrize("protocol", [2, 4])
def test_containers_of_a_training_script(protocol: int) -> None:
    value = {
        "ordered": collections.OrderedDict(a=1, b=[2]),
        "counter": collections.Counter("aab"),
        "default": collections.defaultdict(list, {1: [2]}),
        "set": {1, "x"},
        "frozen": frozenset([(1, "x")]),
        "bytearray": bytearray(b"ab"),
    }
    assert read_pickle(pickle.dumps(value, protocol), "file.pt")[0] == value


def test_a_pickle_may_stand_in_the_middle_of_a_file() -> None:
    data = b"???" + pickle.dumps([1, 2], 2) + b"..."
    assert read_pickle(data, "file.pt", 3) == ([1, 2], len(data) - 3)


def test_strings_of_python_2() -> None:
    assert read(b"U\x03abc") == "abc"
    assert read(b"T\x02\x00\x00\x00\xe9a") == "\xe9a"
    pairs = (
        made.EMPTY_LIST + made.MARK + (made.EMPTY_LIST + made.MARK + b"U\x01a" + b"K\x01" + made.APPENDS) + made.APPENDS
    )
    assert read(made.name("collections", "OrderedDict") + pairs + made.TUPLE1 + made.REDUCE) == {"a": 1}


def test_a_global_is_only_a_name() -> None:
    assert read(made.name("os", "system")) == GlobalName("os", "system")
    assert "lstm_engine_no_such_module" not in sys.modules
    assert read(made.name("lstm_engine_no_such_module", "f")) == GlobalName("lstm_engine_no_such_module", "f")


def test_a_tensor_is_only_a_description() -> None:
    found = read(made.tensor((2, 2), (1, 2)))
    assert isinstance(found, TensorDescription)
    assert isinstance(found.storage, StorageRef)
    assert (found.storage.dtype, found.storage.key, found.storage.size) == ("float32", "0", 4)
    assert (found.shape, found.strides, found.offset) == ((2, 2), (1, 2), 0)


def test_metadata_of_a_state_dict_is_kept_aside() -> None:
    state = made.EMPTY_DICT + made.text("_metadata") + made.EMPTY_DICT + made.SETITEM
    found = read(made.name("collections", "OrderedDict") + made.EMPTY_TUPLE + made.REDUCE + state + made.BUILD)
    assert isinstance(found, OrderedDictDescription)
    assert (found, found.metadata) == ({}, {})


class Bomb:
    def __init__(self, function: Any, *values: Any) -> None:
        self._reduced = function, values

    def __reduce__(self) -> Any:
        return self._reduced


def _call(module: str, attribute: str, argument: bytes = made.text("x")) -> bytes:
    return made.name(module, attribute) + argument + made.TUPLE1 + made.REDUCE


ORDERED = made.name("collections", "OrderedDict") + made.EMPTY_TUPLE + made.REDUCE
SIZE = made.name("torch", "Size") + made.whole((1, 2)) + made.TUPLE1 + made.REDUCE


def _state(**entries: bytes) -> bytes:
    return made.mapping(**entries) + made.BUILD


#: Pickles that ask for what a file of data must not ask for, and the name that the error must give.
UNSAFE = {
    "os.system": (_call("os", "system", made.text("true")), "os.system"),
    "posix.system": (_call("posix", "system", made.text("true")), "posix.system"),
    "eval": (_call("__builtin__", "eval", made.text("1")), "builtins.eval"),
    "exec": (_call("builtins", "exec", made.text("1")), "builtins.exec"),
    "getattr": (_call("__builtin__", "getattr"), "builtins.getattr"),
    "subprocess": (_call("subprocess", "Popen"), "subprocess.Popen"),
    "nested load": (_call("torch.storage", "_load_from_bytes"), "torch.storage._load_from_bytes"),
    "torch.load": (_call("torch", "load"), "torch.load"),
    "numpy's runstring": (_call("numpy.testing._private.utils", "runstring"), "runstring"),
    "wrapper subclass": (_call("torch._utils", "_rebuild_wrapper_subclass"), "_rebuild_wrapper_subclass"),
    "call of a value": (made.text("print") + made.EMPTY_TUPLE + made.REDUCE, "str"),
    "call of a tensor": (made.tensor() + made.EMPTY_TUPLE + made.REDUCE, "torch.Tensor"),
    "call deep inside": (made.mapping(a=made.EMPTY_LIST + _call("os", "system") + made.APPEND), "os.system"),
    "call that nobody uses": (made.MARK + _call("os", "system") + made.TUPLE + made.NONE + made.TUPLE2, "os.system"),
    "dotted name": (b"\x8c\x02os\x8c\x0bpath.system\x93" + made.EMPTY_TUPLE + made.REDUCE, "os.path.system"),
    "whole module": (
        made.name("torch.nn.modules.rnn", "LSTM") + made.EMPTY_TUPLE + made.NEWOBJ,
        "torch.nn.modules.rnn.LSTM",
    ),
    "object of an allowed call": (
        made.name("collections", "OrderedDict") + made.EMPTY_TUPLE + made.NEWOBJ,
        "OrderedDict",
    ),
    "object of a value": (made.text("LSTM") + made.EMPTY_TUPLE + made.NEWOBJ, "str"),
    "tensor subclass": (
        made.name("torch._tensor", "_rebuild_from_type_v2")
        + (made.MARK + made.name("torch._utils", "_rebuild_tensor_v2") + made.name("evil", "Tensor"))
        + (made.EMPTY_TUPLE + made.EMPTY_DICT + made.TUPLE + made.REDUCE),
        "evil.Tensor",
    ),
    "call inside of a tensor's call": (
        made.name("torch._tensor", "_rebuild_from_type_v2")
        + (made.MARK + made.name("os", "system") + made.name("torch", "Tensor"))
        + (made.text("true") + made.TUPLE1 + made.EMPTY_DICT + made.TUPLE + made.REDUCE),
        "os.system",
    ),
    "ndarray subclass": (
        made.name("numpy.core.multiarray", "_reconstruct")
        + (made.name("evil", "ndarray") + made.whole((0,)) + made.text("b") + made.TUPLE3 + made.REDUCE),
        "evil.ndarray",
    ),
    "BUILD of an OrderedDict's class": (ORDERED + _state(__class__=made.name("os", "system")), "__class__"),
    "BUILD of an OrderedDict's method": (ORDERED + _state(items=made.name("os", "system")), "items"),
    "BUILD of a torch.Size": (SIZE + _state(a=made.NONE), "tuple"),
    "BUILD of a tensor": (made.tensor() + _state(data=made.NONE), "torch.Tensor"),
    "BUILD of a name": (made.name("torch.nn", "Module") + _state(forward=made.NONE), "torch.nn.Module"),
    "BUILD of a dict": (made.EMPTY_DICT + _state(__class__=made.NONE), "dict"),
    "module as persistent id": (
        made.MARK
        + (made.text("module") + made.name("torch.nn.modules.rnn", "LSTM") + made.NONE + made.NONE + made.TUPLE)
        + made.PERSISTENT_ID,
        "torch.nn.modules.rnn.LSTM",
    ),
    "INST": (made.MARK + made.text("true") + b"ios\nsystem\n", "INST"),
    "OBJ": (made.MARK + made.name("os", "system") + made.text("true") + b"o", "OBJ"),
    "NEWOBJ_EX": (made.name("os", "system") + made.EMPTY_TUPLE + made.EMPTY_DICT + b"\x92", "NEWOBJ_EX"),
    "EXT1": (b"\x82\x01", "EXT1"),
    "PERSID": (b"Pstorage\n", "PERSID"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_what_asks_for_code_is_refused_by_name(case: str) -> None:
    body, named = UNSAFE[case]
    messages = set()
    for _ in range(2):
        with pytest.raises(UnsafeFileError) as caught:
            read(body)
        messages.add(str(caught.value))
    assert len(messages) == 1
    (message,) = messages
    assert named in message
    assert message.startswith("file.pt: at byte ")
    assert "torch.save(model.state_dict(), path)" in message


def test_pickles_of_python_objects_that_run_code_are_refused(tmp_path: Any) -> None:
    witness = tmp_path / "witness"
    for protocol in (2, 3, 4, 5):
        for bomb in (Bomb(open, str(witness), "w"), Bomb(exec, f"open({str(witness)!r}, 'w')"), Bomb(eval, "1 + 1")):
            with pytest.raises(UnsafeFileError):
                read_pickle(pickle.dumps({"state_dict": [bomb]}, protocol), "file.pt")
    assert not witness.exists()


def test_a_name_in_a_message_cannot_steer_a_terminal() -> None:
    with pytest.raises(UnsafeFileError) as caught:
        read(b"\x8c\x02os\x8c\x08\x1b[2Jevil\x93" + made.EMPTY_TUPLE + made.REDUCE)
    assert str(caught.value).isprintable()


#: Damaged pickles, and a word that the error must have.
DAMAGED = {
    "no opcode": (b"\xff", "0xff"),
    "POP": (made.NONE + b"0", "POP"),
    "DUP": (made.NONE + b"2", "DUP"),
    "INT": (b"I1\n", "INT"),
    "protocol 0": (b"\x80\x00" + made.NONE, "protocol"),
    "protocol 9": (b"\x80\x09" + made.NONE, "protocol"),
    "empty stack": (b"", "stack"),
    "two values left": (made.NONE + made.NONE, "stack"),
    "mark left": (made.MARK + made.NONE, "stack"),
    "no mark": (made.NONE + made.TUPLE, "mark"),
    "below the mark": (made.EMPTY_LIST + made.NONE + made.MARK + made.APPEND, "stack"),
    "memo of nothing": (made.put(0), "stack"),
    "empty memo": (made.get(7), "memo"),
    "memo beyond the cap": (made.NONE + made.put(LIMITS.pickle_opcodes), "memo"),
    "string beyond the cap": (b"X\xff\xff\xff\x7f", "2,147,483,647"),
    "string of 2**60 bytes": (b"\x8d" + struct.pack("<Q", 1 << 60), "more than"),
    "integer beyond the cap": (b"\x8a\xff" + bytes(255), "integer"),
    "not UTF-8": (b"X\x01\x00\x00\x00\xff", "UTF-8"),
    "endless global": (b"c" + b"a" * 1000, "256"),
    "endless stack global": (made.text("a" * 300) + made.text("b") + b"\x93", "256"),
    "global of numbers": (b"K\x01K\x02\x93", "text"),
    "append to a dict": (made.EMPTY_DICT + made.NONE + made.APPEND, "list"),
    "set an item of a list": (made.EMPTY_LIST + made.NONE + made.NONE + made.SETITEM, "mapping"),
    "odd items": (made.EMPTY_DICT + made.MARK + made.NONE + made.SETITEMS, "key"),
    "key that is a list": (made.EMPTY_DICT + made.EMPTY_LIST + made.NONE + made.SETITEM, "list"),
    "nested key": (made.EMPTY_DICT + made.EMPTY_TUPLE + made.TUPLE1 + made.NONE + made.SETITEM, "tuple"),
    "key that may collide": (made.EMPTY_DICT + made.integer(2**61 - 1) + made.NONE + made.SETITEM, "key"),
    "key that is a tensor": (made.EMPTY_DICT + made.tensor() + made.NONE + made.SETITEM, "torch.Tensor"),
    "set of lists": (b"\x8f" + made.MARK + made.EMPTY_LIST + b"\x90", "list"),
    "frozen set of lists": (made.MARK + made.EMPTY_LIST + b"\x91", "list"),
    "arguments that are no tuple": (made.name("collections", "OrderedDict") + made.NONE + made.REDUCE, "tuple"),
    "persistent id that is a number": (b"K\x01" + made.PERSISTENT_ID, "tuple"),
    "persistent id of another kind": (made.text("file") + made.TUPLE1 + made.PERSISTENT_ID, "storage"),
    "storage of another class": (
        made.MARK + made.text("storage") + made.name("os", "FloatStorage") + made.text("0") + made.text("cpu")
        + b"K\x01" + made.TUPLE + made.PERSISTENT_ID,
        "os.FloatStorage",
    ),
    "negative size": (made.storage(size=-1), "-1"),
    "tensor without a storage": (made.tensor(block=made.NONE), "storage"),
    "negative stride": (made.tensor((2,), (-1,)), "-1"),
    "negative offset": (made.tensor(offset=-1), "-1"),
    "stride missing": (made.tensor((2, 2), (1,)), "stride"),
    "rank beyond the cap": (made.tensor((1,) * 65, (1,) * 65), "65"),
    "too few arguments": (made.name("torch._utils", "_rebuild_tensor_v2") + made.EMPTY_TUPLE + made.REDUCE, "6"),
    "parameter of a number": (
        made.name("torch._utils", "_rebuild_parameter") + made.whole((1, 2, 3)) + made.REDUCE, "tensor"
    ),
    "bytes of wide text": (
        made.name("_codecs", "encode") + made.text("世") + made.text("latin1") + made.TUPLE2 + made.REDUCE, "256"
    ),
    "codec that runs code": (
        made.name("_codecs", "encode") + made.text("x") + made.text("zlib_codec") + made.TUPLE2 + made.REDUCE, "latin1"
    ),
    "array of a shape of text": (
        made.name("numpy.core.multiarray", "_reconstruct")
        + (made.name("numpy", "ndarray") + made.whole((0,)) + made.text("b") + made.TUPLE3 + made.REDUCE)
        + (made.MARK + b"K\x01" + made.text("x") + made.NONE + made.FALSE + made.NONE + made.TUPLE + made.BUILD),
        "dtype",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(case: str) -> None:
    body, word = DAMAGED[case]
    with pytest.raises(FormatError) as caught:
        read(body)
    assert word in str(caught.value)
    assert str(caught.value).startswith("file.pt: at byte ")


def test_every_prefix_of_a_pickle_is_refused() -> None:
    data = made.pickled(made.mapping(a=made.tensor(), b=made.EMPTY_LIST + b"G" + bytes(8) + made.APPEND))
    read_pickle(data, "file.pt")
    for length in range(len(data)):
        with pytest.raises(FormatError, match="ends where"):
            read_pickle(data[:length], "file.pt")


def _repeated(body: bytes, count: int) -> bytes:
    return made.NONE + made.put(0) + body * count


#: Caps so low that a bomb need not be large to meet them: that each is met is the point, not how long that takes.
LOW = Limits(pickle_opcodes=20_000, pickle_stack=2_000, pickle_containers=5_000, pickle_copied_bytes=1 << 20)

#: Pickles that ask for much time or memory, and a word that the error must have.
BOMBS = {
    "opcodes": (_repeated(made.NONE + made.TUPLE2, LOW.pickle_opcodes), "opcodes|objects"),
    "puts": (_repeated(b"q\x00", LOW.pickle_opcodes), "opcodes"),
    "stack": (_repeated(made.NONE, LOW.pickle_stack + 1), "stand on the stack"),
    "marks": (made.MARK * (LOW.pickle_marks + 1), "marks"),
    "containers": (made.EMPTY_LIST + (made.EMPTY_DICT + made.APPEND) * (LOW.pickle_containers + 1), "objects"),
    "copies of a long text": (
        made.text("x" * (64 << 10)) + made.put(0) + made.text("latin1") + made.put(1) + made.TUPLE2
        + (made.name("_codecs", "encode") + made.get(0) + made.get(1) + made.TUPLE2 + made.REDUCE + made.TUPLE2) * 1000,
        "copies",
    ),
    "copies of a large dict": (
        made.EMPTY_DICT + made.MARK + b"".join(made.integer(key) + made.NONE for key in range(900)) + made.SETITEMS
        + made.put(0)
        + (made.name("collections", "Counter") + made.get(0) + made.TUPLE1 + made.REDUCE + made.TUPLE2) * 1000,
        "copies",
    ),
    "states of a large dict": (
        made.EMPTY_DICT + made.MARK + b"".join(made.text(str(key)) + made.NONE for key in range(900)) + made.SETITEMS
        + made.put(0)
        + (made.name("argparse", "Namespace") + made.EMPTY_TUPLE + made.NEWOBJ + made.get(0) + made.BUILD + made.TUPLE2)
        * 1000,
        "copies",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_are_refused(case: str) -> None:
    body, word = BOMBS[case]
    with reading(LOW, allow_nonfinite=False), pytest.raises(FormatError, match=word):
        read(body)


@pytest.mark.timing
def test_the_longest_pickle_that_is_read_takes_seconds() -> None:
    body = _repeated(b"q\x00", LIMITS.pickle_opcodes)
    start = time.process_time()
    with pytest.raises(FormatError, match=r"opcodes; .* raise limits=le\.Limits\(pickle_opcodes=\.\.\.\)"):
        read(body)
    assert time.process_time() - start < 5


def test_sharing_is_kept_and_not_unfolded() -> None:
    found = read(made.laughs())
    assert len(found) == 31
    assert all(part is found[29] for part in found[30])


def test_nested_tuples_cost_nothing() -> None:
    found = read(made.EMPTY_TUPLE + made.TUPLE1 * 100_000)
    assert len(found) == 1


def test_every_call_of_the_short_list_refuses_junk() -> None:
    junk = [
        made.EMPTY_TUPLE, made.whole((1,)), made.whole((1, 2)), made.whole((1, 2, 3, 4)), made.whole(tuple(range(6))),
        made.EMPTY_LIST + made.TUPLE1, made.EMPTY_DICT + made.TUPLE1, made.text("x") + made.TUPLE1,
        made.text("x") + made.text("y") + made.TUPLE2, made.tensor() + made.TUPLE1, made.NONE,
        made.MARK + made.storage() + made.whole((2,)) * 6 + made.TUPLE,
    ]  # fmt: skip
    for called in CALLS:
        module, _, attribute = called.rpartition(".")
        for arguments in junk:
            for tail in (
                b"",
                made.EMPTY_DICT + made.BUILD,
                made.whole((1, 2)) + made.BUILD,
                made.EMPTY_TUPLE + made.REDUCE,
            ):
                message = made.refusal(read, made.name(module, attribute) + arguments + made.REDUCE + tail)
                assert message is None or "Error: file.pt: at byte " in message


def test_the_short_list_names_nothing_that_runs_code() -> None:
    modules = {called.rpartition(".")[0] for called in CALLS} | {made_of.rpartition(".")[0] for made_of in NEW_OBJECTS}
    assert modules <= {
        "torch", "torch._utils", "torch._tensor", "torch.serialization",
        "collections", "builtins", "_codecs", "argparse",
        "numpy", "numpy.core.multiarray", "numpy._core.multiarray",
    }  # fmt: skip


@given(st.binary(max_size=60))
def test_random_bytes_end_in_an_error_or_a_value(data: bytes) -> None:
    for start in (b"", b"\x80\x02", b"\x80\x02}(", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n("):
        message = made.refusal(read_pickle, start + data + b".", "file.pt")
        assert message is None or "Error: file.pt: at byte " in message
