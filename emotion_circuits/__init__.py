"""Find, test and use emotion circuits in language models."""
