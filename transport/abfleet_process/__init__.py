"""What any server process needs: its flags, logs, memory, files, certificates and spans. Knows no call."""

__all__ = [
    "addresses",
    "atomic_file",
    "background",
    "backoff",
    "base128",
    "build_info",
    "declarations",
    "errors",
    "file_state",
    "flags",
    "lasting",
    "memory",
    "operational_log",
    "process",
    "security",
    "server_flags",
    "standard_output",
    "system_files",
    "tracing",
    "watched_credentials",
]
