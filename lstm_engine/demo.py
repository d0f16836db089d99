"""The two shipped models on held-out data: ``make demo`` or ``lstm-engine demo``.

A Keras model of English text and a PyTorch forecaster of sunspots are loaded from the files that the frameworks
wrote, and their predictions are compared with the ones that the frameworks themselves made (``data/README.md`` says
how both were trained). The demo fails if a difference is larger than the bound that it prints beside it.
"""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ._core import Stream
    from .model import Model

__all__ = [
    "CHARACTERS",
    "DATA",
    "DIFFERENCE_BOUND",
    "METRIC_BOUND",
    "PROMPT",
    "SEED",
    "TEMPERATURE",
    "CharacterModel",
    "SunspotModel",
    "run",
    "sample",
]

#: Where the models and their data lie.
DATA: Final = Path(__file__).parent / "data"

#: Largest absolute difference allowed between an output and the framework's recorded one. Probabilities and scaled
#: sunspot numbers are of the order of one, so this is about a hundred units in the last place of float32.
DIFFERENCE_BOUND: Final = 1e-5

#: Largest relative difference allowed between a metric and the framework's own.
METRIC_BOUND: Final = 1e-4

#: Defaults of the generated text. The prompt is from the held-out text.
CHARACTERS: Final = 600
TEMPERATURE: Final = 0.7
SEED: Final = 7
PROMPT: Final = (
    "lists are mutable sequences, typically used to store collections of\n"
    "homogeneous items (where the precise degree of similarity will vary by\n"
    "application).\n\n"
)

_BATCH: Final = 512
_WARM_UP: Final = 200
_TIMED_STEPS: Final = 5000
_LOADS: Final = 5
_WIDTH: Final = 100

#: The forecaster reads and predicts the square root of the number of spots, divided by this.
_SPOTS_SCALE: Final = 8.0

Float32 = NDArray[np.float32]
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Metric:
    """One figure, ours beside the framework's."""

    name: str
    found: float
    recorded: float
    form: str = "{:.4f}"


@dataclass(slots=True)
class _Evaluation:
    """What was found out about one model."""

    held_out: str
    metrics: list[_Metric]
    #: Largest absolute difference from the recorded outputs, and how many were compared.
    difference: float
    compared: int
    remarks: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class _ShippedModel(ABC):
    """A model, and what the framework that trained it recorded of it.

    Parameters
    ----------
    data
        Folder with the model, its record and its held-out data.

    Raises
    ------
    LstmEngineError
        If the model cannot be read.
    OSError
        If a file is missing.
    """

    file: ClassVar[str]
    #: The framework's name, and its package's among the versions in the record.
    framework_names: ClassVar[tuple[str, str]]

    def __init__(self, data: Path = DATA) -> None:
        self.data = data
        self.record: dict[str, Any] = json.loads((data / self.file).with_suffix(".json").read_text(encoding="utf-8"))
        name, package = self.framework_names
        self.framework = f"{name} {self.record['versions'][package].partition('+')[0]}"
        self.model = self.load()

    @abstractmethod
    def load(self) -> Model:
        """Load the model from its file."""

    @abstractmethod
    def steps(self, count: int) -> Float32:
        """Return inputs of a stream, (count, features)."""

    @abstractmethod
    def evaluate(self) -> _Evaluation:
        """Predict all of the held-out data, and compare with what the framework made of it."""


