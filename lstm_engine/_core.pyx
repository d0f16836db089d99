"""The compiled core: argument checks, then C. No arithmetic happens here."""

cimport cython
from cpython.exc cimport PyErr_Occurred
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memset

cimport numpy as cnp

from lstm_engine._c_api cimport (
    LE_ACTIVATION_COUNT,
    LE_AS_DTYPE,
    LE_BFLOAT16,
    LE_BLAS,
    LE_ERROR_INTERRUPTED,
    LE_ERROR_MEMORY,
    LE_ERROR_UNKNOWN_ISA,
    LE_ERROR_UNSUPPORTED_ISA,
    LE_FASTEST,
    LE_FLOAT32,
    LE_FLOAT64,
    LE_FUSED,
    LE_INT8,
    LE_INT8_RECURRENT,
    LE_OK,
    le_activate,
    le_activation,
    le_activation_kind,
    le_cell_spec,
    le_compute_type,
    le_dgemm,
    le_isa_count,
    le_isa_name,
    le_isa_select,
    le_isa_supported,
    le_kernels_name,
    le_kernels_name_for,
    le_kernels_vectorised,
    le_layer_norm,
    le_linear_create,
    le_linear_destroy,
    le_linear_memory_bytes,
    le_linear_run,
    le_lstm_create,
    le_lstm_destroy,
    le_lstm_give_threads,
    le_lstm_memory_bytes,
    le_lstm_run,
    le_lstm_spec,
    le_lstm_take_threads,
    le_lstm_workspace_bytes,
    le_run,
    le_sgemm,
    le_softmax,
    le_split,
    le_status,
    le_status_message,
    le_threads_alive,
    le_threads_count,
    le_threads_create,
    le_threads_destroy,
)

import os
import threading

import numpy as np

from lstm_engine.errors import LstmEngineError, ShapeError
from lstm_engine.options import dtype_of

cnp.import_array()

cdef extern from "Python.h":
    # Without "except -1": the exception stays set for the call's own end to raise.
    int PyErr_CheckSignals()

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **pointer, size_t alignment, size_t size)

RELEASE_GIL_ABOVE = 100_000.0

# A workspace larger than this is given back after the call; smaller ones are kept, a few for each LSTM.
cdef size_t KEPT_WORKSPACE_BYTES = 4 << 20
cdef Py_ssize_t KEPT_WORKSPACES = 8

#: Number of activation kinds of the C core, to be compared with lstm_engine.activations.CODES.
ACTIVATION_COUNT = <int>LE_ACTIVATION_COUNT


# Multiply-adds from which a call looks for signals on the way: a millisecond or more.
cdef double INTERRUPTIBLE_ABOVE = 50_000_000.0

# What an activation of one element counts for among them.
cdef double ELEMENT_OPERATIONS = 20.0


ctypedef int (*Interruption)(void *context) noexcept nogil


cdef int interrupted(void *context) noexcept with gil:
    """Run the handlers of the signals that have arrived; 1 if one of them raises. Only the main thread has any."""
    return PyErr_CheckSignals() != 0


cdef size_t rows_between_signals(double row_operations):
    """Rows of so many multiply-adds each between two looks for signals: 5 ms or so, in whole tiles."""
    return (<size_t>(INTERRUPTIBLE_ABOVE / (row_operations + 1)) | 255) + 1


cdef int serve_signals() except -1:
    """Run the handlers of the signals that have arrived, and raise what they raise."""
    return -1 if PyErr_CheckSignals() != 0 else 0


cdef bint in_main_thread():
    return threading.current_thread() is threading.main_thread()


cdef int check(le_status status) except -1:
    if status == LE_OK:
        return 0
    if status == LE_ERROR_INTERRUPTED:
        if PyErr_Occurred() != NULL:
            return -1  # what the handler of the signal has raised
        raise LstmEngineError(
            "lstm_engine: this process was forked by the handler of a signal that arrived in the middle of a call; the "
            "call cannot go on in the child: make it again"
        )
    message = le_status_message(status).decode()
    if status == LE_ERROR_MEMORY:
        raise MemoryError(f"lstm_engine: {message}")
    raise ShapeError(f"lstm_engine: {message}")


