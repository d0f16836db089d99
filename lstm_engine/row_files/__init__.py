"""Files of rows that ``lstm-engine predict`` reads and writes some rows at a time, so that memory stays constant.

``reading.py`` says which file holds which input and ``running.py`` goes from rows to rows; ``arrays.py`` knows ``.npy``
and ``.npz``, ``text.py`` CSV, ``parquet.py`` Parquet. A file that is written appears whole or not at all.
"""
