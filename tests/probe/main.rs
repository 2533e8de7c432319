//! A process of a test: goes where it is told, becomes who it is told, and serves or dials.
//!
//! `probe JOB PLACE ORDERS`, the last two as JSON of [`shunt_tests::ask`]. Jobs of a whole machine are [`machine`], [`runc`] and
//! [`scribe`], those of containers in [`pod`].

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "talks to the test over stdout, and a probe that cannot do its job must end loudly"
)]

mod cost;
mod dial;
mod errands;
mod load;
mod machine;
mod many;
mod place;
mod pod;
mod runc;
mod scribe;
mod serve;
mod sidecar;
mod sink;
mod socket;
mod udp;
mod validate;

use std::process::ExitCode;

use shunt_tests::ask::{Dial, Place};
use shunt_tests::program::{self, Become};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("machine") => return machine::begin(&arguments.next().expect("a machine's orders")),
        Some("first") => return machine::first(&arguments.next().expect("a machine's orders")),
        Some("runc") => return runc::run(&std::env::args_os().skip(2).collect::<Vec<_>>()),
        Some("scribe") => return scribe::run(),
        Some("pod") => return pod::run(&arguments.collect::<Vec<_>>()),
        Some("pause") => return machine::pause(),
        _ => arguments = std::env::args().skip(1),
    }
    let mut next = || arguments.next().expect("probe JOB PLACE ORDERS");
    let (job, place, orders) = (next(), next(), next());
    let place: Place = serde_json::from_str(&place).expect("a place");
    place::die_with_parent();
    place::raise_file_limit();
    let program = (job == "become").then(|| {
        let becoming: Become = serde_json::from_str(&orders).expect("a program's orders");
        (program::prepare(&becoming).expect("root may open it"), becoming)
    });
    place::enter(&place);
    if let Some((program, becoming)) = program {
        let name = becoming.program.display().to_string();
        panic!("{name}: {}", program::become_it(&program, &name, &becoming.arguments));
    }
    match job.as_str() {
        "serve" => serve::run(&serde_json::from_str(&orders).expect("a server's orders")),
        "accept" => serve::accept(&serde_json::from_str(&orders).expect("a server's orders"), arguments),
        "dial" => {
            let dial: Dial = serde_json::from_str(&orders).expect("a client's orders");
            println!("{}", serde_json::json!(dial::each(&dial).0));
            ExitCode::SUCCESS
        }
        "answer" => udp::answer(&serde_json::from_str(&orders).expect("a server's orders")),
        "play" => udp::play(&serde_json::from_str(&orders).expect("a client's orders")),
        "errands" => errands::run(),
        "talk" => dial::talk(&serde_json::from_str(&orders).expect("a client's orders")),
        "many" => many::run(&serde_json::from_str(&orders).expect("a client's orders")),
        "validate" => validate::run(&serde_json::from_str(&orders).expect("a validator's orders")),
        "load" => load::run(),
        "sink" => sink::run(&serde_json::from_str(&orders).expect("a server's ports")),
        "cost" => cost::run(),
        "rush" => cost::rush(serde_json::from_str(&orders).expect("a count")),
        _ => ExitCode::from(2),
    }
}