cdef le_activation activation_of(object activation) except *:
    cdef le_activation result
    result.kind = <le_activation_kind><int>activation.code
    result.alpha = activation.alpha
    result.beta = activation.beta
    return result


cdef cnp.ndarray checked(object value, str name, int type_number, tuple shape):
    cdef cnp.ndarray array
    if not isinstance(value, np.ndarray):
        raise ShapeError(f"{name}: expected a NumPy array, found {type(value).__name__}")
    array = value
    if cnp.PyArray_TYPE(array) != type_number or not cnp.PyArray_ISCARRAY_RO(array):
        raise ShapeError(
            f"{name}: expected a C-contiguous, aligned array of {cnp.PyArray_DescrFromType(type_number)}, "
            f"found dtype {array.dtype} with strides {tuple(value.strides)}"
        )
    if shape is not None and value.shape != shape:
        raise ShapeError(f"{name}: expected shape {shape}, found {value.shape}")
    return array


cdef cnp.ndarray writeable(object value, str name, int type_number, tuple shape):
    cdef cnp.ndarray array = checked(value, name, type_number, shape)
    if not cnp.PyArray_ISWRITEABLE(array):
        raise ShapeError(f"{name}: expected a writeable array, found a read-only one")
    return array


cdef class Workspace:
    """Aligned scratch memory of one call."""

    cdef void *memory
    cdef size_t size

    def __dealloc__(self):
        free(self.memory)

    cdef int reserve(self, size_t size) except -1:
        if size > self.size:
            free(self.memory)
            self.memory = NULL
            self.size = 0
            if posix_memalign(&self.memory, 64, size) != 0:
                self.memory = NULL
                raise MemoryError(f"lstm_engine: no memory for {size} bytes of workspace; use a smaller batch")
            self.size = size
        return 0


@cython.final
cdef class Threads:
    """Threads that the LSTMs of one model share; made when a call first needs them, asleep between calls.

    Parameters
    ----------
    count
        Threads of one call, the caller's included.
    asked
        What the user asked for, to be counted anew after a pickle; None for ``count``.
    split
        For tests: what the threads share out wherever the shape allows it, as numbered in the C core; 0 for what is the
        fastest.
    """

    def __cinit__(self, size_t count, asked=None, split=0):
        check(le_threads_create(count, &self.pool))
        self.asked = count if asked is None else asked
        self.split = split

    def __dealloc__(self):
        le_threads_destroy(self.pool)

    def __reduce__(self):
        from lstm_engine.thread_count import shared_threads

        return shared_threads, (self.asked,)

    @property
    def count(self):
        """Threads of one call, the caller's included."""
        return le_threads_count(self.pool)

    @property
    def alive(self):
        """Threads that have been made so far."""
        return le_threads_alive(self.pool)


def instruction_sets():
    """Return every instruction set compiled in, best first, and whether this CPU runs it."""
    return {le_isa_name(index).decode(): bool(le_isa_supported(index)) for index in range(le_isa_count())}


cdef le_compute_type compute_type_of(str name) noexcept:
    if name == "bfloat16":
        return LE_BFLOAT16
    if name == "int8":
        return LE_INT8
    return LE_INT8_RECURRENT if name == "int8_recurrent" else LE_AS_DTYPE


