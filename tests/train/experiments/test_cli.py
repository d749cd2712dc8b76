"""The command `experiment`: help with an example, and a clear error for what it does not know."""

import typer
from typer.testing import CliRunner

from quadrieve_train.experiments.cli import experiment

app = typer.Typer()
app.command()(experiment)


def test_help_has_an_example():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "Example: quadrieve experiment" in " ".join(done.stdout.split())


def test_an_unknown_experiment_is_refused_with_the_known_ones():
    done = CliRunner().invoke(app, ["rewards"])
    assert "Unknown experiment 'rewards'; expected one of reward, multitask, batching" in str(done.exception)
