# Pools of streams: part of _core.pyx.


@cython.final
cdef class Chain:
    """The stages of a model in C, for rows whose states lie anywhere."""

    cdef le_chain *chain
    cdef object values           # what the stages point to
    cdef readonly Py_ssize_t in_size
    cdef readonly Py_ssize_t out_size
    cdef double operations       # of one row's step
    cdef list states             # (stage, layers, output size, hidden size) of each LSTM

    def __cinit__(self):
        self.chain = NULL

    def __init__(self, stages):
        cdef le_stage *specs = <le_stage *>PyMem_Malloc(len(stages) * sizeof(le_stage))
        cdef Kernels kernels = Kernels.select()
        cdef Py_ssize_t place = 0
        cdef CoreLSTM core
        cdef Linear linear
        if specs == NULL:
            raise MemoryError()
        memset(specs, 0, len(stages) * sizeof(le_stage))
        self.states = []
        try:
            for kind, value in stages:
                specs[place].kernels = kernels.table
                specs[place].size = self.out_size
                if kind == "lstm":
                    core = value
                    specs[place].kind = LE_STAGE_LSTM
                    specs[place].lstm = core.lstm
                    self.states.append((place, core.layers, core.output_size, core.hidden_size))
                    self.operations += core.step_operations
                    in_size, self.out_size = core.input_size, core.output_size
                elif kind == "linear":
                    linear = value
                    specs[place].kind = LE_STAGE_LINEAR
                    specs[place].linear = linear.linear
                    self.operations += <double>linear.in_features * linear.out_features
                    in_size, self.out_size = linear.in_features, linear.out_features
                else:
                    specs[place].kind = LE_STAGE_SOFTMAX if kind == "softmax" else LE_STAGE_ACTIVATION
                    if kind == "activation":
                        specs[place].activation = activation_of(value)
                    self.operations += 20.0 * self.out_size
                    in_size = self.out_size
                if place == 0:
                    self.in_size = in_size
                place += 1
            check(le_chain_create(specs, len(stages), &self.chain))
        finally:
            PyMem_Free(specs)
        self.values = stages

    def __dealloc__(self):
        le_chain_destroy(self.chain)


cdef int64_t _id_of(object value, object name) except? -1:
    """The number of a stream; -1, which is none, for one that no stream can have."""
    try:
        return <int64_t>PyNumber_Index(value)
    except OverflowError:
        return -1
    except TypeError:
        raise ShapeError(f"{name}: expected an id that open() gave, a whole number, found {value!r}") from None


cdef object _id_error(le_status status, object name, object value):
    if status == LE_ERROR_REPEATED_ID:
        return StateError(f"{name}: expected each stream once, found {value} again; give steps= for several steps")
    reason = "was closed" if status == LE_ERROR_CLOSED_ID else "was never opened in this pool"
    return StateError(f"{name}: expected the id of an open stream, found {value}, which {reason}")


# Multiply-adds from which a step of a pool looks for signals on the way: 30 ms or so. Before it does it has to keep a
# copy of all states, for which a shorter call has no time.
cdef double POOL_INTERRUPTIBLE_ABOVE = 1e9


