"""Traversal techniques: one folder each, the contract and the registry beside them."""
