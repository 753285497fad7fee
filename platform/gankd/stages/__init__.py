"""Stages that several methods share: each trains or runs one thing and leaves one artifact."""
