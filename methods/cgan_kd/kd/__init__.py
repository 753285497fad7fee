"""Losses by which a student learns from a teacher's answers, beside its own; each in single precision."""
