# Streams: a model that takes one time step at a call and carries its state between calls. Part of _core.pyx, so that
# one library alone carries the C core.
#
# A model that is a chain of LSTM, dense layers and activations runs step by step in C: a list of stages,
# each from one buffer to the next, nothing allocated. Any other causal model runs its graph on chunks of
# one step, in Python; the bits are the same.

from cpython.number cimport PyNumber_Index
from libc.stdint cimport uint32_t

from lstm_engine._c_api cimport (
    LE_ERROR_CLOSED_ID,
    LE_ERROR_FULL,
    LE_ERROR_REPEATED_ID,
    LE_POOL_MOST,
    LE_STAGE_ACTIVATION,
    LE_STAGE_LINEAR,
    LE_STAGE_LSTM,
    LE_STAGE_SOFTMAX,
    le_chain,
    le_chain_create,
    le_chain_destroy,
    le_chain_get_state,
    le_chain_set_state,
    le_chain_state_bytes,
    le_kernels,
    le_pool,
    le_pool_close,
    le_pool_count,
    le_pool_create,
    le_pool_destroy,
    le_pool_find,
    le_pool_has,
    le_pool_id_at,
    le_pool_last_used,
    le_pool_load,
    le_pool_open,
    le_pool_save,
    le_pool_state,
    le_pool_step,
    le_pool_touch,
    le_stage,
    le_stream,
    le_stream_create,
    le_stream_destroy,
    le_stream_get_state,
    le_stream_reset,
    le_stream_set_state,
    le_stream_step,
    le_window,
    le_window_create,
    le_window_destroy,
    le_window_push,
    le_window_reset,
    le_window_samples,
    le_window_settle,
)

from lstm_engine.arrays import as_float_array, as_index_array
from lstm_engine.errors import StateError
from lstm_engine.options import dtype_of
from lstm_engine.stream_state import named_state, part_names

cnp.import_array()


cdef class Stage:
    """One layer of a chain: from one buffer of rows to the next."""

    cdef readonly Py_ssize_t in_size
    cdef readonly Py_ssize_t out_size
    cdef double operations

    cdef void advance(self, const void *x, void *y) noexcept nogil:
        pass

    def chunk(self, x):
        """(batch, time, in_size) -> (batch, time, out_size); the state moves with ``commit`` only."""
        raise NotImplementedError

    cdef int commit(self) except -1:
        return 0


@cython.final
cdef class LSTMStage(Stage):
    """An LSTM with the state of its rows."""

    cdef CoreLSTM core
    cdef le_stream *stream
    cdef Py_ssize_t batch
    cdef object after            # the state behind a chunk

    def __cinit__(self, CoreLSTM core, Py_ssize_t batch):
        self.stream = NULL
        if core.threads is None:
            check(le_stream_create(core.lstm, batch, NULL, LE_FASTEST, &self.stream))
        else:
            check(le_stream_create(
                core.lstm, batch, core.threads.pool, <le_split>core.threads.split, &self.stream
            ))
        self.core = core
        self.batch = batch
        self.in_size = core.input_size
        self.out_size = core.output_size
        self.operations = core.step_operations * batch

    def __dealloc__(self):
        le_stream_destroy(self.stream)

    cdef void advance(self, const void *x, void *y) noexcept nogil:
        le_stream_step(self.stream, x, y)

    def chunk(self, x):
        h, c = self.get_state()
        y, h, c = self.core.run(x, h, c)
        self.after = h, c
        return y

    cdef int commit(self) except -1:
        after, self.after = self.after, None
        self.set_state(*after)
        return 0

    def reset(self):
        le_stream_reset(self.stream)

    def get_state(self):
        h = np.empty((self.core.layers, self.batch, self.core.output_size), self.core.dtype)
        c = np.empty((self.core.layers, self.batch, self.core.hidden_size), self.core.dtype)
        le_stream_get_state(self.stream, cnp.PyArray_DATA(<cnp.ndarray>h), cnp.PyArray_DATA(<cnp.ndarray>c))
        return h, c

    def set_state(self, h, c):
        h = as_float_array(h, "state h", (self.core.layers, self.batch, self.core.output_size), self.core.dtype)
        c = as_float_array(c, "state c", (self.core.layers, self.batch, self.core.hidden_size), self.core.dtype)
        le_stream_set_state(self.stream, cnp.PyArray_DATA(<cnp.ndarray>h), cnp.PyArray_DATA(<cnp.ndarray>c))


