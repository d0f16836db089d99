"""The models that are served: a Batcher for each version, and how a changed file takes over.

A request names a model, and the name is looked up in this table; nothing that a request says leads to a file.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from lstm_engine.errors import LstmEngineError, OverloadError, StateError, raise_together
from lstm_engine.loading import load
from lstm_engine.lstm import LSTM
from lstm_engine.serving import Batcher

from .errors import UnknownModelError
from .files import Key, ModelFile, find_files
from .frames import StepTensors
from .log import log

if TYPE_CHECKING:
    from lstm_engine.model import Model

    from .options import ServerOptions

__all__ = ["ModelTable", "ServedModel", "Session"]

#: What goes wrong in loading without being a fault of ours.
_LOADING = (LstmEngineError, OSError, MemoryError)


class Session(Protocol):
    """Somebody whose streams are in a model's Batcher, to be told when it ends."""

    async def end(self, code: int, reason: str) -> None:
        """Answer what was taken, hand the streams' states over, and close with a code of WebSocket."""


class ServedModel:
    """One version of a model.

    Attributes
    ----------
    file
        Where it came from.
    batcher
        What computes.
    loaded
        When its file took over last, in seconds since 1970.
    failed
        Why a newer content of the file was not taken; None if the newest is in use.
    failures
        How often that happened.
    reserved
        Streams that are open.
    sessions
        Whose they are.
    """

    def __init__(self, file: ModelFile, batcher: Batcher, max_streams: int) -> None:
        self.file = file
        self.batcher = batcher
        self.loaded = time.time()
        self.failed: str | None = None
        self.failures = 0
        self.reserved = 0
        self.sessions: set[Session] = set()
        self._max_streams = max_streams
        self._step_tensors: tuple[Model, StepTensors] | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self.file.name

    @property
    def version(self) -> str:
        """Its version."""
        return self.file.version

    @property
    def model(self) -> Model:
        """The model in use."""
        model = self.batcher.model
        assert not isinstance(model, LSTM)  # no file is loaded as one
        return model

    @property
    def step_tensors(self) -> StepTensors:
        """What it takes and gives at each step."""
        if self._step_tensors is None or self._step_tensors[0] is not self.batcher.model:
            self._step_tensors = self.model, StepTensors.of(self.model)
        return self._step_tensors[1]

    def reserve(self) -> None:
        """Take the place of a stream, so that none is refused in the middle of its life.

        Raises
        ------
        OverloadError
            If there is none left.
        """
        if self.reserved >= self._max_streams:
            raise OverloadError(
                f"stream: expected at most {self._max_streams:,} open streams of {self.name!r} (--max-streams), found "
                "them open; try again later, or elsewhere"
            )
        self.reserved += 1

    def release(self) -> None:
        """Give the place back."""
        self.reserved -= 1

    async def end(self, code: int, reason: str, drain: bool = True) -> None:
        """Close the sessions, and the Batcher when it has answered what it has taken."""
        await asyncio.gather(*(session.end(code, reason) for session in list(self.sessions)), return_exceptions=True)
        await self.batcher.aclose(drain=drain)


