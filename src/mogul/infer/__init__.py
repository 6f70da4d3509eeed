"""Inference: one method a file, over the E-step and its statistics."""
