"""One module for each of the paper's experiments."""
