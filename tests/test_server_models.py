"""The table of models: which files are models, and how new, changed, broken and removed ones are taken."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from server_support import bidirectional, inputs, put, trained

import lstm_engine as le
from lstm_engine.server.errors import UnknownModelError
from lstm_engine.server.files import find_files
from lstm_engine.server.models import ModelTable
from lstm_engine.server.options import ServerOptions

X = inputs(1, 2, 5)


def go(root: Path, use: Callable[[ModelTable], Awaitable[Any]], **options: Any) -> Any:
    """Use a table in an event loop; one that hangs fails."""

    async def main() -> Any:
        async with ModelTable(ServerOptions(model=str(root), **options)) as table:
            return await use(table)

    return asyncio.run(asyncio.wait_for(main(), 60))


async def looks(table: ModelTable) -> None:
    """Look until what has changed is taken."""
    await table.refresh()
    await table.refresh()


async def predicts(table: ModelTable, source: Any, name: str = "m", version: str | None = None) -> bool:
    """Say whether a model computes what another does, bit for bit."""
    y = await table.find(name, version).batcher.predict(X)
    return bool(y.tobytes() == source(X)[0].tobytes())


class Session:
    """Somebody who holds a stream, as the table sees it."""

    def __init__(self) -> None:
        self.told: tuple[int, str] | None = None

    async def end(self, code: int, reason: str) -> None:
        self.told = code, reason


# --- Files ------------------------------------------------------------------------------------------------------------


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name, version in (("b", 2), ("a", 1), ("a", 10)):
        put(tmp_path, name, version, b"x")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "a/1/notes.txt").write_text("no model")
    files, problems = find_files(tmp_path, None)
    assert [file.key for file in files] == [("a", "1"), ("a", "10"), ("b", "2")]
    assert files[0].path == tmp_path / "a/1/model.safetensors"
    assert problems == []


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a", 1, b"x")
    (tmp_path / "loose.keras").write_bytes(b"x")
    for folder in ("a/01", "a/new", "a/-1", "a/3", "sp ace/1"):
        (tmp_path / folder).mkdir(parents=True)
    put(tmp_path, "a", 4, b"x")
    (tmp_path / "a/4/model.keras").write_bytes(b"x")
    files, problems = find_files(tmp_path, None)
    assert [file.key for file in files] == [("a", "1")]
    assert len(problems) == 7
    assert any("a/4: expected one file model.ENDING, found model.keras, model.safetensors" in one for one in problems)
    assert any("a/3: expected one file model.ENDING, found none" in one for one in problems)


@pytest.mark.parametrize(
    ("file", "name"), [("speech model.v2.safetensors", "speech_model.v2"), (".keras", "_.keras"), ("ä.onnx", "_")]
)
def test_a_file_alone_has_a_name_for_urls(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).write_bytes(b"x")
    (found,), _ = find_files(tmp_path / file, None)
    assert found.key == (name, "1")
    (found,), _ = find_files(tmp_path / file, "given")
    assert found.key == ("given", "1")
    with pytest.raises(le.ShapeError, match="--name: expected it with a file"):
        find_files(tmp_path, "given")


# --- The beginning ----------------------------------------------------------------------------------------------------


def test_models_are_found_by_name_and_version(tmp_path: Path) -> None:
    put(tmp_path, "m", 2, trained(2))
    put(tmp_path, "m", 10, trained(10))
    put(tmp_path, "other", 1, trained(3))

    async def use(table: ModelTable) -> None:
        assert [(one.name, one.version) for one in table] == [("m", "2"), ("m", "10"), ("other", "1")]
        assert await predicts(table, trained(10))
        assert await predicts(table, trained(2), version="2")
        assert await predicts(table, trained(3), "other")
        for name in ("n", "", "../m", "m/2", str(tmp_path / "m/2/model.safetensors")):
            with pytest.raises(UnknownModelError, match="expected one of m, other"):
                table.find(name)
        with pytest.raises(UnknownModelError, match="expected one of 2, 10 of 'm', found '3'"):
            table.find("m", "3")

    go(tmp_path, use)


def test_a_file_alone(tmp_path: Path) -> None:
    trained(1).save(tmp_path / "m.safetensors")
    assert go(tmp_path / "m.safetensors", lambda table: predicts(table, trained(1), "m", "1"))


def test_all_files_are_sound_at_the_beginning(tmp_path: Path) -> None:
    async def use(table: ModelTable) -> None:
        raise AssertionError("it must not begin")

    with pytest.raises(FileNotFoundError):
        go(tmp_path / "none", use)
    with pytest.raises(le.LstmEngineError, match=r"expected NAME/VERSION/model\.ENDING, found none"):
        go(tmp_path, use)
    put(tmp_path, "good", 1, trained(1))
    put(tmp_path, "bad", 1, b"no model")
    put(tmp_path, "worse", 1, b"nor this")
    with pytest.raises(le.LstmEngineError, match=r"(?s)2 problems.*bad/1/model.*worse/1/model"):
        go(tmp_path, use)


# --- Changes ----------------------------------------------------------------------------------------------------------


def test_a_new_version_is_served_beside_the_old_one(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, trained(1))

    async def use(table: ModelTable) -> None:
        put(tmp_path, "m", 2, trained(2))
        await table.refresh()
        assert await predicts(table, trained(1))  # it may be written still
        await table.refresh()
        assert await predicts(table, trained(2))
        assert await predicts(table, trained(1), version="1")

    go(tmp_path, use)


def test_a_changed_file_takes_over_and_streams_keep_their_states(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, trained(1))

    async def use(table: ModelTable) -> None:
        served = table.find("m")
        await served.batcher.run("a", X[0])
        kept = await served.batcher.snapshot("a")
        put(tmp_path, "m", 1, trained(2))
        await looks(table)
        assert table.find("m") is served
        stream = trained(1).stream()
        stream.restore(kept)
        other = trained(2).stream()
        other.state = stream.state
        assert (await served.batcher.step("a", X[1, 0])).tobytes() == other.step(X[1, 0]).tobytes()
        assert served.batcher.metrics()["swaps"] == 1
        await looks(table)
        assert served.batcher.metrics()["swaps"] == 1

    go(tmp_path, use)


def test_a_file_whose_states_do_not_fit_is_served_beside(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, trained(1))

    async def use(table: ModelTable) -> None:
        old, session = table.find("m"), Session()
        old.sessions.add(session)
        await old.batcher.step("a", X[0, 0])
        running = asyncio.create_task(old.batcher.predict(inputs(5, 20, 500)))
        await asyncio.sleep(0)
        wider = trained(7, units=48)
        put(tmp_path, "m", 1, wider)
        await looks(table)
        assert table.find("m") is not old
        assert await predicts(table, wider)
        # What was running is answered by the model that it began with.
        assert (await running).tobytes() == trained(1)(inputs(5, 20, 500))[0].tobytes()
        while session.told is None:
            await asyncio.sleep(0.001)
        assert session.told[0] == 1012
        assert "states" in session.told[1]

    go(tmp_path, use)


def test_a_broken_file_leaves_the_old_model(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path, "m", 1, trained(1))
    sound = path.read_bytes()

    async def use(table: ModelTable) -> None:
        for count, content in enumerate((sound[:-100], b""), start=1):
            put(tmp_path, "m", 1, content)
            await looks(table)
            await looks(table)  # it is not tried again
            assert await predicts(table, trained(1))
            reason, failures = table.broken()["m", "1"]
            assert "model.safetensors" in reason
            assert failures == count
        put(tmp_path, "new", 3, b"no model either")
        await looks(table)
        assert table.broken()["new", "3"][1] == 1
        with pytest.raises(UnknownModelError):
            table.find("new")
        assert [record.getMessage() for record in caplog.records].count("model not loaded") == 3
        put(tmp_path, "m", 1, trained(2))
        put(tmp_path, "new", 3, trained(3))
        await looks(table)
        assert await predicts(table, trained(2))
        assert await predicts(table, trained(3), "new")
        # The count stays, as counts do; the reason has gone.
        assert table.broken() == {("m", "1"): ("", 2)}

    go(tmp_path, use)


def test_a_removed_version_ends(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, trained(1))
    path = put(tmp_path, "m", 2, trained(2))

    async def use(table: ModelTable) -> None:
        ending, session = table.find("m"), Session()
        ending.sessions.add(session)
        path.unlink()
        await looks(table)
        assert table.find("m") is ending  # its folder is there, for another file
        path.parent.rmdir()
        await table.refresh()
        assert await predicts(table, trained(1))
        with pytest.raises(UnknownModelError):
            table.find("m", "2")
        while session.told is None:
            await asyncio.sleep(0.001)
        assert session.told == (1012, "this version is not served any more")

    go(tmp_path, use)


def test_a_folder_that_is_away_ends_nothing(tmp_path: Path) -> None:
    root = tmp_path / "models"
    put(root, "m", 1, trained(1))

    async def use(table: ModelTable) -> None:
        root.rename(tmp_path / "away")
        for _ in range(3):
            await table.refresh()
            assert await predicts(table, trained(1))
        (tmp_path / "away").rename(root)
        put(root, "m", 1, trained(2))
        await looks(table)
        assert await predicts(table, trained(2))

    go(root, use)


def test_the_places_of_streams_are_counted(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, trained(1))

    async def use(table: ModelTable) -> None:
        served = table.find("m")
        served.reserve()
        served.reserve()
        with pytest.raises(le.OverloadError, match="at most 2 open streams of 'm'"):
            served.reserve()
        served.release()
        served.reserve()

    go(tmp_path, use, max_streams=2)


def test_models_that_no_stream_can_run_are_served_too(tmp_path: Path) -> None:
    put(tmp_path, "m", 1, bidirectional())

    async def use(table: ModelTable) -> None:
        served = table.find("m")
        assert isinstance(served.batcher.obstacle, le.UnsupportedModelError)
        assert await predicts(table, bidirectional())

    go(tmp_path, use)
