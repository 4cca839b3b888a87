"""Ollama: its component, and the programs that run in its pods."""

from components.ollama.stack import OllamaStack

__all__ = ["OllamaStack"]
