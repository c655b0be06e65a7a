"""Ω: architectures as plain frozen values; shapes, sampling, morphs, encoding. Knows no torch."""
