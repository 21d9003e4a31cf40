//! Device sync, as a device sees it: sessions without sockets over a whole engine.

mod decide;
mod device;
mod random;
mod rights;
mod shapes;
