"""Tests of the commands over decision logs."""
