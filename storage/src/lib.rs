//! storage

pub mod ids;
pub mod seam;
