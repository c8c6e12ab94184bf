"""What all commands share at the terminal."""

import concurrent.futures
import io
import sys

import pytest
import typer

from dlrt.cli import terminal


def test_a_table_of_rows(capsys):
    rows = [{"method": "GeoLoRA", "accuracy [%]": "80 ± 1"}, {"method": "LoRA", "accuracy [%]": "75 [s]"}]
    terminal.show(rows, "digits")
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "digits" and lines[0] == "method   accuracy [%]" and lines[-1].endswith("75 [s]")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "Omega, 10^-3 and ?"), ("cp1252", "Omega, 10^-³ and ?")])
def test_tables_in_encodings_without_the_letters(encoding, shown, monkeypatch):
    """Letters are replaced before the columns are made, so that they stay aligned."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.show([{"method": "σ ≤ λ", "work": "60 n r² − 3 r³"}, {"method": "é", "work": "1 ± 2 —"}], "Ω, 10⁻³ and 漢")
    title, heading, rule, *rows = stream.buffer.getvalue().decode(encoding).splitlines()
    assert title == shown and set(rule) == {"-"}
    assert rows[0].startswith("sigma <= lamda") and {len(line) for line in (heading, rule, *rows)} == {len(rule)}


def test_results_are_80_wide_in_a_file_and_are_printed_as_they_are(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert terminal.width() == 80
    monkeypatch.setenv("COLUMNS", "170")
    assert terminal.width() == 170
    terminal.say("a [bold]name[/bold] " + "x" * 300)
    assert capsys.readouterr().out == "a [bold]name[/bold] " + "x" * 300 + "\n"


PARAMETERS = ("rank", "true_rank", "size", "out", "tau", "jobs", "batch_size", "step_size")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("rank 12 exceeds min(m, n) = 10"), "--rank 12 exceeds min(m, n) = 10"),
        (ValueError("relative must be >= 0, got -1.0"), "--tau must be >= 0, got -1.0"),
        (ValueError("step size must be positive"), "--step-size must be positive"),
        (ValueError("name_or_path 'x.npy': no such file"), "--target 'x.npy': no such file"),
        (ValueError("size and true_rank are for others"), "--size and --true-rank are for others"),
        (ValueError("rank of the start, and size, are prose"), "rank of the start, and size, are prose"),
        (ValueError("--rank must be 1"), "--rank must be 1"),
        (OSError("out of luck"), "out of luck"),
        (NotImplementedError("not yet"), "not yet"),
    ],
)
def test_an_answer_is_one_line_in_the_names_of_the_options(error, line, capsys):
    assert terminal.answer(error, PARAMETERS) == 2
    assert capsys.readouterr().err == f"dlrt: error: {line}\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("Unable to allocate 7 TiB"), ["not enough memory: Unable to allocate 7 TiB", "--jobs"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ["not enough memory"]),
        (concurrent.futures.BrokenExecutor("killed\nand more"), ["a worker process was killed", "--jobs"]),
        (ModuleNotFoundError("No module named 'peft'"), ["No module named 'peft': pip install", "finetuning"]),
        (ZeroDivisionError("division by zero"), ["ZeroDivisionError: division by zero", "DLRT_DEBUG=1"]),
    ],
)
def test_an_answer_says_what_to_do(error, words, capsys):
    assert terminal.answer(error) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("dlrt: error: ") and all(word in line for word in words)


def test_the_traceback_is_shown_on_request(capsys, monkeypatch):
    monkeypatch.setenv("DLRT_DEBUG", "1")
    try:
        raise KeyError("lost")
    except KeyError as error:
        terminal.answer(error)
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "test_terminal.py" in shown and "dlrt: error: KeyError: 'lost'" in shown


def test_a_killed_worker_of_joblib_is_known():
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    assert issubclass(TerminatedWorkerError, concurrent.futures.BrokenExecutor)


def test_an_interruption_says_where_the_finished_part_is(tmp_path, capsys):
    with pytest.raises(typer.Exit) as ended:
        terminal.interrupted(tmp_path, "2 runs are")
    assert ended.value.exit_code == 130
    assert (
        capsys.readouterr().err
        == f"Interrupted: 2 runs are saved in {tmp_path}; the same command goes on from there.\n"
    )
