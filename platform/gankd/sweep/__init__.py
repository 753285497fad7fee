"""A sweep from the request to the registered models: the only room that imports Ray."""
