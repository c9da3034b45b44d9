"""Every setting: by flag, by environment, its default, and what a wrong value is told."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from abfleet_log.writer.log_settings import LogSettings
from abfleet_process.flags import EXIT_USAGE, SettingsError, variable
from abfleet_router.app import main
from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.security.rate_limit import Rate
from abfleet_router.settings import RouterSettings, RoutingSettings, check_log_dir, parse

FILE = ["--experiments", "e.yaml"]


@dataclass(frozen=True)
class Flag:
    """One flag: where its value goes, a value that is no default, and values that are refused."""

    name: str
    where: Callable[[RouterSettings], Any]
    text: str
    value: Any
    wrong: tuple[str, ...] = ()


FLAGS = [
    Flag("experiments", lambda s: s.experiments, "a/b.yaml", Path("a/b.yaml")),
    Flag("fleet", lambda s: s.fleet, "fleet.yaml", Path("fleet.yaml")),
    Flag("listen", lambda s: s.listen, "0.0.0.0:1", "0.0.0.0:1", ("", "here", "h:", ":1", "h:65536", "h:x", "unix:")),
    Flag("admin-listen", lambda s: s.admin_listen, "unix:/a", "unix:/a", ("5", "h:-1")),
    Flag("metrics-host", lambda s: s.metrics_host, "0.0.0.0", "0.0.0.0", ("", " ")),
    Flag("metrics-port", lambda s: s.metrics_port, "off", None, ("on", "-1", "65536", "1.5", "")),
    Flag("transport", lambda s: s.transport, "grpcio", "grpcio", ("tcp", "", "AUTO")),
    Flag("log-dir", lambda s: s.log_dir, "elsewhere", Path("elsewhere")),
    Flag("log-sink", lambda s: s.log.sink, "stdout", "stdout", ("syslog", "")),
    Flag("log-policy", lambda s: s.log.policy, "refuse", "refuse", ("drop", "")),
    Flag("flush-interval", lambda s: s.log.flush_interval_seconds, "0.5", 0.5, ("0", "61", "nan", "inf", "x")),
    Flag("fsync", lambda s: s.log.fsync, "always", "always", ("sometimes", "")),
    Flag("log-rotate-bytes", lambda s: s.log.rotate_bytes, "4096", 4096, ("0", "1023", "1k")),
    Flag("log-rotate-seconds", lambda s: s.log.rotate_seconds, "60", 60.0, ("0", "1h")),
    Flag("log-compress", lambda s: s.log.compress, "none", "none", ("gz", "")),
    Flag("log-retention", lambda s: s.log.retention_seconds, "0.5", 43_200.0, ("-1", "7d")),
    Flag("log-buffer-lines", lambda s: s.log.max_lines, "10", 10, ("0", "x")),
    Flag("log-buffer-bytes", lambda s: s.log.max_bytes, "100000", 100_000, ("0", "65535")),
    Flag("user-id-hmac-key-file", lambda s: s.user_id_hmac_key_file, "key", Path("key")),
    Flag("feedback-window", lambda s: s.feedback_window, "10", 10, ("0", "-1", "all")),
    Flag("log-format", lambda s: s.log_format, "console", "console", ("text", "")),
    Flag("log-level", lambda s: s.log_level, "debug", "debug", ("loud",)),
    Flag(
        "otlp-endpoint",
        lambda s: s.otlp_endpoint,
        "http://a:1",
        "http://a:1",
        ("a:1", "ftp://a", "http://", "http://a:x"),
    ),
    Flag("trace-sample", lambda s: s.trace_sample, "0.5", 0.5, ("-0.1", "1.1", "all")),
    Flag("router-name", lambda s: s.routing.name, "router-7", "router-7", ("",)),
    Flag("reload-interval", lambda s: s.reload_interval_seconds, "2", 2.0, ("0", "-1", "nan")),
    Flag("drain-delay", lambda s: s.drain_delay_seconds, "3", 3.0, ("-1", "3601", "soon")),
    Flag("drain-timeout", lambda s: s.drain_timeout_seconds, "8", 8.0, ("-0.1", "inf")),
    Flag("default-deadline", lambda s: s.routing.default_deadline_seconds, "1.5", 1.5, ("0", "-1", "nan")),
    Flag("attempt-timeout", lambda s: s.routing.attempt_timeout_seconds, "0.25", 0.25, ("0", "3601")),
    Flag("max-waiting-calls", lambda s: s.routing.max_waiting_calls, "100", 100, ("0", "-5", "1e3")),
    Flag("max-waiting-bytes", lambda s: s.routing.max_waiting_bytes, "1024", 1024, ("0", "1k")),
    Flag("max-infer-bytes", lambda s: s.max_infer_bytes, "4096", 4096, ("1023", "1073741825")),
    Flag("max-batch", lambda s: s.batching.max_batch, "32", 32, ("0", "4097")),
    Flag("max-in-flight", lambda s: s.batching.max_in_flight, "2", 2, ("0", "65")),
    Flag("eject-after", lambda s: s.ejection.consecutive_failures, "3", 3, ("0", "x")),
    Flag("slow-start", lambda s: s.slow_start_seconds, "0", 0.0, ("-1", "3601")),
    Flag("eject-seconds", lambda s: s.ejection.base_seconds, "2", 2.0, ("0", "nan")),
    Flag("max-message-bytes", lambda s: s.security.server.max_message_bytes, "2048", 2048, ("0", "1023", "1M")),
    Flag("max-metadata-bytes", lambda s: s.security.server.max_metadata_bytes, "8192", 8192, ("0", "1023")),
    Flag("max-concurrent-streams", lambda s: s.security.server.max_concurrent_streams, "100", 100, ("0", "x")),
    Flag("max-connections", lambda s: s.security.server.max_connections, "10", 10, ("0", "x", "")),
    Flag("worker-ca", lambda s: s.security.worker_ca, "ca.crt", Path("ca.crt")),
    Flag("tokens", lambda s: s.security.tokens, "tokens", Path("tokens")),
    Flag("rate-limit", lambda s: s.security.rate, "5:20", Rate(5.0, 20.0), ("0", "-1", "5:", "5:0", "a", ":", "nan")),
    Flag("max-memory", lambda s: s.security.max_memory_bytes, "1000000000", 1_000_000_000, ("0", "1G", "33554431")),
]
TOGETHER: dict[tuple[str, ...], Callable[[Any], tuple[Path, ...]]] = {
    ("tls-cert", "tls-key", "tls-client-ca"): lambda s: (
        s.security.server.files.cert,
        s.security.server.files.key,
        s.security.server.client_ca,
    ),
    ("worker-cert", "worker-key", "worker-ca"): lambda s: (
        s.security.worker_files.cert,
        s.security.worker_files.key,
        s.security.worker_ca,
    ),
    ("worker-server-name", "worker-ca"): lambda s: (Path(s.security.worker_server_name), s.security.worker_ca),
}
"""Flags that need each other, and where their values go."""
SWITCHES = {"detect-only", "open-feedback"}
FLAG = pytest.mark.parametrize("flag", FLAGS, ids=lambda flag: flag.name)


def test_every_flag_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is added has to be tested: the table is compared with --help, which also gives an example."""
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], {})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    shown = set(re.findall(r"^  (?:-h, )?--([a-z-]+)", text, re.MULTILINE))
    assert shown == {flag.name for flag in FLAGS} | SWITCHES | {name for names in TOGETHER for name in names} | {"help"}
    assert "example:\n  abfleet router --" in text


