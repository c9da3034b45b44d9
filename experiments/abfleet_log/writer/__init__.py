"""Writing the decision log: one thread takes lines from the event loop to files, pipes or standard output."""
