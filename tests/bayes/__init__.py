"""Beliefs, inference and posteriors, held to independent formulas and to simulation."""
