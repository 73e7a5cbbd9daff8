"""The host's only door to the engine."""

from tulle._engine import Engine, EngineError, Threads

__all__ = ["Engine", "EngineError", "Threads"]
