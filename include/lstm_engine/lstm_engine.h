/* The C API of lstm_engine. It knows no Python; a C program links the same static libraries. */
#ifndef LSTM_ENGINE_H
#define LSTM_ENGINE_H

#include "activation.h"
#include "chain.h"
#include "dense.h"
#include "isa.h"
#include "lstm.h"
#include "pool.h"
#include "status.h"
#include "threads.h"
#include "window.h"

#endif
