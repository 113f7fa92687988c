"""Sources: where rows are read from, in the order of a cursor."""
