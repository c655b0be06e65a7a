"""Data sets: arrays in, whatever they came from; splits; checks."""
