"""Other ways to move the same rows, each in a file of its own."""
