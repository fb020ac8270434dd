import errno
import os
import pkgutil
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

import lorakit
from lorakit.cli.app import main
from lorakit.errors import Interrupted, Problem, RecipeError, RunError

HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "omegaconf",
    "yaml",
    "numpy",
    "matplotlib",
    "lorakit.workflow",
}


def shell(*arguments: str, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "lorakit", *arguments], capture_output=True, text=True, **settings)


def loaded_by(*stages: str) -> list[set[str]]:
    """The modules that are loaded after each of these, run one after the other in a fresh interpreter."""
    code = "; ".join(["import sys", *(f"{stage}; print(*sys.modules, file=sys.stderr)" for stage in stages)])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(line.split()) for line in ran.stderr.splitlines()[-len(stages) :]]


def test_help_imports_nothing_heavy():
    (loaded,) = loaded_by("from lorakit.cli.app import main; assert main(['--help']) == 0")
    assert "lorakit.cli.train" in loaded
    assert not loaded & HEAVY


def test_the_commands_themselves_do_without_rich():
    (loaded,) = loaded_by("import lorakit.cli.app")
    assert not loaded & (HEAVY | {"rich.table", "rich.progress"})


def test_a_command_waits_for_no_other_s_libraries():
    labelling, loaded = loaded_by("import lorakit.workflow.predict_file", "from lorakit.workflow import plan, train")
    assert {"torch", "lorakit.workflow.predict_file"} <= labelling
    assert not labelling & {"sklearn", "datasets", "evaluate", "peft", "matplotlib", "pandas"}
    assert {"torch", "lorakit.workflow.plan", "lorakit.workflow.train"} <= loaded
    assert not loaded & {
        "matplotlib",
        "scipy",
        "sklearn",
        "evaluate",
        "peft",
        "optuna",
        "lorakit.workflow.experiments.sweep",
    }


def test_everything_that_is_offered_is_there_again_and_again():
    """A public name is never that of a submodule, which would take its place once that is imported."""
    modules = {found.name for found in pkgutil.iter_modules(lorakit.__path__)}
    assert not modules & set(lorakit.__all__)
    assert sorted([*lorakit.HOMES, "LorakitError"]) == lorakit.__all__ == dir(lorakit)
    for _ in range(2):
        assert all(callable(getattr(lorakit, name)) for name in lorakit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        lorakit.trian  # noqa: B018


def test_help_is_quick():
    times = []
    for _ in range(3):
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert shell("--help").returncode == 0
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    assert min(times) < 0.5  # processor seconds: what a busy machine adds by waiting is not ours


def test_help_groups_the_commands(cli):
    ran = cli("--help")
    assert ran.code == 0
    for panel in ("Run", "Recipes", "Inspect"):
        assert f" {panel} " in ran.out
    for command in ("train", "search", "eval", "merge", "plan", "predict", "list", "show", "copy"):
        assert f" {command} " in ran.out


def test_without_a_command_the_help_is_shown(cli):
    ran = cli()
    assert ran.code == 2
    assert "Usage: lorakit" in ran.out + ran.err


def test_version(cli):
    try:
        installed = version("lorakit")
    except PackageNotFoundError:
        pytest.skip("lorakit runs from its source tree here, not installed")
    assert cli("--version").out.strip() == f"lorakit {installed}"


def test_a_wrong_command_or_option_is_usage_and_names_the_nearest(cli):
    ran = cli("trian", "demo")
    assert (ran.code, ran.out) == (2, "")
    assert "train" in ran.err
    ran = cli("train", "demo", "--dry-rum")
    assert ran.code == 2
    assert "--dry-run" in ran.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunError("the run cannot go on", hint="train it again"), 1), (RecipeError("no such key", where="a.yaml:3"), 2)],
)
def test_a_lorakit_error_is_one_message_with_its_exit_code(cli, here, workflow, error, code):
    workflow.raises = error
    ran = cli("plan", "small.yaml")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err == f"error: {error}\n"


def test_several_problems_are_counted(cli, here, workflow):
    workflow.raises = RecipeError([Problem("a is wrong", key="adapter.rank"), Problem("b [too]")])
    assert cli("plan", "small.yaml").err == "error: 2 problems\nadapter.rank: a is wrong\nb [too]\n"


def test_an_interruption_prints_the_resume_line_and_leaves_with_130(cli, here, workflow):
    workflow.raises = Interrupted("stopped at step 40. Resume: lorakit train runs/small-0 --resume")
    ran = cli("train", "small.yaml", "--quiet")
    assert ran.code == 130
    assert ran.err == "stopped at step 40. Resume: lorakit train runs/small-0 --resume\n"


def test_ctrl_c_elsewhere_leaves_with_130(cli, here, workflow):
    workflow.raises = KeyboardInterrupt()
    assert cli("eval", "mrpc", "--quiet").code == 130


def test_a_pipe_of_another_encoding_gets_utf_8():
    ran = shell("--help", env={**os.environ, "PYTHONIOENCODING": "cp1252"}, encoding="utf-8")
    assert ran.returncode == 0
    assert "Usage" in ran.stdout


def test_a_reader_that_goes_away_is_not_a_failure():
    reader, writer = os.pipe()
    os.close(reader)
    ran = subprocess.run([sys.executable, "-m", "lorakit", "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ran.stderr == ""


def test_a_place_that_cannot_be_written_is_one_message(cli, here, workflow):
    workflow.raises = PermissionError(13, "Permission denied", "runs/small-0")
    ran = cli("train", "small.yaml", "--quiet")
    assert ran.code == 1
    assert ran.err == "error: runs/small-0: Permission denied\n"


def test_a_name_that_is_too_long_is_one_message(cli, here, workflow):
    ran = cli("plan", "n" * 300 + "/recipe.yaml")
    assert ran.code == 2
    assert ran.err.startswith(f"error: {'n' * 300}/recipe.yaml: there is no such file\n")
    workflow.raises = OSError(errno.ENAMETOOLONG, "File name too long", "n" * 300)
    ran = cli("train", "small.yaml", "--quiet")
    assert (ran.code, ran.err) == (1, f"error: {'n' * 300}: File name too long\n")


def test_an_error_of_our_own_keeps_its_traceback(here, workflow):
    workflow.raises = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        main(["plan", "small.yaml"])


def test_completion_is_offered():
    env = {**os.environ, "_LORAKIT_COMPLETE": "complete_bash", "COMP_WORDS": "lorakit pl", "COMP_CWORD": "1"}
    assert shell(env=env).stdout.split() == ["plan"]