@cython.final
cdef class LinearStage(Stage):
    """A dense layer."""

    cdef Linear layer
    cdef size_t batch

    def __cinit__(self, Linear layer, Py_ssize_t batch):
        self.layer = layer
        self.batch = batch
        self.in_size = layer.in_features
        self.out_size = layer.out_features
        self.operations = <double>layer.in_features * layer.out_features * batch

    cdef void advance(self, const void *x, void *y) noexcept nogil:
        le_linear_run(self.layer.linear, self.batch, <const float *>x, self.in_size, <float *>y, self.out_size)

    def chunk(self, x):
        return self.layer(x)


@cython.final
cdef class ActivationStage(Stage):
    """An elementwise activation."""

    cdef const le_kernels *kernels
    cdef le_activation applied
    cdef object activation
    cdef size_t count

    def __cinit__(self, object activation, Py_ssize_t size, Py_ssize_t batch):
        cdef Kernels kernels = Kernels.select()
        self.kernels = kernels.table
        self.applied = activation_of(activation)
        self.activation = activation
        self.count = size * batch
        self.in_size = size
        self.out_size = size
        self.operations = 20.0 * size * batch

    cdef void advance(self, const void *x, void *y) noexcept nogil:
        le_activate(self.kernels, self.applied, self.count, <const float *>x, <float *>y)

    def chunk(self, x):
        return activate(x, self.activation)


@cython.final
cdef class SoftmaxStage(Stage):
    """Softmax over the features."""

    cdef const le_kernels *kernels
    cdef size_t batch

    def __cinit__(self, Py_ssize_t size, Py_ssize_t batch):
        cdef Kernels kernels = Kernels.select()
        self.kernels = kernels.table
        self.batch = batch
        self.in_size = size
        self.out_size = size
        self.operations = 20.0 * size * batch

    cdef void advance(self, const void *x, void *y) noexcept nogil:
        le_softmax(self.kernels, self.batch, self.out_size, <const float *>x, <float *>y)

    def chunk(self, x):
        return softmax(x)


def _stages(chain, Py_ssize_t batch):
    """Return the stages of a chain of (kind, value) pairs."""
    stages = []
    for kind, value in chain:
        if kind == "lstm":
            stages.append(LSTMStage(value, batch))
        elif kind == "linear":
            stages.append(LinearStage(value, batch))
        elif kind == "activation":
            stages.append(ActivationStage(value, stages[len(stages) - 1].out_size, batch))
        elif kind == "softmax":
            stages.append(SoftmaxStage(stages[len(stages) - 1].out_size, batch))
        else:
            raise ValueError(f"stage {kind!r} is not known")
    return stages


def _layout_of(source, rows, states, names):
    """The layout of snapshots of states of such shapes, whose parts have these names."""
    from lstm_engine.snapshots import SnapshotLayout
    arrays = [
        # An LSTM's own stream is named as that of a model of this one layer, which is the same model.
        (f"{name or 'lstm'}.{part}", array.shape)
        for name, parts in states.items()
        for part, array in zip(part_names(names[name], len(parts)), parts, strict=True)
    ]
    return SnapshotLayout(source, rows, arrays)


