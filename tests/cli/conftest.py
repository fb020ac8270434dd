"""A stand-in for the Python API that records what the command line asks of it, and a way to run the command line."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

import lorakit
from lorakit.cli.app import main
from lorakit.searching.split_half import SplitHalf


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Result(SimpleNamespace):
    """Attributes as a command reads them, and the same as JSON."""

    def to_dict(self) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}


@dataclass
class Site:
    name: str
    label: str
    role: str
    layer: int
    rank: int
    parameters: int
    shape: str = "384x384"
    score: float = 0.0
    on: bool = True


SITES = [
    Site("encoder.0.query", "0.q", "q", 0, 8, 6144, score=0.5),
    Site("encoder.1.res1", "1.res1", "res1", 1, 8, 6144, score=0.25),
    Site("encoder.1.query", "1.q", "q", 1, 8, 6144, score=0.0, on=False),
]
RESULTS: dict[str, dict[str, Any]] = {
    "plan": {
        "sites": SITES,
        "adapter_parameters": 18432,
        "head_parameters": 770,
        "model_parameters": 22713216,
        "model_bytes": 90852864,
        "budget": 4608,
        "budget_source": "search.enable 0.25",
        "rows": 7500,
        "steps_per_epoch": 235,
        "total_steps": 705,
        "warmup_steps": 42,
        "ticks": list(range(0, 705, 47)),
        "evaluations": [235, 470, 705],
        "search_overhead": 17.4,
        "rate_overhead": 0.0,
        "optimizer_bytes": 12 * 2**20,
        "memory_bytes": 3 * 2**30,
        "fit": None,
        "notes": ["the last epoch is short"],
        "remarks": ["validation: 2 of 30 texts are training texts too"],
    },
    "train": {
        "run_dir": Path("runs/demo-0"),
        "task": "rotten_tomatoes",
        "metric": "accuracy",
        "last": {"accuracy": 0.8123},
        "best": {"accuracy": 0.8201},
        "best_step": 470,
        "steps": 705,
        "seconds": 200.0,
        "search_seconds": 24.0,
        "adapter_parameters": 4608,
        "head_parameters": 770,
        "sites_on": 2,
        "sites_total": 3,
        "name": "rotten_tomatoes",
        "baselines": [],
        "collapsed": False,
        "warnings": [],
        "stopped": "",
        "averaged": {},
        "frozen": {},
        "selected": "last",
        "calibration": {},
        "readout": None,
        "rate": None,
        "rate_seconds": 0.0,
    },
    "search": {
        "proxy": "gradnorm",
        "ranked": SITES,
        "budget": 12288,
        "used": 12288,
        "seconds": 3.0,
        "emitted": Path("out.yaml"),
        "note": "reads the gradient, which is not zero there",
        "stability": SplitHalf(rows=256, correlation=0.83, within_roles=0.4, caught=0.5, shuffled=0.45, p=0.2),
    },
    "evaluate": {
        "task": "mrpc",
        "split": "validation",
        "source": "runs/mrpc-0",
        "rows": 408,
        "scores": {"accuracy": 0.7892, "f1": 0.8512},
        "metric": "accuracy",
        "interval": (0.7525, 0.8260),
        "seconds": 4.0,
        "predictions": None,
        "name": "mrpc",
        "diagnosis": None,
        "by": "",
        "slices": [],
        "trust": None,
        "learnt": "",
    },
    "merge": {
        "out": Path("runs/mrpc-0/merged"),
        "folded": 2,
        "kept": ["encoder.1.res1"],
        "rows": 128,
        "largest_difference": 3.1e-6,
        "largest_logit": 2.5,
        "tolerance": 1e-3,
        "flips": 0,
        "plain": False,
        "closed": ["it would leave out the shortcuts"],
        "int4_group": 32,
        "pruned": None,
        "load_line": "lorakit.load('runs/mrpc-0/merged')",
        "temperature": 1.0,
    },
}


@dataclass
class FakeWorkflow:
    """What was called with what; ``raises`` is raised instead of answering."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    raises: BaseException | None = None
    changes: dict[str, Any] = field(default_factory=dict)

    def answer(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            if self.raises is not None:
                raise self.raises
            values = {**RESULTS[name], **self.changes}
            result = Result(**values)
            plain = {
                key: [asdict(item) for item in value] if key in ("sites", "ranked") else value
                for key, value in values.items()
            }
            result.to_dict = Result(**plain).to_dict
            return result

        return call

    def predict_file(self, run: Path, source: str, *, on_answer: Callable[[Any], None], **options: Any) -> Result:
        """Two answers."""
        self.calls.append(("predict_file", (run, source), options))
        chances = {"negative": 0.125, "positive": 0.875}
        for text, label in (("a fine film", "positive"), ("a dull film", "")):
            plain = {"text": text, "label": label, "probability": 0.875, "probabilities": chances}
            on_answer(Result(**plain))
        return Result(run=run, source=source, rows=2, blank=0, abstained=1, without=0, labels={"positive": 1})

    @property
    def call(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """The only call."""
        (only,) = self.calls
        return only


@pytest.fixture
def workflow(monkeypatch) -> FakeWorkflow:
    fake = FakeWorkflow()
    for name in RESULTS:
        monkeypatch.setattr(lorakit, name, fake.answer(name), raising=False)
    monkeypatch.setattr(lorakit, "predict_file", fake.predict_file, raising=False)
    return fake


RECIPE = """\
# A small recipe
model: {name: bundled:minilm}
task: {name: rotten_tomatoes}
search: {method: heterolora}
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty current folder with small.yaml in it, and no option of another test left in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("RANK", raising=False)
    (tmp_path / "small.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def cli(capsys) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return run
