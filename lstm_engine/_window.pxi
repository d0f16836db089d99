# Sliding windows: part of _core.pyx.


@cython.final
cdef class SlidingWindow:
    """A prediction for every sample, each over the last ``length`` samples from a zero state.

    Made by ``Model.sliding_window()`` or ``LSTM.sliding_window()``. The windows that later samples complete are kept in
    flight, so that a sample costs one step of each instead of a whole window, and the answer only one step of one.

    Parameters
    ----------
    source
        The Model or LSTM.
    length
        Samples that each prediction is over.
    batch
        Number of rows (instruments, sensors) that are fed together, or None for one row without a batch axis.

    Raises
    ------
    UnsupportedModelError
        If the model looks at future steps, naming the layer.
    ShapeError
        If ``length`` or ``batch`` is not a positive integer.
    MemoryError
        If there is not enough for so many states.

    Notes
    -----
    A window belongs to one thread at a time: two threads in it at once raise StateError.
    """

    cdef readonly object source
    cdef readonly Py_ssize_t length
    cdef readonly object batch
    cdef Py_ssize_t rows
    cdef le_window *window       # NULL: the graph runs instead
    cdef Chain chain
    cdef object graph
    cdef dict states             # of the graph: arrays whose axis 1 is slot * rows + row
    cdef dict initial
    cdef object waiting          # the graph's sample that is still to be taken by the windows in flight
    cdef Py_ssize_t newest, taken
    cdef bint busy
    cdef bint release_push
    cdef bint release_settle
    cdef object dtype
    cdef int type_number
    cdef int axes
    cdef cnp.npy_intp in_shape[2]
    cdef cnp.npy_intp out_shape[2]

    def __cinit__(self):
        self.window = NULL

    def __init__(self, source, length=50, batch=None):
        if self.source is not None:
            raise StateError("SlidingWindow: a window cannot be initialised twice; make a new one")
        for name, value in (("length", length), ("batch", 1 if batch is None else batch)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value < 2**31:
                raise ShapeError(f"{name}: expected a positive integer, found {value!r}")
        if length * (1 if batch is None else batch) >= 2**31:
            raise ShapeError(f"length, batch: expected a product below 2**31, found {length} * {batch}")
        self.length = length
        self.rows = 1 if batch is None else batch
        self.batch = None if batch is None else int(batch)
        self.dtype = dtype_of(source.compute_type)
        self.type_number = self.dtype.num
        self.axes = 1 if batch is None else 2
        stages = source._stream_chain()
        if stages is None:
            self.graph = source._stream_graph()
            self.states = self.graph.states({}, self.length * self.rows)
            self.initial = self.graph.states({}, 1)
            self.newest = self.length - 1
        else:
            self.chain = Chain(stages)
            check(le_window_create(self.chain.chain, self.length, self.rows, &self.window))
            self.in_shape[0] = self.out_shape[0] = self.rows
            self.in_shape[self.axes - 1] = self.chain.in_size
            self.out_shape[self.axes - 1] = self.chain.out_size
            self.release_push = self.chain.operations * self.rows > RELEASE_GIL_ABOVE
            self.release_settle = self.chain.operations * self.rows * self.length > RELEASE_GIL_ABOVE
        self.source = source

    def __dealloc__(self):
        le_window_destroy(self.window)

    @property
    def samples(self):
        """Samples that the window holds, from 0 to ``length``."""
        return self.taken if self.window == NULL else le_window_samples(self.window)

    def push(self, x, *, out=None, bint defer=False):
        """Take the next sample of every row.

        Parameters
        ----------
        x
            (features,), or (batch, features) if there is a batch.
        out
            C-contiguous array of the compute type for the prediction; nothing is allocated then.
        defer
            Whether to return as soon as the prediction is there, which takes one step, and leave the rest of the
            work to :meth:`settle`, or to the next call of this method.

        Returns
        -------
        numpy.ndarray or None
            (outputs,) or (batch, outputs): what the model gives for the last ``length`` samples, of a sequence the last
            step; ``out`` if given. None until there are so many samples.

        Raises
        ------
        ShapeError
            If ``x`` or ``out`` does not fit. The window is unchanged.
        StateError
            If another thread is in this window.
        """
        cdef cnp.ndarray source, target
        cdef const void *x_data
        cdef void *y_data
        cdef bint full, release
        if self.window == NULL:
            return self._graph_push(x, out, defer)
        if (cnp.PyArray_CheckExact(x) and cnp.PyArray_TYPE(<cnp.ndarray>x) == self.type_number
                and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>x)
                and cnp.PyArray_NDIM(<cnp.ndarray>x) == self.axes
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[0] == self.in_shape[0]
                and cnp.PyArray_DIMS(<cnp.ndarray>x)[self.axes - 1] == self.in_shape[self.axes - 1]):
            source = <cnp.ndarray>x
        else:
            shape = tuple([self.in_shape[axis] for axis in range(self.axes)])
            source = as_float_array(x, "x", shape, self.dtype)
        if out is None:
            target = cnp.PyArray_EMPTY(self.axes, self.out_shape, self.type_number, 0)
        elif (cnp.PyArray_CheckExact(out) and cnp.PyArray_TYPE(<cnp.ndarray>out) == self.type_number
                and cnp.PyArray_ISCARRAY(<cnp.ndarray>out)
                and cnp.PyArray_NDIM(<cnp.ndarray>out) == self.axes
                and cnp.PyArray_DIMS(<cnp.ndarray>out)[0] == self.out_shape[0]
                and cnp.PyArray_DIMS(<cnp.ndarray>out)[self.axes - 1] == self.out_shape[self.axes - 1]):
            target = <cnp.ndarray>out
        else:
            target = writeable(out, "out", self.type_number, tuple([self.out_shape[axis] for axis in range(self.axes)]))
        x_data, y_data = cnp.PyArray_DATA(source), cnp.PyArray_DATA(target)
        self._enter()
        release = self.release_push if defer else self.release_settle
        if release:
            with nogil:
                full = le_window_push(self.window, x_data, y_data, defer)
        else:
            full = le_window_push(self.window, x_data, y_data, defer)
        self.busy = False
        return target if full else None

    def settle(self):
        """Do what a deferred :meth:`push` left: let the windows in flight take the last sample.

        Raises
        ------
        StateError
            If another thread is in this window.
        """
        self._enter()
        try:
            if self.window == NULL:
                self._graph_settle()
            elif self.release_settle:
                with nogil:
                    le_window_settle(self.window)
            else:
                le_window_settle(self.window)
        finally:
            self.busy = False

    def reset(self):
        """Forget all samples.

        Raises
        ------
        StateError
            If another thread is in this window.
        """
        self._enter()
        if self.window == NULL:
            self.waiting, self.taken = None, 0
        else:
            le_window_reset(self.window)
        self.busy = False

    cdef int _enter(self) except -1:
        """Take the window for this thread."""
        if self.busy:
            raise StateError(
                "sliding window: another thread is in this window; expected one thread at a time: make a window for "
                "each thread"
            )
        self.busy = True
        return 0

    def _graph_push(self, x, out, bint defer):
        self._enter()
        try:
            self._graph_settle()
            newest = (self.newest + 1) % self.length
            taken = min(self.taken + 1, self.length)
            full = taken == self.length
            for name, arrays in self.states.items():
                for array, start in zip(arrays, self.initial[name], strict=True):
                    array[:, self._rows_of([newest])] = start
            # Before there are enough samples the newest window goes first: what is wrong with one is found out here.
            first = (newest + 1) % self.length if full else newest
            y, states = self.graph.step(x, self._states_of([first]), self.batch)
            if out is not None and full:
                if isinstance(y, tuple):
                    raise ShapeError(f"out: expected None for a model of {len(y)} outputs, found {type(out).__name__}")
                writeable(out, "out", y.dtype.num, y.shape)
            slots = [slot % self.length for slot in range(newest - taken + 1, newest + 1)]
            others = [slot for slot in slots if slot != first]
            self.waiting = (self.graph.repeated(x, self.batch, len(others)), others) if others else None
            self._keep([first], states)
            self.newest, self.taken = newest, taken
            if not defer:
                self._graph_settle()
            if not full:
                return None
            if out is None:
                return y
            out[...] = y
            return out
        finally:
            self.busy = False

    def _graph_settle(self):
        if self.waiting is None:
            return
        x, slots = self.waiting
        _, states = self.graph.step(x, self._states_of(slots), len(slots) * self.rows)
        self._keep(slots, states)
        self.waiting = None

    def _rows_of(self, slots):
        return (np.array(slots)[:, None] * self.rows + np.arange(self.rows)).reshape(-1)

    def _states_of(self, slots):
        rows = self._rows_of(slots)
        return {name: tuple([array[:, rows] for array in arrays]) for name, arrays in self.states.items()}

    def _keep(self, slots, states):
        rows = self._rows_of(slots)
        for name, arrays in self.states.items():
            for array, new in zip(arrays, states[name], strict=True):
                array[:, rows] = new
