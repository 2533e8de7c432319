//! Jobs of containers in real pods: what a test asks them is in their arguments, and their answer is in their log.
//!
//! ```text
//! probe pod serve PORT              a web server that prints `ADDRESS PATH` for each request
//! probe pod app PORT PATH ADDRESS…  the same, and asks each ADDRESS for PATH again and again, from its first moment
//! probe pod ask PATH ADDRESS        asks once and prints what it saw as JSON; fails without an answer
//! probe pod try PATH ADDRESS        the same, but does not fail
//! probe pod proxy                   a sidecar on Istio's ports
//! probe pod world PORT              as `serve`, outside of any pod: ends with the test
//! ```

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use nix::poll::poll;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask};
use shunt_tests::web;

use crate::{place, sidecar};

/// Something that goes on for ever, or until it breaks.
pub(crate) type Service = Box<dyn FnOnce() -> io::Result<()> + Send>;

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // The first process of a process namespace is not ended by a signal it does not ask for.
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&ends), None).expect("own signals");
    let service = match words.as_slice() {
        ["ask", path, address] => return ask(path, address, true),
        ["try", path, address] => return ask(path, address, false),
        ["serve", port] => service(port),
        ["world", port] => {
            place::die_with_parent();
            service(port)
        }
        ["app", port, path, addresses @ ..] => {
            keep_asking(path, addresses);
            service(port)
        }
        ["proxy"] => sidecar::service(),
        other => panic!("no job {other:?}"),
    };
    std::thread::spawn(move || {
        if let Err(error) = service() {
            println!("ended: {error}");
        }
    });
    ends.wait().expect("own signals");
    ExitCode::SUCCESS
}

/// A listener for both families.
pub(crate) fn listen(port: u16) -> std::net::TcpListener {
    web::listen(port).unwrap_or_else(|error| panic!("listen on {port}: {error}"))
}

fn service(port: &str) -> Service {
    let listener = listen(port.parse().expect("a port"));
    Box::new(move || web::serve(&listener, |from, path| println!("{from} {path}")))
}

fn keep_asking(path: &str, addresses: &[&str]) {
    for address in addresses {
        let (path, address) = (path.to_owned(), at(address));
        std::thread::spawn(move || {
            loop {
                println!("{}", serde_json::json!(web::get(address, &path)));
                let _waited = poll(&mut [], 100_u8);
            }
        });
    }
}

fn ask(path: &str, address: &str, must: bool) -> ExitCode {
    let visit = web::get(at(address), path);
    println!("{}", serde_json::json!(visit));
    if must && visit.error.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn at(address: &str) -> SocketAddr {
    address.parse().expect("an address and a port")
}
