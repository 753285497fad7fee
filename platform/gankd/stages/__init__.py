"""Whole stages that methods share, and what they are made of."""
