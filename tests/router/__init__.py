"""Tests of the router's modules, and the fakes they share."""
