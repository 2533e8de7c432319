//! The plugin, as runtimes and the installer call it. Everything is in the library; this decides the exit code.

use std::io::Write as _;
use std::process::ExitCode;

use shunt::cni::{reply, run};
use shunt::host::{self, Host, Stdout};
use shunt::node;
use shunt::verb::Node;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        if std::env::var_os("CNI_COMMAND").is_some_and(|command| command == "DEL") {
            // A DEL that fails keeps the plugins before us from releasing the pod's address; the next one finds what is left.
            drop(writeln!(std::io::stderr(), "shunt: {panic}"));
            #[expect(clippy::disallowed_methods, reason = "as below")]
            std::process::exit(0);
        }
        if !host::answered() {
            // There is nobody else to tell when standard output is closed.
            drop(Stdout.write_all(reply::panic_document(&panic.to_string()).as_bytes()));
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "release builds abort after the hook: a signal is no exit code and leaves a core dump"
        )]
        std::process::exit(1);
    }));
    let mut host = Host::of_process();
    let asked = node::run(&mut host, std::env::args_os().skip(1));
    ExitCode::from(asked.unwrap_or_else(|| run(&mut host, &Node::new())))
}
