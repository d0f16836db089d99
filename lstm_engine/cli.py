"""The command line tool ``lstm-engine``: look into a model file, run it, serve it, see the demo.

A failure is one message on standard error and exit status 2, the same as for wrong arguments; anything else that ends
in a traceback is a fault of ours.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from .errors import FormatError, LstmEngineError, ShapeError
from .options import BACKENDS, COMPUTE_TYPES
from .verification import TOLERANCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .model import Model

__all__ = ["main"]

_FAILED: Final = 2
_MODEL_HELP: Final = "a whole model: .keras, .h5, .onnx, or .safetensors as model.save writes it"

#: Two float32 computations of one model, each within 1e-6 of the exact one, with room for long sequences.
_AGAINST_TOLERANCE: Final = 1e-5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tool.

    Parameters
    ----------
    arguments
        The command line without the program's name; that of the process if None.

    Returns
    -------
    int
        The exit status: 0, 1 if what demo or verify compares is not as it must be, 2 for a failure.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone (as `head` does): not an error, but Python must not try to flush at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except LstmEngineError as error:
        return _complain(str(error))
    except OSError as error:
        return _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError as error:
        return _complain(f"out of memory{f' ({error})' if str(error) else ''}; use a smaller --batch-size or input")
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    return status


def _complain(message: str, status: int = _FAILED) -> int:
    _print(f"lstm-engine: {message}", file=sys.stderr)
    return status


def _print(*lines: str, file: TextIO | None = None) -> None:
    """Print lines that may hold names out of a file from a stranger, which must not give orders to the terminal."""
    encoding = getattr(file or sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        shown = "".join(
            char if char.isprintable() or char in "\n\u3000\xa0" else char.encode("unicode_escape").decode()
            for char in line
        )
        print(shown.encode(encoding, "backslashreplace").decode(encoding), file=file)


# --- Arguments --------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="lstm-engine",
        description="Fast, small and dependable LSTM inference on a CPU, for models trained in Keras or PyTorch.",
        epilog="Failures are one message on standard error and exit status 2.",
    )
    parser.add_argument("--version", action="version", version=f"lstm-engine {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_predict(commands)
    _add_convert(commands)
    _add_verify(commands)
    _add_serve(commands)
    _add_demo(commands)
    _add_config(commands)
    return parser


def _command(commands: Any, name: str, run: Any, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=description.partition(":")[0],
        description=description,
    )
    parser.set_defaults(run=run)
    return parser


def _add_info(commands: Any) -> None:
    parser = _command(
        commands,
        "info",
        _info,
        "Show what a model file holds: for a whole model its layers, inputs and outputs, where each weight came from, "
        "what was inferred and what was ignored, also where the model cannot be run; for weights alone the modules "
        "that they come from, and the line that loads each.",
    )
    parser.add_argument("file", metavar="FILE", help=".keras, .h5, .onnx, .pt, .pth or .safetensors; by content")


def _add_predict(commands: Any) -> None:
    parser = _command(
        commands,
        "predict",
        _predict,
        "Run a model on arrays: what the framework's own predict gives for them.",
    )
    parser.add_argument("model", metavar="MODEL", help=_MODEL_HELP)
    parser.add_argument(
        "--input",
        "-i",
        metavar="FILE",
        action="append",
        required=True,
        help=".npy, .npz, .csv or Parquet; once for each input of the model, in its order, or one file with all of "
        "them by name. A line of CSV is a row of the input; a row of Parquet holds a list, of any length if the model "
        "takes it",
    )
    parser.add_argument(
        "--output",
        "-o",
        metavar="FILE",
        action="append",
        required=True,
        help=".npy, .npz, .csv or .parquet; once for each output of the model, in its order, or one .npz or table that "
        "gets the outputs by name",
    )
    parser.add_argument(
        "--columns",
        metavar="[INPUT=]NAME,...",
        action="append",
        default=[],
        help="columns of a table that an input is made of, in order; once for each input that the table does not tell "
        "by its name",
    )
    parser.add_argument(
        "--keep", metavar="NAME,...", default="", help="columns of the input table that go to the output table too"
    )
    _add_batch_size(parser)
    parser.add_argument("--progress", action="store_true", help="show a progress bar")
    parser.add_argument("--compute-type", choices=COMPUTE_TYPES, default="float32", help="default: float32")
    _add_backend(parser)


def _add_batch_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", metavar="ROWS", type=_positive, default=64, help="rows of the input at a time (default: 64)"
    )


def _add_backend(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="default: auto")


def _add_convert(commands: Any) -> None:
    parser = _command(
        commands,
        "convert",
        _convert,
        "Write a model to a file of our own format, a .safetensors file with the architecture inside: it loads without "
        "the framework's reader, by mapping it, and gives the same bits. A target that ends in .onnx is written as "
        "ONNX instead.",
    )
    parser.add_argument("source", metavar="SRC", help=f"{_MODEL_HELP}, or PyTorch weights of one LSTM")
    parser.add_argument("target", metavar="DST", help="the file to write, .safetensors or .onnx; replaced if it exists")
    parser.add_argument(
        "--compute-type",
        choices=COMPUTE_TYPES,
        help="what golden outputs are computed in; with float32 wider weights are rounded to it (default: weights as "
        "they came, float32 outputs)",
    )
    parser.add_argument("--prefix", metavar="NAME", help="name of the LSTM in a file of PyTorch weights with several")
    parser.add_argument(
        "--golden",
        metavar="FILE",
        action="append",
        help="inputs as predict takes them, to be kept in the file with the outputs for them: see verify",
    )


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands,
        "verify",
        _verify,
        "Run a model and compare its outputs: with --against those in a file, else the golden ones that the model's "
        "own file holds. Exit status 1 if an output is off by more than the tolerance.",
    )
    parser.add_argument("model", metavar="FILE", help=_MODEL_HELP)
    parser.add_argument(
        "--against",
        metavar="FILE",
        action="append",
        help="the expected outputs as predict writes them: one .npz by name, or .npy once for each output; without "
        "--input the .npz holds the inputs as well, by name (inputs.NAME and outputs.NAME where both have one name)",
    )
    parser.add_argument(
        "--input",
        "-i",
        metavar="FILE",
        action="append",
        help=".npy; once for each input of the model, in its order, or one .npz with the inputs by name",
    )
    parser.add_argument(
        "--tolerance",
        metavar="T",
        type=_temperature,
        help="largest relative L2 error of an output, 0 for the same values (default: "
        f"{_AGAINST_TOLERANCE:g} with --against; for golden outputs "
        + ", ".join(f"{bound:g} in {kind}" for kind, bound in TOLERANCES.items())
        + ")",
    )
    _add_batch_size(parser)
    parser.add_argument(
        "--compute-type", choices=COMPUTE_TYPES, help="default: float32; of golden outputs what computed them"
    )
    _add_backend(parser)


def _add_serve(commands: Any) -> None:
    from .server.options import add_arguments

    add_arguments(
        _command(
            commands,
            "serve",
            _serve,
            "Serve models over HTTP and WebSocket: the Open Inference Protocol, streams with a state, and metrics. "
            "Needs lstm-engine[serve]. SIGTERM ends it when running calls are answered.",
        )
    )


def _add_demo(commands: Any) -> None:
    from . import demo

    parser = _command(
        commands,
        "demo",
        _demo,
        "Run the two shipped models on held-out data: compare them with what Keras and PyTorch made of it, write text "
        "character by character, and measure a step. Exit status 1 if a figure is not as it must be.",
    )
    parser.add_argument(
        "--characters",
        metavar="N",
        type=_natural,
        default=demo.CHARACTERS,
        help=f"characters of text to write (default: {demo.CHARACTERS})",
    )
    parser.add_argument(
        "--temperature",
        metavar="T",
        type=_temperature,
        default=demo.TEMPERATURE,
        help=f"of the text: 0 is the likeliest, above 1 wild (default: {demo.TEMPERATURE})",
    )
    parser.add_argument(
        "--seed", metavar="N", type=_natural, default=demo.SEED, help=f"of the text (default: {demo.SEED})"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        type=_text,
        default=demo.PROMPT,
        help="what the text goes on from (default: held-out text)",
    )


def _add_config(commands: Any) -> None:
    _command(
        commands, "config", _config, "Show what is in use here: version, instruction set, backends, threads, BLAS."
    )


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 or more, found {text!r}")
    return int(text)


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number of 0 or more, found {text!r}")
    return int(text)


def _text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("expected at least one character, found none")
    return text


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of 0 or more, found {text!r}")
    return value


# --- info -------------------------------------------------------------------------------------------------------------


def _info(options: argparse.Namespace) -> int:
    from .info import describe_file

    _print(*describe_file(options.file))
    return 0


# --- predict ----------------------------------------------------------------------------------------------------------


def _predict(options: argparse.Namespace) -> int:
    from .loading import load
    from .row_files.running import predict_files

    # All that can be known to be wrong is said before anything is computed.
    model = load(options.model, compute_type=options.compute_type, backend=options.backend)
    groups = _output_groups(options.output, [output.name for output in model.outputs])
    if not model._in_rows:
        return _predict_whole(options, model, groups)
    written = predict_files(
        model,
        options.input,
        groups,
        batch_size=options.batch_size,
        columns=_columns(options.columns, [spec.name for spec in model.inputs]),
        keep=[name for name in options.keep.split(",") if name],
        progress=options.progress,
    )
    for path, names in groups.items():
        for name in names:
            _print(f"{path}: {name} {written[name]}")
    return 0


def _predict_whole(options: argparse.Namespace, model: Model, groups: dict[str, list[str]]) -> int:
    """Run a model in one call: its rows cannot be told apart, or do not come first."""
    from .array_files import check_output, write_arrays

    if options.columns or options.keep:
        raise ShapeError(
            "--columns, --keep: expected a model whose inputs and outputs all begin with the batch axis, found an ONNX "
            "graph that does not say so, or layers of time_major=True"
        )
    for path, names in groups.items():
        check_output(path, len(names))
    inputs = _arrays(options.input, [spec.name for spec in model.inputs], "--input")
    result = model.predict(tuple(inputs), batch_size=options.batch_size, progress=options.progress)
    outputs = result if isinstance(result, tuple) else (result,)
    arrays = dict(zip((spec.name for spec in model.outputs), outputs, strict=True))
    for path, names in groups.items():
        write_arrays(path, {name: arrays[name] for name in names})
        for name in names:
            _print(f"{path}: {name} {arrays[name].shape} {arrays[name].dtype}")
    return 0


def _columns(given: Sequence[str], inputs: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns that were named for each input."""
    columns: dict[str, list[str]] = {}
    for text in given:
        name, equals, listed = text.partition("=")
        if not equals and len(inputs) == 1:
            name, listed = inputs[0], text
        names = [column for column in listed.split(",") if column]
        if name not in inputs or name in columns or not names:
            raise ShapeError(
                f"--columns: expected INPUT=NAME,NAME,... once for an input among {', '.join(inputs)}, found {text!r}"
            )
        columns[name] = names
    return columns


