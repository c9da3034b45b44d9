"""The workers as the router sees them: pools of replicas, their queues, connections, health and load."""
