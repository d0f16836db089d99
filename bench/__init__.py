"""Benchmarks of lstm_engine beside its peers and beside the limits of the machine (see README.md)."""

import os

# One thread for everybody, unless a cell says otherwise (run.py). The BLAS and OpenMP runtimes read these once, when
# they are loaded, so they are set before any module of this package imports numpy.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")
