"""What the modules of gankd compute, by number.

A number is raised when the results of its module change, which golden values notice (tests/golden). It stands in the keys of
all stages that run a function of the module or call it. Methods' own packages need no numbers: their keys hold their code.
"""

VERSIONS = {
    "gankd.stages.generator": 2,
    "gankd.stages.quality": 2,
}
