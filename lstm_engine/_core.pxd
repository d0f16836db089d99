# What the parts of the core declare for one another.

cimport numpy as cnp

from lstm_engine._c_api cimport le_activation, le_kernels, le_linear, le_lstm, le_run, le_status, le_threads


cdef class Kernels:
    cdef const le_kernels *table


cdef class Threads:
    cdef le_threads *pool
    cdef object asked
    cdef readonly int split


cdef class CoreLSTM:
    cdef le_lstm *lstm
    cdef readonly Threads threads
    cdef readonly str backend
    cdef readonly str isa
    cdef readonly object dtype
    cdef readonly Py_ssize_t memory_bytes
    cdef readonly Py_ssize_t layers
    cdef readonly Py_ssize_t directions
    cdef readonly Py_ssize_t input_size
    cdef readonly Py_ssize_t hidden_size
    cdef readonly Py_ssize_t output_size
    cdef int type_number
    cdef double step_operations
    cdef list workspaces
    cdef int execute(self, le_run *run) except -1
    cdef bint takes(self, object array)


cdef class Linear:
    cdef le_linear *linear
    cdef readonly Py_ssize_t in_features
    cdef readonly Py_ssize_t out_features
    cdef readonly Py_ssize_t memory_bytes


# Multiply-adds above which a call releases the GIL: about two microseconds of work. Below that the release and the
# wait to get it back cost a caller more than another thread could gain.
cdef double RELEASE_GIL_ABOVE


# Raise what a status means.
cdef int check(le_status status) except -1

# The C form of an Activation.
cdef le_activation activation_of(object activation) except *

# Return value as an ndarray if it is a C-contiguous one of this type and shape (None: any), else raise ShapeError.
cdef cnp.ndarray checked(object value, str name, int type_number, tuple shape)
cdef cnp.ndarray writeable(object value, str name, int type_number, tuple shape)
