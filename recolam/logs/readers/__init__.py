"""One reader per format: it finds its files in a source and hands over their rows as text."""
