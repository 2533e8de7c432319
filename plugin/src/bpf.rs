//! The kernel side as the plugin handles it: the object, its pins, and one pod's part of the maps.

pub mod ask;
pub mod object;
pub mod others;
pub mod pins;
pub mod pod;
pub mod programs;
pub mod rules;
mod sys;
pub mod trace;
