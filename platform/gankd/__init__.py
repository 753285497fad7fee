"""gankd: methods that move knowledge into and out of GANs, as pipelines of stages on Ray and MLflow."""

__version__ = "0.1.0"
