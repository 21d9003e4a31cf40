//! Springhead sim.
