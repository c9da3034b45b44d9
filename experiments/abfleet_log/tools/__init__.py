"""Work on files of the decision log, without flags and printing: check, show, compact, import and erase."""