cdef class Kernels:
    """The kernels of one instruction set."""

    @staticmethod
    def select(name=None):
        """Return the named instruction set, or that of LSTM_ENGINE_ISA, or the best one here.

        Raises
        ------
        LstmEngineError
            If the name is unknown or this CPU does not run it; there is no silent fallback.
        """
        cdef Kernels kernels = Kernels.__new__(Kernels)
        encoded = None if name is None else name.encode()
        cdef const char *wanted = NULL
        if encoded is not None:
            wanted = encoded
        # An empty name would mean "the best" to the C core, as it does in the environment variable.
        cdef le_status status = LE_ERROR_UNKNOWN_ISA if name == "" else le_isa_select(wanted, &kernels.table)
        if status == LE_ERROR_UNKNOWN_ISA or status == LE_ERROR_UNSUPPORTED_ISA:
            source = "isa" if name is not None else "LSTM_ENGINE_ISA"
            found = name if name is not None else os.environ.get("LSTM_ENGINE_ISA")
            here = ", ".join(known for known, runs in instruction_sets().items() if runs)
            problem = "is not known" if status == LE_ERROR_UNKNOWN_ISA else "does not run on this CPU"
            raise LstmEngineError(f"{source}: instruction set {found!r} {problem}; this machine runs: {here}")
        check(status)
        return kernels

    @property
    def name(self):
        """Name of the instruction set."""
        return le_kernels_name(self.table).decode()

    def name_for(self, str compute_type, int without=0):
        """Name of the instruction set that a compute type runs on, with what it is extended by.

        ``without``: how many of the best extensions to leave out.
        """
        return le_kernels_name_for(self.table, compute_type_of(compute_type), without).decode()

    @property
    def vectorised(self):
        """Whether this is a vector instruction set, not the scalar reference."""
        return bool(le_kernels_vectorised(self.table))


cdef const void *data_of(object array) except? NULL:
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


