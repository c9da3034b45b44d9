"""Tests of pools, replicas, their queues and connections."""