class CharacterModel(_ShippedModel):
    """The Keras model: 40 one-hot characters in, the distribution of the next one out."""

    file = "char_lstm.keras"
    framework_names = ("Keras", "keras")

    def __init__(self, data: Path = DATA) -> None:
        super().__init__(data)
        self.vocabulary = str(self.record["vocabulary"])
        self.window = int(self.record["window"])

    def load(self) -> Model:
        from .loading import load

        return load(self.data / self.file)

    def numbers(self, text: str) -> NDArray[np.intp]:
        """Return the place of each character in the vocabulary, (characters,); unknown ones as the model has them."""
        unknown = self.vocabulary.index(self.record["unknown"])
        places = {character: place for place, character in enumerate(self.vocabulary)}
        return np.array([places.get(character, unknown) for character in text.lower()], dtype=np.intp)

    def one_hot(self, numbers: NDArray[Any]) -> Float32:
        """Return ``numbers`` (...) as rows of zeros and a one, (..., vocabulary)."""
        rows: Float32 = np.eye(len(self.vocabulary), dtype=np.float32)[numbers]
        return rows

    def held_out_text(self) -> str:
        """Return the text that the model was not trained on."""
        return (self.data / "char_held_out.txt").read_text(encoding="ascii")

    def predict(self, contexts: NDArray[Any]) -> Float32:
        """Return the distributions (windows, vocabulary) after ``contexts`` (windows, 40)."""
        batches = (contexts[start : start + _BATCH] for start in range(0, len(contexts), _BATCH))
        return np.concatenate([self.model(self.one_hot(batch)) for batch in batches])

    def steps(self, count: int) -> Float32:
        return self.one_hot(self.numbers(self.held_out_text()[:count]))

    def evaluate(self) -> _Evaluation:
        with np.load(self.data / "char_recorded.npz", allow_pickle=False) as recorded:
            contexts, outputs = recorded["contexts"], recorded["outputs"]
        difference = float(np.abs(self.predict(contexts) - outputs).max())

        numbers = self.numbers(self.held_out_text())
        targets = numbers[self.window :]
        windows = np.lib.stride_tricks.sliding_window_view(numbers, self.window)[:-1]
        probabilities = self.predict(windows)
        chosen = probabilities[np.arange(len(targets)), targets].astype(np.float64)
        framework = self.record["framework_metric"]
        metrics = [
            _Metric("bits for each character", float(-np.log2(chosen).mean()), framework["bits_per_character"]),
            _Metric(
                "right first guess",
                100.0 * float((probabilities.argmax(axis=1) == targets).mean()),
                100.0 * framework["accuracy"],
                "{:.2f} %",
            ),
        ]
        held_out = f"held-out text, {len(targets):,} predictions"
        return _Evaluation(held_out, metrics, difference, outputs.size)

    def generate(self, temperature: float = TEMPERATURE, seed: int = SEED, prompt: str = PROMPT) -> Iterator[str]:
        """Write text for ever, one character at a time.

        Each character is drawn from what the model says after the one before, and is the next step's input; the
        state is carried in a stream.

        Parameters
        ----------
        temperature
            Above 1 the text is wilder, below tamer; at 0 the likeliest character is always taken.
        seed
            Of the random numbers: the same seed gives the same text.
        prompt
            What the model reads before it begins, at least one character.
        """
        random = np.random.default_rng(seed)
        one_hot = np.eye(len(self.vocabulary), dtype=np.float32)
        stream = self.model.stream()
        distribution = stream.run(one_hot[self.numbers(prompt)])[-1]
        while True:
            place = sample(distribution, temperature, random)
            yield self.vocabulary[place]
            distribution = stream.step(one_hot[place], out=distribution)


