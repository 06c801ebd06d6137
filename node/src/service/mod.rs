//! What a node serves besides the services of the other rooms.

pub mod admin;
pub mod drain;
pub mod http;
pub mod inspection;
pub mod late;
pub mod readiness;
pub mod starting;