@cython.final
cdef class StreamPool:
    """Many independent streams of one model, any of which advance together in one call.

    Made by ``Model.stream_pool()`` or ``LSTM.stream_pool()``.

    Parameters
    ----------
    source
        The Model or LSTM.
    capacity
        Most streams that are open at a time; memory for all is taken at once.
    idle_timeout
        Seconds: where the pool is full, ``open`` may close the stream that was not used for longest if that is as
        long. None: never.
    on_evict
        Called as ``on_evict(id, snapshot)`` before a stream is closed for being idle. If it raises, the stream stays
        open and the error comes out.

    Raises
    ------
    UnsupportedModelError
        If the model looks at future steps, naming the layer.
    ShapeError
        If an argument is not as above.
    MemoryError
        If there is not enough for so many states.

    Notes
    -----
    A pool belongs to one thread at a time: two threads in it at once raise StateError.
    """

    cdef readonly object source
    cdef readonly Py_ssize_t capacity
    cdef readonly object idle_timeout
    cdef object on_evict
    cdef le_pool *pool
    cdef Chain chain             # None: the graph runs instead
    cdef object graph
    cdef dict states             # of the graph: arrays whose axis 1 is the place
    cdef dict initial
    cdef int64_t *numbers        # [capacity + 1]
    cdef const uint32_t *places
    cdef bint busy
    cdef object dtype
    cdef int type_number
    cdef object layout
    cdef object now

    def __cinit__(self):
        self.pool = NULL
        self.numbers = NULL

    def __init__(self, source, capacity=10_000, *, idle_timeout=None, on_evict=None):
        if self.source is not None:
            raise StateError("StreamPool: a pool cannot be initialised twice; make a new one")
        if (isinstance(capacity, bool) or not isinstance(capacity, (int, np.integer))
                or not 1 <= capacity <= <object>LE_POOL_MOST):
            raise ShapeError(f"capacity: expected an integer from 1 to {LE_POOL_MOST}, found {capacity!r}")
        if idle_timeout is not None and not (
                isinstance(idle_timeout, (int, float)) and not isinstance(idle_timeout, bool) and idle_timeout >= 0):
            raise ShapeError(f"idle_timeout: expected seconds or None, found {idle_timeout!r}")
        if on_evict is not None and not callable(on_evict):
            raise ShapeError(f"on_evict: expected something to call or None, found {on_evict!r}")
        from time import monotonic
        import os
        self.now = monotonic
        stages = source._stream_chain()
        if stages is not None:
            self.chain = Chain(stages)
        # Numbers begin anywhere, so that one of another pool, or of before a restart, is a stranger's here.
        first = int.from_bytes(os.urandom(4), "little") >> 2
        check(le_pool_create(NULL if stages is None else self.chain.chain, capacity, first, &self.pool))
        self.numbers = <int64_t *>PyMem_Malloc((capacity + 1) * sizeof(int64_t))
        if self.numbers == NULL:
            raise MemoryError()
        if stages is None:
            self.graph = source._stream_graph()
            self.states = self.graph.states({}, capacity)
            self.initial = self.graph.states({}, 1)
        self.dtype = dtype_of(source.compute_type)
        self.type_number = self.dtype.num
        self.capacity, self.idle_timeout, self.on_evict = capacity, idle_timeout, on_evict
        self.source = source

    def __dealloc__(self):
        le_pool_destroy(self.pool)
        PyMem_Free(self.numbers)

    def __len__(self):
        return 0 if self.pool == NULL else le_pool_count(self.pool)

    def __contains__(self, id):
        return self.pool != NULL and isinstance(id, (int, np.integer)) and le_pool_has(self.pool, _id_of(id, "id"))

    @property
    def ids(self):
        """Ids of the open streams."""
        cdef Py_ssize_t place
        return [le_pool_id_at(self.pool, place) for place in range(self.capacity)
                if le_pool_id_at(self.pool, place) >= 0]

    def open(self, snapshot=None):
        """Open a stream.

        Parameters
        ----------
        snapshot
            Bytes from :meth:`snapshot`, of this pool, another one or a stream of the same model: the stream goes on
            from there. None: it begins at the zero state.

        Returns
        -------
        int
            The stream's id. No other stream of this pool ever has the same one.

        Raises
        ------
        StateError
            If the pool is full and no stream was idle for ``idle_timeout`` seconds; if the snapshot is of another
            model; or if another thread is in this pool.
        FormatError, UnsupportedModelError
            If ``snapshot`` is none, damaged, or of another version. As with the others, nothing has changed.
        """
        cdef int64_t id = 0
        cdef le_status status
        self._enter()
        try:
            arrays = None if snapshot is None else self._layout().unpack(snapshot)
            status = le_pool_open(self.pool, self.now(), &id)
            if status == LE_ERROR_FULL:
                self._make_room()
                status = le_pool_open(self.pool, self.now(), &id)
            check(status)
            self._set_state(id, arrays)
            return id
        finally:
            self.busy = False

    def step(self, ids, x, *, steps=None, out=None):
        """Advance some of the streams, each by one step or by several.

        Parameters
        ----------
        ids
            The streams, each once, in any order: a list, or quicker an int64 array.
        x
            (streams, features), row n for ``ids[n]``. With ``steps``: (sum of steps, features), all steps of
            ``ids[0]`` in order, then those of ``ids[1]``, and so on.
        steps
            (streams,) of int: how many steps each stream advances, 0 for none. None: one each.
        out
            C-contiguous array of the compute type for the result, one row for each row of ``x``.

        Returns
        -------
        numpy.ndarray
            (rows of ``x``, outputs), with the bits that each stream alone gives; ``out`` if given. Where a model has
            several inputs or outputs, tuples of arrays as in ``Stream.step``.

        Raises
        ------
        StateError
            If an id is unknown, closed or repeated, or another thread is in this pool. As with ShapeError, no stream
            has moved.
        ShapeError
            If an argument does not fit.
        """
        cdef Py_ssize_t count
        self._enter()
        try:
            count = self._find(ids)
            counts = None if steps is None else self._counts(steps, count)
            if self.chain is None:
                return self._graph_step(count, x, counts, out)
            return self._chain_step(count, x, counts, out)
        finally:
            self.busy = False

    cdef object _chain_step(self, Py_ssize_t count, x, counts, out):
        cdef Py_ssize_t total = count if counts is None else int(counts.sum())
        cdef const int64_t *steps = NULL
        cdef cnp.npy_intp shape[2]
        cdef cnp.ndarray source, target
        cdef const void *x_data
        cdef void *y_data
        cdef Interruption asked = NULL
        cdef le_status status
        cdef size_t state_bytes
        if counts is not None:
            steps = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counts)
        shape[0], shape[1] = total, self.chain.out_size
        if (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == self.type_number
                and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x) and cnp.PyArray_NDIM(<cnp.ndarray>x) == 2
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[0] == total
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[1] == self.chain.in_size):
            source = <cnp.ndarray>x
        else:
            source = as_float_array(x, "x", (total, self.chain.in_size), self.dtype)
        if out is None:
            target = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        else:
            target = writeable(out, "out", self.type_number, (total, self.chain.out_size))
            if np.may_share_memory(source, target):
                source = source.copy()
        x_data, y_data = cnp.PyArray_DATA(source), cnp.PyArray_DATA(target)
        before = None
        if self.chain.operations * total > POOL_INTERRUPTIBLE_ABOVE and in_main_thread():
            asked = &interrupted
            # All streams move or none: what a handler that raises leaves half done is undone.
            state_bytes = le_chain_state_bytes(self.chain.chain)
            before = np.empty(count * state_bytes, np.uint8)
            le_pool_save(self.pool, count, cnp.PyArray_DATA(<cnp.ndarray>before))
        if self.chain.operations * total > RELEASE_GIL_ABOVE:
            with nogil:
                status = le_pool_step(self.pool, count, steps, x_data, y_data, asked, NULL)
        else:
            status = le_pool_step(self.pool, count, steps, x_data, y_data, NULL, NULL)
        if status != LE_OK:
            le_pool_load(self.pool, count, cnp.PyArray_DATA(<cnp.ndarray>before))
            check(status)
        le_pool_touch(self.pool, count, self.now())
        return target

    def _graph_step(self, Py_ssize_t count, x, counts, out):
        cdef Py_ssize_t index
        places = np.array([self.places[index] for index in range(count)], np.intp)
        states = {name: tuple([array[:, places] for array in arrays]) for name, arrays in self.states.items()}
        y, states = self.graph.step_rows(x, states, count, counts)
        if out is not None:
            if isinstance(y, tuple):
                raise ShapeError(f"out: expected None for a model of {len(y)} outputs, found {type(out).__name__}")
            writeable(out, "out", y.dtype.num, y.shape)
            out[...] = y
            y = out
        for name, arrays in self.states.items():
            for array, new in zip(arrays, states[name], strict=True):
                array[:, places] = new
        le_pool_touch(self.pool, count, self.now())
        return y

    def reset(self, id):
        """Return a stream to the zero state.

        Raises
        ------
        StateError
            If the stream is not open, or another thread is in this pool.
        """
        self._enter()
        try:
            self._set_state(self._open_id(id), None)
        finally:
            self.busy = False

    def snapshot(self, id):
        """Return the state of a stream as bytes, as ``Stream.snapshot`` does, for a pool or a stream of the model.

        Raises
        ------
        StateError
            If the stream is not open, or another thread is in this pool.
        UnsupportedModelError
            If the model has a layer that cannot be described, so that it has no fingerprint.
        """
        self._enter()
        try:
            return self._snapshot(self._open_id(id))
        finally:
            self.busy = False

    def restore(self, id, snapshot):
        """Set the state of a stream to that of a snapshot; nothing changes if it does not fit.

        Raises
        ------
        StateError
            If the stream is not open, the snapshot is of another model, or another thread is in this pool.
        FormatError, UnsupportedModelError
            If ``snapshot`` is none, damaged, or of another version.
        """
        self._enter()
        try:
            number = self._open_id(id)
            self._set_state(number, self._layout().unpack(snapshot))
        finally:
            self.busy = False

    def close(self, id):
        """Close a stream: its id is never used again.

        Raises
        ------
        StateError
            If the stream is not open, or another thread is in this pool.
        """
        self._enter()
        try:
            check(le_pool_close(self.pool, self._open_id(id)))
        finally:
            self.busy = False

    def evict(self, idle):
        """Close every stream that was not used for ``idle`` seconds; ``on_evict`` is called for each before.

        Parameters
        ----------
        idle
            Seconds; 0 for all streams.

        Returns
        -------
        list of int
            The ids of the streams that were closed.

        Raises
        ------
        StateError
            If another thread is in this pool.
        """
        cdef Py_ssize_t place
        if not isinstance(idle, (int, float)) or isinstance(idle, bool) or not idle >= 0:
            raise ShapeError(f"idle: expected seconds, found {idle!r}")
        closed = []
        self._enter()
        try:
            now = self.now()
            for place in range(self.capacity):
                if le_pool_id_at(self.pool, place) >= 0 and now - le_pool_last_used(self.pool, place) >= idle:
                    closed.append(self._evict(place))
            return closed
        finally:
            self.busy = False

    cdef int _enter(self) except -1:
        """Take the pool for this thread."""
        if self.source is None:
            raise StateError("pool: expected one that model.stream_pool() made, found one that was never initialised")
        if self.busy:
            raise StateError(
                "pool: another thread is in this pool, or on_evict called it; expected one thread at a time: hold a "
                "lock around it, or give each thread a pool"
            )
        self.busy = True
        return 0

    def _make_room(self):
        cdef Py_ssize_t place, oldest = 0
        for place in range(self.capacity):
            if le_pool_last_used(self.pool, place) < le_pool_last_used(self.pool, oldest):
                oldest = place
        idle = self.now() - le_pool_last_used(self.pool, oldest)
        if self.idle_timeout is None or idle < self.idle_timeout or le_pool_id_at(self.pool, oldest) < 0:
            raise StateError(
                f"pool: expected room for another stream, found {len(self)} open and a capacity of {self.capacity}; "
                f"close some (the longest unused one for {idle:.3g} s), or make a pool with a larger capacity"
            )
        self._evict(oldest)

    def _evict(self, Py_ssize_t place):
        cdef int64_t id = le_pool_id_at(self.pool, place)
        if self.on_evict is not None:
            self.on_evict(id, self._snapshot(id))
        check(le_pool_close(self.pool, id))
        return id

    cdef Py_ssize_t _find(self, ids) except -1:
        """Look the streams up; returns how many there are."""
        cdef const int64_t *numbers = self.numbers
        cdef Py_ssize_t count, index
        cdef size_t wrong = 0
        cdef le_status status
        if (cnp.PyArray_CheckExact(ids) and cnp.PyArray_TYPE(<cnp.ndarray>ids) == cnp.NPY_INT64
                and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>ids) and cnp.PyArray_NDIM(<cnp.ndarray>ids) == 1):
            numbers = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>ids)
            count = cnp.PyArray_DIMS(<cnp.ndarray>ids)[0]
        elif isinstance(ids, np.ndarray):
            if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
                raise ShapeError(
                    f"ids: expected a list of ids or an int64 array of shape (streams,), found dtype {ids.dtype}, "
                    f"shape {ids.shape}"
                )
            ids = np.ascontiguousarray(ids, np.int64)
            numbers = <const int64_t *>cnp.PyArray_DATA(<cnp.ndarray>ids)
            count = len(ids)
        else:
            if not isinstance(ids, (list, tuple)):
                if isinstance(ids, (str, bytes)) or not hasattr(ids, "__iter__"):
                    raise ShapeError(f"ids: expected a list of ids, found {type(ids).__name__}")
                ids = list(ids)
            count = len(ids)
            # More than there are places: one of the first of them is wrong.
            for index in range(min(count, self.capacity + 1)):
                self.numbers[index] = _id_of(ids[index], "ids")
        status = le_pool_find(self.pool, count, numbers, &self.places, &wrong)
        if status != LE_OK:
            raise _id_error(status, f"ids[{wrong}]", ids[wrong])
        return count

    cdef object _counts(self, steps, Py_ssize_t count):
        counts = as_index_array(steps, "steps", (count,)).astype(np.int64, copy=False)
        if count and counts.min() < 0:
            place = int(counts.argmin())
            raise ShapeError(f"steps: expected whole numbers from 0, found {counts[place]} at {place}")
        if count and counts.max() > 2**40:
            raise ShapeError(f"steps: expected numbers of rows of x, found {counts.max()}")
        return counts

    cdef Py_ssize_t _place_of(self, int64_t id) except? -1:
        """The place of an open stream, -1 if it is not open."""
        cdef size_t wrong = 0
        if le_pool_find(self.pool, 1, &id, &self.places, &wrong) != LE_OK:
            return -1
        return self.places[0]

    cdef int64_t _open_id(self, id) except -1:
        """The number of a stream that is open."""
        cdef int64_t number = _id_of(id, "id")
        cdef size_t wrong = 0
        cdef le_status status = le_pool_find(self.pool, 1, &number, &self.places, &wrong)
        if status != LE_OK:
            raise _id_error(status, "id", id)
        return number

    def _named_state(self, int64_t id):
        """The state of a stream with an axis of one row, by layer name."""
        cdef const void *state
        if self.chain is None:
            place = self._place_of(id)
            return {
                name: tuple([array[:, place:place + 1] for array in arrays]) for name, arrays in self.states.items()
            }
        states = {}
        state = le_pool_state(self.pool, id)
        for name, (stage, layers, outputs, hidden) in zip(self.source._stream_names(), self.chain.states, strict=True):
            h, c = np.empty((layers, 1, outputs), self.dtype), np.empty((layers, 1, hidden), self.dtype)
            le_chain_get_state(self.chain.chain, stage, state, cnp.PyArray_DATA(<cnp.ndarray>h),
                               cnp.PyArray_DATA(<cnp.ndarray>c))
            states[name] = h, c
        return states

    def _set_state(self, int64_t id, arrays):
        """Set the state of a stream to arrays of the layout; None for the beginning."""
        cdef void *state
        if self.chain is None:
            place = self._place_of(id)
            given = iter([one for many in self.initial.values() for one in many] if arrays is None else arrays)
            for many in self.states.values():
                for array in many:
                    array[:, place:place + 1] = next(given)
            return
        state = le_pool_state(self.pool, id)
        if arrays is None:
            memset(state, 0, le_chain_state_bytes(self.chain.chain))
            return
        given = iter(arrays)
        for stage, _, _, _ in self.chain.states:
            h, c = next(given), next(given)
            le_chain_set_state(self.chain.chain, stage, state, cnp.PyArray_DATA(<cnp.ndarray>h),
                               cnp.PyArray_DATA(<cnp.ndarray>c))

    def _snapshot(self, int64_t id):
        return self._layout().pack([array for arrays in self._named_state(id).values() for array in arrays])

    def _layout(self):
        cdef Py_ssize_t place
        if self.layout is None:
            if self.chain is None:
                names, states = self.graph.state_names(), self.initial
            else:
                names = dict.fromkeys(self.source._stream_names(), ("h", "c"))
                states = {
                    name: (np.empty((layers, 1, outputs)), np.empty((layers, 1, hidden)))
                    for name, (_, layers, outputs, hidden) in zip(names, self.chain.states, strict=True)
                }
            self.layout = _layout_of(self.source, 1, states, names)
        return self.layout
