//! Time and randomness, handed in so that simulations can own them.

pub use springhead_log::Clock;

/// Unpredictable bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
