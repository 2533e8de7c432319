//! The installer.
pub mod choose;
pub mod cli;
pub mod conflist;
pub mod files;
pub mod lists;
pub mod observe;
pub mod settings;
