"""Ollama: its component, and the programs that run in its pods."""
