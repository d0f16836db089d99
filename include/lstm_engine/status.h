/* Status codes: every function of the C API that can fail returns one. The core never prints or aborts. */
#ifndef LSTM_ENGINE_STATUS_H
#define LSTM_ENGINE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum le_status {
    LE_OK = 0,
    LE_ERROR_MEMORY = 1,          /* an allocation failed */
    LE_ERROR_ARGUMENT = 2,        /* a pointer is NULL or a size, kind or combination is not allowed */
    LE_ERROR_SIZE = 3,            /* a product of sizes does not fit in size_t */
    LE_ERROR_UNKNOWN_ISA = 4,     /* no instruction set of that name is compiled in */
    LE_ERROR_UNSUPPORTED_ISA = 5, /* the instruction set is compiled in but this CPU cannot run it */
    LE_ERROR_FULL = 6,            /* as many streams are open as there is room for */
    LE_ERROR_UNKNOWN_ID = 7,      /* no stream of that number was ever opened here */
    LE_ERROR_CLOSED_ID = 8,       /* the stream of that number was closed */
    LE_ERROR_REPEATED_ID = 9,     /* a stream stands twice among those that are to advance */
    LE_ERROR_INTERRUPTED = 10, /* the caller's own check asked a run to stop; its outputs are not complete */
    LE_STATUS_COUNT = 11
} le_status;

/* Return one sentence for a status, never NULL; the string is static. */
const char *le_status_message(le_status status);

#ifdef __cplusplus
}
#endif

#endif
