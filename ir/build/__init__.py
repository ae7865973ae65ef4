"""The parts of `ir.Builder`: its heart, and a file of methods per family of ops."""
