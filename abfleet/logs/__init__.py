"""Commands over decision logs: the work, without flags and printing."""
