"""Mixture density networks under test."""