class SunspotModel(_ShippedModel):
    """The PyTorch model: one month's sunspots in, the forecast for the next month out, at every month."""

    file = "sunspots_lstm.pt"
    framework_names = ("PyTorch", "torch")

    def load(self) -> Model:
        """Put the model together as it was in PyTorch: a state_dict does not say how its layers are joined."""
        from .layers import Dense
        from .lstm import LSTM
        from .model import Sequential

        path = self.data / self.file
        return Sequential([LSTM.from_torch(path, "lstm"), Dense.from_torch(path, "head")])

    def spots(self) -> NDArray[np.float64]:
        """Return the number of spots of every month, (months,)."""
        return np.loadtxt(self.data / "sunspots.csv", delimiter=",", skiprows=1, usecols=2)

    def steps(self, count: int) -> Float32:
        """Return inputs of a stream, (count, 1): the series, from its beginning again where it ends."""
        return np.resize((np.sqrt(self.spots()) / _SPOTS_SCALE).astype(np.float32), (count, 1))

    def evaluate(self) -> _Evaluation:
        with np.load(self.data / "sunspots_recorded.npz", allow_pickle=False) as recorded:
            outputs = recorded["outputs"]
        # There is no month behind the last to forecast.
        months = self.steps(len(outputs))
        predicted = self.model(months[None])[0, :, 0]
        difference = float(np.abs(predicted - outputs).max())

        first = int(self.record["held_out_from_index"])
        forecast = (np.maximum(predicted.astype(np.float64), 0.0) * _SPOTS_SCALE) ** 2
        error = forecast[first - 1 :] - self.spots()[first:]
        framework = self.record["framework_metric"]
        metrics = [
            _Metric("mean absolute error, sunspots", float(np.abs(error).mean()), framework["mae"]),
            _Metric("root mean squared error", float(np.sqrt((error**2).mean())), framework["rmse"]),
        ]
        held_out = f"held-out series, {len(error)} months from {self.record['held_out_from_month']}"
        result = _Evaluation(held_out, metrics, difference, outputs.size)
        self._compare_with_steps(months, predicted, result)
        return result

    def _compare_with_steps(self, months: Float32, predicted: Float32, result: _Evaluation) -> None:
        from .configuration import config

        # The blas backend's bits are its library's own affair.
        if config()["backend"] != "fused":
            return
        stream = self.model.stream()
        stepped = np.array([stream.step(month)[0] for month in months])
        if stepped.tobytes() == predicted.tobytes():
            result.remarks.append(f"{len(months):,} steps one by one give the bits of the whole sequence")
        else:
            result.problems.append(
                f"{self.file}: expected steps one by one to give the bits of the whole sequence, "
                f"found {np.count_nonzero(stepped != predicted)} of {len(months)} outputs that differ"
            )


def sample(probabilities: Float32, temperature: float, random: np.random.Generator) -> int:
    """Draw a place from a distribution.

    Parameters
    ----------
    probabilities
        (places,), as a softmax gives them.
    temperature
        What the logarithms of the probabilities are divided by, 0 or above; 0 takes the likeliest place.
    random
        Where the random number comes from.
    """
    if temperature == 0.0:
        return int(probabilities.argmax())
    # The largest is 1 before the power, so that not everything can round to zero at a low temperature.
    weights = (probabilities.astype(np.float64) / probabilities.max()) ** (1.0 / temperature)
    cumulative = weights.cumsum()
    place = int(cumulative.searchsorted(random.random() * cumulative[-1], side="right"))
    return min(place, len(weights) - 1)  # the product may round up to the sum itself


def run(
    *,
    characters: int = CHARACTERS,
    temperature: float = TEMPERATURE,
    seed: int = SEED,
    prompt: str = PROMPT,
    data: Path = DATA,
    output: TextIO | None = None,
) -> int:
    """Run the demo.

    Parameters
    ----------
    characters
        How many characters are generated.
    temperature, seed, prompt
        As in :meth:`CharacterModel.generate`.
    data
        Folder with the models.
    output
        Where the report goes; standard output if None.

    Returns
    -------
    int
        0, or 1 if a difference from the framework is larger than its bound.

    Raises
    ------
    LstmEngineError, OSError
        If a file is missing or cannot be read.
    """
    from .configuration import config

    report = _Report(sys.stdout if output is None else output)
    facts = config()
    report.line(
        f"lstm_engine {facts['version']}: instruction set {facts['instruction_set']}, {facts['backend']} backend, "
        "float32, one thread"
    )
    text, seconds = _timed(lambda: CharacterModel(data))
    report.evaluation(text, "text, LSTM(128) and softmax over 60 characters", seconds)
    sunspots, seconds = _timed(lambda: SunspotModel(data))
    report.evaluation(sunspots, "sunspots, two LSTM layers of 32 and a linear one", seconds)
    report.heading(f"{characters} characters, one stream.step() each (temperature {temperature:g}, seed {seed})")
    report.generated_text(prompt, text.generate(temperature, seed, prompt), characters)
    report.latencies(text, sunspots)
    return report.verdict()


