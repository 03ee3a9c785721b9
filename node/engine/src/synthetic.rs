//! Written by the engine's author.