@cython.final
cdef class CoreLSTM:
    """Packed weights of an LSTM stack; immutable, shared by any number of threads."""

    def __cinit__(self):
        self.lstm = NULL

    def __init__(self, weights, *, backend="auto", compute_type="float32", isa=None, int without=0,
                 Threads threads=None):
        cdef Kernels kernels = Kernels.select(isa)
        if self.lstm != NULL:
            raise LstmEngineError("CoreLSTM: an LSTM is immutable and cannot be initialised twice")
        if backend == "auto":
            # Only the fused backend has the narrow types, on every instruction set.
            narrow = compute_type_of(compute_type) != LE_AS_DTYPE
            backend = "fused" if narrow or (kernels.vectorised and compute_type == "float32") else "blas"
        dtype = dtype_of(compute_type)
        weights = weights.astype(dtype.type)
        cells = list(weights.flat())
        cdef le_cell_spec *specs = <le_cell_spec *>PyMem_Malloc(len(cells) * sizeof(le_cell_spec))
        if specs == NULL:
            raise MemoryError()
        cdef le_lstm_spec spec
        cdef le_cell_spec *one
        cdef le_status status
        memset(&spec, 0, sizeof(spec))
        memset(specs, 0, len(cells) * sizeof(le_cell_spec))
        try:
            for index, cell in enumerate(cells):
                one = &specs[index]
                one.input_size = cell.input_size
                one.hidden_size = cell.hidden_size
                one.projection_size = 0 if cell.projection is None else cell.output_size
                one.kernel = data_of(cell.kernel)
                one.recurrent_kernel = data_of(cell.recurrent_kernel)
                one.bias = data_of(cell.bias)
                one.projection = data_of(cell.projection)
                one.peepholes = data_of(cell.peepholes)
                one.input_activation = activation_of(cell.input_activation)
                one.forget_activation = activation_of(cell.forget_activation)
                one.cell_activation = activation_of(cell.cell_activation)
                one.output_activation = activation_of(cell.output_activation)
                one.hidden_activation = activation_of(cell.hidden_activation)
                one.gate_clip = 0.0 if cell.gate_clip is None else cell.gate_clip
                one.cell_clip = 0.0 if cell.cell_clip is None else cell.cell_clip
                one.coupled = cell.coupled
            spec.dtype = LE_FLOAT64 if dtype == np.float64 else LE_FLOAT32
            spec.compute_type = compute_type_of(compute_type)
            spec.without = without
            spec.backend = LE_FUSED if backend == "fused" else LE_BLAS
            if spec.backend == LE_BLAS:
                from lstm_engine import _blas
                spec.sgemm = <le_sgemm><uintptr_t>_blas.SGEMM
                spec.dgemm = <le_dgemm><uintptr_t>_blas.DGEMM
            spec.layers = weights.num_layers
            spec.directions = weights.num_directions
            spec.reverse = weights.direction == "reverse"
            spec.cells = specs
            with nogil:
                status = le_lstm_create(kernels.table, &spec, &self.lstm)
            check(status)
        finally:
            PyMem_Free(specs)
        self.threads = threads
        self.backend = backend
        self.isa = kernels.name
        self.dtype = dtype
        self.type_number = dtype.num
        self.layers = weights.num_layers
        self.directions = weights.num_directions
        self.input_size = weights.input_size
        self.hidden_size = weights.hidden_size
        self.output_size = weights.output_size
        self.memory_bytes = le_lstm_memory_bytes(self.lstm)
        self.step_operations = sum(
            4.0 * cell.hidden_size * (cell.input_size + cell.output_size + 8) for cell in cells
        )
        self.workspaces = []

    def __dealloc__(self):
        le_lstm_destroy(self.lstm)

    def run(self, x, h0, c0, *, lengths=None, mask=None, bint zero_masked=False, bint time_major=False, out=None,
            bint sequences=True):
        """Run a batch of sequences; return y (all steps, or the last output), h_n and c_n.

        Parameters
        ----------
        x
            (batch, time, features), or (time, batch, features) if time_major; C-contiguous, of the LSTM's dtype.
        h0, c0
            (layers * directions, batch, size) or None for zero.
        lengths
            (batch,) int64 from 0 to time, or None.
        mask
            (batch, time) bool, or None; not together with lengths.
        zero_masked
            Whether the output of a masked step is zero instead of the previous output.
        out
            Array for y, or None; must not overlap x, h0 or c0.
        sequences
            Whether y has every step or only the last.

        Raises
        ------
        ShapeError
            If an array has the wrong dtype, layout or shape.
        """
        cdef le_run run
        memset(&run, 0, sizeof(run))
        checked(x, "x", self.type_number, None)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ShapeError(f"x: expected shape (batch, time, {self.input_size}), found {x.shape}")
        batch, time = (x.shape[1], x.shape[0]) if time_major else (x.shape[0], x.shape[1])
        width = self.directions * self.output_size
        states = self.layers * self.directions
        h_shape = (states, batch, self.output_size)
        c_shape = (states, batch, self.hidden_size)
        if not sequences:
            y_shape = (batch, width)
        elif time_major:
            y_shape = (time, batch, width)
        else:
            y_shape = (batch, time, width)
        if out is None:
            out = np.empty(y_shape, self.dtype)
        writeable(out, "out", self.type_number, y_shape)
        if h0 is not None:
            checked(h0, "h0", self.type_number, h_shape)
        if c0 is not None:
            checked(c0, "c0", self.type_number, c_shape)
        if mask is not None:
            checked(mask, "mask", cnp.NPY_BOOL, (batch, time))
        if lengths is not None:
            checked(lengths, "lengths", cnp.NPY_INT64, (batch,))
        h_n = np.empty(h_shape, self.dtype)
        c_n = np.empty(c_shape, self.dtype)
        run.batch = batch
        run.time = time
        run.x = data_of(x)
        run.x_row_stride = self.input_size if time_major else time * self.input_size
        run.x_time_stride = batch * self.input_size if time_major else self.input_size
        run.y = cnp.PyArray_DATA(<cnp.ndarray>out)
        run.y_row_stride = width if time_major or not sequences else time * width
        run.y_time_stride = batch * width if time_major else width
        run.sequences = sequences
        run.h0 = data_of(h0)
        run.c0 = data_of(c0)
        run.h_n = cnp.PyArray_DATA(<cnp.ndarray>h_n)
        run.c_n = cnp.PyArray_DATA(<cnp.ndarray>c_n)
        run.mask = <const uint8_t *>data_of(mask)
        run.lengths = <const int64_t *>data_of(lengths)
        run.zero_masked = zero_masked
        self.execute(&run)
        return out, h_n, c_n

    cdef int execute(self, le_run *run) except -1:
        """Run with a workspace and threads of one's own; without the GIL where the work is worth it."""
        cdef Workspace workspace
        cdef le_status status
        cdef size_t bytes = 0
        cdef double operations = self.step_operations * <double>run.batch * <double>run.time
        if self.threads is not None:
            run.threads = self.threads.pool
            run.split = <le_split>self.threads.split
        if operations > INTERRUPTIBLE_ABOVE and in_main_thread():
            run.interrupted = &interrupted
        le_lstm_take_threads(self.lstm, run)
        try:
            check(le_lstm_workspace_bytes(self.lstm, run, &bytes))
            # The list is touched under the GIL only: each caller has a workspace of its own.
            workspace = self.workspaces.pop() if self.workspaces else Workspace()
            workspace.reserve(bytes)
            if operations > RELEASE_GIL_ABOVE:
                with nogil:
                    status = le_lstm_run(self.lstm, run, workspace.memory)
            else:
                status = le_lstm_run(self.lstm, run, workspace.memory)
            check(status)
        finally:
            le_lstm_give_threads(run)
        if workspace.size <= KEPT_WORKSPACE_BYTES and len(self.workspaces) < KEPT_WORKSPACES:
            self.workspaces.append(workspace)
        return 0

    def run_plain(self, x, out, bint time_major):
        """Run from the zero state over whole sequences, if nothing has to be converted: the least that a call can cost.

        Parameters
        ----------
        x
            As for ``run``; anything is taken.
        out
            As for ``run``.
        time_major
            As for ``run``.

        Returns
        -------
        y, (h, c)
            As calling an LSTM; or None if an argument does not fit as it is, which ``run`` converts or names.
        """
        cdef le_run run
        cdef cnp.npy_intp size[3]
        cdef cnp.npy_intp width = self.directions * self.output_size
        cdef cnp.ndarray given, y, h_n, c_n
        if not self.takes(x) or not (out is None or self.takes(out)):
            return None
        given = x
        if cnp.PyArray_DIM(given, 2) != self.input_size:
            return None
        size[0] = cnp.PyArray_DIM(given, 0)
        size[1] = cnp.PyArray_DIM(given, 1)
        size[2] = width
        if out is None:
            y = cnp.PyArray_EMPTY(3, size, self.type_number, 0)
        else:
            y = out
            if not (
                cnp.PyArray_ISWRITEABLE(y)
                and cnp.PyArray_DIM(y, 0) == size[0]
                and cnp.PyArray_DIM(y, 1) == size[1]
                and cnp.PyArray_DIM(y, 2) == width
                and (
                    <char *>cnp.PyArray_DATA(y) + cnp.PyArray_NBYTES(y) <= <char *>cnp.PyArray_DATA(given)
                    or <char *>cnp.PyArray_DATA(given) + cnp.PyArray_NBYTES(given) <= <char *>cnp.PyArray_DATA(y)
                )
            ):
                return None
        memset(&run, 0, sizeof(run))
        run.batch = size[1] if time_major else size[0]
        run.time = size[0] if time_major else size[1]
        run.x = cnp.PyArray_DATA(given)
        run.x_row_stride = self.input_size if time_major else run.time * self.input_size
        run.x_time_stride = run.batch * self.input_size if time_major else self.input_size
        run.y = cnp.PyArray_DATA(y)
        run.y_row_stride = width if time_major else run.time * width
        run.y_time_stride = run.batch * width if time_major else width
        run.sequences = 1
        size[0] = self.layers * self.directions
        size[1] = run.batch
        size[2] = self.output_size
        h_n = cnp.PyArray_EMPTY(3, size, self.type_number, 0)
        size[2] = self.hidden_size
        c_n = cnp.PyArray_EMPTY(3, size, self.type_number, 0)
        run.h_n = cnp.PyArray_DATA(h_n)
        run.c_n = cnp.PyArray_DATA(c_n)
        self.execute(&run)
        return y, (h_n, c_n)

    cdef bint takes(self, object array):
        """Return whether this is an array of three axes that the C core can read as it is."""
        return (
            cnp.PyArray_CheckExact(array)
            and cnp.PyArray_NDIM(<cnp.ndarray>array) == 3
            and cnp.PyArray_TYPE(<cnp.ndarray>array) == self.type_number
            and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array)
        )


