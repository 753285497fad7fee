"""The methods. Each folder is one published method; `METHOD` in its `__init__` is what gankd runs."""