@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_flags_that_need_each_other(names: tuple[str, ...]) -> None:
    """Together they arrive, by flag and by environment; each of a pair alone is an error that names the other."""
    where = TOGETHER[names]
    by_flag = parse([f"--{name}=file-{name}" for name in names], {})
    by_variable = parse([], {variable(name): f"file-{name}" for name in names})
    assert where(by_flag) == where(by_variable) == tuple(Path(f"file-{name}") for name in names)
    for name in names[:2]:
        if name != "worker-ca":
            with pytest.raises(SettingsError, match=f"--{name} also needs --"):
                parse([f"--{name}=a"], {})
    for name in names[2:]:
        if name == "tls-client-ca":
            with pytest.raises(SettingsError, match=r"--tls-client-ca .* needs --tls-cert and --tls-key"):
                parse([f"--{name}=a"], {})


def test_a_rate_without_a_burst() -> None:
    """Is what a second allows, and at least one call."""
    assert parse(["--rate-limit=7"], {}).security.rate == Rate(7.0, 7.0)
    assert parse(["--rate-limit=0.1"], {}).security.rate == Rate(0.1, 1.0)


@FLAG
def test_by_flag_and_by_environment(flag: Flag) -> None:
    """The value arrives, the flag wins over the variable, and no other setting changes."""
    default = parse([], {})
    by_flag = parse([f"--{flag.name}", flag.text], {})
    by_variable = parse([], {variable(flag.name): flag.text})
    both = parse([f"--{flag.name}={flag.text}"], {variable(flag.name): other(flag)})
    assert flag.where(default) != flag.value, "a test with the default proves nothing"
    assert flag.where(by_flag) == flag.where(by_variable) == flag.where(both) == flag.value
    assert by_flag == by_variable == both
    for one in FLAGS:
        if one is not flag:
            assert one.where(by_flag) == one.where(default), one.name


def other(flag: Flag) -> str:
    """A value that is allowed and is not the flag's."""
    return {
        "metrics-port": "9",
        "transport": "native",
        "log-level": "error",
        "listen": "a:1",
        "admin-listen": "a:1",
        "log-sink": "file",
        "log-policy": "unhealthy",
        "fsync": "never",
        "log-compress": "zst",
        "log-rotate-bytes": "2048",
        "log-buffer-bytes": "70000",
        "log-rotate-seconds": "2",
    }.get(flag.name, "1")