# --- convert and verify -----------------------------------------------------------------------------------------------


def _convert(options: argparse.Namespace) -> int:
    from .formats.detect import detect
    from .loading import load
    from .lstm import LSTM
    from .saving import save

    model: Model | LSTM
    compute_type: Any = options.compute_type or "float32"
    if detect(options.source).kind in ("torch-zip", "torch-legacy", "safetensors"):
        model = LSTM.from_torch(options.source, options.prefix, compute_type=compute_type)
    elif options.prefix is not None:
        raise ShapeError(f"--prefix: expected it with a file of PyTorch weights alone, found {options.source}")
    else:
        model = load(options.source, compute_type=compute_type)
    golden: Any = None
    if options.golden is not None:
        if isinstance(model, LSTM):
            golden = _arrays(options.golden, ["x"], "--golden")[0]
        else:
            golden = tuple(_arrays(options.golden, [spec.name for spec in model.inputs], "--golden"))
            golden = golden[0] if len(golden) == 1 else golden
    if Path(options.target).suffix == ".onnx":
        if isinstance(model, LSTM):
            from .model import Sequential

            model = Sequential([model])
        model.to_onnx(options.target)
    else:
        save(model, options.target, golden=golden, narrow=options.compute_type not in (None, "float64"))
    _print(f"{options.target}: {Path(options.target).stat().st_size:,} bytes")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from .saving import verify_saved
    from .verification import compare

    if options.against is None:
        if options.input is not None:
            raise ShapeError("--input: expected it together with --against, found it alone")
        _check_own(options.model)
        errors, tolerance = verify_saved(options.model, compute_type=options.compute_type, backend=options.backend)
    else:
        found, expected = _both(options)
        errors, tolerance = compare(found, expected), _AGAINST_TOLERANCE
    tolerance = tolerance if options.tolerance is None else options.tolerance
    wrong = 0
    for error in errors:
        right = error.within(tolerance)
        wrong += not right
        _print(f"{error}: {'ok' if right else 'WRONG'}")
    print(f"{len(errors) - wrong} of {len(errors)} outputs within a relative L2 error of {tolerance:g}")
    return 1 if wrong else 0


