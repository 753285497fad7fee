"""Search spaces: SPACE in `<method>.py` maps dotted knobs to Ray Tune samplers."""
