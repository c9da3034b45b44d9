"""Tests of what is shown beside a conclusion."""
