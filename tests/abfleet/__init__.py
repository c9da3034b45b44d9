"""Tests of the command and the clients."""