@FLAG
def test_a_wrong_value_is_told(flag: Flag) -> None:
    """By flag or variable alike: the setting's two names, the value, and what is allowed."""
    for wrong in flag.wrong:
        for arguments, environment in (([f"--{flag.name}={wrong}"], {}), ([], {variable(flag.name): wrong})):
            with pytest.raises(SettingsError) as caught:
                parse(arguments, environment)
            message = str(caught.value)
            assert f"--{flag.name} ({variable(flag.name)})" in message
            assert repr(wrong) in message
            assert "; allowed: " in message


def test_a_wrong_value_is_cut() -> None:
    """At most 64 characters of it are repeated."""
    with pytest.raises(SettingsError) as caught:
        parse(["--listen", "x" * 1000], {})
    assert "x" * 64 in str(caught.value)
    assert "x" * 65 not in str(caught.value)


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--listn", "a:1"], ["--list", "a:1"], ["stray"], ["--max-batch"]]
)
def test_what_is_no_setting_is_refused(arguments: list[str]) -> None:
    """Unknown, misspelt and shortened flags, stray words and missing values are errors, not guesses."""
    with pytest.raises(SettingsError):
        parse(arguments, {})


@pytest.mark.parametrize(
    ("arguments", "environment", "on"),
    [
        ([], {}, False),
        (["--detect-only"], {}, True),
        (["--no-detect-only"], {"ABFLEET_DETECT_ONLY": "on"}, False),
        ([], {"ABFLEET_DETECT_ONLY": "on"}, True),
        ([], {"ABFLEET_DETECT_ONLY": "TRUE"}, True),
        ([], {"ABFLEET_DETECT_ONLY": "0"}, False),
        (["--detect-only"], {"ABFLEET_DETECT_ONLY": "no"}, True),
    ],
)
def test_the_switch(arguments: list[str], environment: dict[str, str], on: bool) -> None:
    """On, off, and by the environment; the flag wins."""
    assert parse(arguments, environment).ejection.detect_only is on


def test_open_feedback() -> None:
    """Off unless it is asked for: it lets anybody write to the log."""
    assert not parse([], {}).open_feedback
    assert parse(["--open-feedback"], {}).open_feedback
    assert parse([], {"ABFLEET_OPEN_FEEDBACK": "on"}).open_feedback


def test_a_switch_that_is_neither_on_nor_off() -> None:
    """The error names the variable."""
    with pytest.raises(SettingsError, match=r"ABFLEET_DETECT_ONLY.*'maybe'.*on and off"):
        parse([], {"ABFLEET_DETECT_ONLY": "maybe"})


def test_defaults() -> None:
    """Those of the documentation, and the same as those of the parts that use them."""
    got = parse([], {})
    assert (got.listen, got.admin_listen) == ("127.0.0.1:50051", "127.0.0.1:50052")
    assert (got.metrics_host, got.metrics_port) == ("127.0.0.1", 8000)
    assert (got.log.flush_interval_seconds, got.drain_delay_seconds, got.drain_timeout_seconds) == (0.05, 0, 4)
    assert got.batching == BatchingSettings(max_batch=128, max_in_flight=1)
    assert got.ejection == EjectionPolicy(consecutive_failures=5, base_seconds=1.0, max_seconds=8.0)
    assert got.log == LogSettings()
    assert (got.log.policy, got.log.fsync, got.log.retention_seconds) == ("keep_serving", "never", 0)
    routing = RoutingSettings(name=got.routing.name)
    assert got.routing == routing
    assert (routing.default_deadline_seconds, routing.attempt_timeout_seconds) == (2.0, 0.5)
    assert (routing.max_waiting_calls, routing.max_waiting_bytes) == (4096, 64 * 2**20)
    assert (routing.retry_per_call, routing.retry_banked) == (0.2, 100)


def test_the_longest_ejection_follows_the_first() -> None:
    """Three doublings from wherever it begins."""
    assert parse(["--eject-seconds", "0.5"], {}).ejection.max_seconds == 4.0


def test_a_log_that_could_go_nowhere_ends_it_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything starts, with the flag and the folder, exit code 2; a log that goes to stdout needs no folder."""
    (tmp_path / "file").touch()
    bad = ["--experiments", str(tmp_path / "none.yaml"), "--log-dir", str(tmp_path / "file")]
    assert main(bad) == EXIT_USAGE
    assert f"--log-dir (ABFLEET_LOG_DIR): '{tmp_path / 'file'}'" in capsys.readouterr().err
    check_log_dir(parse([*bad, "--log-sink", "stdout"], {}))
    check_log_dir(parse(["--log-dir", str(tmp_path / "new")], {}))
    assert not (tmp_path / "new").exists()
