"""Tests of the server on grpcio."""
