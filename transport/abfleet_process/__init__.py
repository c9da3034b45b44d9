"""What any server process needs: its flags, logs, memory, files, certificates and spans. Knows no call."""

__all__ = [
    "atomic_file",
    "backoff",
    "background",
    "base128",
    "declarations",
    "errors",
    "file_state",
    "flags",
    "memory",
    "operational_log",
    "process",
    "security",
    "system_files",
    "tracing",
    "watched_credentials",
]
