"""A model inside a running service: concurrent calls become batched ones.

::

    async with le.serving.Batcher(model, max_batch=256, max_delay=0.001) as batcher:
        y_t = await batcher.step(stream_id, x_t)
        y = await batcher.predict(x)

Calls arrive on the event loop (``batcher.py``) and become work (``work.py``) that is queued and answered
(``dispatch.py``) and takes its turns (``ready.py``). One thread computes it, a round at a time (``engine.py``): each
advances the work that takes part by some steps, so that work joins and leaves between rounds.
"""

from __future__ import annotations

from .batcher import Batcher

__all__ = ["Batcher"]
