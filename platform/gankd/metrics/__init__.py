"""Measures of generators. The feature extractor is a parameter, and its name is part of every metric's name."""
