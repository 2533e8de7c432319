#![no_std]
//! Layouts.
