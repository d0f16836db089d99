"""The demo: it holds what the frameworks recorded against us, and fails when it must."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lstm_engine as le
from lstm_engine import demo

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def text_model() -> demo.CharacterModel:
    return demo.CharacterModel()


@pytest.fixture(scope="module")
def short_data(tmp_path_factory: pytest.TempPathFactory, text_model: demo.CharacterModel) -> Path:
    """The shipped data with a tenth of the text, and the metric that belongs to it."""
    folder = tmp_path_factory.mktemp("demo") / "data"
    shutil.copytree(demo.DATA, folder)
    text = text_model.held_out_text()[:1200]
    (folder / "char_held_out.txt").write_text(text, encoding="ascii")
    numbers = text_model.numbers(text)
    contexts = np.array([numbers[end - 40 : end] for end in range(40, len(numbers))])
    probabilities = text_model.predict(contexts)
    chosen = probabilities[np.arange(len(contexts)), numbers[40:]]
    change_record(
        folder / "char_lstm.json",
        bits_per_character=float(-np.log2(chosen.astype(np.float64)).mean()),
        accuracy=float((probabilities.argmax(axis=1) == numbers[40:]).mean()),
    )
    return folder


@pytest.fixture
def data(tmp_path: Path, short_data: Path) -> Path:
    """A copy of the short data, to be spoiled."""
    return shutil.copytree(short_data, tmp_path / "data")


def run(data: Path = demo.DATA) -> tuple[int, str]:
    output = io.StringIO()
    status = demo.run(characters=20, data=data, output=output)
    return status, output.getvalue()


def change_record(path: Path, **metrics: float) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    document["framework_metric"].update(metrics)
    path.write_text(json.dumps(document), encoding="utf-8")


def change_array(path: Path, name: str, change: Callable[[np.ndarray], None]) -> None:
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)
    change(arrays[name])
    np.savez(path, **arrays)


def test_the_demo_passes_and_shows_what_it_promises() -> None:
    status, printed = run()
    assert status == 0, printed
    assert "FAILED" not in printed
    facts = le.config()
    assert f"instruction set {facts['instruction_set']}" in printed
    for name in ("char_lstm", "sunspots_lstm"):
        metrics = json.loads((demo.DATA / f"{name}.json").read_text(encoding="utf-8"))["framework_metric"]
        for metric in metrics.values():
            shown = f"{metric:.4f}" if metric > 1 else f"{100 * metric:.2f} %"
            assert printed.count(shown) >= 2, f"{name}: {shown} stands beside the framework's"
    for phrase in ("characters a second", "p50", "p99", "loaded in", "largest difference", "at most 1e-05"):
        assert phrase in printed
    if facts["backend"] == "fused":
        assert "3,119 steps one by one give the bits of the whole sequence" in printed


def spoil_first(outputs: np.ndarray) -> None:
    outputs.flat[0] += 1e-4


def spoil_with_nan(outputs: np.ndarray) -> None:
    outputs.flat[-1] = np.nan


def test_the_short_data_passes_before_it_is_spoiled(data: Path) -> None:
    status, printed = run(data)
    assert status == 0, printed


@pytest.mark.parametrize("spoil", [spoil_first, spoil_with_nan])
@pytest.mark.parametrize("name", ["char", "sunspots"])
def test_another_output_than_the_frameworks_fails(data: Path, name: str, spoil: Callable[[np.ndarray], None]) -> None:
    change_array(data / f"{name}_recorded.npz", "outputs", spoil)
    status, printed = run(data)
    assert status == 1
    assert f"FAILED: {name}_lstm" in printed
    assert "expected outputs within 1e-05" in printed


def test_another_metric_than_the_frameworks_fails(data: Path) -> None:
    change_record(data / "sunspots_lstm.json", mae=13.497 * 1.001)
    status, printed = run(data)
    assert status == 1
    assert "FAILED: sunspots_lstm.pt: mean absolute error" in printed


def test_other_weights_fail(data: Path) -> None:
    shutil.copy(ROOT / "tests/formats/data/torch/lstm_plain.pt", data / "sunspots_lstm.pt")
    with pytest.raises(le.UnsupportedModelError, match=r"sunspots_lstm\.pt"):
        run(data)


@pytest.mark.parametrize("isa", [name for name, runs in le.config()["instruction_sets"].items() if runs])
def test_every_instruction_set_passes(isa: str, short_data: Path) -> None:
    program = "import pathlib, sys; from lstm_engine import demo; sys.exit(demo.run(data=pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", program, short_data],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "LSTM_ENGINE_ISA": isa}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"instruction set {isa}," in done.stdout
    assert done.stderr == ""


# --- The generated text -----------------------------------------------------------------------------------------------


def take(model: demo.CharacterModel, count: int, *, temperature: float = 0.7, seed: int = 0, prompt: str = "a") -> str:
    return "".join(itertools.islice(model.generate(temperature, seed, prompt), count))


def test_the_prompt_is_from_the_held_out_text(text_model: demo.CharacterModel) -> None:
    assert demo.PROMPT in text_model.held_out_text()


def test_a_seed_gives_one_text(text_model: demo.CharacterModel) -> None:
    assert take(text_model, 200, seed=3) == take(text_model, 200, seed=3)
    assert take(text_model, 200, seed=3) != take(text_model, 200, seed=4)


def test_the_text_is_in_the_vocabulary_and_looks_like_words(text_model: demo.CharacterModel) -> None:
    text = take(text_model, 2000, prompt=demo.PROMPT)
    assert set(text) <= set(text_model.vocabulary)
    # A model whose weights were mixed up would write noise: every third character of English is a vowel, every sixth a
    # space, and this text's commonest word is "the".
    assert "the" in text.split()
    letters = [character for character in text if character.isalpha()]
    assert 0.3 < sum(character in "aeiou" for character in letters) / len(letters) < 0.5


def test_generating_is_predicting_step_by_step(text_model: demo.CharacterModel) -> None:
    """At temperature 0 each character is the likeliest one after all that came before, as the model itself says."""
    prompt = demo.PROMPT[-40:]
    first = take(text_model, 1, temperature=0.0, prompt=prompt)
    context = text_model.numbers(prompt)[None]
    assert text_model.vocabulary[int(text_model.predict(context)[0].argmax())] == first


def test_unknown_characters_of_a_prompt_are_taken_as_the_model_has_them(text_model: demo.CharacterModel) -> None:
    assert text_model.numbers("A€").tolist() == [text_model.vocabulary.index("a"), text_model.vocabulary.index("?")]


# --- Drawing ----------------------------------------------------------------------------------------------------------

DISTRIBUTION = np.array([0.5, 0.0, 0.3, 0.2], dtype=np.float32)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_draw_follows_the_distribution(temperature: float) -> None:
    random = np.random.default_rng(11)
    draws = 20_000
    counts = np.bincount([demo.sample(DISTRIBUTION, temperature, random) for _ in range(draws)], minlength=4)
    expected = DISTRIBUTION.astype(np.float64) ** (1 / temperature)
    expected /= expected.sum()
    assert counts[1] == 0
    # Five standard deviations of a binomial.
    assert np.all(np.abs(counts / draws - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws))


@pytest.mark.parametrize("temperature", [0.0, 1e-3, 1e-300])
def test_a_low_temperature_takes_the_likeliest(temperature: float) -> None:
    random = np.random.default_rng(12)
    assert {demo.sample(DISTRIBUTION, temperature, random) for _ in range(100)} == {0}


def test_the_largest_random_number_still_draws_a_place() -> None:
    class AlmostOne:
        def random(self) -> float:
            return float(np.nextafter(1.0, 0.0))

    uneven = np.full(7, 1.0 / 7.0, dtype=np.float32)
    assert demo.sample(uneven, 1.0, AlmostOne()) == 6
