"""The way of a text: keys, look-up, fill, merge; free of stores and frameworks."""
