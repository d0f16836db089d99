"""A load test of services: many streams, each asking for its next step as soon as it has the last one.

``python -m bench.serving`` runs it; ``workload.py`` is what is asked for and what must come back, ``clients.py`` who
asks, ``services.py`` what answers, ``onnx_service.py`` the same service with ONNX Runtime, ``report.py`` the tables.
"""
