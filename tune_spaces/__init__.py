"""Search spaces: `<method>.py` maps dotted knobs to Ray Tune samplers: SPACE, or space(config) where they follow a preset."""