@cython.final
cdef class Linear:
    """``activation(x @ kernel + bias)`` over the last axis, each row's bits independent of the others.

    Parameters
    ----------
    kernel
        (in_features, out_features) float32.
    bias
        (out_features,) float32, or None.
    activation
        lstm_engine.activations.Activation, or None for linear.
    isa
        Name of the instruction set, or None for the one in use.
    """

    def __cinit__(self):
        self.linear = NULL

    def __init__(self, kernel, bias=None, activation=None, *, isa=None):
        cdef Kernels kernels = Kernels.select(isa)
        cdef le_activation applied
        cdef const float *bias_data = NULL
        if self.linear != NULL:
            raise LstmEngineError("Linear: a layer is immutable and cannot be initialised twice")
        if isinstance(kernel, np.ndarray) and kernel.ndim != 2:
            raise ShapeError(f"kernel: expected shape (in_features, out_features), found {kernel.shape}")
        kernel = np.ascontiguousarray(kernel)
        checked(kernel, "kernel", cnp.NPY_FLOAT32, None)
        if kernel.shape[1] == 0:
            raise ShapeError(f"kernel: expected at least one output, found shape {kernel.shape}")
        if bias is not None:
            bias = np.ascontiguousarray(bias)
            checked(bias, "bias", cnp.NPY_FLOAT32, (kernel.shape[1],))
            bias_data = <const float *>data_of(bias)
        memset(&applied, 0, sizeof(applied))
        if activation is not None:
            applied = activation_of(activation)
        check(le_linear_create(kernels.table, kernel.shape[0], kernel.shape[1], <const float *>data_of(kernel),
                               bias_data, applied, &self.linear))
        self.in_features = kernel.shape[0]
        self.out_features = kernel.shape[1]
        self.memory_bytes = le_linear_memory_bytes(self.linear)

    def __dealloc__(self):
        le_linear_destroy(self.linear)

    def __call__(self, x, out=None):
        """x (..., in_features) -> (..., out_features), C-contiguous float32; out must not overlap x."""
        checked(x, "x", cnp.NPY_FLOAT32, None)
        if x.ndim == 0 or x.shape[x.ndim - 1] != self.in_features:
            raise ShapeError(f"x: expected shape (..., {self.in_features}), found {x.shape}")
        shape = x.shape[:x.ndim - 1] + (self.out_features,)
        if out is None:
            out = np.empty(shape, np.float32)
        writeable(out, "out", cnp.NPY_FLOAT32, shape)
        cdef size_t rows = 1
        for size in shape[:len(shape) - 1]:
            rows *= size
        cdef const float *source = <const float *>data_of(x)
        cdef float *target = <float *>cnp.PyArray_DATA(<cnp.ndarray>out)
        cdef double row_operations = <double>self.in_features * self.out_features
        cdef size_t done = 0
        cdef size_t piece = rows_between_signals(row_operations)
        while rows - done > piece:
            with nogil:
                le_linear_run(self.linear, piece, source + done * self.in_features, self.in_features,
                              target + done * self.out_features, self.out_features)
            done += piece
            serve_signals()
        source, target = source + done * self.in_features, target + done * self.out_features
        if row_operations * (rows - done) > RELEASE_GIL_ABOVE:
            with nogil:
                le_linear_run(self.linear, rows - done, source, self.in_features, target, self.out_features)
        else:
            le_linear_run(self.linear, rows - done, source, self.in_features, target, self.out_features)
        return out


