//! Device sync, as a device sees it: sessions without sockets over a whole engine.

mod crdt;
mod decide;
mod definitions;
pub mod device;
mod forged;
mod idle;
mod random;
mod rights;
mod shapes;
mod talk;
