"""Tests of certificates, keys and tokens."""
