"""The hot path: the pipeline and its stages."""
