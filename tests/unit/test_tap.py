"""The options of the program: where each comes from, and what a wrong one says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from twisted.python import usage

from daemon.config.places import DEFAULT_PATH
from daemon.tap import Options, invocation_of, read_tap_cfg

NAMES = ("config", "log-level", "log-format", "log-file")


def parsed(*argv: str) -> dict[str, object]:
    options = Options()
    options.parseOptions(list(argv))
    return {name: options[name] for name in (*NAMES, "check")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without a tap.cfg."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def tap_cfg(folder: Path, text: str) -> Path:
    path = folder / "tap.cfg"
    path.write_text(text)
    return path


def test_without_anything_written_the_configuration_decides() -> None:
    assert parsed() == {
        "config": str(DEFAULT_PATH), "log-level": None, "log-format": None, "log-file": None, "check": 0,
    }


def test_tap_cfg_of_the_working_directory_fills_what_the_command_line_leaves_open(elsewhere: Path) -> None:
    tap_cfg(elsewhere, "[hostdaemon]\nconfig = c.yaml\nlog_level = debug\nlog-format = json\nlog_file = d.log\n")
    assert parsed() == {
        "config": str(elsewhere / "c.yaml"), "log-level": "debug", "log-format": "json",
        "log-file": str(elsewhere / "d.log"), "check": 0,
    }
    said = parsed("--config", "mine.yaml", "-l", "warn", "-f", "text", "-L", "-", "--check")
    assert said == {
        "config": "mine.yaml", "log-level": "warn", "log-format": "text", "log-file": "-", "check": 1,
    }
    assert parsed("-c", "mine.yaml")["log-level"] == "debug"


def test_an_empty_option_on_the_command_line_wins_too(elsewhere: Path) -> None:
    tap_cfg(elsewhere, "[hostdaemon]\nlog_file = d.log\n")
    assert parsed("--log-file=")["log-file"] == ""


def test_the_first_tap_cfg_alone_counts(tmp_path: Path) -> None:
    here, etc = tmp_path / "here", tmp_path / "etc"
    here.mkdir()
    etc.mkdir()
    first, second = here / "tap.cfg", tap_cfg(etc, "[hostdaemon]\nlog_level = warn\nconfig = /e.yaml\n")
    assert read_tap_cfg((first, second)) == {"log_level": "warn", "config": "/e.yaml"}
    tap_cfg(here, "[hostdaemon]\nlog_level = debug\n")
    assert read_tap_cfg((first, second)) == {"log_level": "debug"}
    tap_cfg(here, "[hostagent]\nx = 1\n")
    assert read_tap_cfg((first, second)) == {}
    assert read_tap_cfg((tmp_path / "none",)) == {}
    assert read_tap_cfg((tmp_path, second)) == {"log_level": "warn", "config": "/e.yaml"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("config = c.yaml", {"config": "{here}/c.yaml"}),
        ("config = /etc/c.yaml", {"config": "/etc/c.yaml"}),
        ("config = ../c.yaml", {"config": "{here}/../c.yaml"}),
        ("config =", {"config": ""}),
        ("log_file = d.log", {"log_file": "{here}/d.log"}),
        ("log_file = -", {"log_file": "-"}),
        ("log_file =", {"log_file": ""}),
        ("log_level = 100%", {"log_level": "100%"}),
        ("LOG_LEVEL = debug ", {"log_level": "debug"}),
    ],
)
def test_paths_are_relative_to_the_file_and_nothing_else_is_touched(
    elsewhere: Path, written: str, read: dict[str, str]
) -> None:
    path = tap_cfg(elsewhere, f"[hostdaemon]\n{written}\n")
    expected = {name: value.replace("{here}", str(elsewhere)) for name, value in read.items()}
    assert read_tap_cfg((path,)) == expected
    assert read_tap_cfg((Path("tap.cfg"),)) == expected


def test_an_empty_config_in_tap_cfg_means_the_default(elsewhere: Path) -> None:
    tap_cfg(elsewhere, "[hostdaemon]\nconfig =\n")
    assert parsed()["config"] == str(DEFAULT_PATH)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[hostdaemon]\nconfg = x\n", "unknown option 'confg'; known are config, log_level, log_format, log_file"),
        ("[hostdaemon]\ncheck = 1\n", "unknown option 'check'"),
        ("no section\n", "no section headers"),
        ("[hostdaemon]\nconfig\n", "tap.cfg"),
        ("[hostdaemon]\nconfig = a\nconfig = b\n", "already exists"),
        ("[hostdaemon]\nlog_level = loud\n", "--log-level must be one of debug, info, warn, error, not 'loud'"),
        ("[hostdaemon]\nlog_format = xml\n", "--log-format must be one of auto, text, json, not 'xml'"),
    ],
)
def test_a_wrong_tap_cfg_is_a_usage_error_that_names_it(elsewhere: Path, text: str, words: str) -> None:
    tap_cfg(elsewhere, text)
    with pytest.raises(usage.UsageError, match=words.replace("(", r"\(")):
        parsed()


def test_a_tap_cfg_that_is_not_text_is_a_usage_error(elsewhere: Path) -> None:
    (elsewhere / "tap.cfg").write_bytes(b"[hostdaemon]\nconfig = \xff\n")
    with pytest.raises(usage.UsageError, match=r"tap\.cfg: .*utf-8"):
        parsed()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--log-level", "loud"], "must be one of debug, info, warn, error"),
        (["--log-level", ""], "must be one of"),
        (["--log-level", "DEBUG"], "must be one of"),
        (["--log-format", "xml"], "must be one of auto, text, json"),
        (["--no-such"], "no-such"),
        (["surplus"], "surplus|[Ww]rong number"),
        (["--config"], "config"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(argv: list[str], words: str) -> None:
    with pytest.raises(usage.UsageError, match=words):
        parsed(*argv)


def test_twistd_keeps_no_pid_file_of_its_own() -> None:
    options = Options()
    options.parent = {"pidfile": "twistd.pid"}  # type: ignore[assignment]  # twistd's options are a dict too
    options.parseOptions([])
    assert options.parent["pidfile"] is None


def test_the_files_are_read_as_configparser_reads_them(elsewhere: Path) -> None:
    path = tap_cfg(elsewhere, "; comment\n[DEFAULT]\nlog_level = warn\n[hostdaemon]\nlog_format: json\n")
    assert read_tap_cfg((path,)) == {"log_level": "warn", "log_format": "json"}
    with pytest.raises(ValueError):
        read_tap_cfg((tap_cfg(elsewhere, "[hostdaemon\n"),))


def test_a_successor_gets_what_we_were_given_with_absolute_paths(elsewhere: Path) -> None:
    tap_cfg(elsewhere, "[hostdaemon]\nlog_level = debug\n")
    options = Options()
    options.parseOptions(["-c", "mine.yaml", "-L", "d.log"])
    found = invocation_of(options, "d.log")
    assert found.options == (f"--config={elsewhere}/mine.yaml", "--log-level=debug", f"--log-file={elsewhere}/d.log")
    assert (found.twistd, found.log_file) == ((), f"{elsewhere}/d.log")


@pytest.mark.parametrize("log_file", ["", "-"])
def test_a_log_on_stderr_stays_there(elsewhere: Path, log_file: str) -> None:
    options = Options()
    options.parseOptions([f"--log-file={log_file}"])
    found = invocation_of(options, log_file)
    assert found.options == (f"--config={DEFAULT_PATH}", f"--log-file={log_file}")
    assert found.log_file == ""


def test_a_reactor_that_was_chosen_is_chosen_again() -> None:
    options = Options()
    options.parseOptions([])
    options.parent = usage.Options()
    options.parent["reactor"] = "poll"
    assert invocation_of(options, "").twistd == ("--reactor=poll",)


def test_what_the_daemon_ignores_its_agents_do_not() -> None:
    ask = ["sh", "-c", "grep SigIgn /proc/$$/status"]
    code = (
        "import subprocess; from daemon.tap import ignore_alone; ignore_alone(); "
        f"subprocess.run({ask!r}, check=True)"
    )
    started_so = ["sh", "-c", "trap '' HUP INT QUIT USR1; exec \"$0\" -c \"$1\"", sys.executable, code]
    done = subprocess.run(started_so, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["SigIgn:", "0000000000000000"]
