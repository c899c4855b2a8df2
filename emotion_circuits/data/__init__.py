"""Scenarios and the prompts made from them."""
