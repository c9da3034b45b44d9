"""The pages of reference that are made from the code: docs/cli.md and docs/python-api.md."""