class ModelTable:
    """All versions of all models.

    ::

        async with ModelTable(options) as table:
            served = table.find("sentiment")

    Parameters
    ----------
    options
        Where the models are, and how they are run.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self._root = Path(options.model)
        self._served: dict[Key, ServedModel] = {}
        self._seen: dict[Key, ModelFile] = {}  # at the last look
        self._tried: dict[Key, ModelFile] = {}  # loaded, or found broken
        self._broken: dict[Key, tuple[str, int]] = {}  # never served: why, and how often
        self._problems: frozenset[str] = frozenset()
        self._ending: set[asyncio.Task[None]] = set()
        self._drain = True

    async def __aenter__(self) -> Self:
        files, problems = await asyncio.to_thread(find_files, self._root, self.options.name)
        if not files:
            raise_together(
                LstmEngineError, str(self._root), problems or ["expected NAME/VERSION/model.ENDING, found none"]
            )
        for file in files:
            # All or nothing: a deployment that is half right is stopped at its start.
            try:
                await self._add(file)
            except _LOADING as error:
                problems.append(_told(error))
        if problems:
            await self._end_all(1001, "not started")
            raise_together(LstmEngineError, str(self._root), problems)
        self._seen = {file.key: file for file in files}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end_all(1001, "the server ends")

    def hurry(self) -> None:
        """Let the end not wait for what is computed still."""
        self._drain = False

    async def _end_all(self, code: int, reason: str) -> None:
        await asyncio.gather(*(one.end(code, reason, self._drain) for one in self._served.values()), *self._ending)

    # --- Looking up -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(sorted(self._served.values(), key=lambda one: (one.name, int(one.version))))

    def versions(self, name: str) -> list[ServedModel]:
        """Return the versions of a model, the oldest first; none if there is no such model."""
        return [one for one in self if one.name == name]

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """Return a model; the newest version if none is named.

        Raises
        ------
        UnknownModelError
            If there is none.
        """
        if version is not None and (name, version) in self._served:
            return self._served[name, version]
        versions = self.versions(name)
        if not versions:
            names = sorted({one.name for one in self._served.values()})
            listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            raise UnknownModelError(f"model: expected one of {listed or 'none'}, found {name[:128]!r}")
        if version is not None:
            listed = ", ".join(one.version for one in versions)
            raise UnknownModelError(f"version: expected one of {listed} of {name!r}, found {version[:40]!r}")
        return versions[-1]

    def broken(self) -> dict[Key, tuple[str, int]]:
        """Return why a version is not, or not newly, served, and how often loading it has failed."""
        stale = {one.file.key: (one.failed or "", one.failures) for one in self._served.values() if one.failures}
        return {**self._broken, **stale}

    # --- Reloading ------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look for changes again and again, until cancelled."""
        while self.options.reload_interval:
            await asyncio.sleep(self.options.reload_interval)
            try:
                await self.refresh()
            except Exception:  # the next look may find it well again, and what is loaded is served meanwhile
                log("reload failed", "error", exception=True)

    async def refresh(self) -> None:
        """Take what has changed since, and looks as it did at the last look: a file that is written still does not."""
        away = False
        try:
            files, problems = await asyncio.to_thread(find_files, self._root, self.options.name)
        except OSError as error:
            # A folder that is away for a moment, such as a network's, must not end the service.
            files, problems, away = list(self._seen.values()), [_told(error)], True
        for problem in sorted(set(problems) - self._problems):
            log("models cannot be read", "error", reason=problem)
        self._problems = frozenset(problems)
        before, self._seen = self._seen, {file.key: file for file in files}
        for file in files:
            if before.get(file.key) == file and self._tried.get(file.key) != file:
                await self._take(file)
        gone = {*self._served, *self._broken} - set(self._seen) - set(before)
        for key in sorted(gone if not away else ()):
            if not (self._root / key[0] / key[1]).exists():  # it is not only about to get another file
                self._tried.pop(key)
                self._broken.pop(key, None)
                if key in self._served:
                    self._end(self._served.pop(key), "this version is not served any more")

    async def _take(self, file: ModelFile) -> None:
        """Load a new content; if that fails, what was there before goes on."""
        current = self._served.get(file.key)
        try:
            if current is None:
                await self._add(file)
            else:
                await self._replace(current, file)
        except _LOADING as error:
            told = _told(error)
            if current is None:
                self._broken[file.key] = told, self._broken.get(file.key, ("", 0))[1] + 1
            else:
                current.failed, current.failures = told, current.failures + 1
            log(
                "model not loaded",
                "error",
                model=file.name,
                version=file.version,
                reason=told,
                kept=current is not None,
            )
        finally:
            self._tried[file.key] = file

    async def _add(self, file: ModelFile) -> None:
        self._served[file.key] = await self._begin(file, await self._load(file))
        self._tried[file.key] = file
        self._broken.pop(file.key, None)

    async def _load(self, file: ModelFile) -> Model:
        options: Any = self.options
        model = await asyncio.to_thread(
            load,
            file.path,
            compute_type=options.compute_type,
            num_threads=options.num_threads,
            backend=options.backend,
        )
        log(
            "model loaded",
            model=file.name,
            version=file.version,
            path=str(file.path),
            memory_bytes=model.memory_bytes(),
        )
        return model

    async def _begin(self, file: ModelFile, model: Model) -> ServedModel:
        options = self.options

        def make() -> Batcher:
            return Batcher(
                model,
                options.max_batch,
                options.max_delay,
                max_queue=options.max_queue,
                max_streams=options.max_streams,
            )

        batcher = await asyncio.to_thread(make)
        await batcher.__aenter__()
        return ServedModel(file, batcher, options.max_streams)

    async def _replace(self, current: ServedModel, file: ModelFile) -> None:
        """Let a new content of a file take over: between two rounds where states fit, else in a Batcher of its own."""
        model = await self._load(file)
        try:
            await current.batcher.swap(model)
        except StateError as error:
            reason = str(error)
        else:
            current.file, current.loaded, current.failed = file, time.time(), None
            log("model swapped", model=file.name, version=file.version, streams=current.reserved)
            return
        beside = await self._begin(file, model)
        beside.failures = current.failures
        self._served[file.key] = beside
        log("model replaced", "warning", model=file.name, version=file.version, streams=current.reserved, reason=reason)
        self._end(current, "another model has taken over, which the states of streams do not fit")

    def _end(self, served: ServedModel, reason: str) -> None:
        """Let a version that nobody finds any more finish what it has taken."""

        async def end() -> None:
            # 1012, service restart: come again.
            with contextlib.suppress(asyncio.CancelledError):
                await served.end(1012, reason)
                log("model ended", model=served.name, version=served.version, reason=reason)

        task = asyncio.create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _told(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return f"out of memory ({error})"
    return str(error)
