"""Settings: flag before environment before default, and every mistake named."""

from operator import attrgetter
from pathlib import Path

import pytest
from abfleet_process.flags import SettingsError
from abfleet_process.security.tls_flags import ServerSecurity
from abfleet_worker.settings import WorkerSettings, parse

FLAGS = {
    "registry": ("/models", "registry", Path("/models")),
    "version": ("v9", "version", "v9"),
    "model-name": ("ranker", "model_name", "ranker"),
    "follow-interval": ("0.25", "follow_interval_seconds", 0.25),
    "listen": ("0.0.0.0:0", "listen", "0.0.0.0:0"),
    "metrics-host": ("0.0.0.0", "metrics_host", "0.0.0.0"),
    "metrics-port": ("off", "metrics_port", None),
    "transport": ("grpcio", "transport", "grpcio"),
    "intra-op-threads": ("3", "intra_op_threads", 3),
    "max-batch": ("7", "max_batch", 7),
    "max-message-bytes": ("2048", "security.max_message_bytes", 2048),
    "max-metadata-bytes": ("2048", "security.max_metadata_bytes", 2048),
    "max-concurrent-streams": ("10", "security.max_concurrent_streams", 10),
    "max-connections": ("1", "security.max_connections", 1),
    "model-key-file": ("key", "model_key_file", Path("key")),
    "drain-delay": ("1.5", "drain_delay_seconds", 1.5),
    "drain-timeout": ("0", "drain_timeout_seconds", 0.0),
    "otlp-endpoint": ("http://a:4318", "otlp_endpoint", "http://a:4318"),
    "log-format": ("json", "log_format", "json"),
    "log-level": ("error", "log_level", "error"),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_every_flag_is_a_variable_too_and_the_flag_wins(flag: str) -> None:
    """`--a-b` and ABFLEET_A_B set the same thing; given both, the flag counts."""
    text, attribute, value = FLAGS[flag]
    name = "ABFLEET_" + flag.upper().replace("-", "_")
    get = attrgetter(attribute)
    assert get(parse([], {})) != value
    assert get(parse([f"--{flag}", text], {})) == value
    assert get(parse([], {name: text})) == value
    assert get(parse([f"--{flag}", text], {name: "1024"})) == value


def test_no_setting_is_forgotten() -> None:
    """The table above, the switch and the certificates below are all the settings there are."""
    names = {attribute.split(".")[0] for _, attribute, _ in FLAGS.values()} | {"spinning"}
    assert names == set(WorkerSettings.__dataclass_fields__)
    security = {attribute.split(".")[1] for _, attribute, _ in FLAGS.values() if "." in attribute}
    assert security | {"files", "client_ca"} == set(ServerSecurity.__dataclass_fields__)


def test_a_certificate_needs_its_key() -> None:
    """Flags that need each other arrive together, and alone are an error that names the other."""
    words = ["--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "a"]
    found = parse(words, {}).security
    assert found.files is not None
    assert (found.files.cert, found.files.key, found.client_ca) == (Path("c"), Path("k"), Path("a"))
    assert parse([], {"ABFLEET_TLS_CERT": "c", "ABFLEET_TLS_KEY": "k"}).security.files == found.files
    for alone, said in ((words[:2], "--tls-key"), (words[2:4], "--tls-cert"), (words[4:], "--tls-cert and --tls-key")):
        with pytest.raises(SettingsError, match=f"needs {said}"):
            parse(alone, {})


def test_the_switch_is_off_unless_asked() -> None:
    """Spinning is off by default, on by flag or variable, and a flag can turn a variable off."""
    assert not parse([], {}).spinning
    assert parse(["--spinning"], {}).spinning
    assert parse([], {"ABFLEET_SPINNING": "true"}).spinning
    assert not parse(["--no-spinning"], {"ABFLEET_SPINNING": "true"}).spinning


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--listen", "here"], {}, ["--listen", "'here'", "HOST:PORT"]),
        (["--listen", "127.0.0.1:70000"], {}, ["--listen", "70000", "65535"]),
        (["--max-batch", "0"], {}, ["--max-batch", "'0'", "1 to 4096"]),
        ([], {"ABFLEET_MAX_BATCH": "many"}, ["ABFLEET_MAX_BATCH", "'many'", "1 to 4096"]),
        (["--metrics-port", "on"], {}, ["--metrics-port", "'on'", "off"]),
        (["--transport", "http"], {}, ["--transport", "'http'", "auto, native, grpcio"]),
        (["--drain-delay", "nan"], {}, ["--drain-delay", "'nan'", "3600"]),
        ([], {"ABFLEET_SPINNING": "maybe"}, ["ABFLEET_SPINNING", "'maybe'", "on and off"]),
        (["--version", " "], {}, ["--version", "empty"]),
        (["--no-such-flag"], {}, ["--no-such-flag"]),
        (["--max-batch", "9" * 100], {}, ["'" + "9" * 64 + "'"]),
    ],
)
def test_a_mistake_is_named(arguments: list[str], environment: dict[str, str], words: list[str]) -> None:
    """The message has the flag or variable, the value cut to 64 characters, and what is allowed."""
    with pytest.raises(SettingsError) as raised:
        parse(arguments, environment)
    for word in words:
        assert word in str(raised.value)


def test_help_has_every_flag_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` exits 0 and shows each flag with its default, and one whole command."""
    with pytest.raises(SystemExit) as raised:
        parse(["--help"], {})
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    for flag in (*FLAGS, "spinning"):
        assert f"--{flag}" in shown
    assert "abfleet worker --registry models" in shown
