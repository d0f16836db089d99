"""ONNX graphs: what a file says, as plain data, and how it is computed over NumPy arrays.

::

    formats/onnx.py   bytes -> OnnxGraph (graph.py), the one place that knows the onnx package
    program.py        OnnxGraph -> Program: nodes bound to their operators, constant parts computed
    operators.py      what the nodes compute; shaping.py, reducing.py and recurrent.py add their parts to the table
    model.py          the Model around a Program
"""
