//! Clients as small as they can be, over plain blocking sockets, so that what a test sees is what
//! the server sent. Used by the scenarios and by the server's process tests.

pub mod http;
pub mod pg;