@cython.final
cdef class Stream:
    """A causal model or LSTM that advances one time step at a call and carries its state.

    Made by ``Model.stream()`` or ``LSTM.stream()``.

    Parameters
    ----------
    source
        The Model or LSTM.
    batch
        Number of rows that advance together, or None for one row without a batch axis.

    Raises
    ------
    UnsupportedModelError
        If the model looks at future steps, naming the layer.
    ShapeError
        If ``batch`` is not a positive integer.

    Notes
    -----
    A stream belongs to one thread at a time: two threads in it at once raise StateError.
    """

    cdef readonly object source
    cdef readonly object batch
    cdef Py_ssize_t rows
    cdef list stages             # None: the graph runs instead
    cdef Stage first             # the only stage, for the shortest way
    cdef object graph            # the model's executor of chunks, where there are no stages
    cdef dict states             # of the graph
    cdef bint busy
    cdef bint release_gil
    cdef bint overlap_harms      # whether the output may be written before the input is read
    cdef int type_number
    cdef object dtype
    cdef int axes
    cdef cnp.npy_intp in_shape[2]
    cdef cnp.npy_intp out_shape[2]
    cdef list scratch            # between the stages
    cdef object layout           # of snapshots, once there was one

    def __init__(self, source, batch=None):
        if batch is not None and (isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1):
            raise ShapeError(f"batch: expected a positive integer or None, found {batch!r}")
        if self.source is not None:
            raise StateError("Stream: a stream cannot be initialised twice; open a new one")
        self.rows = 1 if batch is None else batch
        self.batch = None if batch is None else int(batch)
        self.dtype = dtype_of(source.compute_type)
        self.type_number = self.dtype.num
        chain = source._stream_chain()
        if chain is None:
            self.graph = source._stream_graph()
            self.states = {}
        else:
            self.stages = _stages(chain, self.rows)
            self._lay_out()
        self.source = source

    cdef int _lay_out(self) except -1:
        cdef Stage first = self.stages[0]
        cdef Stage last = self.stages[len(self.stages) - 1]
        self.axes = 1 if self.batch is None else 2
        self.in_shape[0] = self.out_shape[0] = self.rows
        self.in_shape[self.axes - 1] = first.in_size
        self.out_shape[self.axes - 1] = last.out_size
        self.first = first if len(self.stages) == 1 else None
        self.overlap_harms = isinstance(self.first, LinearStage)
        self.scratch = [
            np.empty(self.rows * (<Stage>stage).out_size, self.dtype) for stage in self.stages[:len(self.stages) - 1]
        ]
        self.release_gil = sum([(<Stage>stage).operations for stage in self.stages]) > RELEASE_GIL_ABOVE
        return 0

    cdef void _advance(self, const void *x, void *y) noexcept:
        """All stages but for the shortest way, under the GIL."""
        cdef Py_ssize_t place
        cdef Py_ssize_t last = len(self.stages) - 1
        cdef Stage stage
        cdef void *target
        for place in range(last + 1):
            stage = <Stage>self.stages[place]
            target = y if place == last else cnp.PyArray_DATA(<cnp.ndarray>self.scratch[place])
            if self.release_gil:
                with nogil:
                    stage.advance(x, target)
            else:
                stage.advance(x, target)
            x = target

    def step(self, x, out=None):
        """Advance every row by one time step.

        Parameters
        ----------
        x
            (features,), or (batch, features) if the stream has a batch.
        out
            C-contiguous array of the compute type for the result; nothing is allocated then.

        Returns
        -------
        numpy.ndarray
            (outputs,) or (batch, outputs); ``out`` if given.

        Raises
        ------
        ShapeError
            If ``x`` or ``out`` does not fit. The state is unchanged.
        StateError
            If another thread is in this stream.
        """
        cdef cnp.ndarray source, target
        if self.stages is None:
            return self._graph_step(x, out)
        if (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == self.type_number
                and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)
                and cnp.PyArray_NDIM(<cnp.ndarray>x) == self.axes
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[0] == self.in_shape[0]
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[self.axes - 1] == self.in_shape[self.axes - 1]):
            source = <cnp.ndarray>x
        else:
            source = as_float_array(x, "x", self._shape(self.in_shape), self.dtype)
        if out is None:
            target = cnp.PyArray_EMPTY(self.axes, self.out_shape, self.type_number, 0)
        elif (cnp.PyArray_CheckExact(out) and cnp.PyArray_TYPE(<cnp.ndarray>out) == self.type_number
                and cnp.PyArray_ISCARRAY(<cnp.ndarray>out)
                and cnp.PyArray_NDIM(<cnp.ndarray>out) == self.axes
                and cnp.PyArray_DIMS(<cnp.ndarray>out)[0] == self.out_shape[0]
                and cnp.PyArray_DIMS(<cnp.ndarray>out)[self.axes - 1] == self.out_shape[self.axes - 1]):
            target = <cnp.ndarray>out
        else:
            raise self._bad_out(out)
        if self.overlap_harms and np.may_share_memory(source, target):
            source = source.copy()
        # Not before: converting an array lets other threads run. From here on none does, unless the GIL is released.
        if self.busy:
            self._refuse()
        if self.first is not None and not self.release_gil:
            self.first.advance(cnp.PyArray_DATA(source), cnp.PyArray_DATA(target))
            return target
        self.busy = True
        self._advance(cnp.PyArray_DATA(source), cnp.PyArray_DATA(target))
        self.busy = False
        return target

    def run(self, x):
        """Advance every row by a chunk of any length: the same bits as stepping through it.

        Parameters
        ----------
        x
            (time, features), or (batch, time, features) if the stream has a batch.

        Returns
        -------
        numpy.ndarray
            (time, outputs) or (batch, time, outputs).

        Raises
        ------
        ShapeError
            If ``x`` does not fit. The state is unchanged.
        StateError
            If another thread is in this stream.
        """
        self._enter()
        try:
            if self.stages is None:
                return self._graph_run(x)
            axes = ("time", (<Stage>self.stages[0]).in_size)
            if self.batch is not None:
                axes = (self.rows,) + axes
            y = as_float_array(x, "x", axes, self.dtype)
            if self.batch is None:
                y = y[None]
            for stage in self.stages:
                y = stage.chunk(y)
            # Behind everything that can fail or be interrupted: all layers move or none.
            for stage in self.stages:
                (<Stage>stage).commit()
            return y[0] if self.batch is None else y
        finally:
            self.busy = False

    def reset(self):
        """Return every row to the zero state.

        Raises
        ------
        StateError
            If another thread is in this stream.
        """
        self._enter()
        try:
            if self.stages is None:
                self.states = {}
                return
            for stage in self._lstm_stages():
                (<LSTMStage>stage).reset()
        finally:
            self.busy = False

    @property
    def state(self):
        """The state, as arrays by name: ``(h, c)`` of an LSTM's stream; of a model's, a tuple for each layer by name.

        Of an LSTM layer it is ``(h, c)``: h is (layers, output size) and c (layers, hidden size), or (layers, batch,
        ...) if the stream has a batch. The tuples have names too, as in ``stream.state["lstm"].c``. Reading gives
        copies. Setting takes the same form and changes nothing if any of it does not fit.
        """
        self._enter()
        try:
            names = self._part_names()
            named = {
                name: named_state(names[name], [array[:, 0] if self.batch is None else array for array in arrays])
                for name, arrays in self._named_states().items()
            }
        finally:
            self.busy = False
        return named[None] if None in named else named

    @state.setter
    def state(self, value):
        self._enter()
        try:
            current = self._named_states()
            given = {None: value} if None in current else value
            if not isinstance(given, dict) or set(given) != set(current):
                found = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
                raise ShapeError(f"state: expected a dict with the layers {sorted(current)}, found {found}")
            self._set_named_states({name: self._fitted(name, given[name], current[name]) for name in current})
        finally:
            self.busy = False

    def snapshot(self):
        """Return the state as bytes, for :meth:`restore` here, in another stream of the model, or in another process.

        Returns
        -------
        bytes
            A safetensors file of the arrays of :attr:`state`, with the fingerprint of the model and a checksum.

        Raises
        ------
        StateError
            If another thread is in this stream.
        UnsupportedModelError
            If the model has a layer that cannot be described, so that it has no fingerprint.
        """
        self._enter()
        try:
            states = self._named_states()
            return self._snapshot_layout(states).pack([array for arrays in states.values() for array in arrays])
        finally:
            self.busy = False

    def restore(self, snapshot):
        """Set the state to that of a snapshot: the stream goes on from there with the same bits.

        Parameters
        ----------
        snapshot
            Bytes from :meth:`snapshot` of a stream or a pool of the same model (the same architecture, weights and
            compute type) with as many rows. Nothing in them is trusted.

        Raises
        ------
        FormatError
            If it is no snapshot, or damaged. As with the others, the state is unchanged.
        UnsupportedModelError
            If another version of the format wrote it.
        StateError
            If it is of another model, compute type or number of rows, or another thread is in this stream.
        """
        self._enter()
        try:
            states = self._named_states()
            arrays = iter(self._snapshot_layout(states).unpack(snapshot))
            self._set_named_states({name: tuple([next(arrays) for _ in state]) for name, state in states.items()})
        finally:
            self.busy = False

    def fork(self):
        """Return another stream of the same model in the same state; each then goes its own way.

        Raises
        ------
        StateError
            If another thread is in this stream.
        """
        cdef Stream twin
        self._enter()
        try:
            twin = Stream(self.source, self.batch)
            twin._set_named_states(self._named_states())
        finally:
            self.busy = False
        return twin

    cdef int _enter(self) except -1:
        """Take the stream for this thread."""
        if self.busy:
            self._refuse()
        self.busy = True
        return 0

    def _lstm_stages(self):
        return [stage for stage in self.stages if isinstance(stage, LSTMStage)]

    def _named_states(self):
        """The states with their batch axis, by layer name; of an LSTM's own stream by None."""
        if self.stages is None:
            return self.graph.states(self.states, self.rows)
        names = self.source._stream_names()
        return {
            name: (<LSTMStage>stage).get_state() for name, stage in zip(names, self._lstm_stages(), strict=True)
        }

    def _set_named_states(self, states):
        """Take states of the right form over."""
        if self.stages is None:
            self.states = states
            return
        for stage, pair in zip(self._lstm_stages(), states.values(), strict=True):
            (<LSTMStage>stage).set_state(*pair)

    def _part_names(self):
        """Names of the arrays of each state."""
        if self.stages is None:
            return self.graph.state_names()
        return dict.fromkeys(self.source._stream_names(), ("h", "c"))

    def _snapshot_layout(self, states):
        """The layout of snapshots of states of these shapes."""
        shapes = [array.shape for arrays in states.values() for array in arrays]
        if self.layout is None or self.layout.shapes != shapes:
            self.layout = _layout_of(self.source, self.rows, states, self._part_names())
        return self.layout

    def _fitted(self, name, given, current):
        label = "state" if name is None else f"state[{name!r}]"
        parts = part_names(self._part_names()[name], len(current))
        if not isinstance(given, (tuple, list)) or len(given) != len(current):
            raise ShapeError(
                f"{label}: expected {len(current)} arrays, ({', '.join(parts)}), found {type(given).__name__}"
                f"{f' of {len(given)}' if isinstance(given, (tuple, list)) else ''}"
            )
        result = []
        for part, array, like in zip(parts, given, current, strict=True):
            shape = like.shape if self.batch is not None else like.shape[:1] + like.shape[2:]
            array = as_float_array(array, f"{label} {part}", shape, self.dtype)
            result.append((array if self.batch is not None else array[:, None]).copy())
        return tuple(result)

    cdef object _shape(self, cnp.npy_intp *shape):
        return tuple([shape[axis] for axis in range(self.axes)])

    def _refuse(self):
        raise StateError(
            "stream: another thread is in this stream; expected one thread at a time: open a stream for each thread"
        )

    cdef object _bad_out(self, out):
        expected = f"a writeable C-contiguous {self.dtype} array of shape {self._shape(self.out_shape)}"
        if not isinstance(out, np.ndarray):
            return ShapeError(f"out: expected {expected}, found {type(out).__name__}")
        return ShapeError(
            f"out: expected {expected}, found dtype {out.dtype}, shape {out.shape}, strides {out.strides}, "
            f"writeable {out.flags.writeable}"
        )

    def _graph_run(self, x):
        y, self.states = self.graph.run(x, self.states, self.batch)
        return y

    def _graph_step(self, x, out):
        self._enter()
        try:
            y, states = self.graph.step(x, self.states, self.batch)
            if out is not None:
                if not isinstance(out, np.ndarray) or out.shape != y.shape or out.dtype != y.dtype or (
                        not out.flags.writeable):
                    raise ShapeError(
                        f"out: expected a writeable {y.dtype} array of shape {y.shape}, found "
                        f"{getattr(out, 'dtype', type(out).__name__)} {getattr(out, 'shape', '')}"
                    )
                out[...] = y
                y = out
            self.states = states
            return y
        finally:
            self.busy = False