def activate(x, activation, out=None, *, isa=None):
    """Apply an activation to every element of a C-contiguous float32 array; out may be x itself."""
    cdef Kernels kernels = Kernels.select(isa)
    cdef le_activation applied = activation_of(activation)
    checked(x, "x", cnp.NPY_FLOAT32, None)
    if out is None:
        out = np.empty(x.shape, np.float32)
    writeable(out, "out", cnp.NPY_FLOAT32, x.shape)
    cdef size_t left = x.size
    cdef size_t most = rows_between_signals(ELEMENT_OPERATIONS)
    cdef size_t piece
    cdef const float *source = <const float *>data_of(x)
    cdef float *target = <float *>cnp.PyArray_DATA(<cnp.ndarray>out)
    while True:
        piece = min(left, most)
        with nogil:
            le_activate(kernels.table, applied, piece, source, target)
        source, target, left = source + piece, target + piece, left - piece
        if left == 0:
            return out
        serve_signals()


def softmax(x, *, isa=None):
    """Softmax over the last axis of a C-contiguous float32 array."""
    cdef Kernels kernels = Kernels.select(isa)
    checked(x, "x", cnp.NPY_FLOAT32, None)
    if x.ndim == 0:
        raise ShapeError("x: expected at least one axis, found a scalar")
    out = np.empty(x.shape, np.float32)
    cdef size_t columns = x.shape[x.ndim - 1]
    cdef size_t rows = x.size // columns if columns else 0
    cdef const float *source = <const float *>data_of(x)
    cdef float *target = <float *>cnp.PyArray_DATA(<cnp.ndarray>out)
    cdef size_t most = rows_between_signals(ELEMENT_OPERATIONS * columns)
    cdef size_t piece
    while True:
        piece = min(rows, most)
        with nogil:
            le_softmax(kernels.table, piece, columns, source, target)
        source, target, rows = source + piece * columns, target + piece * columns, rows - piece
        if rows == 0:
            return out
        serve_signals()


