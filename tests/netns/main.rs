//! Traffic through a real ADD: what apps, the proxy and the world see, in every case the design decides.
//!
//! Each test builds its own node, pods and world (see `shunt_tests`), so all can run at once.

#![expect(clippy::panic, reason = "a test that cannot be judged must fail")]

mod before_proxy;
mod dns;
mod dns_ways;
mod family;
mod flows;
mod forms;
mod harness;
mod identity;
mod inbound;
mod leave;
mod life;
mod listeners;
mod mesh;
mod passes;
mod rules;
mod scale;
mod source;
mod topology;
mod trace;
mod udp;
