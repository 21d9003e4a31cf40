//! The sync codec: golden frames, round trips, and refusal of everything else.

#[path = "sync/damage.rs"]
mod damage;
#[path = "sync/golden.rs"]
mod golden;
#[path = "sync/random.rs"]
mod random;
#[path = "sync/size.rs"]
mod size;
#[path = "sync/violations.rs"]
mod violations;
