"""What `bmojo explore` does: it reads what is to be shown, studies it, and writes the page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import realization as rz
from bmojo.explore.page import explorer_page, plotly_script
from bmojo.explore.study import SignalMemory, study_memory
from bmojo.explore.tokens import TokenMemory, study_tokens
from bmojo.models.language_model import BMojoLM
from realization.errors import DataError
from realization.files import write_atomically
from realization.record_options import RECORD_OPTIONS, read_record

__all__ = ["explore", "read_tokens"]

SAMPLES, TOKENS = 1000, 400
NO_SIGNAL = (
    "say which column is the signal: --output COLUMN (its name, or number from 0); or, for the bytes of the "
    'file, which model reads them: --model FOLDER (of a task.kind = "source_text", by `bmojo train`).'
)


def explore(options: argparse.Namespace) -> None:
    """Write the page and open it.

    Parameters
    ----------
    options : argparse.Namespace
        Those of the command.

    Raises
    ------
    ValueError
        If options do not go together, or the file does not fit them.
    """
    import webbrowser

    place = Path(options.out)
    if options.file is not None and place.resolve() == Path(options.file).resolve():
        raise ValueError(f"--out {options.out} would overwrite the data; name another.")
    plotly_script()  # if it is not here, it is said before anything is computed
    study = _signal(options) if options.model is None else _tokens(options)
    write_atomically(place, explorer_page(study))
    print(place)
    if not options.no_open and not webbrowser.open(place.resolve().as_uri()):
        print("no browser was found; open the page by hand", file=sys.stderr)


def _signal(options: argparse.Namespace) -> SignalMemory:
    if options.file is None:
        for name in RECORD_OPTIONS:
            if getattr(options, name):
                raise ValueError(f"--{name} came without a FILE that it could be of.")
        data, name, first, unit = rz.load_series("sunspots"), "Sunspots", 1700.0, "year"
    else:
        if not options.output:
            raise ValueError(NO_SIGNAL)
        data = read_record(options)
        name, first, unit = Path(options.file).stem, 0.0, ""
    split = 0.5 if options.split is None else options.split
    print(f"identifying on the first {100 * split:g} % of {data!r}", file=sys.stderr)
    samples = options.samples or SAMPLES
    return study_memory(
        data, name=name, split=split, order=options.order, samples=samples, first=first, unit=unit
    )


def _tokens(options: argparse.Namespace) -> TokenMemory:
    from bmojo.training import load_model

    for name in (*RECORD_OPTIONS, "split", "order"):
        if getattr(options, name):
            raise ValueError(f"--{name} is of a measured signal; it came with --model, which reads tokens.")
    model = load_model(options.model)
    if not isinstance(model, BMojoLM):
        raise ValueError(f"--model {options.model}: a {type(model).__name__} tells no token after another.")
    about: dict[str, Any]
    if options.file is None:
        about = _of_task(Path(options.model))
    else:
        about = read_tokens(options.file, model.options["vocabulary"])
    tokens: Tensor = about.pop("tokens")
    samples = options.samples or TOKENS
    if about.get("answers") is not None:
        if samples < len(tokens) and options.samples:
            about["answers"] = about["answers"][:samples]
        else:
            samples = len(tokens)
    return study_tokens(model, tokens[:samples], on_run=_told, **about)


def read_tokens(file: str | Path, vocabulary: int) -> dict[str, Any]:
    """A file's bytes, or the integers of a `.npy`, as `study_tokens` takes them.

    Parameters
    ----------
    file : path
    vocabulary : int
        Tokens that the model has.

    Returns
    -------
    dict
        `name`, `tokens` (T,), `text`.

    Raises
    ------
    DataError
        If the file cannot be read, or the model has no tokens for it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from bmojo.explore.command import read_tokens
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "words.txt")
    ...     _ = path.write_text("abc")
    ...     read_tokens(path, 256)
    {'name': 'words', 'tokens': tensor([97, 98, 99]), 'text': True}
    """
    path = Path(file)
    if path.suffix == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}.") from None
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise DataError(f"{path}: {found.dtype} of shape {found.shape} came; integers (T,) are needed.")
        return {"name": path.stem, "tokens": torch.from_numpy(found.astype(np.int64)), "text": False}
    if vocabulary < 256:
        raise DataError(
            f"{path}: the model has {vocabulary} tokens, and bytes need 256. Name a .npy of integers, or no "
            "FILE: then a sequence of the task is shown that the model was trained on."
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {(error.strerror or str(error)).lower()}.") from None
    return {"name": path.stem, "tokens": torch.tensor(list(content)), "text": True}


def _of_task(folder: Path) -> dict[str, Any]:
    """A held-out sequence of the task of the run that left the model."""
    from bmojo.training import read_configuration

    results = next(
        (f / "results.json" for f in (folder, folder.parent) if (f / "results.json").is_file()), None
    )
    if results is None:
        raise ValueError(
            f"--model {folder} came without a FILE, and no results.json says what the model was "
            "trained on; name a FILE."
        )
    config = read_configuration(json.loads(results.read_text(encoding="utf-8"))["config"])
    task = config.made_task()
    batch = task.held_out.sample(1, torch.Generator().manual_seed(0))
    tokens, targets, mask = batch.tokens[0], batch.targets[0], batch.mask[0]
    ahead = bool(mask[:-1].all() and (targets[:-1] == tokens[1:]).all())
    return {
        "name": config.name,
        "tokens": tokens,
        "text": config.task["kind"] == "source_text",
        "answers": None if ahead else torch.where(mask, targets, -1),
    }


def _told(done: int, of: int) -> None:
    if done in (1, of) or done % 60 == 0:
        print(f"run {done} of {of}", file=sys.stderr)
