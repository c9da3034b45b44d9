"""Certificates, keys and bearer tokens: how they are read, checked and followed on disk."""
