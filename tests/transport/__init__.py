"""Tests of the transports, and the servers and clients that they share."""
