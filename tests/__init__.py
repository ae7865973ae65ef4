"""Tests, one module per module, and the helpers they share."""
