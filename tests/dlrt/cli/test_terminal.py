"""What all commands share at the terminal."""

import pytest
import typer

from dlrt.cli import terminal


def test_a_table_of_rows(capsys):
    rows = [{"method": "GeoLoRA", "accuracy": 0.8}, {"method": "LoRA", "accuracy": 0.75}]
    terminal.console().print(terminal.rows_table(rows, "digits"))
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.strip() == "digits" and all(word in "".join(lines) for word in ("method", "GeoLoRA", "0.75"))


def test_results_are_wide_in_a_file(capsys):
    assert terminal.console().width >= 120 and terminal.console(width=170).width >= 170
    terminal.say("a [bold]name[/bold] " + "x" * 300)
    assert capsys.readouterr().out == "a [bold]name[/bold] " + "x" * 300 + "\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("first\nsecond"), "first"), (ValueError(), "ValueError"), ("some text", "some text")],
)
def test_a_refusal_is_one_line(error, line, capsys):
    with pytest.raises(typer.Exit) as ended:
        terminal.refuse(error)
    assert ended.value.exit_code == 2 and capsys.readouterr().err == f"dlrt: error: {line}\n"


def test_an_interruption_says_where_the_finished_part_is(tmp_path, capsys):
    with pytest.raises(typer.Exit) as ended:
        terminal.interrupted(tmp_path, "2 runs are")
    assert ended.value.exit_code == 130
    assert (
        capsys.readouterr().err
        == f"Interrupted: 2 runs are saved in {tmp_path}; the same command goes on from there.\n"
    )