class _Report:
    """What is printed, and what must not be.

    Parameters
    ----------
    out
        Where it is printed.
    """

    def __init__(self, out: TextIO) -> None:
        self.out = out
        self.problems: list[str] = []

    def line(self, text: str = "") -> None:
        print(text, file=self.out)

    def heading(self, title: str) -> None:
        self.line(f"\n{title}\n{'-' * _WIDTH}")

    def row(self, name: str, *columns: str) -> None:
        self.line(f"  {name:<56}" + "".join(f"{column:>20}" for column in columns))

    def evaluation(self, shown: _ShippedModel, title: str, first_load: float) -> None:
        """Print how one model did on held-out data, and note what is beyond its bound."""
        again = min(_timed(shown.load)[1] for _ in range(_LOADS))
        found, seconds = _timed(shown.evaluate)
        self.heading(f"{shown.file}: {title}, trained in {shown.framework}")
        self.row(found.held_out, "here", shown.framework)
        for metric in found.metrics:
            self.row("  " + metric.name, metric.form.format(metric.found), metric.form.format(metric.recorded))
            # Not "greater than": a NaN must fail.
            if not abs(metric.found - metric.recorded) <= METRIC_BOUND * abs(metric.recorded):
                self.problems.append(f"{shown.file}: {metric.name}: expected {metric.recorded}, found {metric.found}")
        self.row(
            f"largest difference from {found.compared:,} recorded outputs",
            f"{found.difference:.1e}",
            f"at most {DIFFERENCE_BOUND:.0e}",
        )
        if not found.difference <= DIFFERENCE_BOUND:
            self.problems.append(
                f"{shown.file}: expected outputs within {DIFFERENCE_BOUND:.0e} of the recorded ones, "
                f"found a difference of {found.difference:.1e}"
            )
        for remark in found.remarks:
            self.row(remark)
        self.line(
            f"  loaded in {again * 1e3:.1f} ms ({first_load * 1e3:.0f} ms at first, imports included), "
            f"evaluated in {seconds:.2f} s"
        )
        self.problems.extend(found.problems)

    def generated_text(self, prompt: str, generated: Iterator[str], characters: int) -> None:
        """Print text as it is written. Only the model and the drawing are timed, not the terminal."""
        print(prompt, end="", file=self.out)
        column = len(prompt) - prompt.rfind("\n") - 1
        seconds = 0.0
        for place in range(characters):
            character, taken = _timed(lambda: next(generated))
            # The first also reads the prompt.
            seconds += taken if place else 0.0
            # The model does not know how wide the report is.
            character = "\n" if character == " " and column > _WIDTH - 12 else character
            column = 0 if character == "\n" else column + 1
            print(character, end="", file=self.out, flush=True)
        self.line("\n" + "-" * _WIDTH)
        if characters > 1:
            self.row("characters a second, drawing included", f"{(characters - 1) / seconds:,.0f}")

    def latencies(self, text: CharacterModel, sunspots: SunspotModel) -> None:
        """Print the time of a step of each model."""
        self.heading("latency of one stream.step(x, out=y)")
        self.row("microseconds", "p50", "p99")
        for shown in (text, sunspots):
            p50, p99 = np.percentile(_step_times(shown.model.stream(), shown.steps(_TIMED_STEPS)), (50, 99)) * 1e-3
            self.row("  " + shown.file, f"{p50:.2f}", f"{p99:.2f}")

    def verdict(self) -> int:
        """Print what was beyond its bound; return the exit status."""
        self.line()
        for problem in self.problems:
            self.line(f"FAILED: {problem}; please report it with the output of `lstm-engine config`")
        if not self.problems:
            self.line("Both models give what their frameworks gave.")
        return 1 if self.problems else 0


def _timed(call: Callable[[], _Result]) -> tuple[_Result, float]:
    """Return what ``call`` returns, and the seconds that it took."""
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def _step_times(stream: Stream, inputs: Float32) -> NDArray[np.int64]:
    """Return the nanoseconds of each step over ``inputs`` (time, features), the clock's own included."""
    y = stream.step(inputs[0])
    for x in inputs[:_WARM_UP]:
        stream.step(x, out=y)
    stream.reset()
    times = np.empty(len(inputs), dtype=np.int64)
    clock, step = time.perf_counter_ns, stream.step
    for place, x in enumerate(inputs):
        began = clock()
        step(x, out=y)
        times[place] = clock() - began
    return times
