//! Springhead engine.
