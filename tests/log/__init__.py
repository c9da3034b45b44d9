"""Tests of the decision log, and the lines that they share."""
