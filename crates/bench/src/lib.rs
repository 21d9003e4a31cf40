//! Springhead bench.
