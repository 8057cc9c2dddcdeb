"""Results: the files a finished run leaves: *_results.json, trainer_state.json, training_loss.png.

Does not know how the figures came about.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hone.config import Run
from hone.errors import MissingExtra
from hone.models.card import license_of, read_run, task_of, write_card
from hone.training.checkpoints.checkpoint import write_whole
from hone.training.planning.plan import Plan
from hone.training.progress import Progress

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SMOOTHING = 0.9


def write_metrics(folder: Path, kind: str, metrics: dict[str, float]) -> None:
    """Write <kind>_results.json and merge the same figures into all_results.json (Hugging Face's names)."""
    write_whole(folder / f"{kind}_results.json", _dump(metrics))
    everything = folder / "all_results.json"
    before = json.loads(everything.read_text(encoding="utf-8")) if everything.is_file() else {}
    write_whole(everything, _dump({**before, **metrics}))


def describe(folder: Path, run: Run, config: PretrainedConfig) -> None:
    """Write the run's model card, README.md; after the results, which it tells. config: of the model that was trained."""
    library = "transformers" if run.adapter.kind in ("full", "freeze") else "peft"
    task = "text-classification" if run.objective.kind in ("reward", "classify") else task_of(config)
    base = run.model.model_name_or_path or ""
    write_card(folder, folder.name, base, [read_run(folder)], library=library, task=task, license=license_of(Path(base)))


def train_metrics(progress: Progress, plan: Plan, *, tokens_rate: bool) -> dict[str, float]:
    """Hugging Face's figures of a run: mean loss of its steps, seconds in them, rates."""
    seconds = max(1e-9, progress.seconds)
    metrics = {
        "epoch": progress.step / plan.steps_per_epoch,
        "train_loss": progress.loss_sum / max(1, progress.step),
        "train_runtime": round(progress.seconds, 4),
        "train_samples_per_second": round(progress.samples / seconds, 3),
        "train_steps_per_second": round(progress.step / seconds, 3),
        "num_input_tokens_seen": progress.tokens,
    }
    if tokens_rate:
        metrics["effective_tokens_per_sec"] = round(progress.tokens / seconds / plan.world, 2)
    return metrics


def require_plots() -> None:
    """Raise MissingExtra where plot_loss is asked for and matplotlib is not installed: before the run, not after it."""
    _pyplot()


def plot_history(folder: Path, history: list[dict[str, Any]]) -> list[Path]:
    """Draw each loss of the history over its steps: training_loss.png, training_eval_loss.png, ...; returns what was drawn."""
    drawn = []
    for key in sorted({name for record in history for name in record if name == "loss" or name.endswith("_loss")}):
        points = [(record["step"], record[key]) for record in history if key in record]
        path = folder / f"training_{key}.png"
        _draw(path, key, points)
        drawn.append(path)
    return drawn


def _draw(path: Path, name: str, points: list[tuple[int, float]]) -> None:
    pyplot = _pyplot()
    steps, values = zip(*points, strict=True)
    figure, axes = pyplot.subplots(figsize=(7, 4))
    axes.plot(steps, values, color="#1f77b4", alpha=0.35 if len(values) > 2 else 1.0, marker="o" if len(values) < 3 else None)
    if len(values) > 2:
        axes.plot(steps, smooth(list(values)), color="#1f77b4", label="smoothed")
        axes.legend()
    axes.set(xlabel="step", ylabel=name, title=path.parent.name)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def smooth(values: list[float]) -> list[float]:
    """Exponential moving average (decay 0.9), corrected for its start: the first value is itself."""
    smoothed, average = [], 0.0
    for count, value in enumerate(values, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        smoothed.append(average / (1 - _SMOOTHING**count))
    return smoothed


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as problem:
        raise MissingExtra("matplotlib", "metrics", "plot_loss: true") from problem
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _dump(metrics: dict[str, float]) -> str:
    return json.dumps(metrics, indent=4, sort_keys=True) + "\n"
