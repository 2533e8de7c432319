//! Shunt, the installer: puts the plugin and its conflist on a host, keeps them there, and takes them off whole.
//!
//! One pass, as a straight line through the files: [`settings`] says what is wanted → [`claim`]: is it our turn? → [`observe`] reads
//! the host → [`plugin`] is put in place and asked for STATUS → [`lists`] says, with [`choose`] and [`conflist`], what has to be done
//! to the lists, [`pace`] how soon → [`files`] does it → [`observe`] again → [`state`] says how it is. [`run`] repeats that whenever
//! [`watch`] hears of something, [`health`] and [`metrics`] tell, [`uninstall`] goes the other way.

pub mod choose;
pub mod claim;
pub mod cli;
pub mod cluster;
pub mod command;
pub mod conflist;
pub mod files;
pub mod health;
pub mod install;
pub mod lists;
pub mod log;
pub mod metrics;
pub mod observe;
pub mod pace;
pub mod plugin;
pub mod run;
pub mod settings;
pub mod state;
pub mod uninstall;
pub mod watch;