def layer_norm(x, gamma, beta, float epsilon, *, isa=None):
    """Normalise a C-contiguous float32 array over its last axis (Ba, Kiros and Hinton 2016).

    gamma and beta are (columns,) float32, or None.
    """
    cdef Kernels kernels = Kernels.select(isa)
    checked(x, "x", cnp.NPY_FLOAT32, None)
    if x.ndim == 0:
        raise ShapeError("x: expected at least one axis, found a scalar")
    out = np.empty(x.shape, np.float32)
    cdef size_t columns = x.shape[x.ndim - 1]
    cdef size_t rows = x.size // columns if columns else 0
    if gamma is not None:
        checked(gamma, "gamma", cnp.NPY_FLOAT32, (columns,))
    if beta is not None:
        checked(beta, "beta", cnp.NPY_FLOAT32, (columns,))
    cdef const float *source = <const float *>data_of(x)
    cdef const float *scale = <const float *>data_of(gamma)
    cdef const float *shift = <const float *>data_of(beta)
    cdef float *target = <float *>cnp.PyArray_DATA(<cnp.ndarray>out)
    cdef size_t most = rows_between_signals(ELEMENT_OPERATIONS * columns)
    cdef size_t piece
    while True:
        piece = min(rows, most)
        with nogil:
            le_layer_norm(kernels.table, piece, columns, source, scale, shift, epsilon, target)
        source, target, rows = source + piece * columns, target + piece * columns, rows - piece
        if rows == 0:
            return out
        serve_signals()


include "_stream.pxi"
include "_pool.pxi"
include "_window.pxi"
