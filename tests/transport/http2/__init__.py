"""Tests of our own HTTP/2 server, most of them without a socket."""
