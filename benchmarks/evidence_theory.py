"""Evidence, question 8: what is kept beside the exact Kalman innovations; state beside mutual information.

*Selection.* Sequences of a linear system that rare shocks strike, whose exact innovations are known. Scores
rank the samples; precision and recall are those of the best of them against the `m` largest exact
innovations. On the signal itself: a layer lifted from the exact model, one lifted from a model identified on
another record, the layer's own predictors learning on the signal, and magnitude alone. On tokens: language
models trained to foretell the quantized signal, by their predictor.

*State.* Processes without shocks. The loss of a linear recurrence trained with `N` states, the loss of the
best predictor from `w` samples, and the loss of the exact model reduced to `r` states, beside the mutual
information of past and future that `r` canonical variables hold.

Run: python benchmarks/evidence_theory.py [--size quick] (it goes on where it was)
     python benchmarks/evidence_theory.py --size full --device cuda
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import torch
from _evidence import RUNS, Job, Record, once, parser_of, run_jobs, show_jobs, write_plain, write_records
from _results import Row, write_results
from torch import Tensor, nn
from tqdm import tqdm

import realization as rz
from bmojo import lift_layer
from bmojo.eidetic.predictor import ConvPredictor, Evidence
from bmojo.eidetic.predictors import KalmanPredictor
from bmojo.fading import LTI
from bmojo.tasks import LinearShocks

DELAYS = 8  # samples that a token of the regression holds
STARTS = 2  # of a recurrence's training
SHARE = 0.95  # of what there is to gain, at which a curve is called saturated


@dataclass(frozen=True)
class Size:
    """How much is done.

    Parameters
    ----------
    length, states, vocabulary : int
        Of `LinearShocks`.
    budget, window, chunk : int
        Of the sets.
    systems : tuple of int
        Seeds of systems.
    sequences : int
        Of judging.
    fitting : int
        Quasi-Newton steps of the predictors, and of the recurrences of each order.
    order : int
        Of the processes of the second part.
    most : int
        States and samples up to which losses are looked at.
    width, state, steps, batch : int
        Of the language models.
    rate : float
    seeds : tuple of int
    """

    length: int
    states: int
    vocabulary: int
    budget: int
    window: int
    chunk: int
    systems: tuple[int, ...]
    sequences: int
    fitting: int
    order: int
    most: int
    width: int
    state: int
    steps: int
    batch: int
    rate: float
    seeds: tuple[int, ...]


SIZES = {
    "quick": Size(256, 4, 64, 8, 8, 8, (0, 1, 2, 3), 64, 100, 6, 9, 64, 16, 300, 16, 1e-2, (0, 1, 2)),
    "full": Size(
        1024, 4, 256, 32, 16, 16, tuple(range(10)), 256, 300, 8, 16, 128, 16, 3000, 32, 3e-3, (0, 1, 2)
    ),
}
LAYERS = {
    "conv": {"predictor": "conv"},
    "state": {"predictor": "state"},
    "kalman": {"predictor": "kalman"},
    "residual": {"predictor": "residual", "mixer": "gated_deltanet"},
}


def agreement(scores: Tensor, exact: Tensor, shocks: Tensor, budget: int) -> dict[str, Any]:
    """Precision and recall of the samples of highest score, by how many of them there are.

    Parameters
    ----------
    scores : Tensor, shape (B, T)
    exact : Tensor, shape (B, T)
        Squared innovations of the exact filter; the `budget` largest of a sequence are what is looked for,
        and those that equal the least of them (shocks are of one size).
    shocks : Tensor of bool, shape (B, T)
        Where a shock struck, which is looked for too.
    budget : int

    Returns
    -------
    dict
        `sizes`, and `precision` and `recall` at each; `at_budget`: both at the budget; `shocks`: the same
        of shocks.

    Examples
    --------
    >>> import torch
    >>> e = torch.tensor([[5.0, 1.0, 4.0, 0.0]])
    >>> found = agreement(torch.tensor([[3.0, 2.0, 1.0, 0.0]]), e, e > 4, 2)
    >>> found["at_budget"], found["shocks"]
    ([0.5, 0.5], [0.5, 1.0])
    """
    wanted = exact >= exact.topk(budget).values[:, -1:] * (1 - 1e-9)
    order = scores.argsort(dim=1, descending=True, stable=True)
    hits = wanted.gather(1, order).double().cumsum(1)
    sizes = [n for n in sorted({1, 2, 4, budget // 2, budget, 2 * budget, 4 * budget, 8 * budget}) if n >= 1]
    sizes = [n for n in sizes if n <= exact.shape[1]]
    found = torch.stack([hits[:, n - 1] for n in sizes])
    precision = (found.mean(1) / torch.tensor(sizes)).tolist()
    recall = (found / wanted.sum(1)).mean(1).tolist()
    place = sizes.index(budget)
    struck = float(shocks.gather(1, order)[:, :budget].double().sum())
    return {
        "sizes": sizes,
        "precision": precision,
        "recall": recall,
        "at_budget": [precision[place], recall[place]],
        "shocks": [struck / (budget * len(exact)), struck / max(1, int(shocks.sum()))],
    }


def on_signals(size: Size, system: int) -> dict[str, Any]:
    """Agreement of every way to score the samples of one system; the sets of the lifted layer too."""
    task = LinearShocks(length=size.length, states=size.states, system=system)
    drawn = task.signals(size.sequences, torch.Generator().manual_seed(1))
    other = task.signals(size.sequences, torch.Generator().manual_seed(2)).y
    record = LinearShocks(length=2000, states=size.states, system=system)
    seen = record.signals(1, torch.Generator().manual_seed(3)).y[0].numpy()
    exact = drawn.e.square()
    options: dict[str, Any] = {"window": size.window, "chunk": size.chunk, "eidetic": size.budget}
    layer = lift_layer(task.model, **options)
    identified = lift_layer(rz.identify(rz.IOData(seen[:, None]), progress=False).model, **options)
    trace = layer.trace(drawn.y.unsqueeze(-1))
    sets = task.sets(drawn.y, size.budget, window=size.window, chunk=size.chunk)
    scores = {
        "exact model, lifted": trace.scores,
        "identified model, lifted": identified.trace(drawn.y.unsqueeze(-1) - identified.token_mean).scores,
        "conv, learned on the signal": _learned(ConvPredictor(1).double(), other, drawn.y, size.fitting),
        "kalman, along the signal": _regressed(drawn.y),
        "magnitude": drawn.y.square(),
        "chance": torch.rand(drawn.y.shape, generator=torch.Generator().manual_seed(4)),
    }
    found = {name: agreement(s, exact, drawn.shocks, size.budget) for name, s in scores.items()}
    found["exact model, lifted"]["sets"] = _alike(trace.eidetic_index, sets, exact)
    return found


def _alike(sets: Tensor, others: Tensor, worth: Tensor) -> float:
    """Share of the places (B, chunks, m) that hold samples of the same worth (B, T); shocks tie."""

    def held(of: Tensor) -> Tensor:
        found = worth.unsqueeze(1).expand(-1, of.shape[1], -1).gather(2, of.clamp_min(0))
        return found.masked_fill(of < 0, -1.0).sort(dim=-1).values

    return float(((held(sets) - held(others)).abs() <= 1e-6).double().mean())


def _learned(predictor: nn.Module, y: Tensor, judged: Tensor, steps: int) -> Tensor:
    """Scores of a predictor that has learned on other sequences from its own code length."""
    _minimized(lambda: predictor(Evidence(y.unsqueeze(-1)))[1], predictor, steps)
    with torch.no_grad():
        return predictor(Evidence(judged.unsqueeze(-1)))[0]


@torch.no_grad()
def _regressed(y: Tensor) -> Tensor:
    """Scores of recursive least squares on the samples before, which learns along each sequence."""
    past = nn.functional.pad(y, (DELAYS - 1, 0)).unfold(1, DELAYS, 1).flip(-1)
    predictor = KalmanPredictor(DELAYS, regressors=DELAYS).double()
    predictor.project.weight.copy_(torch.eye(DELAYS))
    predictor.score.log_variance[1:] = 60.0  # the newest sample alone is foretold
    return predictor(Evidence(past))[0]


def against_information(size: Size, system: int) -> dict[str, Any]:
    """Losses by states and by samples of one process, in nats a sample, and the information in its state."""
    task = LinearShocks(length=size.length, states=size.order, system=system, rate=0.0)
    model = task.model
    train = task.signals(size.sequences, torch.Generator().manual_seed(5)).y
    held = task.signals(size.sequences, torch.Generator().manual_seed(6)).y
    reduced = [rz.stochastically_balanced(model, r).model for r in range(1, size.order + 1)]
    least = 0.5 * float(np.log(task.innovations(held).square().mean()))
    return {
        "correlations": rz.canonical_correlations(model).tolist(),
        "information": [rz.mutual_information(model, r) for r in range(size.order + 1)],
        "least": least,
        "nothing": 0.5 * float(np.log(held[:, 1:].square().mean())),
        "reduced": [_loss(m, held) for m in reduced],
        "trained": [_recurrence(n, train, held, size.fitting) for n in range(1, size.most + 1)],
        "window": _by_samples(model, size.most),
    }


def _loss(model: rz.InnovationsModel, y: Tensor) -> float:
    start = np.zeros(model.n_states)
    errors = [rz.innovations(model, row.numpy()[:, None], x0=start).e for row in y]
    return 0.5 * float(np.log(np.mean(np.square(errors))))


def _recurrence(states: int, y: Tensor, held: Tensor, steps: int) -> float:
    """Loss of a linear recurrence of so many states, trained to foretell the next sample; the best start."""
    scale = y.std()

    def error(layer: LTI, of: Tensor) -> Tensor:
        z = (of / scale).unsqueeze(-1)
        return (layer(z[:, :-1])[0] - z[:, 1:]).square().mean()

    def trained(seed: int) -> LTI:
        torch.manual_seed(seed)
        layer = LTI(1, 1, states).double()
        _minimized(lambda: torch.log(error(layer, y)), layer, steps)
        return layer

    best = min(map(trained, range(STARTS)), key=lambda layer: float(error(layer, y).detach()))
    with torch.no_grad():
        return 0.5 * float(torch.log(error(best, held) * scale**2))


def _minimized(loss: Callable[[], Tensor], module: nn.Module, steps: int) -> None:
    """The parameters at the end of so many steps of a quasi-Newton method."""
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    optimizer.step(closure)


def _by_samples(model: rz.InnovationsModel, most: int) -> list[float]:
    """Loss of the best linear predictor from the last `w` samples, from the exact covariances."""
    h = model.noise.impulse_response(4096)[:, 0, 0]
    covariance = np.array([h[: len(h) - k] @ h[k:] for k in range(most + 1)])
    losses = []
    for w in range(1, most + 1):
        taps = scipy.linalg.solve_toeplitz(covariance[:w], covariance[1 : w + 1])
        losses.append(0.5 * float(np.log(covariance[0] - taps @ covariance[1 : w + 1])))
    return losses


def saturation(gained: Sequence[float]) -> int:
    """The smallest number (from 0) at which 95 % of the last value is reached.

    Parameters
    ----------
    gained : sequence of float
        What 0, 1, 2, ... states give.

    Examples
    --------
    >>> saturation([0.0, 2.0, 2.9, 3.0])
    2
    """
    return next(n for n, value in enumerate(gained) if value >= SHARE * gained[-1])


def jobs_of(size: Size) -> list[Job]:
    """Language models on the quantized signal, by predictor and seed."""
    task = {
        "kind": "linear_shocks",
        "length": size.length,
        "states": size.states,
        "vocabulary": size.vocabulary,
    }
    common = {
        "d_model": size.width,
        "mlp_ratio": 0.0,
        "window": size.window,
        "chunk": size.chunk,
        "eidetic": size.budget,
        "state_size": size.state,
    }
    train = {
        "steps": size.steps,
        "batch": size.batch,
        "rate": size.rate,
        "sequences": size.sequences,
        "checkpoint_every": 100,
    }
    return [
        Job(
            name,
            {"name": name, "task": task, "model": common | layer, "train": train | {"seed": seed}},
        )
        for name, layer in LAYERS.items()
        for seed in size.seeds
    ]


@torch.no_grad()
def measure(model: Any, *, size: Size) -> dict[str, Any]:
    """Agreement of each layer's scores with the exact innovations.

    Parameters
    ----------
    model : BMojoLM
    size : Size
    """
    task = LinearShocks(length=size.length, states=size.states, vocabulary=size.vocabulary)
    drawn = task.signals(size.sequences, torch.Generator().manual_seed(1))
    device = next(model.parameters()).device
    traces = model.trace(task.quantized(drawn.y).to(device))
    exact = drawn.e.square()
    return {
        f"layer {i}": agreement(trace.scores.double().cpu(), exact, drawn.shocks, size.budget)
        for i, trace in enumerate(traces)
    }


def rows(records: Sequence[Record], signals: dict[str, Any], processes: dict[str, Any]) -> list[Row]:
    """Agreement at the budget, and where curves saturate."""
    made = []
    for name in next(iter(signals.values())):
        for i, what in enumerate(("precision", "recall")):
            own = [100 * found[name]["at_budget"][i] for found in signals.values()]
            case = f"{name}: {what} of exact innovations, mean of {len(own)} systems"
            made.append(Row(case, float(np.mean(own)), "%"))
            struck = [100 * found[name]["shocks"][i] for found in signals.values()]
            made.append(Row(f"{name}: {what} of shocks", float(np.mean(struck)), "%"))
    sets = [100 * found["exact model, lifted"]["sets"] for found in signals.values()]
    made.append(Row("exact model, lifted: places as the exact filter fills them, least", min(sets), "%"))
    for name in dict.fromkeys(record.model for record in records):
        runs = [record for record in records if record.model == name]
        for layer in runs[0].measured:
            for i, what in enumerate(("precision", "recall")):
                value = 100 * float(np.mean([run.measured[layer]["at_budget"][i] for run in runs]))
                case = f"tokens, {name}, {layer}: {what} of exact innovations, mean of {len(runs)} seeds"
                made.append(Row(case, value, "%"))
    for system, found in processes.items():
        made += _saturation_rows(system, found)
    return made


def _saturation_rows(system: str, found: dict[str, Any]) -> list[Row]:
    holds = saturation(found["information"])
    needs = saturation([found["nothing"] - x for x in (found["nothing"], *found["trained"])])
    samples = saturation([0.0, *(found["nothing"] - x for x in found["window"])])
    return [
        Row(f"process {system}: mutual information of past and future", found["information"][-1], "nats"),
        Row(f"process {system}: gain in loss by the past", found["nothing"] - found["least"], "nats"),
        Row(f"process {system}: states that hold 95 % of the information", holds, "states"),
        Row(f"process {system}: states at 95 % of the trained gain", needs, "states"),
        Row(f"process {system}: samples at 95 % of the gain", samples, "samples"),
        Row(
            f"process {system}: trained above the least loss", min(found["trained"]) - found["least"], "nats"
        ),
    ]


def main() -> None:
    """Measure and train what is not there yet, and write what came out."""
    options = parser_of(__doc__, SIZES).parse_args()
    size = SIZES[options.size]
    jobs = jobs_of(size)
    if options.dry:
        show_jobs(jobs)
        return
    name = f"theory_{options.size}"
    parts: dict[str, dict[str, Any]] = {"signals": {}, "processes": {}}
    for system in tqdm(size.systems, desc="systems", unit="system"):
        for part, make in (("signals", on_signals), ("processes", against_information)):
            path = RUNS / name / f"{part} {system}.json"
            parts[part][str(system)] = once(path, functools.partial(make, size, system))
    look = functools.partial(measure, size=size)
    records = run_jobs(name, jobs, device=options.device, workers=options.workers, measure=look)
    write_plain(f"{name}_signals", parts)
    write_records(name, jobs, records)
    write_results(f"evidence_{name}", rows(records, parts["signals"], parts["processes"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
