"""The host's BLAS, as SciPy gives it: imported only when the blas backend is used."""

SGEMM: int
DGEMM: int
