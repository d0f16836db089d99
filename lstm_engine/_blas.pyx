"""The host's BLAS, as SciPy gives it: imported only when the blas backend is used.

SciPy's functions travel to the C core as addresses, so that ``_core`` does not depend on SciPy.
"""

from libc.stdint cimport uintptr_t
from scipy.linalg.cython_blas cimport dgemm, sgemm

#: Addresses of the matrix products in float32 and float64, with the Fortran interface.
SGEMM = <uintptr_t>sgemm
DGEMM = <uintptr_t>dgemm
