"""What the command line is made of: words for values, values of words, and models by their names."""
