//! The installer on hosts of its own: beside the neighbours it meets on nodes, through their changes, its own death at any moment,
//! full disks, reboots, other installers, and off again. What pods would get is asked of a runtime written for these tests.

#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::float_cmp,
    reason = "a test that cannot be judged must fail; counts are whole numbers"
)]

mod change;
mod clock;
mod container;
mod crash;
mod disk;
mod health;
mod host;
mod leaving;
mod live;
mod neighbours;
mod pods;
mod property;
mod reboot;
mod runtime;
mod several;
mod table;
mod waiting;
mod watcher;
