"""Measures of generators. The feature extractor is a parameter, and its name is part of every metric's name.

moments  frechet  inception_score  pairs  kernel  manifold     the maths, on features (N, d) or logits (N, K)
extractors                                                    images -> features and logits
suite                                                         one pass over the images -> all metrics
"""
