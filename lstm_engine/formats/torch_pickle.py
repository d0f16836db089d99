"""Reading the pickles of PyTorch's files without unpickling them.

:func:`read_pickle` is an interpreter for the few opcodes that a state dict needs. It pushes plain values and the
inert descriptions of :mod:`lstm_engine.formats.torch_descriptions`; it has no way to import or to call anything that
the pickle names. What it does not know, it refuses by name with the place in the pickle.

The opcodes are those that ``torch.save`` writes with its default protocol 2, from Python 2 and 3, and with the
protocols 3 to 5 if they are asked for (the Python documentation's ``pickletools`` is their reference).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NoReturn

from lstm_engine.errors import FormatError, LstmEngineError, UnsafeFileError, UnsupportedModelError

from . import limits
from .torch_calls import CALLS, NEW_OBJECTS, WAY_OUT, build, describe_storage
from .torch_descriptions import GlobalName, Record, kind_of, sound_key

__all__ = ["read_pickle"]

_HIGHEST_PROTOCOL: Final = 5

#: Opcodes outside of the short list that make objects or leave the file; the others only move values about.
_UNKNOWN_IS_UNSAFE: Final = frozenset({"INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"})


def read_pickle(data: bytes | memoryview, subject: str, start: int = 0) -> tuple[Any, int]:
    """Interpret the pickle that begins at ``start``, making nothing but inert values.

    Parameters
    ----------
    data
        Bytes that hold the pickle, and maybe more behind it.
    subject
        What the bytes come from, for messages.
    start
        Where the pickle begins.

    Returns
    -------
    value
        None, bool, int, float, complex, str, bytes; tuple, list, dict, set and frozenset of such values; and the
        descriptions of :mod:`lstm_engine.formats.torch_descriptions`. It may contain itself.
    end
        Place of the first byte behind the pickle.

    Raises
    ------
    UnsafeFileError
        If the pickle asks for a call, a class or an attribute that a state dict does not need, naming it.
    FormatError
        If it is damaged, truncated or beyond the caps of :mod:`lstm_engine.formats.limits`.
    """
    return _Interpreter(data, subject, start).run()


class _Interpreter:
    """The state of one reading: a cursor, a stack with its marks, and a memo."""

    __slots__ = (
        "at",
        "containers",
        "copied",
        "cursor",
        "data",
        "end",
        "limits",
        "marks",
        "memo",
        "result",
        "stack",
        "start",
        "subject",
    )

    def __init__(self, data: bytes | memoryview, subject: str, start: int) -> None:
        self.data = memoryview(data)
        self.limits = limits.current_limits()
        self.subject = subject
        self.start = start
        self.cursor = start
        self.at = start
        self.end = min(len(self.data), start + self.limits.pickle_bytes)
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.containers = 0
        self.copied = 0
        self.result: tuple[Any] | None = None

    def run(self) -> tuple[Any, int]:
        data, stack, handlers = self.data, self.stack, _HANDLERS
        for _ in range(self.limits.pickle_opcodes):
            self.at = self.cursor
            if self.at >= self.end:
                self._ran_out("an opcode")
            self.cursor += 1
            handler = handlers.get(data[self.at])
            if handler is None:
                self._unknown(data[self.at])
            try:
                handler(self)
            except LstmEngineError as error:
                raise self._located(error) from None
            if self.result is not None:
                return self.result[0], self.cursor
            if len(stack) > self.limits.pickle_stack:
                self._over("pickle_stack", f"more than {self.limits.pickle_stack:,} values stand on the stack")
        return self._over("pickle_opcodes", f"the pickle has more than {self.limits.pickle_opcodes:,} opcodes")

    # --- Errors -----------------------------------------------------------------------------------------------------

    def _located(self, error: LstmEngineError) -> LstmEngineError:
        message = str(error)
        if message.startswith(self.subject):
            return error
        return type(error)(f"{self.subject}: at byte {self.at - self.start} of the pickle: {message}")

    def _fail(self, message: str) -> NoReturn:
        raise self._located(FormatError(f"{message}; the file is damaged or was not written by torch.save"))

    def _over(self, cap: str, message: str) -> NoReturn:
        raise self._located(FormatError(f"{message}; {limits.WAY_OUT.format(cap)}"))

    def _ran_out(self, wanted: str) -> NoReturn:
        if self.end < len(self.data):
            self._over("pickle_bytes", f"the pickle is larger than {self.limits.pickle_bytes:,} bytes")
        self._fail(f"the pickle ends where {wanted} was expected")

    def _unknown(self, opcode: int) -> NoReturn:
        import pickletools  # tables of names only; needed only here

        known = {ord(entry.code): entry.name for entry in pickletools.opcodes}.get(opcode)
        if known is None:
            self._fail(f"byte 0x{opcode:02x} is not a pickle opcode")
        message = f"the pickle opcode {known} is not one that a state dict needs"
        if known in _UNKNOWN_IS_UNSAFE:
            raise self._located(UnsafeFileError(f"{message}; {WAY_OUT}"))
        self._fail(message)

    # --- Operands and stack -----------------------------------------------------------------------------------------

    def _take(self, count: int) -> memoryview:
        first, last = self.cursor, self.cursor + count
        if last > self.end:
            self._ran_out(f"{count} bytes of an operand")
        self.cursor = last
        return self.data[first:last]

    def _unsigned(self, width: int) -> int:
        return int.from_bytes(self._take(width), "little")

    def _line(self) -> str:
        longest = self.limits.pickle_global_length
        window = bytes(self.data[self.cursor : min(self.end, self.cursor + longest + 1)])
        length = window.find(b"\n")
        if length < 0:
            if len(window) > longest:
                self._fail(f"a global's name is longer than {longest} bytes")
            self._ran_out("the name of a global")
        self.cursor += length + 1
        return self._text(window[:length])

    def _text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._fail("a string is not UTF-8")

    def _long_value(self, width: int) -> bytes:
        length = self._unsigned(width)
        if length > self.limits.pickle_string_bytes:
            self._over(
                "pickle_string_bytes",
                f"a string has {length:,} bytes, more than the {self.limits.pickle_string_bytes:,} allowed",
            )
        return bytes(self._take(length))

    def _floor(self) -> int:
        return self.marks[-1] if self.marks else 0

    def _pop(self) -> Any:
        if len(self.stack) <= self._floor():
            self._fail("a value was expected on the stack, which is empty")
        return self.stack.pop()

    def _top(self) -> Any:
        if len(self.stack) <= self._floor():
            self._fail("a value was expected on the stack, which is empty")
        return self.stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            self._fail("a mark was expected on the stack, where there is none")
        floor = self.marks.pop()
        values = self.stack[floor:]
        del self.stack[floor:]
        return values

    def _push_container(self, value: object) -> None:
        self.containers += 1
        if self.containers > self.limits.pickle_containers:
            self._over("pickle_containers", f"the pickle makes more than {self.limits.pickle_containers:,} objects")
        self.stack.append(value)

    def _charge(self, values: tuple[Any, ...]) -> None:
        # One large value can be named again and again through the memo, and each call or state copies it.
        for value in values:
            if isinstance(value, str | bytes):
                self.copied += len(value)
            elif isinstance(value, list | tuple | dict | set | frozenset):
                self.copied += 64 * len(value)
        if self.copied > self.limits.pickle_copied_bytes:
            self._over(
                "pickle_copied_bytes",
                f"the pickle copies more than {self.limits.pickle_copied_bytes:,} bytes of its own values",
            )

    # --- Opcodes ----------------------------------------------------------------------------------------------------

    def proto(self) -> None:
        protocol = self._unsigned(1)
        if not 2 <= protocol <= _HIGHEST_PROTOCOL:
            self._fail(f"the pickle protocol is {protocol}, expected 2 to {_HIGHEST_PROTOCOL}")

    def frame(self) -> None:
        self._take(8)  # a hint for readers of streams

    def stop(self) -> None:
        value = self._pop()
        if self.stack or self.marks:
            self._fail("the pickle stops with values left on its stack")
        self.result = (value,)

    def mark(self) -> None:
        if len(self.marks) >= self.limits.pickle_marks:
            self._fail(f"the pickle nests deeper than {self.limits.pickle_marks} marks")
        self.marks.append(len(self.stack))

    def none(self) -> None:
        self.stack.append(None)

    def new_true(self) -> None:
        self.stack.append(True)

    def new_false(self) -> None:
        self.stack.append(False)

    def bin_int(self) -> None:
        self.stack.append(int.from_bytes(self._take(4), "little", signed=True))

    def bin_int1(self) -> None:
        self.stack.append(self._unsigned(1))

    def bin_int2(self) -> None:
        self.stack.append(self._unsigned(2))

    def long1(self) -> None:
        length = self._unsigned(1)
        if length > self.limits.pickle_integer_bytes:
            self._fail(f"an integer has {length} bytes, more than the {self.limits.pickle_integer_bytes} allowed")
        self.stack.append(int.from_bytes(self._take(length), "little", signed=True))

    def bin_float(self) -> None:
        self.stack.append(struct.unpack(">d", self._take(8))[0])

    def bin_unicode(self) -> None:
        self.stack.append(self._text(self._long_value(4)))

    def short_bin_unicode(self) -> None:
        self.stack.append(self._text(self._long_value(1)))

    def bin_unicode8(self) -> None:
        self.stack.append(self._text(self._long_value(8)))

    def bin_string(self) -> None:
        # A str of Python 2. Latin-1 keeps every byte, so that what was bytes can be had back.
        self.stack.append(self._long_value(4).decode("latin-1"))

    def short_bin_string(self) -> None:
        self.stack.append(self._long_value(1).decode("latin-1"))

    def bin_bytes(self) -> None:
        self.stack.append(self._long_value(4))

    def short_bin_bytes(self) -> None:
        self.stack.append(self._long_value(1))

    def bin_bytes8(self) -> None:
        self.stack.append(self._long_value(8))

    def empty_tuple(self) -> None:
        self.stack.append(())

    def tuple1(self) -> None:
        self._push_container((self._pop(),))

    def tuple2(self) -> None:
        second, first = self._pop(), self._pop()
        self._push_container((first, second))

    def tuple3(self) -> None:
        third, second, first = self._pop(), self._pop(), self._pop()
        self._push_container((first, second, third))

    def tuple_to_mark(self) -> None:
        self._push_container(tuple(self._pop_to_mark()))

    def empty_list(self) -> None:
        self._push_container([])

    def empty_dict(self) -> None:
        self._push_container({})

    def empty_set(self) -> None:
        self._push_container(set())

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            self._fail(f"expected a list to append to, found {kind_of(target)}")
        target.extend(values)

    def set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def set_items(self) -> None:
        self._update(self._pop_to_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            self._fail(f"expected a mapping to fill, found {kind_of(target)}")
        if len(flat) % 2:
            self._fail("expected a value for each key")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not sound_key(key):
                self._fail(f"expected a plain key such as a string, found {kind_of(key)}")
            target[key] = value

    def add_items(self) -> None:
        values, target = self._pop_to_mark(), self._top()
        if type(target) is not set:
            self._fail(f"expected a set to add to, found {kind_of(target)}")
        self._check_elements(values)
        target.update(values)

    def frozen_set(self) -> None:
        values = self._pop_to_mark()
        self._check_elements(values)
        self._push_container(frozenset(values))

    def _check_elements(self, values: list[Any]) -> None:
        for value in values:
            if not sound_key(value):
                self._fail(f"expected plain values in a set, found {kind_of(value)}")

    def bin_put(self) -> None:
        self._remember(self._unsigned(1))

    def long_bin_put(self) -> None:
        self._remember(self._unsigned(4))

    def memoize(self) -> None:
        self._remember(len(self.memo))

    def _remember(self, place: int) -> None:
        if place >= self.limits.pickle_opcodes:
            self._over(
                "pickle_opcodes", f"the memo's place {place} is beyond the {self.limits.pickle_opcodes:,} allowed"
            )
        self.memo[place] = self._top()

    def bin_get(self) -> None:
        self._recall(self._unsigned(1))

    def long_bin_get(self) -> None:
        self._recall(self._unsigned(4))

    def _recall(self, place: int) -> None:
        if place not in self.memo:
            self._fail(f"the memo has nothing at place {place}")
        self.stack.append(self.memo[place])

    def global_name(self) -> None:
        module, name = self._line(), self._line()
        self._push_global(module, name)

    def stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(module, str) or not isinstance(name, str):
            self._fail(f"expected the name of a global to be text, found {kind_of(module)} and {kind_of(name)}")
        if len(module) + len(name) > self.limits.pickle_global_length:
            self._fail(f"a global's name is longer than {self.limits.pickle_global_length} characters")
        self._push_global(module, name)

    def _push_global(self, module: str, name: str) -> None:
        # Protocol 2 writes Python 2's name of the module of the built-in functions.
        self._push_container(GlobalName("builtins" if module == "__builtin__" else module, name))

    def reduce(self) -> None:
        values, function = self._pop(), self._pop()
        if not isinstance(function, GlobalName):
            raise UnsafeFileError(f"the file asks to have {kind_of(function)} called; {WAY_OUT}")
        describe = CALLS.get(str(function))
        if describe is None:
            raise UnsafeFileError(f"the file asks to have {function.shown} called, which runs code; {WAY_OUT}")
        if not isinstance(values, tuple):
            self._fail(f"expected a tuple of arguments for {function.shown}, found {kind_of(values)}")
        self._charge(values)
        try:
            self._push_container(describe(values))
        except LstmEngineError as error:
            raise type(error)(f"{function.shown}: {error}") from None

    def new_object(self) -> None:
        values, new_type = self._pop(), self._pop()
        if not isinstance(new_type, GlobalName):
            raise UnsafeFileError(f"the file asks for an object of {kind_of(new_type)}; {WAY_OUT}")
        if str(new_type) in ("torch.ScriptObject", "torch._C.ScriptObject"):
            raise UnsupportedModelError(
                f"the file holds the packed weights of quantized modules ({new_type.shown}), which only PyTorch can "
                "unpack; save the state_dict() of the float model, from before it was quantized"
            )
        if str(new_type) not in NEW_OBJECTS:
            raise UnsafeFileError(
                f"the file holds an object of the class {new_type.shown}, which needs that class's code to be run "
                f"(torch.save(model) writes the whole module so); {WAY_OUT}"
            )
        if values != ():
            self._fail(f"expected no arguments for {new_type.shown}")
        self._push_container(Record(str(new_type), {}))

    def build_state(self) -> None:
        state = self._pop()
        self._charge(state if isinstance(state, tuple) else (state,))
        build(self._top(), state)

    def bin_persistent_id(self) -> None:
        self._push_container(describe_storage(self._pop()))


_HANDLERS: Final[dict[int, Callable[[_Interpreter], None]]] = {
    0x80: _Interpreter.proto,
    0x95: _Interpreter.frame,
    ord("."): _Interpreter.stop,
    ord("("): _Interpreter.mark,
    ord("N"): _Interpreter.none,
    0x88: _Interpreter.new_true,
    0x89: _Interpreter.new_false,
    ord("J"): _Interpreter.bin_int,
    ord("K"): _Interpreter.bin_int1,
    ord("M"): _Interpreter.bin_int2,
    0x8A: _Interpreter.long1,
    ord("G"): _Interpreter.bin_float,
    ord("X"): _Interpreter.bin_unicode,
    0x8C: _Interpreter.short_bin_unicode,
    0x8D: _Interpreter.bin_unicode8,
    ord("T"): _Interpreter.bin_string,
    ord("U"): _Interpreter.short_bin_string,
    ord("B"): _Interpreter.bin_bytes,
    ord("C"): _Interpreter.short_bin_bytes,
    0x8E: _Interpreter.bin_bytes8,
    0x96: _Interpreter.bin_bytes8,  # BYTEARRAY8, kept as bytes
    ord(")"): _Interpreter.empty_tuple,
    0x85: _Interpreter.tuple1,
    0x86: _Interpreter.tuple2,
    0x87: _Interpreter.tuple3,
    ord("t"): _Interpreter.tuple_to_mark,
    ord("]"): _Interpreter.empty_list,
    ord("}"): _Interpreter.empty_dict,
    0x8F: _Interpreter.empty_set,
    ord("a"): _Interpreter.append,
    ord("e"): _Interpreter.appends,
    ord("s"): _Interpreter.set_item,
    ord("u"): _Interpreter.set_items,
    0x90: _Interpreter.add_items,
    0x91: _Interpreter.frozen_set,
    ord("q"): _Interpreter.bin_put,
    ord("r"): _Interpreter.long_bin_put,
    0x94: _Interpreter.memoize,
    ord("h"): _Interpreter.bin_get,
    ord("j"): _Interpreter.long_bin_get,
    ord("c"): _Interpreter.global_name,
    0x93: _Interpreter.stack_global,
    ord("R"): _Interpreter.reduce,
    0x81: _Interpreter.new_object,
    ord("b"): _Interpreter.build_state,
    ord("Q"): _Interpreter.bin_persistent_id,
}
