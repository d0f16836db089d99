#include "lstm_engine/status.h"

const char *le_status_message(le_status status) {
    static const char *const messages[LE_STATUS_COUNT] = {
        [LE_OK] = "success",
        [LE_ERROR_MEMORY] = "not enough memory",
        [LE_ERROR_ARGUMENT] = "an argument is missing or does not fit the others",
        [LE_ERROR_SIZE] = "a size is too large for this machine's address space",
        [LE_ERROR_UNKNOWN_ISA] = "no instruction set of that name is compiled in",
        [LE_ERROR_UNSUPPORTED_ISA] = "this CPU does not run that instruction set",
        [LE_ERROR_FULL] = "as many streams are open as there is room for",
        [LE_ERROR_UNKNOWN_ID] = "no stream of that number was ever opened here",
        [LE_ERROR_CLOSED_ID] = "the stream of that number was closed",
        [LE_ERROR_REPEATED_ID] = "a stream stands twice among those that are to advance",
        [LE_ERROR_INTERRUPTED] = "the run was interrupted before its end",
    };
    if ((unsigned)status >= LE_STATUS_COUNT) {
        return "unknown status";
    }
    return messages[status];
}
