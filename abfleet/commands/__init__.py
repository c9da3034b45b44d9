"""One module for each family of commands; each has `register(app)`, and imports what is heavy inside its functions."""