def _check_own(path: str) -> None:
    from .formats.detect import detect

    found = detect(path)
    if found.kind != "lstm-engine":
        raise FormatError(
            f"{path}: expected a file with golden outputs, found {found.phrase}; give expected outputs with --against"
        )


def _both(options: argparse.Namespace) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Return the outputs of a model and the expected ones, by name."""
    from .array_files import read_arrays
    from .loading import load

    model = load(options.model, compute_type=options.compute_type or "float32", backend=options.backend)
    names = {"inputs": [spec.name for spec in model.inputs], "outputs": [spec.name for spec in model.outputs]}
    if options.input is not None:
        inputs = _arrays(options.input, names["inputs"], "--input")
        expected = dict(zip(names["outputs"], _arrays(options.against, names["outputs"], "--against"), strict=True))
    else:
        given = read_arrays(options.against[0]) if len(options.against) == 1 else None
        if not isinstance(given, dict):
            raise ShapeError("--against: expected one .npz with the inputs too where there is no --input")
        shared = set(names["inputs"]) & set(names["outputs"])
        chosen: dict[str, list[NDArray[Any]]] = {}
        for end, listed in names.items():
            keys = [f"{end}.{name}" if name in shared or f"{end}.{name}" in given else name for name in listed]
            missing = [key for key in keys if key not in given]
            if missing:
                raise ShapeError(
                    f"{options.against[0]}: expected the model's {end} by name, found none called "
                    f"{', '.join(missing)}; it has {', '.join(given)}"
                )
            chosen[end] = [given[key] for key in keys]
        inputs, expected = chosen["inputs"], dict(zip(names["outputs"], chosen["outputs"], strict=True))
    result = model.predict(tuple(inputs), batch_size=options.batch_size)
    outputs = result if isinstance(result, tuple) else (result,)
    return dict(zip(names["outputs"], outputs, strict=True)), expected


def _output_groups(paths: Sequence[str], names: Sequence[str]) -> dict[str, list[str]]:
    """Return which outputs go to which file."""
    if len(paths) == 1:
        return {paths[0]: list(names)}
    if len(paths) != len(names) or len(set(paths)) != len(paths):
        raise ShapeError(
            f"--output: expected one .npz or table, or {len(names)} different files for the outputs "
            f"{', '.join(names)}, found {', '.join(paths)}"
        )
    return {path: [name] for path, name in zip(paths, names, strict=True)}


def _arrays(paths: Sequence[str], names: Sequence[str], option: str) -> list[NDArray[Any]]:
    """Read the arrays that are called ``names``: from one archive, or from a file for each, in this order."""
    from .array_files import read_arrays

    what = {"--input": "inputs", "--golden": "inputs", "--against": "outputs"}[option]
    found = [read_arrays(path) for path in paths]
    if len(found) == 1 and isinstance(found[0], dict):
        given = found[0]
        if len(names) == 1 and len(given) == 1:
            return list(given.values())
        if set(given) != set(names):
            raise ShapeError(
                f"{paths[0]}: expected arrays named as the model's {what}, {', '.join(names)}; found {', '.join(given)}"
            )
        return [given[name] for name in names]
    arrays = []
    for path, array in zip(paths, found, strict=True):
        if isinstance(array, dict):
            raise FormatError(
                f"{path}: expected a .npy file; an .npz file must be the only {option}, with all {what} by name"
            )
        arrays.append(array)
    if len(arrays) != len(names):
        raise ShapeError(
            f"{option}: expected {len(names)} arrays for the {what} {', '.join(names)}, found {len(arrays)}; "
            f"give {option} once for each, in this order"
        )
    return arrays


# --- serve ------------------------------------------------------------------------------------------------------------


def _serve(options: argparse.Namespace) -> int:
    from .server import serve
    from .server.options import options_of

    return serve(options_of(options))


# --- demo and config --------------------------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from . import demo

    return demo.run(
        characters=options.characters, temperature=options.temperature, seed=options.seed, prompt=options.prompt
    )


def _config(options: argparse.Namespace) -> int:
    from .configuration import config

    for name, value in config().items():
        print(f"{name.replace('_', ' '):<18} {_shown(value)}")
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}{'' if runs else ' (not on this CPU)'}" for name, runs in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)
