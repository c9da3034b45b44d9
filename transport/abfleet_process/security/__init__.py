"""Certificates, keys and bearer tokens: how they are read, checked and followed on disk."""

__all__ = [
    "tls",
    "tls_flags",
    "tokens",
]
