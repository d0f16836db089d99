# The C API of include/lstm_engine, for Cython.

from libc.stdint cimport int64_t, uint8_t, uint32_t


cdef extern from "lstm_engine/lstm_engine.h" nogil:
    ctypedef enum le_status:
        LE_OK
        LE_ERROR_MEMORY
        LE_ERROR_ARGUMENT
        LE_ERROR_SIZE
        LE_ERROR_UNKNOWN_ISA
        LE_ERROR_UNSUPPORTED_ISA
        LE_ERROR_REPEATED_ID
        LE_ERROR_CLOSED_ID
        LE_ERROR_UNKNOWN_ID
        LE_ERROR_FULL
        LE_ERROR_INTERRUPTED

    const char *le_status_message(le_status status)

    ctypedef enum le_activation_kind:
        LE_LINEAR
        LE_ACTIVATION_COUNT

    ctypedef struct le_activation:
        le_activation_kind kind
        double alpha
        double beta

    ctypedef struct le_kernels:
        pass

    size_t le_isa_count()
    const char *le_isa_name(size_t index)
    int le_isa_supported(size_t index)
    le_status le_isa_select(const char *name, const le_kernels **kernels)
    const char *le_kernels_name(const le_kernels *kernels)
    int le_kernels_vectorised(const le_kernels *kernels)

    ctypedef enum le_dtype:
        LE_FLOAT32
        LE_FLOAT64

    ctypedef enum le_compute_type:
        LE_AS_DTYPE
        LE_BFLOAT16
        LE_INT8
        LE_INT8_RECURRENT

    ctypedef enum le_backend:
        LE_FUSED
        LE_BLAS

    ctypedef void (*le_sgemm)(char *, char *, int *, int *, int *, float *, float *, int *, float *, int *, float *,
                              float *, int *)
    ctypedef void (*le_dgemm)(char *, char *, int *, int *, int *, double *, double *, int *, double *, int *,
                              double *, double *, int *)

    ctypedef struct le_cell_spec:
        size_t input_size
        size_t hidden_size
        size_t projection_size
        const void *kernel
        const void *recurrent_kernel
        const void *bias
        const void *projection
        const void *peepholes
        le_activation input_activation
        le_activation forget_activation
        le_activation cell_activation
        le_activation output_activation
        le_activation hidden_activation
        double gate_clip
        double cell_clip
        int coupled

    ctypedef struct le_lstm_spec:
        le_dtype dtype
        le_compute_type compute_type
        int without
        le_backend backend
        le_sgemm sgemm
        le_dgemm dgemm
        size_t layers
        size_t directions
        int reverse
        const le_cell_spec *cells

    ctypedef struct le_lstm:
        pass

    le_status le_lstm_create(const le_kernels *kernels, const le_lstm_spec *spec, le_lstm **lstm)
    void le_lstm_destroy(le_lstm *lstm)
    const char *le_kernels_name_for(const le_kernels *kernels, le_compute_type compute_type, int without)
    size_t le_lstm_memory_bytes(const le_lstm *lstm)

    ctypedef struct le_threads:
        pass

    le_status le_threads_create(size_t count, le_threads **threads)
    void le_threads_destroy(le_threads *threads)
    size_t le_threads_count(const le_threads *threads)
    size_t le_threads_alive(const le_threads *threads)

    ctypedef enum le_split:
        LE_FASTEST

    ctypedef struct le_run:
        size_t batch
        size_t time
        const void *x
        size_t x_row_stride
        size_t x_time_stride
        void *y
        size_t y_row_stride
        size_t y_time_stride
        int sequences
        const void *h0
        const void *c0
        void *h_n
        void *c_n
        const uint8_t *mask
        int zero_masked
        const int64_t *lengths
        le_threads *threads
        le_split split
        size_t members
        int (*interrupted)(void *context)
        void *interrupted_context

    void le_lstm_take_threads(const le_lstm *lstm, le_run *run)
    void le_lstm_give_threads(le_run *run)
    le_status le_lstm_workspace_bytes(const le_lstm *lstm, const le_run *run, size_t *bytes)
    le_status le_lstm_run(const le_lstm *lstm, const le_run *run, void *workspace)

    ctypedef struct le_stream:
        pass

    le_status le_stream_create(
        const le_lstm *lstm, size_t batch, le_threads *threads, le_split split, le_stream **stream
    )
    void le_stream_destroy(le_stream *stream)
    void le_stream_reset(le_stream *stream)
    void le_stream_step(le_stream *stream, const void *x, void *y)
    void le_stream_get_state(const le_stream *stream, void *h, void *c)
    void le_stream_set_state(le_stream *stream, const void *h, const void *c)

    ctypedef struct le_linear:
        pass

    ctypedef enum le_stage_kind:
        LE_STAGE_LSTM
        LE_STAGE_LINEAR
        LE_STAGE_ACTIVATION
        LE_STAGE_SOFTMAX

    ctypedef struct le_stage:
        le_stage_kind kind
        const le_lstm *lstm
        const le_linear *linear
        const le_kernels *kernels
        le_activation activation
        size_t size

    ctypedef struct le_chain:
        pass

    le_status le_chain_create(const le_stage *stages, size_t count, le_chain **chain)
    void le_chain_destroy(le_chain *chain)
    size_t le_chain_state_bytes(const le_chain *chain)
    void le_chain_get_state(const le_chain *chain, size_t stage, const void *state, void *h, void *c)
    void le_chain_set_state(const le_chain *chain, size_t stage, void *state, const void *h, const void *c)

    ctypedef struct le_pool:
        pass

    const size_t LE_POOL_MOST

    le_status le_pool_create(const le_chain *chain, size_t capacity, uint32_t first, le_pool **pool)
    void le_pool_destroy(le_pool *pool)
    le_status le_pool_open(le_pool *pool, double now, int64_t *id)
    le_status le_pool_close(le_pool *pool, int64_t id)
    size_t le_pool_count(const le_pool *pool)
    int64_t le_pool_id_at(const le_pool *pool, size_t place)
    double le_pool_last_used(const le_pool *pool, size_t place)
    int le_pool_has(const le_pool *pool, int64_t id)
    void *le_pool_state(const le_pool *pool, int64_t id)
    le_status le_pool_find(le_pool *pool, size_t count, const int64_t *ids, const uint32_t **places, size_t *wrong)
    le_status le_pool_step(le_pool *pool, size_t count, const int64_t *steps, const void *x, void *y,
                           int (*interrupted)(void *context), void *context)
    void le_pool_save(const le_pool *pool, size_t count, void *states)
    void le_pool_load(le_pool *pool, size_t count, const void *states)
    void le_pool_touch(le_pool *pool, size_t count, double now)

    ctypedef struct le_window:
        pass

    le_status le_window_create(const le_chain *chain, size_t length, size_t batch, le_window **window)
    void le_window_destroy(le_window *window)
    void le_window_reset(le_window *window)
    size_t le_window_samples(const le_window *window)
    int le_window_push(le_window *window, const void *x, void *y, int defer)
    void le_window_settle(le_window *window)

    le_status le_linear_create(const le_kernels *kernels, size_t input_size, size_t output_size, const float *kernel,
                               const float *bias, le_activation activation, le_linear **linear)
    void le_linear_destroy(le_linear *linear)
    size_t le_linear_memory_bytes(const le_linear *linear)
    void le_linear_run(const le_linear *linear, size_t rows, const float *x, size_t x_stride, float *y, size_t y_stride)
    void le_activate(const le_kernels *kernels, le_activation activation, size_t count, const float *x, float *y)
    void le_softmax(const le_kernels *kernels, size_t rows, size_t columns, const float *x, float *y)
    void le_layer_norm(const le_kernels *kernels, size_t rows, size_t columns, const float *x, const float *gamma,
                       const float *beta, float epsilon, float *y)
