"""The command `evaluate`: help with an example, and a clear error for what cannot be compared."""

import typer
from typer.testing import CliRunner

from quadrieve_train.evaluation.cli import evaluate

app = typer.Typer()
app.command()(evaluate)


def test_help_has_an_example():
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "Example: quadrieve evaluate" in " ".join(done.stdout.split())


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    done = CliRunner().invoke(app, ["--compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")])
    assert "is no report of `quadrieve evaluate`" in str(done.exception)
